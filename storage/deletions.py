"""Recent deletions of entities: their changes, so that `visitor republish` can repeat them. A change of a deletion has
no personal data besides the ids of the entity and of its visitor."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.outbox import Entry
from storage.table import METADATA

DELETIONS = sa.Table(
    "deletions",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("partition_key", sa.Text, nullable=False),
    sa.Column("change_id", sa.Text, nullable=False),
    sa.Column("change_type", sa.Text, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=False, index=True),
    # When the worker inserted the tombstone into the outbox again.
    sa.Column("repeated_at", sa.TIMESTAMP(timezone=True)),
    sa.Index("deletions_unrepeated_idx", "deleted_at", postgresql_where="repeated_at is null"),
)
KEPT = timedelta(days=30)
"""How long `visitor republish` can repeat a deletion."""

_COLUMNS = [DELETIONS.c[name] for name in Entry._fields if name in DELETIONS.c]
_INSERT = postgresql.insert(DELETIONS)
_RECORD = _INSERT.on_conflict_do_update(
    index_elements=list(DELETIONS.primary_key),
    set_={column.name: _INSERT.excluded[column.name] for column in DELETIONS.c if not column.primary_key},
)
_AFTER = (
    sa.select(*_COLUMNS)
    .where(DELETIONS.c.topic == sa.bindparam("of_topic"), DELETIONS.c.key > sa.bindparam("last_key"))
    .order_by(DELETIONS.c.key)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_OF_VISITOR = (
    sa.select(DELETIONS.c.topic, DELETIONS.c.key, DELETIONS.c.deleted_at)
    .where(DELETIONS.c.partition_key == sa.bindparam("visitor"))
    .order_by(DELETIONS.c.deleted_at)
)
_COUNT = sa.select(sa.func.count()).where(DELETIONS.c.topic == sa.bindparam("of_topic"))
_EXPIRED = sa.select(*DELETIONS.primary_key).where(DELETIONS.c.deleted_at < sa.bindparam("before")).limit(1_000)
_UNREPEATED = (
    sa.select(*DELETIONS.primary_key)
    .where(DELETIONS.c.repeated_at.is_(None), DELETIONS.c.deleted_at < sa.bindparam("before"))
    .order_by(DELETIONS.c.deleted_at)
    .limit(1_000)
    .with_for_update(skip_locked=True)
)
_REPEAT = (
    sa.update(DELETIONS)
    .where(sa.tuple_(*DELETIONS.primary_key).in_(_UNREPEATED))
    .values(repeated_at=sa.bindparam("now"))
    .returning(*_COLUMNS)
)
_PRUNE = sa.delete(DELETIONS).where(sa.tuple_(*DELETIONS.primary_key).in_(_EXPIRED))


async def record(conn: AsyncConnection, changes: Sequence[Entry], now: datetime) -> None:
    """Keep those of the changes that a tombstone follows. Call it in the transaction that deletes the entities."""
    tombstones = {(change.topic, change.key) for change in changes if change.value is None}
    if not tombstones:
        return
    deletions = [
        {column.name: getattr(change, column.name) for column in _COLUMNS} | {"deleted_at": now}
        for change in changes
        if change.value is not None
        and change.change_type.endswith(".deleted")
        and (change.topic, change.key) in tombstones
    ]
    await conn.execute(_RECORD, deletions)


async def after(conn: AsyncConnection, topic: str, last_key: str, limit: int) -> list[Entry]:
    """The changes of the deletions on a topic whose keys follow `last_key`, in the order of their keys."""
    rows = await conn.execute(_AFTER, {"of_topic": topic, "last_key": last_key, "limit": limit})
    return [Entry(*row) for row in rows]


async def count(conn: AsyncConnection, topic: str) -> int:
    return (await conn.execute(_COUNT, {"of_topic": topic})).scalar_one()


async def take_unrepeated(conn: AsyncConnection, now: datetime, age: timedelta) -> list[Entry]:
    """The changes of up to 1,000 deletions that are older than `age`, once for each deletion."""
    rows = await conn.execute(_REPEAT, {"before": now - age, "now": now})
    return [Entry(*row) for row in rows]


async def of_visitor(conn: AsyncConnection, visitor: UUID) -> Sequence[Any]:
    """The rows about a visitor's entities, oldest first."""
    return (await conn.execute(_OF_VISITOR, {"visitor": str(visitor)})).all()


async def prune(conn: AsyncConnection, now: datetime) -> int:
    """Delete up to 1,000 deletions that are older than `KEPT`. Returns how many it deleted."""
    return (await conn.execute(_PRUNE, {"before": now - KEPT})).rowcount
