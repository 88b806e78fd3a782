"""The edge without Kafka: how it translates a worker's answer to an HTTP response."""

import asyncio
import gzip
import re
from collections import Counter
from pathlib import Path

import httpx
import pytest
import structlog
from aiokafka.errors import KafkaError
from starlette.types import Message, Receive, Scope, Send

from agents.catalogue import CATALOGUE
from edge import callers, conditional
from edge.app import Edge
from edge.callers import Callers
from edge.identity import Identity
from edge.reply_router import Reply, ReplyRouter
from edge.settings import HttpSettings
from schemas.faults import RateLimited, Unavailable
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.edges import ImmediateReplyRouter, SilentReplyRouter, edge_with_keys, running_edge
from tests.support.stack import eventually
from topics import json
from topics.names import REPLY_LIMIT
from topics.settings import KafkaSettings
from topics.supervision import TaskEnded


@pytest.mark.parametrize(("status", "retry_after"), [(503, "1"), (429, "1"), (404, None)])
async def test_an_answer_that_allows_a_retry_has_a_retry_after_header(
    monkeypatch: pytest.MonkeyPatch, status: int, retry_after: str | None
) -> None:
    monkeypatch.setattr(ImmediateReplyRouter, "reply", Reply(status, b'{"errors":[]}'), raising=False)
    monkeypatch.setattr("edge.app.ReplyRouter", ImmediateReplyRouter)
    edge = Edge(KafkaSettings(bootstrap="nowhere:1"), HttpSettings(), CATALOGUE, ended=lambda: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge.asgi), base_url="http://localhost") as client:
        response = await client.get(f"/visitors/{ABSENT_VISITOR_ID}/eventToken?companyId=1")
    assert (response.status_code, response.headers.get("Retry-After")) == (status, retry_after)


async def test_a_caller_that_exceeds_its_rate_is_told_when_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "visitor.audit")
    monkeypatch.setattr(ImmediateReplyRouter, "reply", Reply(200, b"{}"), raising=False)
    async with edge_with_keys(monkeypatch, tmp_path, ImmediateReplyRouter, rate=1) as (client, headers):
        answers = [await client.get("/centers", headers=headers) for _ in range(12)]
        other = await client.get("/centers", headers={"Authorization": "Bearer b"})
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    assert other.status_code == 200
    first, last = answers[0].headers, answers[-1].headers
    assert first["RateLimit-Policy"] == last["RateLimit-Policy"] == '"caller";q=10;w=10'
    assert re.fullmatch(r'"caller";r=9;t=(9|10)', first["RateLimit"])
    assert last["RateLimit"] == f'"caller";r=0;t={last["Retry-After"]}'
    assert answers[-1].json()["errors"][0]["code"] == "rate_exceeded"
    lines = [json.read(record.message.encode()) for record in caplog.records if record.name == "visitor.audit"]
    assert [(line["caller"], line["operation"], line["status"]) for line in lines] == [
        ("api/a", "centers.list", 429), ("api/a", "centers.list", 429),
    ]  # fmt: skip


async def test_a_caller_has_a_share_of_the_workers_and_the_rest_of_its_reads_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(SilentReplyRouter, "sent", 0)
    async with edge_with_keys(
        monkeypatch, tmp_path, SilentReplyRouter, reads_at_once=3, in_flight=5, timeout_seconds=2
    ) as (client, headers):
        answers = await asyncio.gather(*(client.get("/centers", headers=headers) for _ in range(7)))
        codes = Counter((answer.status_code, answer.json()["errors"][0]["code"]) for answer in answers)
        assert codes == {(504, "no_answer"): 3, (429, "too_many_reads"): 2, (429, "too_many_calls"): 2}
        assert SilentReplyRouter.sent == 3
        next_answer = await client.get("/centers", headers=headers)
        assert next_answer.status_code == 504  # The turns of the earlier reads are free again.


def test_the_bytes_of_calls_are_limited_for_each_caller_and_for_all() -> None:
    limited = Callers(HttpSettings())
    a, b, c = (Identity(name, f"api/{name}", frozenset()) for name in "abc")
    with limited.in_flight(a) as call, limited.in_flight(b) as other:
        call.add(callers.BYTES_OF_CALLER)
        with pytest.raises(RateLimited), limited.in_flight(a):
            pass
        with pytest.raises(RateLimited):
            call.add(1)
        other.add(callers.BYTES_OF_ALL - callers.BYTES_OF_CALLER)
        with limited.in_flight(c) as last, pytest.raises(Unavailable):
            last.add(1)
    with limited.in_flight(a) as call:
        call.add(callers.BYTES_OF_CALLER)
    assert limited.held_bytes == 0


async def test_an_answer_that_the_edge_has_no_memory_for_is_429_for_a_read_and_503_for_a_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A call with 429 was not applied, and a write may be."""
    monkeypatch.setattr(callers, "BYTES_OF_CALLER", REPLY_LIMIT + 1_000)
    reply = Reply(200, b"[" + b" " * callers.BYTES_OF_CALLER + b"]")
    monkeypatch.setattr(ImmediateReplyRouter, "reply", reply, raising=False)
    async with edge_with_keys(monkeypatch, tmp_path, ImmediateReplyRouter) as (client, headers):
        headers |= {"Accept-Encoding": "identity"}
        read = await client.get("/centers", headers=headers)
        write = await client.patch("/centers/FR-A-1", json={}, headers=headers | {"Idempotency-Key": "k"})
    assert (read.status_code, read.json()["errors"][0]["code"]) == (429, "too_many_bytes")
    assert (write.status_code, write.json()["errors"][0]["code"]) == (503, "edge_full")
    assert (write.headers["Idempotency-Key"], write.headers["Retry-After"]) == ("k", "1")


async def test_a_compressed_body_counts_with_the_size_of_its_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(callers, "BYTES_OF_ALL", 100_000)
    body = gzip.compress(json.write({"genericName": "a", "content": [{"localeCode": "fr-FR", "value": "x" * 150_000}]}))
    async with edge_with_keys(monkeypatch, tmp_path, ImmediateReplyRouter) as (client, headers):
        sent = headers | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        answer = await client.patch("/articles/1", content=body, headers=sent)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, "edge_full")


async def test_an_edge_that_cannot_go_on_is_not_live_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()
    monkeypatch.setattr("edge.app.ReplyRouter", _Broken)
    edge = Edge(KafkaSettings(bootstrap="nowhere:1"), HttpSettings(), CATALOGUE, ended.set)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge.asgi), base_url="http://localhost") as client:
        before = await client.get("/health/live")
        async with edge.running(None), asyncio.timeout(5):
            await ended.wait()
            after = await client.get("/health/live")
    assert (before.status_code, after.status_code, after.json()) == (
        200, 503, {"status": "failed", "reason": "TaskEnded"},
    )  # fmt: skip
    assert isinstance(edge.failure, TaskEnded)


class _ReadySoon(ReplyRouter):
    async def _listen(self) -> None:
        await asyncio.sleep(0.05)
        self._listening.set()
        await asyncio.Event().wait()


class _NeverReady(ReplyRouter):
    async def _listen(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("router", "seconds", "status"), [(_ReadySoon, 30, 200), (_NeverReady, 0.5, 503)])
async def test_an_edge_waits_some_seconds_for_kafka_before_it_listens(
    monkeypatch: pytest.MonkeyPatch, router: type[ReplyRouter], seconds: float, status: int
) -> None:
    """uvicorn listens when the application has sent `lifespan.startup.complete`."""
    monkeypatch.setattr("edge.app.ReplyRouter", router)
    monkeypatch.setattr("edge.app.START_SECONDS", seconds)
    edge = Edge(KafkaSettings(bootstrap="nowhere:1"), HttpSettings(), CATALOGUE, lambda: None)
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "lifespan.startup"})
    running = asyncio.create_task(edge.asgi({"type": "lifespan", "app": edge.asgi}, received.get, sent.put))
    async with asyncio.timeout(5):
        assert await sent.get() == {"type": "lifespan.startup.complete"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(edge.asgi), base_url="http://localhost") as client:
            assert (await client.get("/health")).status_code == status
        received.put_nowait({"type": "lifespan.shutdown"})
        await running


async def test_an_edge_that_stops_is_live_and_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = asyncio.Event()
    monkeypatch.setattr("edge.app.ReplyRouter", _ReadySoon)
    edge = Edge(
        KafkaSettings(bootstrap="nowhere:1"), HttpSettings(), CATALOGUE, lambda: None, is_stopping=stopping.is_set
    )
    transport = httpx.ASGITransport(edge.asgi)
    async with edge.running(None), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def is_ready() -> bool:
            return (await client.get("/health")).status_code == 200

        await eventually("a ready edge", is_ready)
        stopping.set()
        health, live = await client.get("/health"), await client.get("/health/live")
    assert (health.status_code, health.json()["reasons"]) == (503, {"stop": "the edge is stopping"})
    assert live.status_code == 200


class _Stuck:
    """A consumer that reads nothing more and does not report it."""

    _closed = True

    def assignment(self) -> set[int]:
        return {0}

    async def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 7)

    async def position(self, _: int) -> int:
        return 6


async def test_replies_that_wait_and_are_not_read_end_the_attempt_to_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.reply_router.WATCH_SECONDS", 0.01)
    router = ReplyRouter(KafkaSettings(bootstrap="nowhere:1"), None, lambda *_: None)
    with pytest.raises(KafkaError, match="from offset 6"):
        await router._watch(_Stuck())


class _Broken(ReplyRouter):
    async def _listen(self) -> None:
        """Ends at once."""


@pytest.mark.parametrize("body", [None, {"data": [{"text": 'a "quoted" {brace}\n', "amount": 1.5}]}, []])
def test_a_result_is_split_into_status_and_body_without_decoding_the_body(body: object) -> None:
    status, body_json = json.split_result(json.write_result(201, body))
    assert (status, json.read(body_json)) == (201, json.read(json.write(body)))


@pytest.mark.parametrize(
    "value", [b"", b"{}", b'{"status":201}', b'{"body":{},"status":201}', b'{"status":999,"body":1}']
)
def test_other_json_is_not_accepted_as_a_result(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a result"):
        json.split_result(value)


def test_as_many_etags_as_if_match_may_have_fit_into_its_length() -> None:
    tag = conditional.tag_of_compressed(conditional.tag_of(10**17, b"a record"))
    assert conditional.expected_revisions([f"W/{tag}, " * (conditional.TAGS_LIMIT - 1) + tag]) == (10**17,)


async def test_a_bug_in_any_page_is_500_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        path = "/faulty"

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError

        async def run(self) -> None:
            await asyncio.Event().wait()

    async with running_edge(monkeypatch, mount=lambda _: Faulty()) as client:
        with structlog.testing.capture_logs() as logs:
            response = await client.get("/faulty/page", headers={"X-Request-Id": "my-call"})
    assert (response.status_code, error_codes(response)) == (500, [(None, "internal")])
    assert response.headers["X-Request-Id"] == "my-call"
    assert [(line["event"], line["call_id"]) for line in logs] == [("bug", "my-call")]
