"""Writes the current rows of a resource to its change topic again, through the outbox, in pages.

Each page is one transaction. Like every transaction that writes rows, it locks them before it inserts their changes
into the outbox. So the outbox has the changes of a row in the order of its revisions, whatever runs at the same time:
an earlier transaction has inserted its change before, a later one waits for the page.

The transaction also stores how far the resource is republished, so a run that was killed is resumed. It locks that
row first, so two runs share the work.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from agents.engine.change_entries import change_entries, tombstone
from agents.wire import Wire
from storage import deletions, outbox, republications, statistics
from storage.republications import Republication
from storage.table import Table
from storage.tx import EntityChange, clock
from topics import names

KEYS_AT_ONCE = 500_000
"""Keys of a range, in which one statement looks for the first recent event. It takes a second, far less than its
timeout; a scan of all events of a year does not."""

EMPTY_RANGES = 200
"""Ranges in a row without a recent event after which the search ends. It passes 100 million old events that were
imported later than recent ones."""

MAX_WAITING = 2_000
"""Rows of a topic in the outbox above which a republication waits for the publisher."""


class Search(NamedTuple):
    """A search for the first event that the topic would still have. It goes down from the last key, since years of old
    events may be below the recent ones. All keys above `left` are searched; `last_key` is the one before the first
    event that was found, or the last key of all; `empty` ranges in a row had none."""

    started_at: datetime
    left: int
    last_key: int
    empty: int = 0

    @property
    def finished(self) -> bool:
        return self.left == 0 or self.empty >= EMPTY_RANGES


async def begin_search(conn: AsyncConnection, table: Table[Any]) -> Search:
    last_key = await conn.scalar(sa.select(sa.func.max(table.columns[table.key]))) or 0
    return Search(await clock(conn), left=last_key, last_key=last_key)


async def search_range(conn: AsyncConnection, table: Table[Any], search: Search) -> Search:
    """Search the next range. Call it in a transaction of its own: a long one would delay vacuums and migrations."""
    key, after = table.columns[table.key], max(0, search.left - KEYS_AT_ONCE)
    in_range = sa.and_(key > after, key <= search.left, _is_recent(table, search.started_at))
    first = await conn.scalar(sa.select(sa.func.min(key)).where(in_range))
    if first is None:
        return search._replace(left=after, empty=search.empty + 1)
    return search._replace(left=after, last_key=first - 1, empty=0)


async def unfinished(conn: AsyncConnection, table: Table[Any]) -> bool:
    """True if `begin` would resume a republication."""
    republication = await republications.lock(conn, table.resource)
    return republication is not None and republication.finished_at is None


async def begin(
    conn: AsyncConnection, table: Table[Any], *, restart: bool, search: Search | None = None
) -> Republication:
    """Resume the republication of a table that has not finished. Start a new one if there is none, or with `restart`:
    of all rows, or of events after those that `search` has shown to be too old."""
    republication = await republications.lock(conn, table.resource)
    if republication is not None and republication.finished_at is None and not restart:
        return republication
    republication = Republication(table.resource, await clock(conn))
    if search is not None and search.last_key:
        republication = republication._replace(last_key=str(search.last_key))
    await republications.store(conn, republication)
    return republication


def _is_recent(table: Table[Any], started_at: datetime) -> sa.ColumnElement[bool]:
    """The condition that the topic would still have the event; always true for entities."""
    if table.event_time is None:
        return sa.true()
    return table.columns[table.event_time] >= started_at - names.EVENT_RETENTION


async def count(conn: AsyncConnection, table: Table[Any]) -> int:
    """Approximately how many rows and deletions the resource has."""
    return await statistics.rows(conn, table.name) + await deletions.count(conn, _topic(table))


async def is_congested(conn: AsyncConnection, table: Table[Any]) -> bool:
    """True if more than `MAX_WAITING` changes of the topic wait in the outbox."""
    return await outbox.count(conn, _topic(table), limit=MAX_WAITING + 1) > MAX_WAITING


async def republish_page(conn: AsyncConnection, table: Table[Any], wire: Wire, limit: int) -> Republication:
    """Republish the next rows, at most `limit`, or the next deletions after the last row. `finished_at` is set when
    nothing is left."""
    republication = await republications.lock(conn, table.resource)
    if republication is None:
        raise LookupError(f"the republication of {table.resource} has not begun")
    if republication.finished_at is not None:
        return republication
    if republication.rows_finished:
        republication = await _republish_deletions(conn, table, republication, limit)
    else:
        republication = await _republish_rows(conn, table, wire, republication, limit)
    await republications.store(conn, republication)
    return republication


async def _republish_rows(
    conn: AsyncConnection, table: Table[Any], wire: Wire, republication: Republication, limit: int
) -> Republication:
    keys = await _next_keys(conn, table, republication, limit)
    if not keys and (passed := await _passed_key(conn, table, republication)) is not None:
        return republication._replace(last_key=passed)
    changes = await _lock_first(conn, table, keys)
    now = await clock(conn)
    caused_by = f"republish/{republication.started_at.isoformat(timespec='seconds')}"
    entries = [
        entry for change in changes for entry in change_entries(wire, change, occurred_at=now, caused_by=caused_by)
    ]
    await _insert(conn, entries, now)
    return republication._replace(
        last_key=changes[-1].id if changes else republication.last_key,
        rows_finished=not keys,
        published_rows=republication.published_rows + len(changes),
    )


async def _next_keys(
    conn: AsyncConnection, table: Table[Any], republication: Republication, limit: int
) -> Sequence[Any]:
    key = table.columns[table.key]
    keys = sa.select(key).where(_is_recent(table, republication.started_at)).order_by(key).limit(limit)
    if republication.last_key is not None:
        keys = keys.where(key > table.parse_key(republication.last_key))
    if table.are_events:
        keys = keys.where(key <= _end_of_range(republication))
    return (await conn.scalars(keys)).all()


def _end_of_range(republication: Republication) -> int:
    return int(republication.last_key or 0) + KEYS_AT_ONCE


async def _passed_key(conn: AsyncConnection, table: Table[Any], republication: Republication) -> str | None:
    """The end of the next range of events, none of which is recent; None if no later events follow."""
    if not table.are_events:
        return None
    end = _end_of_range(republication)
    last_key = await conn.scalar(sa.select(sa.func.max(table.columns[table.key])))
    return str(end) if last_key is not None and last_key > end else None


async def _lock_first(conn: AsyncConnection, table: Table[Any], keys: Sequence[Any]) -> list[EntityChange]:
    """Lock the first of these rows, if necessary after another transaction, and the rows after it up to one that
    another transaction has locked. Returns their changes. A transaction that waits holds no other row, so that it
    cannot deadlock with those that lock rows in another order."""
    if not keys:
        return []
    key = table.columns[table.key]
    # FOR NO KEY UPDATE, the lock of an update.
    await conn.execute(sa.select(key).where(key == keys[0]).with_for_update(key_share=True))
    rows = sa.select(table.sql).where(key.in_(keys)).order_by(key).with_for_update(key_share=True, skip_locked=True)
    locked = {getattr(row, table.key): row for row in await conn.execute(rows)}
    first = list(takewhile(locked.__contains__, keys))
    return [table.change_of(locked[each], "republished") for each in first]


async def _republish_deletions(
    conn: AsyncConnection, table: Table[Any], republication: Republication, limit: int
) -> Republication:
    changes = await deletions.after(conn, _topic(table), republication.last_deleted_key or "", limit)
    keys = [table.parse_key(change.key) for change in changes]
    key = table.columns[table.key]
    existing = {str(entity) for entity in await conn.scalars(sa.select(key).where(key.in_(keys)))}
    absent = [change for change in changes if change.key not in existing]
    now = await clock(conn)
    await _insert(conn, [entry for change in absent for entry in (change, tombstone(change))], now)
    return republication._replace(
        last_deleted_key=changes[-1].key if changes else republication.last_deleted_key,
        published_deletions=republication.published_deletions + len(absent),
        finished_at=now if len(changes) < limit else None,
    )


async def _insert(conn: AsyncConnection, entries: Sequence[outbox.Entry], now: datetime) -> None:
    if entries:
        await outbox.insert(conn, entries, now)


def _topic(table: Table[Any]) -> str:
    return names.changes(table.family, table.resource)
