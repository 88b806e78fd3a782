"""The pages /docs, /redoc and /asyncapi in a browser."""

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from interop.browser import SECONDS, Size, assert_loads_nothing_from_others, click, page_width, wait
from tests.support.stack import Stack


async def test_an_example_of_the_docs_creates_a_record(stack: Stack, browser: webdriver.Chrome, size: Size) -> None:
    browser.get(f"{stack.url}/")
    click(browser, "a[href='/docs']")
    wait(browser, ".opblock-tag")
    families = [element.get_attribute("data-tag") for element in browser.find_elements(By.CSS_SELECTOR, ".opblock-tag")]
    assert families[:3] == ["visits", "checkins", "optins"]
    assert browser.find_elements(By.CSS_SELECTOR, ".opblock") == []
    assert browser.find_elements(By.CSS_SELECTOR, ".authorize, .authorization__btn") == []
    assert not browser.find_element(By.CSS_SELECTOR, ".info details").get_attribute("open")

    browser.find_element(By.CSS_SELECTOR, ".operation-filter-input").send_keys("Create a theme")
    click(browser, ".opblock-summary-control")
    click(browser, ".execute")
    wait(browser, ".live-responses-table .response-col_status")
    status = browser.find_element(By.CSS_SELECTOR, ".live-responses-table tbody .response-col_status").text
    assert status.split()[0] == "201", browser.find_element(By.CSS_SELECTOR, ".live-responses-table").text
    assert page_width(browser) <= size[0]
    assert_loads_nothing_from_others(browser, stack.url)


async def test_redoc_loads_nothing_from_other_hosts(stack: Stack, browser: webdriver.Chrome, size: Size) -> None:
    browser.get(f"{stack.url}/redoc")
    wait(browser, "[data-section-id] h1, .api-content h1")
    assert "Visitor service" in browser.page_source
    assert page_width(browser) <= size[0]
    assert_loads_nothing_from_others(browser, stack.url)


async def test_the_page_of_the_topics_loads_nothing_from_other_hosts(
    stack: Stack, browser: webdriver.Chrome, size: Size
) -> None:
    browser.get(f"{stack.url}/asyncapi")
    text = "return document.querySelector('asyncapi-viewer').shadowRoot?.textContent ?? ''"
    WebDriverWait(browser, SECONDS).until(lambda driver: "visitor.visits.requests" in driver.execute_script(text))
    assert page_width(browser) <= size[0]
    assert_loads_nothing_from_others(browser, stack.url)
