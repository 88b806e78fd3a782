"""A browser for the tests: Debian's headless Chromium."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 120
LAPTOP, PHONE = (1366, 900), (390, 844)
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync",
)  # fmt: skip


Size = tuple[int, int]


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def size(request: pytest.FixtureRequest) -> Size:
    """The width and height of the window."""
    window_size: Size = request.param
    return window_size


@pytest.fixture
def browser(size: Size, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(size, tmp_path) as driver:
        yield driver


@contextmanager
def chromium(size: Size, profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile in the folder `profile`."""
    width, height = size
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    if size != LAPTOP:
        metrics = {"width": width, "height": height, "pixelRatio": 2.0}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def wait(browser: webdriver.Chrome, selector: str) -> None:
    """Wait until the page shows an element."""
    WebDriverWait(browser, SECONDS).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, selector), selector)


def click(browser: webdriver.Chrome, selector: str) -> None:
    wait(browser, selector)
    browser.execute_script("arguments[0].click()", browser.find_element(By.CSS_SELECTOR, selector))


def assert_loads_nothing_from_others(browser: webdriver.Chrome, url: str) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in _log(browser, "performance")]
    requested = [item["params"]["request"]["url"] for item in messages if item["method"] == "Network.requestWillBeSent"]
    assert requested
    assert [target for target in requested if not target.startswith((url, "data:", "blob:", "chrome:"))] == []
    assert [entry["message"] for entry in _log(browser, "browser") if entry["level"] == "SEVERE"] == []


def _log(browser: webdriver.Chrome, name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.get_log(name)  # type: ignore[no-untyped-call]
    return entries


def page_width(browser: webdriver.Chrome) -> int:
    width: int = browser.execute_script("return document.documentElement.scrollWidth")
    return width
