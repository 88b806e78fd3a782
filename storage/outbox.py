"""The outbox: changes that were committed and are still to be published.

A row is inserted after its entity's row was locked, so the ids of one entity's changes have the order of their
commits.
"""

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.statements import any_of
from storage.table import METADATA

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("partition_key", sa.Text, nullable=False),
    sa.Column("change_id", sa.Text, nullable=False),
    sa.Column("change_type", sa.Text, nullable=False),
    sa.Column("value", sa.LargeBinary),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
)
CLAIM_LIMIT, CLAIM_BYTES = 500, 8 * 2**20
"""How many changes, and how much of them, are published at once; one at least, whatever its size."""


class Entry(NamedTuple):
    """One message of a change topic, ready to send; a value of None is a tombstone."""

    topic: str
    key: str
    partition_key: str
    change_id: str
    change_type: str
    value: bytes | None


_COLUMNS = Entry._fields


def _arrays() -> list[sa.ColumnElement[object]]:
    return [sa.bindparam(name, type_=ARRAY(OUTBOX.c[name].type)) for name in _COLUMNS]


_ROWS = sa.func.unnest(*_arrays()).table_valued(*_COLUMNS, with_ordinality="place").render_derived()
_INSERT = sa.insert(OUTBOX).from_select(
    (*_COLUMNS, "created_at"),
    sa.select(
        *(_ROWS.c[name] for name in _COLUMNS), sa.bindparam("created_at", type_=sa.TIMESTAMP(timezone=True))
    ).order_by(_ROWS.c.place),
)


def _claim() -> Any:
    """The oldest of a topic, as many as go out at once. The sum runs along the index and ends with the limit."""
    of_topic = OUTBOX.c.topic == sa.bindparam("of_topic")
    size = sa.func.coalesce(sa.func.octet_length(OUTBOX.c.value), 0)
    before = (sa.func.sum(size).over(order_by=OUTBOX.c.id) - size).label("before")
    oldest = sa.select(OUTBOX.c.id, before).where(of_topic).order_by(OUTBOX.c.id).limit(CLAIM_LIMIT).subquery()
    some = sa.select(oldest.c.id).where(oldest.c.before < CLAIM_BYTES)
    taken = sa.delete(OUTBOX).where(of_topic, OUTBOX.c.id.in_(some))
    return taken.returning(OUTBOX.c.id, *(OUTBOX.c[name] for name in _COLUMNS))


_CLAIM = _claim()
_DELETE_UNPUBLISHED = sa.delete(OUTBOX).where(
    any_of(OUTBOX.c.partition_key, "keys"), OUTBOX.c.value.is_not(None), OUTBOX.c.change_type.not_like("%.deleted")
)
_LOCK = sa.select(sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0)))


async def insert(conn: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    columns: dict[str, Any] = dict(zip(_COLUMNS, map(list, zip(*entries, strict=True)), strict=True))
    await conn.execute(_INSERT, columns | {"created_at": now})


async def delete_unpublished(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Delete what was not published yet about these visitors, but for deletions and tombstones, which hold nothing of
    them: a consumer may know the entity already."""
    await conn.execute(_DELETE_UNPUBLISHED, {"keys": [str(visitor) for visitor in visitors]})


async def claim(conn: AsyncConnection, topic: str) -> list[Entry]:
    """The oldest changes of a topic, deleted once the transaction commits. Empty also while another publisher, in
    whatever process, holds the topic; it is held until the transaction ends."""
    if not await conn.scalar(_LOCK, {"name": topic}):
        return []
    found = sorted(await conn.execute(_CLAIM, {"of_topic": topic}), key=itemgetter(0))
    return [Entry(*row[1:]) for row in found]
