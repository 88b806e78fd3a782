"""Edges without Kafka."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.catalogue import CATALOGUE
from edge import keys
from edge.app import Edge, Mounted
from edge.authentication import Authentication
from edge.reply_router import Reply, ReplyRouter
from edge.settings import HttpSettings
from topics.envelope import RequestHeaders
from topics.kafka import Outgoing
from topics.settings import KafkaSettings


class ImmediateReplyRouter(ReplyRouter):
    """A reply router without Kafka, which answers each request immediately with `reply`."""

    reply = Reply(200, b"{}")

    def expect(self, request: RequestHeaders) -> tuple[RequestHeaders, "asyncio.Future[Reply]"]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(self.reply)
        return request, future

    async def send(self, message: Outgoing) -> None:
        pass

    def start(self) -> None:
        pass


class SilentReplyRouter(ImmediateReplyRouter):
    """A reply router without Kafka, which answers nothing. It counts the requests that were sent."""

    sent = 0

    def expect(self, request: RequestHeaders) -> tuple[RequestHeaders, "asyncio.Future[Reply]"]:
        return request, asyncio.get_running_loop().create_future()

    async def send(self, message: Outgoing) -> None:
        type(self).sent += 1


_ENTRY = """
[[keys]]
name = "{name}"
sha256 = "{digest}"
scopes = {scopes}
{more}
"""


def entry(name: str, key: str, more: str = "", scopes: Sequence[str] = ("*:read", "*:write")) -> str:
    """An entry of the file of keys."""
    return _ENTRY.format(name=name, digest=keys.digest(key), scopes=json.dumps(scopes), more=more)


@asynccontextmanager
async def running_edge(
    monkeypatch: pytest.MonkeyPatch,
    router: type[ReplyRouter] = ImmediateReplyRouter,
    mount: Callable[[Authentication], Mounted] | None = None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge with these settings."""
    monkeypatch.setattr("edge.app.ReplyRouter", router)
    edge = Edge(KafkaSettings(bootstrap="nowhere:1"), HttpSettings(**settings), CATALOGUE, lambda: None, mount)
    transport = httpx.ASGITransport(edge.asgi)
    async with edge.running(None), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@asynccontextmanager
async def edge_with_keys(
    monkeypatch: pytest.MonkeyPatch, folder: Path, router: type[ReplyRouter], **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, str]]]:
    """A client of an edge with the keys `a` and `b`, which may do everything, and the headers with the first one."""
    file = folder / "keys.toml"
    file.write_text(entry("a", "a") + entry("b", "b"))
    async with running_edge(monkeypatch, router, keys=file, **settings) as client:
        yield client, bearer("a")


def bearer(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials}"}
