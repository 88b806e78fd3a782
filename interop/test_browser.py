"""The pages /docs, /redoc and /asyncapi in Debian's headless Chromium."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.stack import Stack

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
    width, height = size
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*_ARGUMENTS, f"--user-data-dir={tmp_path}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    if size == PHONE:
        metrics = {"width": width, "height": height, "pixelRatio": 2.0}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def _wait(browser: webdriver.Chrome, selector: str) -> None:
    """Wait until the page shows an element."""
    WebDriverWait(browser, SECONDS).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, selector), selector)


def _click(browser: webdriver.Chrome, selector: str) -> None:
    _wait(browser, selector)
    browser.execute_script("arguments[0].click()", browser.find_element(By.CSS_SELECTOR, selector))


def _assert_loads_nothing_from_others(browser: webdriver.Chrome, url: str) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [item["params"]["request"]["url"] for item in messages if item["method"] == "Network.requestWillBeSent"]
    assert requested
    assert [target for target in requested if not target.startswith((url, "data:", "blob:", "chrome:"))] == []
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def _page_width(browser: webdriver.Chrome) -> int:
    width: int = browser.execute_script("return document.documentElement.scrollWidth")
    return width


async def test_an_example_of_the_docs_creates_a_record(stack: Stack, browser: webdriver.Chrome, size: Size) -> None:
    browser.get(f"{stack.url}/")
    _wait(browser, ".opblock-tag")
    assert browser.current_url.startswith(f"{stack.url}/docs")
    families = [element.get_attribute("data-tag") for element in browser.find_elements(By.CSS_SELECTOR, ".opblock-tag")]
    assert families[:3] == ["visits", "checkins", "optins"]
    assert browser.find_elements(By.CSS_SELECTOR, ".opblock") == []
    assert browser.find_elements(By.CSS_SELECTOR, ".authorize, .authorization__btn") == []
    assert not browser.find_element(By.CSS_SELECTOR, ".info details").get_attribute("open")

    browser.find_element(By.CSS_SELECTOR, ".operation-filter-input").send_keys("Create a theme")
    _click(browser, ".opblock-summary-control")
    _click(browser, ".execute")
    _wait(browser, ".live-responses-table .response-col_status")
    status = browser.find_element(By.CSS_SELECTOR, ".live-responses-table tbody .response-col_status").text
    assert status.split()[0] == "201", browser.find_element(By.CSS_SELECTOR, ".live-responses-table").text
    assert _page_width(browser) <= size[0]
    _assert_loads_nothing_from_others(browser, stack.url)


async def test_redoc_loads_nothing_from_other_hosts(stack: Stack, browser: webdriver.Chrome, size: Size) -> None:
    browser.get(f"{stack.url}/redoc")
    _wait(browser, "[data-section-id] h1, .api-content h1")
    assert "Visitor service" in browser.page_source
    assert _page_width(browser) <= size[0]
    _assert_loads_nothing_from_others(browser, stack.url)


async def test_the_page_of_the_topics_loads_nothing_from_other_hosts(
    stack: Stack, browser: webdriver.Chrome, size: Size
) -> None:
    browser.get(f"{stack.url}/asyncapi")
    text = "return document.querySelector('asyncapi-viewer').shadowRoot?.textContent ?? ''"
    WebDriverWait(browser, SECONDS).until(lambda driver: "visitor.visits.requests" in driver.execute_script(text))
    assert _page_width(browser) <= size[0]
    _assert_loads_nothing_from_others(browser, stack.url)
