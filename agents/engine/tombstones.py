"""Repeats tombstones, so that Kafka compacts what was erased.

Kafka never compacts the newest segment of a partition, and closes it only when a record is appended after `segment.ms`.
If nothing is written to a partition after an erasure, it would keep the visitor's data for good. The tombstone of a
deletion is therefore written again once the segment with the first one is old enough to be closed.
"""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from agents.engine.change_entries import tombstone
from storage import deletions, outbox
from storage.table import tables_with_column
from topics import names

REPEAT_AFTER = names.LONGEST_SEGMENT + timedelta(hours=1)
"""After the deletion. The segment is then older than segment.ms."""


async def repeat(conn: AsyncConnection, now: datetime) -> int:
    """Insert tombstones of visitors' entities into the outbox again, each once. Returns how many deletions were
    looked at. The keys of these entities are never used again, so a repeated tombstone deletes no newer entity."""
    repeatable = {
        names.changes(table.family, table.resource)
        for table in tables_with_column("visitor_id")
        if not table.are_events
    }
    taken = await deletions.take_unrepeated(conn, now, REPEAT_AFTER)
    repeated = [tombstone(deletion) for deletion in taken if deletion.topic in repeatable]
    if repeated:
        await outbox.insert(conn, repeated, now)
    return len(taken)
