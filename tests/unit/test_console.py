"""The console's access control and its parts that need no server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request

from agents.catalogue import CATALOGUE
from agents.families.optins.optins import Optin
from edge import keys
from runtime.console import app, servers
from runtime.console.app import Console
from runtime.console.letters import outline
from runtime.console.timeline import consents_at
from runtime.console.topic_list import TopicList
from runtime.dead_letters import Filter
from runtime.settings import Settings
from tests.support import queries
from tests.support.edges import bearer, running_edge
from tests.support.pages import ROOT
from topics.dead_letters import Position
from topics.settings import KafkaSettings

_KEYS = """
[[keys]]
name = "operator"
sha256 = "{operator}"
scopes = ["operator"]

[[keys]]
name = "app"
sha256 = "{app}"
scopes = ["*:read", "*:write"]

[[keys]]
name = "local"
sha256 = "{local}"
scopes = ["operator"]
countries = ["FR"]
"""


@asynccontextmanager
async def _console(monkeypatch: pytest.MonkeyPatch, **http: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(http=http)
    mount = lambda authentication: Console(settings, authentication, lambda: False)  # noqa: E731
    async with running_edge(monkeypatch, mount=mount, **http) as client:
        yield client


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    file.write_text(_KEYS.format(**{name: keys.digest(name) for name in ("operator", "app", "local")}))
    return file


@pytest.mark.parametrize(
    ("credentials", "status", "code"),
    [(None, 401, "unauthorized"), ("app", 403, "forbidden"), ("local", 403, "not_restricted"), ("operator", 200, None)],
)
async def test_the_console_needs_a_key_with_the_scope_operator(
    monkeypatch: pytest.MonkeyPatch, key_file: Path, credentials: str | None, status: int, code: str | None
) -> None:
    async with _console(monkeypatch, keys=key_file) as client:
        headers = {} if credentials is None else bearer(credentials)
        response = await client.get("/console/api/session", headers=headers)
        assert response.status_code == status
        assert code is None or response.json()["errors"][0]["code"] == code
        for method, path in (("POST", "dead-letters/replay"), ("GET", "events"), ("GET", "requests?id=a")):
            if status != 200:
                assert (await client.request(method, f"/console/api/{path}", headers=headers)).status_code == status


async def test_an_operator_may_not_call_operations(monkeypatch: pytest.MonkeyPatch, key_file: Path) -> None:
    async with _console(monkeypatch, keys=key_file) as client:
        assert (await client.get("/centers", headers=bearer("operator"))).status_code == 403


async def test_the_page_loads_nothing_from_other_hosts_and_needs_no_key(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    async with _console(monkeypatch, keys=key_file) as client:
        page = await client.get("/console")
        assert page.status_code == 200
        assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert (await client.get("/console/static/main.js")).headers["content-type"].startswith("text/javascript")
        assert (await client.get("/console/")).headers["location"] == "/console"
        assert (await client.get("/console/api/nothing")).status_code == 404


async def test_without_keys_other_web_pages_cannot_call_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _console(monkeypatch) as client:
        path = "/console/api/session"
        assert (await client.get(path)).json() == {"caller": "local", "signedIn": False}
        assert (await client.get(path, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
        assert (await client.get(path, headers={"Host": "attacker.example"})).status_code == 403
        headers = {"Content-Type": "text/plain"}
        form = await client.post("/console/api/dead-letters/replay", content="{}", headers=headers)
        assert form.status_code == 415


async def test_malformed_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _console(monkeypatch) as client:
        for path in (
            "requests",
            "requests?id=%20",
            "requests?id=%00",
            "requests?id=a&minutes=0",
            "visitors/moreau",
            "dead-letters?since=now",
            "dead-letters/x",
        ):
            assert (await client.get(f"/console/api/{path}")).status_code == 400, path
        for body in ({}, {"ids": []}, {"ids": ["x"]}, {"ids": ["0:1"], "all": True}):
            assert (await client.post("/console/api/dead-letters/plan", json=body)).status_code == 400, body
        large = await client.post("/console/api/dead-letters/plan", json={"ids": ["0:1" * 40_000]})
        assert large.status_code == 413


async def test_without_servers_the_console_says_which_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISITOR_DATABASE_URL", "postgresql://visitor@127.0.0.1:1/visitor")
    monkeypatch.setenv("VISITOR_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    async with _console(monkeypatch) as client:
        visitor = await client.get("/console/api/visitors/00000000-0000-0000-0000-000000000000")
        assert (visitor.status_code, visitor.json()["errors"][0]["code"]) == (503, "database_unavailable")
        notes = (await client.get("/console/api/requests?id=a")).json()["notes"]
        assert [note.partition(" does not answer")[0] for note in notes][:2] == ["PostgreSQL", "Kafka"]


async def test_without_the_setting_there_is_no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_edge(monkeypatch) as client:
        assert (await client.get("/console")).status_code == 404


def _day(number: int) -> datetime:
    return datetime(2026, 11, number, tzinfo=UTC)


def _optin(optin_id: int, created: int, *, optin_day: int | None, ended: int | None) -> Optin:
    return Optin.model_construct(
        optin_id=optin_id,
        optin_type="commercial",
        optin_channel="email",
        context_id=None,
        optin_date=optin_day and _day(optin_day),
        optout_date=ended and _day(ended),
        creation_date=_day(created),
    )


async def test_a_tombstone_whose_headers_have_the_id_belongs_to_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = [("ce_id", b"optin-17-3"), ("ce_type", b"visitor.optin.deleted")]
    tombstone = SimpleNamespace(
        topic="visitor.optins.changes.optin", partition=0, offset=3, key=b"17", value=None, headers=headers, timestamp=0
    )

    async def records(*_: object) -> AsyncIterator[SimpleNamespace]:
        yield tombstone

    monkeypatch.setattr("runtime.console.request_trace.Period.records", records)
    monkeypatch.setenv("VISITOR_DATABASE_URL", "postgresql://visitor@127.0.0.1:1/visitor")
    async with _console(monkeypatch) as client:
        answer = await client.get("/console/api/requests?id=17")
    assert (answer.status_code, answer.json()["messages"]) == (200, [])


def test_consents_are_those_of_the_time() -> None:
    optins = [
        _optin(2, 5, optin_day=None, ended=5),
        _optin(1, 1, optin_day=1, ended=3),
        _optin(3, 7, optin_day=7, ended=None),
    ]
    states = {day: [consent.state for consent in consents_at(optins, _day(day))] for day in (1, 2, 3, 5, 6, 7)}
    assert states == {1: ["given"], 2: ["given"], 3: ["withdrawn"], 5: ["refused"], 6: ["refused"], 7: ["given"]}
    assert consents_at(optins, datetime(2026, 10, 1, tzinfo=UTC)) == []
    assert [consent.since for consent in consents_at(optins, _day(4))] == [_day(3)]


def test_an_outline_has_the_fields_without_their_texts_and_numbers() -> None:
    value = {"path": {"visitType": "entry"}, "body": {"age": 40, "tags": ["Zora"] * 9, "vip": True, "email": None}}
    assert outline(value) == {
        "path": {"visitType": "text"},
        "body": {"age": "number", "tags": ["text", "text", "text", "…"], "vip": True, "email": None},
    }
    assert outline({"unreadable": "The value must be JSON.", "bytes": 4, "text": "Zora"}) == "unreadable"


class _Letters:
    """Dead letters whose topic has a partition without a leader: `plan` or the second page never arrives."""

    def __init__(self, *pages: Sequence[int]) -> None:
        self._pages = pages
        self.plans = 0

    async def plan_replay(self, _: Filter) -> Any:
        self.plans += 1
        if not self._pages:
            await asyncio.Event().wait()
        return SimpleNamespace(count=len(self._pages))

    async def replay(self, _: Any, on_progress: Callable[[Sequence[Any]], None]) -> None:
        for page in self._pages:
            on_progress([SimpleNamespace(position=Position(0, offset)) for offset in page])
        await asyncio.Event().wait()


async def _post(monkeypatch: pytest.MonkeyPatch, stub: _Letters, *paths: str) -> list[httpx.Response]:
    """The answers to calls that are sent at once."""
    monkeypatch.setattr(app, "DeadLetters", lambda *_: stub)
    async with _console(monkeypatch) as client:
        calls = (client.post(f"/console/api/dead-letters/{path}", json={"ids": ["0:1", "0:2"]}) for path in paths)
        return await asyncio.gather(*calls)


async def test_a_replay_that_cannot_read_the_dead_letters_ends_and_lets_the_next_one_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "SEARCH_SECONDS", 0.05)
    stub = _Letters()
    responses = await _post(monkeypatch, stub, "plan", "replay", "replay")
    assert [response.status_code for response in responses] == [503, 503, 503]
    assert {response.json()["errors"][0]["code"] for response in responses} == {"kafka_unavailable"}
    assert stub.plans == 3


async def test_a_replay_does_not_wait_for_another_one_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SEARCH_SECONDS", 0.5)
    monkeypatch.setattr(app, "TURN_SECONDS", 0.05)
    responses = await _post(monkeypatch, _Letters(), "replay", "replay")
    assert [response.json()["errors"][0]["code"] for response in responses] == ["kafka_unavailable", "busy"]


async def test_the_audit_log_has_what_was_replayed_before_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "visitor.audit")
    monkeypatch.setattr(servers, "SEARCH_SECONDS", 0.05)
    (response,) = await _post(monkeypatch, _Letters([1], [2]), "replay")
    assert response.status_code == 503
    lines = [json.loads(record.message) for record in caplog.records if record.name == "visitor.audit"]
    assert [line["via"] for line in lines] == ["visitor.dead-letters:0:1", "visitor.dead-letters:0:2"]


async def test_a_search_whose_browser_has_left_is_dropped_when_it_is_its_turn() -> None:
    async def left() -> Any:
        return {"type": "http.disconnect"}

    request = Request({"type": "http"}, left)
    semaphore = asyncio.Semaphore()
    with pytest.raises(ClientDisconnect):
        async with app._turn(semaphore, request):
            pass
    assert not semaphore.locked()


def test_topics_are_listed_by_role_and_family() -> None:
    topics = TopicList(KafkaSettings()).topics
    roles = list(dict.fromkeys(topic["role"] for topic in topics))
    assert roles == ["requests", "queries", "results", "replies", "changes", "dead letters"]
    families = [topic["name"].split(".")[1] for topic in topics if topic["role"] == "changes"]
    assert families == sorted(families, key=list(CATALOGUE.families).index)


class _Links(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.anchors.update(value for name, value in attrs if name == "id" and value)
        self.targets.update(value for name, value in attrs if name in ("href", "src") and value)


async def test_the_links_of_the_alerts_and_of_the_documentation_lead_to_pages_of_the_console(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    """Without a key: an operator clicks a link in an alert."""
    console = "http://localhost/console"
    pages: dict[str, _Links] = {}
    async with _console(monkeypatch, keys=key_file) as client:

        async def has(url: str) -> bool:
            page, _, anchor = url.partition("#")
            if page not in pages:
                answer = await client.get(page)
                pages[page] = _Links(answer.text if answer.headers["content-type"].startswith("text/html") else "")
                if answer.is_success:
                    pages[page].anchors.add("")
            return anchor in pages[page].anchors

        files = [file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")]
        for file in files:
            assert await has(f"{console}/docs/{file}"), file
        links = {urljoin(page, target) for page, links in dict(pages).items() for target in links.targets}
        runbooks = {
            alert["annotations"]["runbook_url"].replace(f"{{{{ $externalLabels.{queries.CONSOLE} }}}}", console)
            for alert in queries.alerts()
        }
        internal = {link for link in links | runbooks if link.startswith(console)}
        assert len(internal) > 100
        assert {link for link in internal if not await has(link)} == set()
