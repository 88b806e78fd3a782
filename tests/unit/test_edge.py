"""The edge without Kafka: what it makes of a worker's answer."""

import asyncio

import httpx
import pytest

from agents.catalogue import CATALOGUE
from edge.app import Edge
from edge.reply_router import Reply, ReplyRouter
from edge.settings import HttpSettings
from tests.support.data import NOBODY
from topics import json
from topics.kafka import KafkaSettings, Outgoing


class _AtOnce(ReplyRouter):
    """An exchange without Kafka that has its answer already."""

    reply: Reply

    def expect(self) -> tuple[int, str, "asyncio.Future[Reply]"]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(self.reply)
        return 0, "correlation", future

    async def send(self, message: Outgoing) -> None:
        pass


@pytest.mark.parametrize(("status", "waits"), [(503, "1"), (429, "1"), (404, None)])
async def test_what_a_worker_cannot_do_now_says_when_to_retry(
    monkeypatch: pytest.MonkeyPatch, status: int, waits: str | None
) -> None:
    monkeypatch.setattr(_AtOnce, "reply", (status, b'{"errors":[]}'), raising=False)
    monkeypatch.setattr("edge.app.ReplyRouter", _AtOnce)
    edge = Edge(KafkaSettings(bootstrap="nowhere:1"), HttpSettings(), CATALOGUE)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge.asgi), base_url="http://localhost") as client:
        answer = await client.get(f"/visitors/{NOBODY}/eventToken?companyId=1")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, waits)


@pytest.mark.parametrize("body", [None, {"data": [{"text": 'a "quoted" {brace}\n', "amount": 1.5}]}, []])
def test_a_result_is_split_without_being_read(body: object) -> None:
    status, found = json.split_result(json.write_result(201, body))
    assert (status, json.read(found)) == (201, json.read(json.write(body)))


@pytest.mark.parametrize("value", [b"", b"{}", b'{"status":201}', b'{"body":{},"status":201}'])
def test_what_is_no_result_is_not_taken_for_one(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a result"):
        json.split_result(value)
