"""`visitor republish` of events finds the recent ones without a look at all old ones."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.engine import republish
from agents.families.visits.visits import VISITS
from runtime import progress
from runtime.republish import _Republisher
from storage import outbox
from storage.database import connect
from storage.republications import Republication
from tests.support.stack import WIRE, Stack
from topics import names

RANGE, EMPTY = 10, 3
TOPIC = names.changes("visits", "visit")


@pytest_asyncio.fixture(loop_scope="session")
async def database(own_stack: Stack) -> AsyncIterator[AsyncEngine]:
    engine = connect(own_stack.database, connections=1)
    async with engine.begin() as conn:
        for table in ("outbox", "republications", "visits", "visitors", "centers"):
            await conn.execute(sa.text(f"delete from {table}"))
        await conn.execute(sa.text("alter table visits alter visit_id restart"))
    yield engine
    await engine.dispose()


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(republish, "KEYS_AT_ONCE", RANGE)
    monkeypatch.setattr(republish, "EMPTY_RANGES", EMPTY)


async def _insert(database: AsyncEngine, count: int, *, days: int) -> None:
    """Visits of this age, without their visitor and center."""
    async with database.begin() as conn:
        await conn.execute(sa.text("set local session_replication_role = replica"))
        await conn.execute(
            sa.text(
                "insert into visits (visitor_id, pc_code, visit_date, visit_type, revision)"
                " select gen_random_uuid(), '1', :visit_date, 'entry', 1 from generate_series(1, :count)"
            ),
            {"visit_date": datetime.now(UTC) - timedelta(days=days), "count": count},
        )


async def _once(attempt: Callable[[], Awaitable[Any]]) -> Any:
    return await attempt()


def _republisher(database: AsyncEngine) -> _Republisher:
    return _Republisher(database, WIRE, VISITS, 10_000, _once)


async def _republish(database: AsyncEngine, *, restart: bool = False) -> Republication:
    with progress.bar(Console(quiet=True)) as bar:
        return await _republisher(database).run(bar, restart=restart)


async def _published(database: AsyncEngine) -> list[int]:
    async with database.connect() as conn:
        keys = await conn.scalars(sa.select(outbox.OUTBOX.c.key).where(outbox.OUTBOX.c.topic == TOPIC))
        return sorted(map(int, keys))


@contextmanager
def _searches(database: AsyncEngine) -> Iterator[list[int]]:
    """The number of the transaction of each statement that searches a range."""
    begun, searches = [0], []

    def note_begin(_conn: Any) -> None:
        begun[0] += 1

    def note(_conn: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if "min(visits.visit_id)" in sql:
            searches.append(begun[0])

    listeners = (("begin", note_begin), ("before_cursor_execute", note))
    for event, listener in listeners:
        sa.event.listen(database.sync_engine, event, listener)
    yield searches
    for event, listener in listeners:
        sa.event.remove(database.sync_engine, event, listener)


async def test_a_search_for_recent_events_ends_below_them(database: AsyncEngine) -> None:
    await _insert(database, 500, days=40)
    await _insert(database, 35, days=1)
    with _searches(database) as searches:
        done = await _republish(database)
    assert done.published_rows == 35
    assert await _published(database) == list(range(501, 536))
    # Those with recent events, from 535 down to 496, and those without.
    assert len(searches) == 4 + EMPTY
    assert len(set(searches)) == len(searches), "each range has its own transaction"


async def test_a_search_passes_old_events_that_were_imported_later(database: AsyncEngine) -> None:
    for days in (40, 1, 40, 1, 40):
        await _insert(database, (EMPTY - 1) * RANGE, days=days)
    assert (await _republish(database)).published_rows == 2 * (EMPTY - 1) * RANGE


@pytest.mark.parametrize("count", [0, 1, 25, 500])
async def test_of_old_events_only_those_that_come_later_are_republished(database: AsyncEngine, count: int) -> None:
    await _insert(database, count, days=40)
    with _searches(database) as searches:
        begun = await _republisher(database)._begin(restart=False)
    assert begun.last_key == (str(count) if count else None)
    assert len(searches) == min(EMPTY, -(-count // RANGE))
    await _insert(database, 1, days=0)
    assert (await _republish(database)).published_rows == 1


async def test_a_republication_that_is_resumed_does_not_search_again(database: AsyncEngine) -> None:
    await _insert(database, 5, days=1)
    republisher = _republisher(database)
    begun = await republisher._begin(restart=False)
    with _searches(database) as searches:
        assert await republisher._begin(restart=False) == begun
        assert searches == []
        assert await republisher._begin(restart=True) != begun
        assert len(searches) == 1
