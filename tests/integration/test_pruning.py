"""Where the scans for expired answers begin."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from agents.engine import engine
from agents.engine.engine import Engine
from agents.engine.readiness import Readiness
from agents.engine.settings import EngineSettings
from storage import inbox
from storage.database import connect
from tests.support.stack import Stack, eventually

_Prune = Callable[[AsyncConnection, datetime, datetime], Awaitable[datetime | None]]
START = datetime.min.replace(tzinfo=UTC)
_prune = inbox.prune


class _Scans:
    """Prunes the inbox, and notes where each scan begins."""

    def __init__(self) -> None:
        self.begins: list[datetime] = []

    async def prune(self, conn: AsyncConnection, since: datetime, before: datetime) -> datetime | None:
        self.begins.append(since)
        return await _prune(conn, since, before)

    async def are(self, count: int) -> bool:
        return len(self.begins) >= count


@asynccontextmanager
async def _pruning(stack: Stack, prune: _Prune, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The task of a worker that prunes, without its pauses."""
    monkeypatch.setattr(engine, "PRUNE_INTERVAL", 0.01)
    monkeypatch.setattr(inbox, "prune", prune)
    background = connect(stack.database, connections=1)
    worker: Any = SimpleNamespace(_settings=EngineSettings(), _background=background, readiness=Readiness())
    task = asyncio.create_task(Engine._prune(cast(Engine, worker)))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await background.dispose()


async def _insert(stack: Stack, received_at: datetime) -> str:
    """An answer in the inbox. Returns the id of its request."""
    request_id = str(uuid4())
    async with stack.engine.begin() as conn:
        entry = inbox.Entry("a topic of the test", "s", request_id, "o", b"f", 200, None)
        await inbox.insert(conn, [entry], [], received_at)
    return request_id


async def _is_deleted(stack: Stack, request_id: str) -> bool:
    return await stack.rows("select 1 from inbox where request_id = :id", id=request_id) == []


async def test_only_the_first_scan_for_expired_answers_begins_with_the_oldest(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there are none: another worker may have deleted them, and their dead rows cost a scan as much."""
    now, scans = datetime.now(UTC), _Scans()
    expired = await _insert(stack, now - timedelta(days=30))
    async with _pruning(stack, scans.prune, monkeypatch):
        await eventually("a deleted answer", lambda: _is_deleted(stack, expired))
        count = len(scans.begins)
        await eventually("empty scans", lambda: scans.are(count + 5))
    kept = timedelta(days=EngineSettings().inbox_days)
    assert scans.begins[0] == START
    assert scans.begins == sorted(scans.begins)
    assert now - kept - timedelta(minutes=1) < scans.begins[-1] < datetime.now(UTC) - kept + timedelta(minutes=1)
    assert START not in scans.begins[1:]


async def test_once_per_interval_a_scan_begins_with_the_oldest_and_finds_answers_that_were_locked(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PRUNE_ALL_INTERVAL", 1.0)
    scans = _Scans()
    locked = await _insert(stack, datetime.now(UTC) - timedelta(days=30))
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text("select 1 from inbox where request_id = :id for update"), {"id": locked})
        async with _pruning(stack, scans.prune, monkeypatch):
            await eventually("empty scans", lambda: scans.are(5))
            assert not await _is_deleted(stack, locked)
            await conn.rollback()
            await eventually("a deleted answer", lambda: _is_deleted(stack, locked))
    assert 2 <= scans.begins.count(START) <= len(scans.begins) / 2


async def test_a_scan_from_the_oldest_that_takes_too_long_is_not_repeated_at_once(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, deletions and tombstones would wait until the old snapshot is gone."""
    monkeypatch.setattr(engine, "PRUNE_ALL_INTERVAL", 1.0)
    scans, failed = _Scans(), asyncio.Event()

    async def too_slow(conn: AsyncConnection, since: datetime, before: datetime) -> datetime | None:
        if since == START and scans.begins and not failed.is_set():
            monkeypatch.setattr(engine, "PRUNE_ALL_INTERVAL", 3600.0)
            failed.set()
            scans.begins.clear()
            await conn.execute(sa.text("set local statement_timeout = 1"))
            await conn.execute(sa.text("select pg_sleep(1)"))
        return await scans.prune(conn, since, before)

    async with _pruning(stack, too_slow, monkeypatch):
        await asyncio.wait_for(failed.wait(), 30)
        await eventually("further scans", lambda: scans.are(3))
    assert scans.begins.count(START) <= 1, "the interval began before it was made long"
