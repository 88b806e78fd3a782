"""The schema registry of the edge, without Kafka."""

import asyncio
import json as std_json
from pathlib import Path
from typing import Any

import pytest
import structlog

from edge.registry import BODY_LIMIT
from edge.reply_router import Reply
from edge.schema_directory import SchemaDirectory
from tests.support.edges import ImmediateReplyRouter, SilentReplyRouter, edge_with_keys, running_edge
from topics import json, releases

SUBJECT = "visitor.Center"


class _RouterOfSchemas(ImmediateReplyRouter):
    """Answers the first query with the only stored schema."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        rows = [{"id": 1, "position": 1, "recordName": SUBJECT, "text": "{}"}]
        self._pages = [[], rows]

    @property
    def reply(self) -> Reply:
        return Reply(200, json.write(self._pages.pop() if self._pages else []))


@pytest.mark.parametrize("number", ["9" * 5_000, "9" * 11, "x"], ids=["5000-digits", "11-digits", "text"])
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/{}", 404, 40403),
        ("/schemas/ids/{}/subjects", 404, 40403),
        ("/apis/registry/v3/ids/globalIds/{}", 404, 40403),
        (f"/subjects/{SUBJECT}/versions/{{}}", 422, 42202),
    ],
)
async def test_what_is_no_number_has_the_error_code_of_confluents_api(
    monkeypatch: pytest.MonkeyPatch, path: str, status: int, code: int, number: str
) -> None:
    async with running_edge(monkeypatch, _RouterOfSchemas) as client:
        response = await client.get("/registry" + path.format(number))
        assert (response.status_code, response.json()["error_code"]) == (status, code)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "fixed", "name": "A", "size": 10**400, "logicalType": "decimal", "precision": 1},
        {"type": "record", "name": "A", "fields": [{"name": "a", "type": [], "default": 1}]},
        {"type": "record", "name": "A", "fields": None},
    ],
)
async def test_a_schema_that_cannot_be_read_is_422(monkeypatch: pytest.MonkeyPatch, schema: Any) -> None:
    async with running_edge(monkeypatch, _RouterOfSchemas) as client:
        response = await client.post(f"/registry/subjects/{SUBJECT}", json={"schema": std_json.dumps(schema)})
        assert (response.status_code, response.json()["error_code"]) == (422, 42201)


@pytest.mark.parametrize("credentials", ["é", "x", "w6k=", "/w=="])
async def test_credentials_that_cannot_be_read_are_401(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: str
) -> None:
    async with edge_with_keys(monkeypatch, tmp_path, _RouterOfSchemas) as (client, _):
        headers = {"Authorization": f"Basic {credentials}".encode("latin-1")}
        response = await client.get("/registry/subjects", headers=headers)
        assert (response.status_code, response.json()["error_code"]) == (401, 40101)


async def test_a_bug_is_500_with_the_error_code_of_confluents_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_RouterOfSchemas, "reply", Reply(200, b'[{"id": 1}]'))
    async with running_edge(monkeypatch, _RouterOfSchemas) as client:
        with structlog.testing.capture_logs() as logs:
            response = await client.get("/registry/subjects", headers={"X-Request-Id": "my-call"})
    assert (response.status_code, response.json()["error_code"]) == (500, 50001)
    assert [(line["event"], line["call_id"]) for line in logs] == [("bug", "my-call")]


async def test_calls_that_wait_for_the_workers_fail_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilentReplyRouter, "sent", 0)
    async with running_edge(monkeypatch, SilentReplyRouter, timeout_seconds=3) as client:
        paths = ["/registry/subjects", "/registry/schemas/ids/1", f"/registry/subjects/{SUBJECT}/versions"] * 10
        calls = await asyncio.gather(*map(client.get, paths))
        assert {call.status_code for call in calls} == {504}
        assert SilentReplyRouter.sent == 1
        assert (await client.get("/registry/subjects")).status_code == 504
        assert SilentReplyRouter.sent == 2


async def test_a_call_that_is_cancelled_leaves_the_others_their_answer() -> None:
    reading, goes_on = asyncio.Event(), asyncio.Event()
    rows = [{"id": 1, "position": 1, "recordName": SUBJECT, "text": "{}"}]
    positions = []

    async def read_after(position: int) -> list[dict[str, Any]]:
        positions.append(position)
        reading.set()
        await goes_on.wait()
        return [] if position else rows

    directory = SchemaDirectory({}, read_after)
    first, second = (asyncio.create_task(directory.subjects()) for _ in range(2))
    await reading.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    goes_on.set()
    assert await second == [SUBJECT]
    assert positions == [0, 1]


async def test_calls_of_the_registry_count_for_the_limits_of_their_caller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with edge_with_keys(monkeypatch, tmp_path, _RouterOfSchemas, rate=1) as (client, headers):
        answers = [await client.get("/registry/subjects", headers=headers) for _ in range(11)]
        other = await client.get("/registry/subjects", headers={"Authorization": "Bearer b"})
        operation = await client.get("/centers", headers=headers)
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[0].headers["RateLimit-Policy"] == '"caller";q=10;w=10'
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 10
    assert answers[-1].json()["error_code"] == 42901
    assert (other.status_code, operation.status_code) == (200, 429)


async def test_a_schema_may_be_as_large_as_the_largest_of_the_service_with_indents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [std_json.dumps(released.schema, indent=2) for released in releases.released()]
    assert max(len(std_json.dumps({"schema": text})) for text in texts) < BODY_LIMIT
    async with running_edge(monkeypatch, _RouterOfSchemas) as client:
        answer = await client.post(f"/registry/subjects/{SUBJECT}", json={"schema": " " * BODY_LIMIT})
        assert (answer.status_code, answer.json()["error_code"]) == (413, 41301)
