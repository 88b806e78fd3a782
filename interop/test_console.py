"""The console in a browser: the live flow, work with the keyboard alone, and accessibility by axe-core."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
from tests.support.stack import Process, Stack, eventually
from topics import names
from topics.envelope import JSON

FOLDER = Path(__file__).parent / "console"
PROGRAMS = [FOLDER]
PHONE = (360, 780)
_MISPLACED_TEXTS = """
    const box = (element) => element.getBBox();
    return [...document.querySelectorAll(".picture g")].flatMap((group) => {
        const outer = box(group.querySelector("rect"));
        const texts = [...group.querySelectorAll("text")].filter((text) => text.textContent);
        const isOutside = (text) => box(text).x < outer.x || box(text).x + box(text).width > outer.x + outer.width
            || box(text).y + box(text).height > outer.y + outer.height;
        const overlaps = (one, other) => one !== other && box(one).x < box(other).x + box(other).width
            && box(other).x < box(one).x + box(one).width && Math.abs(box(one).y - box(other).y) < box(one).height / 2;
        return texts.filter((text) => isOutside(text) || texts.some((other) => overlaps(text, other)));
    }).map((text) => text.textContent);
"""
"""The texts of the picture that leave their box or cover another text."""
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


@dataclass
class Edge:
    """The edge of the console. A test may end it and start another one at the same URL."""

    process: Process
    url: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(stack: Stack) -> AsyncIterator[Edge]:
    edge = Edge(*stack.edge(VISITOR_HTTP_CONSOLE="true"))
    await eventually("a ready edge with a console", edge.process.ready)
    yield edge
    edge.process.terminate()


@pytest.fixture
def console_url(edge: Edge) -> str:
    return f"{edge.url}/console"


async def _send_dead_letter(stack: Stack, source: str) -> None:
    headers = [("ce_id", b"a"), ("ce_type", b"visitor.visits.create"), ("ce_source", source.encode())]
    await stack.raw(names.requests("visits"), b"[]", [*headers, ("content-type", JSON.encode())])


async def _until(browser: webdriver.Chrome, holds: Callable[[webdriver.Chrome], Any], condition: str) -> Any:
    """Wait in a thread, so that the test can send messages at the same time."""
    return await asyncio.to_thread(WebDriverWait(browser, SECONDS).until, holds, condition)


def _text(browser: webdriver.Chrome, selector: str) -> str:
    text: str = browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
    return text


def _emulate(browser: webdriver.Chrome, preference: str, value: str) -> None:
    """Let the system have a preference, as a media query reads it."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": preference, "value": value}]})


@asynccontextmanager
async def _visits(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Entries of one visitor, one after the other."""
    parker = await data.visitor_with_vehicle(client)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    ended = asyncio.Event()

    async def visit() -> None:
        while not ended.is_set():
            await client.post("/visits/entry", json=body)

    visits = asyncio.create_task(visit())
    try:
        yield
    finally:
        ended.set()  # not cancelled: a cancelled call leaves connections of the client unclosed
        await visits


@on_laptop
async def test_the_flow_shows_live_rates(
    client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str
) -> None:
    async with _visits(client):
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
    assert_loads_nothing_from_others(browser, console_url.removesuffix("/console"))


@on_laptop
async def test_nothing_moves_if_the_system_asks_for_reduced_motion(
    client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str
) -> None:
    moving = "return document.getAnimations().filter((animation) => animation.playState === 'running').length"
    async with _visits(client):
        browser.get(console_url)
        await _until(browser, lambda driver: driver.execute_script(moving), "dashes that move")
        _emulate(browser, "prefers-reduced-motion", "reduce")
        stream = await _until(
            browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".picture .stream.moving"), "a flow"
        )
        assert browser.execute_script(moving) == 0
        assert float(stream[0].value_of_css_property("opacity")) > 0.5


async def test_a_lane_that_waits_and_the_session_that_holds_its_lock_are_shown_and_announced(
    stack: Stack, client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str
) -> None:
    owner = (await data.visitor_with_vehicle(client))["visitorId"]
    browser.get(console_url)
    await _until(browser, lambda driver: "all empty" in _text(driver, ".worker-list"), "empty lanes")
    interest = {"path": {"visitorId": owner}, "body": {"externalId": "cinema", "label": "Cinema"}}
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql("lock table interests in share row exclusive mode")
        session = await conn.scalar(sa.text("select pg_backend_pid()"))
        request_id = await stack.send("interests.create", interest, partition=2)
        text = f"Session {session} of PostgreSQL"
        await _until(browser, lambda driver: text in _text(driver, "#announcer"), "the session that holds locks")
        assert "idle in transaction) has held locks on interests for" in _text(browser, ".notices")
        await _until(browser, lambda driver: "1 not empty" in _text(driver, ".worker-list"), "the lane in the list")
        assert "Most: profile:2 1 (" in _text(browser, ".worker-list")
        late = ".picture .bars.late[d^='M']"
        await _until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, late), "the bar of a late lane")
        assert "1 not empty; most: profile:2, " in _text(browser, ".picture title")
        notes = [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".picture .note")]
        assert [note for note in notes if note.startswith("most: profile:2, ")]
        assert browser.execute_script(_MISPLACED_TEXTS) == []
    await stack.result("interests.create", request_id)
    await _until(browser, lambda driver: "all empty" in _text(driver, ".worker-list"), "empty lanes")
    assert browser.find_elements(By.CSS_SELECTOR, late) == []
    assert text not in _text(browser, "#announcer")


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
    assert _text(browser, "#announcer") == "1 dead letter."
    _tab_to(browser, "not_an_object 1")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]"), "the filter")
    assert browser.execute_script("return document.activeElement.value") == "not_an_object"
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
    assert _text(browser, "#announcer").startswith("1 dead letter replayed.")

    browser.execute_script("document.querySelector('.skip').focus()")
    _tab_to(browser, "Request")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: _text(driver, "h1") == "Request", "the view of a request")
    _tab_to(browser, "Request id")
    _press(browser, request_id, Keys.ENTER)
    wait(browser, ".steps > li:nth-child(3)")
    titles = [element.text.split("\n")[0] for element in browser.find_elements(By.CSS_SELECTOR, ".steps h3")]
    assert [title.split()[0] for title in titles] == ["Request", "Applied", "Result"]
    assert _text(browser, "#announcer").startswith("3 steps found.")


async def _withdrawn_consent(stack: Stack, client: httpx.AsyncClient) -> str:
    """The id of a visitor who consented ten days ago and withdrew it five days ago."""
    visitor_id = str((await data.visitor_with_vehicle(client))["visitorId"])
    path, kind = f"/visitors/{visitor_id}/optins", {"optinType": "wallet", "optinChannel": "push"}
    assert (await client.post(path, json={**kind, "isActive": True})).status_code == 201
    assert (await client.delete(path, params=kind)).status_code == 204
    async with stack.engine.begin() as conn:
        earlier = """
            update optins set creation_date = now() - interval '10 days', optin_date = now() - interval '10 days',
            optout_date = now() - interval '5 days' where visitor_id = :visitor_id and optin_type = 'wallet'
        """
        await conn.execute(sa.text(earlier), {"visitor_id": visitor_id})
    return visitor_id


@on_laptop
async def test_the_consents_of_a_visitor_at_a_time_are_read_with_the_keyboard_alone(
    stack: Stack, client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str
) -> None:
    visitor_id = await _withdrawn_consent(stack, client)
    browser.get(console_url)
    wait(browser, ".picture rect")
    _tab_to(browser, "Visitor")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: _text(driver, "h1") == "Visitor", "the view of a visitor")
    _tab_to(browser, "Visitor id")
    _press(browser, visitor_id, Keys.ENTER)
    await _until(browser, lambda driver: "withdrawn" in _text(driver, "table"), "the consent now")
    assert _text(browser, "#announcer").startswith("1 consent, ")

    a_week_ago = datetime.now(UTC) - timedelta(days=7)
    _tab_to(browser, "Consents as of (UTC)")
    _press(browser, f"{a_week_ago:%m%d%Y}", Keys.ARROW_RIGHT, "1000AM", Keys.ENTER)
    await _until(browser, lambda driver: "given" in _text(driver, "table"), "the consent a week ago")
    assert f"Consents as of {a_week_ago:%Y-%m-%d} 10:00:00 UTC" in _text(browser, "main")
    _press(browser, Keys.ARROW_LEFT * 3, Keys.ARROW_DOWN, Keys.ENTER)
    await _until(browser, lambda driver: "No consent was given" in _text(driver, "main"), "no consent a year before")
    assert _text(browser, "#announcer").startswith("0 consents, ")

    _tab_to(browser, "Consent 2")
    _press(browser, Keys.SPACE)
    titles = [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".steps h3")]
    assert titles
    assert [title for title in titles if title.startswith("Consent")] == []
    link = _text(browser, ".steps a")
    _tab_to(browser, link)
    _press(browser, Keys.ENTER)
    wait(browser, ".steps > li:nth-child(3)")
    assert _text(browser, "h1") == "Request"


@on_laptop
async def test_topics_with_their_rates_schemas_and_workers_are_read_with_the_keyboard_alone(
    client: httpx.AsyncClient, browser: webdriver.Chrome, console_url: str
) -> None:
    topic = names.requests("visits")
    cells = """
        const row = [...document.querySelectorAll("tbody tr")].find((row) => row.cells[0].textContent === arguments[0]);
        return [...row.cells].map((cell) => cell.textContent);
    """
    lanes = """
        const terms = [...document.querySelectorAll(".worker-list details[open] dt")];
        return Object.fromEntries(terms.map((term) => [term.textContent, term.nextElementSibling.textContent]));
    """
    browser.get(console_url)
    wait(browser, ".picture rect")
    _tab_to(browser, "Topics")
    _press(browser, Keys.ENTER)
    await _until(browser, lambda driver: _text(driver, "h1") == "Topics", "the view of the topics")
    wait(browser, "tbody tr")
    async with _visits(client):
        await _until(browser, lambda driver: re.match("[1-9]|0[.]", driver.execute_script(cells, topic)[3]), "a rate")
    assert browser.execute_script(cells, topic)[1:3] == ["requests", "7 days"]
    assert _text(browser, ".worker-list h3") == "worker 1"

    _tab_to(browser, "Lanes")
    _press(browser, Keys.ENTER)
    browser.execute_script("window.before = document.querySelector('.worker-list').cloneNode(true)")
    async with _visits(client):
        changed = "return !document.querySelector('.worker-list').isEqualNode(window.before)"
        await _until(browser, lambda driver: driver.execute_script(changed), "another state")
    assert browser.execute_script(lanes)["centers"].split() == ["0", "1", "2", "3"]
    assert browser.execute_script("return document.activeElement.textContent") == "Lanes"

    _tab_to(browser, "VisitsCreateRequest")
    _press(browser, Keys.ENTER)
    wait(browser, "dialog[open]")
    assert _text(browser, "dialog h2") == "VisitsCreateRequest"
    schema = json.loads(_text(browser, "dialog pre"))
    assert (schema["type"], schema["name"]) == ("record", "VisitsCreateRequest")
    _press(browser, Keys.ESCAPE)
    await _until(browser, lambda driver: not driver.find_elements(By.TAG_NAME, "dialog"), "the closed dialog")
    assert browser.execute_script("return document.activeElement.textContent") == "VisitsCreateRequest"


@on_laptop
async def test_errors_are_announced_each_time(browser: webdriver.Chrome, console_url: str) -> None:
    browser.get(f"{console_url}#/visitor?id=moreau")
    message = "Send the id of a visitor, a UUID."
    await _until(browser, lambda driver: _text(driver, "#announcer") == message, "the error")
    assert browser.find_element(By.ID, "announcer").get_attribute("role") == "status"
    count = """
        window.announced = 0;
        new MutationObserver(() => window.announced++).observe(document.getElementById("announcer"), {childList: true});
        document.querySelector("form").noValidate = true;
    """
    browser.execute_script(count)
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    await _until(browser, lambda driver: driver.execute_script("return window.announced"), "the error again")
    assert _text(browser, "#announcer") == message

    browser.get(f"{console_url}#/dead-letters?id=0:999999")
    wait(browser, "dialog[role=alertdialog]")
    described_by = "return document.getElementById(document.querySelector('dialog').getAttribute('aria-describedby'))"
    assert "There is no dead letter at 0:999999." in browser.execute_script(f"{described_by}.textContent")


@on_laptop
async def test_the_live_state_continues_after_the_edge_restarts(
    stack: Stack, edge: Edge, browser: webdriver.Chrome, console_url: str
) -> None:
    browser.get(console_url)
    await _until(browser, lambda driver: _text(driver, "#connection") == "Live", "the live state")
    points = "return (document.querySelector('.tile .line').getAttribute('d').match(/[ML]/g) ?? []).length"
    before = browser.execute_script(points)
    edge.process.terminate()
    await _until(browser, lambda driver: _text(driver, "#connection") == "Reconnecting …", "the lost connection")
    assert _text(browser, "#announcer") == "The edge does not answer. Reconnecting …"
    last = _text(browser, "main .lead")
    assert last.startswith("1 worker, ")

    edge.process, _ = stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_HTTP_PORT=str(httpx.URL(edge.url).port))
    await _until(browser, lambda driver: _text(driver, "#connection") == "Live", "the live state again")
    assert _text(browser, "#announcer") == "Live again."
    assert browser.execute_script(points) > before
    assert _text(browser, "main .lead") != last


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
        _emulate(browser, "prefers-color-scheme", scheme)
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
    assert _text(browser, "#announcer") == _text(browser, ".notice.bad span:last-child")
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
