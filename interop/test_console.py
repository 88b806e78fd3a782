"""The console in a browser: the live flow, work with the keyboard alone, and accessibility by axe-core."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from edge import keys
from interop.browser import LAPTOP, SECONDS, Size, assert_loads_nothing_from_others, click, page_width, wait
from interop.programs import Builds
from tests.support import data
from tests.support.stack import Stack, eventually
from topics import names
from topics.envelope import JSON

FOLDER = Path(__file__).parent / "console"
PROGRAMS = [FOLDER]
PHONE = (360, 780)
KEY_FILE = """
[[keys]]
name = "operator"
sha256 = "{digest}"
scopes = ["operator"]
"""


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def size(request: pytest.FixtureRequest) -> Size:
    """Narrower than the phone of the other pages."""
    window_size: Size = request.param
    return window_size


on_laptop = pytest.mark.parametrize("size", [LAPTOP], ids=["laptop"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def console_url(stack: Stack) -> AsyncIterator[str]:
    edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true")
    await eventually("a ready edge with a console", edge.ready)
    yield f"{url}/console"
    edge.terminate()


async def _send_dead_letter(stack: Stack, source: str) -> None:
    headers = [("ce_id", b"a"), ("ce_type", b"visitor.visits.create"), ("ce_source", source.encode())]
    await stack.raw(names.requests("visits"), b"[]", [*headers, ("content-type", JSON.encode())])


async def _until(browser: webdriver.Chrome, holds: Callable[[webdriver.Chrome], Any], condition: str) -> Any:
    """Wait in a thread, so that the test can send messages at the same time."""
    return await asyncio.to_thread(WebDriverWait(browser, SECONDS).until, holds, condition)


def _text(browser: webdriver.Chrome, selector: str) -> str:
    text: str = browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
    return text


@on_laptop
async def test_the_flow_shows_live_rates(
    stack: Stack, client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    ended = asyncio.Event()

    async def visit() -> None:
        while not ended.is_set():
            await client.post("/visits/entry", json=body)

    visits = asyncio.create_task(visit())
    try:
        browser.get(console_url.removesuffix("console"))
        click(browser, "a[href='/console']")
        rate = """
            const rows = [...document.querySelectorAll("tbody tr")];
            return rows.find((row) => row.cells[0].textContent === "visits")?.cells[1].textContent ?? "0/s";
        """
        await _until(browser, lambda driver: driver.execute_script(rate) != "0/s", "a rate in the table")
        assert browser.find_elements(By.CSS_SELECTOR, ".picture .stream.moving")
        assert browser.find_elements(By.CSS_SELECTOR, ".picture .busy .rate")
        assert "1 worker" in _text(browser, ".picture title")
        assert _text(browser, "#connection") == "Live"
    finally:
        ended.set()  # not cancelled: a cancelled call leaves connections of the client unclosed
        await visits
    assert_loads_nothing_from_others(browser, console_url.removesuffix("/console"))


@on_laptop
async def test_the_flow_names_a_session_that_holds_locks(
    stack: Stack, browser: webdriver.Chrome, console_url: str
) -> None:
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql("lock table interests in share row exclusive mode")
        session = await conn.scalar(sa.text("select pg_backend_pid()"))
        await asyncio.to_thread(browser.get, console_url)
        text = f"Session {session} of PostgreSQL"
        await _until(browser, lambda driver: text in _text(driver, "main"), "the session that holds locks")
        assert "idle in transaction) has held locks on interests for" in _text(browser, "main")


def _press(browser: webdriver.Chrome, *pressed: str) -> None:
    ActionChains(browser).send_keys(*pressed).perform()


def _tab_to(browser: webdriver.Chrome, text: str) -> None:
    """Press Tab until the element with this text or label has the focus, which must be visible."""
    active = """
        const element = document.activeElement;
        const label = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
        return [label, getComputedStyle(element).outlineStyle];
    """
    for _ in range(80):
        _press(browser, Keys.TAB)
        label, outline = browser.execute_script(active)
        if label.startswith(text):
            assert outline != "none", f"the focus on {text} is not visible"
            return
    raise AssertionError(f"{text} cannot be reached with Tab")


async def _mark_of(stack: Stack, letter: str) -> list[Any]:
    statement = "select action from dead_letter_marks where partition || ':' || \"offset\" = :letter"
    return await stack.rows(statement, letter=letter)


@on_laptop
async def test_a_dead_letter_is_replayed_and_a_request_is_found_with_the_keyboard_alone(
    stack: Stack, browser: webdriver.Chrome, console_url: str
) -> None:
    source = f"gateway/{uuid4()}"
    await _send_dead_letter(stack, source)
    body = {"barcode": source, "pcCode": "FR-SC-NONE"}
    request_id = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": body})
    await stack.result("visits.create", request_id)
    browser.get(console_url)
    wait(browser, ".picture rect")
    _tab_to(browser, "Skip to the content")
    _press(browser, Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "main"

    browser.execute_script("document.activeElement.blur(); document.querySelector('.skip').focus()")
    _tab_to(browser, "Dead letters")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: _text(driver, "h1") == "Dead letters", "the view of the dead letters")
    assert browser.execute_script("return document.activeElement.textContent") == "Dead letters"
    _tab_to(browser, "Source")
    _press(browser, source, Keys.ENTER)
    await _until(browser, lambda driver: _text(driver, ".toolbar p") == "1 dead letter.", "the dead letter")
    letter = _text(browser, "tbody th button")
    _tab_to(browser, letter)
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: "not_an_object" in _text(driver, "dialog"), "the details")
    _tab_to(browser, "Replay …")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: "Replay 1 dead letter?" in _text(driver, "dialog"), "the question")
    assert await _mark_of(stack, letter) == []
    _tab_to(browser, "Replay 1")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: "1 dead letter replayed." in _text(driver, ".toolbar p"), "the replay")
    assert await _mark_of(stack, letter) == [("replayed",)]

    browser.execute_script("document.querySelector('.skip').focus()")
    _tab_to(browser, "Request")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: _text(driver, "h1") == "Request", "the view of a request")
    _tab_to(browser, "Request id")
    _press(browser, request_id, Keys.ENTER)
    wait(browser, ".steps > li:nth-child(3)")
    titles = [element.text.split("\n")[0] for element in browser.find_elements(By.CSS_SELECTOR, ".steps h3")]
    assert [title.split()[0] for title in titles] == ["Request", "Applied", "Result"]


async def test_each_view_passes_axe_and_fits_the_window(
    stack: Stack, client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str, builds: Builds, size: Size
) -> None:  # fmt: skip
    axe = (await asyncio.to_thread(builds.wait, FOLDER) / "node_modules/axe-core/axe.min.js").read_text()
    parker = await data.visitor_with_vehicle(client)
    key = str(uuid4())
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    await client.post("/visits/entry", json=body, headers={"Idempotency-Key": key})
    await _send_dead_letter(stack, "gateway/axe")
    views = {
        "flow": ".worker-list li",
        f"request?id={key}": ".steps li:nth-child(3)",
        "dead-letters": "tbody tr",
        f"visitor?id={parker['visitorId']}": ".steps li",
        "topics": "tbody tr",
    }
    for view, loaded in views.items():
        browser.get("about:blank")
        browser.get(f"{console_url}#/{view}")
        wait(browser, loaded)
        browser.execute_script(axe)
        _assert_accessible(browser, view)
        assert page_width(browser) <= size[0], view
    browser.get("about:blank")
    browser.get(f"{console_url}#/dead-letters")
    wait(browser, "tbody th button")
    browser.find_element(By.CSS_SELECTOR, "tbody th button").click()
    wait(browser, "dialog[open]")
    browser.execute_script(axe)
    _assert_accessible(browser, "the details of a dead letter")


def _assert_accessible(browser: webdriver.Chrome, view: str) -> None:
    """In light and in dark, the page breaks no rule of axe: those of WCAG and of good practice."""
    run = """
        const done = arguments[arguments.length - 1];
        axe.run().then(({ violations }) => done(violations.map(({ id, nodes }) =>
            `${id}: ${nodes.map((node) => node.html + node.failureSummary).join(" | ")}`)));
    """
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        assert browser.execute_async_script(run) == [], f"{view}, {scheme}"


@on_laptop
async def test_a_key_opens_the_console_until_the_operator_signs_out(
    stack: Stack, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    key_file = tmp_path / "keys.toml"
    key_file.write_text(KEY_FILE.format(digest=keys.digest("secret")))
    edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_HTTP_KEYS=str(key_file))
    await eventually("a ready edge with keys", edge.ready)
    browser.get(f"{url}/console#/topics")
    wait(browser, "input[name=key]")
    _press(browser, "wrong", Keys.ENTER)
    wait(browser, ".notice.bad")
    wait(browser, "input[name=key]")
    _press(browser, "secret", Keys.ENTER)
    wait(browser, "tbody tr")
    assert "secret" not in browser.current_url
    browser.refresh()
    wait(browser, "tbody tr")
    browser.find_element(By.ID, "sign-out").click()
    wait(browser, "dialog[open]")
    browser.find_element(By.CSS_SELECTOR, "dialog button[value=yes]").click()
    wait(browser, "input[name=key]")
    assert browser.execute_script("return sessionStorage.length") == 0
    edge.terminate()
