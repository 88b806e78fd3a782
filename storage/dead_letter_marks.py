"""What operators did with dead letters: one row for each dead letter that was replayed or discarded."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.statements import unnest_rows
from storage.table import METADATA
from storage.tx import clock

DEAD_LETTER_MARKS = sa.Table(
    "dead_letter_marks",
    METADATA,
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("offset", sa.BigInteger, primary_key=True),
    # Offsets begin again if the topic is created again; the time of the record tells the dead letters apart.
    sa.Column("written_at", sa.TIMESTAMP(timezone=True), primary_key=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("marked_at", sa.TIMESTAMP(timezone=True), nullable=False),
)
KEPT = timedelta(days=60)
"""How long a mark is kept after its dead letter was written. Kafka deletes dead letters after 29 days."""

Action = Literal["replayed", "discarded"]


class MarkKey(NamedTuple):
    """A dead letter: its partition and offset, and the time of its record."""

    partition: int
    offset: int
    written_at: datetime


class Mark(NamedTuple):
    action: Action
    marked_at: datetime


_KEYS = unnest_rows(**{name: DEAD_LETTER_MARKS.c[name].type for name in MarkKey._fields})
_OF_KEYS = sa.select(DEAD_LETTER_MARKS).join(
    _KEYS, sa.and_(*(DEAD_LETTER_MARKS.c[name] == _KEYS.c[name] for name in MarkKey._fields))
)
_INSERT = postgresql.insert(DEAD_LETTER_MARKS).on_conflict_do_nothing()
_PRUNE = sa.delete(DEAD_LETTER_MARKS).where(DEAD_LETTER_MARKS.c.written_at < sa.bindparam("before"))


async def read(conn: AsyncConnection, letters: Sequence[MarkKey]) -> dict[MarkKey, Mark]:
    """The marks of those of the dead letters that have one."""
    if not letters:
        return {}
    rows = await conn.execute(_OF_KEYS, dict(zip(MarkKey._fields, map(list, zip(*letters, strict=True)), strict=True)))
    return {MarkKey(row.partition, row.offset, row.written_at): Mark(row.action, row.marked_at) for row in rows}


async def insert(conn: AsyncConnection, letters: Iterable[MarkKey], action: Action) -> None:
    """Mark dead letters. A dead letter that has a mark keeps it. Deletes marks that are older than `KEPT`, by the
    database's clock: that of an operator's computer may be wrong."""
    now = await clock(conn)
    rows: Sequence[dict[str, object]] = [letter._asdict() | {"action": action, "marked_at": now} for letter in letters]
    if rows:
        await conn.execute(_INSERT, rows)
    await conn.execute(_PRUNE, {"before": now - KEPT})
