"""Takes the screenshots of the console in docs/images from the installation that `make run` started.

It needs Chromium with ChromeDriver, like `make interop`, and takes five minutes, because it waits for whole curves."""

import base64
import os
import tempfile
from pathlib import Path

import httpx
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from interop.browser import LAPTOP, SECONDS, chromium, click
from runtime.console.feed import HISTORY

IMAGES = Path(__file__).parents[1] / "docs/images"
URL = f"http://127.0.0.1:{os.environ.get('VISITOR_HTTP_PORT', '8080')}"
KEY = "my-first-visit"
BODY = {"licensePlate": "AX-100-FR", "pcCode": "FR-SC-4TEMPS"}
"""The visit of README.md, which the sample data allows."""
CURVE_SECONDS = 600
"""How long the curves may take until they are as wide as their tiles."""
MARGIN = 24
"""Pixels below the last element."""


def main() -> None:
    with tempfile.TemporaryDirectory() as profile, chromium(LAPTOP, Path(profile)) as browser:
        _take_flow(browser)
        _take_request(browser)


def _take_flow(browser: webdriver.Chrome) -> None:
    browser.get(f"{URL}/console#/flow")
    points = "return document.querySelector('.tile .line')?.getAttribute('d')?.split('L').length"
    WebDriverWait(browser, CURVE_SECONDS).until(lambda driver: driver.execute_script(points) == HISTORY, "the curves")
    WebDriverWait(browser, SECONDS).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, ".picture .bars.waiting[d^='M']"), "a lane with messages"
    )
    _save(browser, ".picture", "console-flow.png")


def _take_request(browser: webdriver.Chrome) -> None:
    httpx.post(f"{URL}/visits/entry", json=BODY, headers={"Idempotency-Key": KEY}).raise_for_status()
    browser.get(f"{URL}/console#/request?id={KEY}")

    def has_change(driver: webdriver.Chrome) -> bool:
        if "Change" in driver.find_element(By.ID, "main").text:
            return True
        click(driver, "form button")
        return False

    WebDriverWait(browser, SECONDS, poll_frequency=2).until(has_change, "the change of the request")
    _save(browser, ".steps", "console-request.png")


def _save(browser: webdriver.Chrome, last: str, name: str) -> None:
    """Save the page down to the element `last`."""
    width, bottom = browser.execute_script(
        "return [innerWidth, document.querySelector(arguments[0]).getBoundingClientRect().bottom + scrollY]", last
    )
    clip = {"x": 0, "y": 0, "width": width, "height": bottom + MARGIN, "scale": 1}
    parameters = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    image = browser.execute_cdp_cmd("Page.captureScreenshot", parameters)
    (IMAGES / name).write_bytes(base64.b64decode(image["data"]))


if __name__ == "__main__":
    main()
