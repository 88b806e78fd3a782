"""The outbox: changes that are committed and not published yet, and the publishers that may publish them.

A row is inserted after the row of its entity was locked, so the ids of one entity's changes have the order of their
commits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
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
PUBLISHERS = sa.Table(
    "publishers",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("owner", sa.Uuid, nullable=False),
    sa.Column("renewed_at", sa.TIMESTAMP(timezone=True), nullable=False),
)
CLAIM_LIMIT, CLAIM_BYTES = 500, 8 * 2**20
"""Changes, and their bytes, that are published at once. At least one change, whatever its size."""
LEASE_SECONDS = 0.3
"""How long a topic stays with the publisher that claimed changes last. A new publisher for each change would cost ten
times as much as the change. Nobody waits longer than this for an idle or dead publisher."""
FENCED_FOR = timedelta(days=1)
"""How long a publisher may be idle before it fences the others again. Kafka forgets a transactional id after 7 days."""


class Lease(StrEnum):
    """The outcome of `acquire`."""

    EMPTY = "no changes wait"
    HELD_BY_OTHER = "another publisher holds the lease"
    RENEWED = "the publisher holds the lease, and held it before"
    ACQUIRED = "the publisher holds the lease, and another one may have held it before"


class Entry(NamedTuple):
    """A message of a change topic, ready to send. If `value` is None, it is a tombstone."""

    topic: str
    key: str
    partition_key: str
    change_id: str
    change_type: str
    value: bytes | None


_COLUMNS = Entry._fields


def _arrays() -> list[sa.ColumnElement[object]]:
    return [sa.bindparam(name, type_=ARRAY(OUTBOX.c[name].type)) for name in _COLUMNS]


_ROWS = sa.func.unnest(*_arrays()).table_valued(*_COLUMNS, with_ordinality="position").render_derived()
_INSERT = sa.insert(OUTBOX).from_select(
    (*_COLUMNS, "created_at"),
    sa.select(
        *(_ROWS.c[name] for name in _COLUMNS), sa.bindparam("created_at", type_=sa.TIMESTAMP(timezone=True))
    ).order_by(_ROWS.c.position),
)


def _claim() -> Any:
    """Delete and return the oldest changes of a topic, up to CLAIM_LIMIT and CLAIM_BYTES, and renew the lease.

    The limit and the array make PostgreSQL use the primary key. Its statistics often date from an almost empty table;
    with a join it would compare each row of a backlog with each claimed row."""
    of_topic = OUTBOX.c.topic == sa.bindparam("of_topic")
    size = sa.func.coalesce(sa.func.octet_length(OUTBOX.c.value), 0).label("size")
    oldest = sa.select(OUTBOX.c.id, size).where(of_topic).order_by(OUTBOX.c.id).limit(CLAIM_LIMIT).subquery("oldest")
    before = (sa.func.sum(oldest.c.size).over(order_by=oldest.c.id) - oldest.c.size).label("before")
    summed = sa.select(oldest.c.id, before).subquery("summed")
    claimed_ids = sa.func.array(sa.select(summed.c.id).where(summed.c.before < CLAIM_BYTES).scalar_subquery())
    claimed = sa.delete(OUTBOX).where(of_topic, OUTBOX.c.id == sa.any_(claimed_ids))
    lease = postgresql.insert(PUBLISHERS).values(
        topic=sa.bindparam("of_topic"), owner=sa.bindparam("owner"), renewed_at=sa.func.clock_timestamp()
    )
    renewed = lease.on_conflict_do_update(
        index_elements=[PUBLISHERS.c.topic],
        set_={"owner": lease.excluded.owner, "renewed_at": lease.excluded.renewed_at},
    )
    return claimed.returning(OUTBOX.c.id, *(OUTBOX.c[name] for name in _COLUMNS)).add_cte(renewed.cte("renewed"))


def _acquire() -> Any:
    """One row with a `Lease`; no row if no changes wait. The lock is tried only if no other publisher has a lease."""
    of_topic = PUBLISHERS.c.topic == sa.bindparam("of_topic")
    is_owner = PUBLISHERS.c.owner == sa.bindparam("owner")
    idle = sa.func.clock_timestamp() - PUBLISHERS.c.renewed_at
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("of_topic"), 0))
    lease = sa.case(
        (sa.exists().where(of_topic, ~is_owner, idle < timedelta(seconds=LEASE_SECONDS)), Lease.HELD_BY_OTHER),
        (~lock, Lease.HELD_BY_OTHER),
        (sa.exists().where(of_topic, is_owner, idle < FENCED_FOR), Lease.RENEWED),
        else_=Lease.ACQUIRED,
    )
    return sa.select(lease).where(_has_changes(sa.bindparam("of_topic")))


def _waiting() -> Any:
    topic = sa.func.unnest(sa.bindparam("topics", type_=ARRAY(sa.Text))).column_valued("wanted_topic")
    return sa.select(topic).where(_has_changes(topic))


def _has_changes(topic: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Reads one index entry, however many changes wait. For EXISTS, PostgreSQL may read all changes of other topics."""
    oldest = sa.select(OUTBOX.c.id).where(OUTBOX.c.topic == topic).order_by(OUTBOX.c.id).limit(1)
    return oldest.scalar_subquery().is_not(None)


_CLAIM = _claim()
_ACQUIRE = _acquire()
_WAITING = _waiting()
_DELETE_UNPUBLISHED = sa.delete(OUTBOX).where(
    any_of(OUTBOX.c.partition_key, "keys"), OUTBOX.c.value.is_not(None), OUTBOX.c.change_type.not_like("%.deleted")
)


async def insert(conn: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    columns: dict[str, Any] = dict(zip(_COLUMNS, map(list, zip(*entries, strict=True)), strict=True))
    await conn.execute(_INSERT, columns | {"created_at": now})


async def delete_unpublished(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Delete the unpublished changes of these visitors, except deletions and tombstones: those contain no data of a
    visitor, and a consumer may have the entity already."""
    await conn.execute(_DELETE_UNPUBLISHED, {"keys": [str(visitor) for visitor in visitors]})


async def waiting(conn: AsyncConnection, topics: Sequence[str]) -> Sequence[str]:
    """The topics, of these, that have changes to publish."""
    return (await conn.scalars(_WAITING, {"topics": list(topics)})).all()


async def acquire(conn: AsyncConnection, topic: str, owner: UUID) -> Lease:
    """Try to become the publisher of a topic. RENEWED and ACQUIRED lock the topic until the transaction ends.

    RENEWED may be wrong if another publisher held the lease at this very moment; Kafka's fencing shows it."""
    lease = await conn.scalar(_ACQUIRE, {"of_topic": topic, "owner": owner})
    return Lease.EMPTY if lease is None else Lease(lease)


async def claim(conn: AsyncConnection, topic: str, owner: UUID) -> list[Entry]:
    """The oldest changes of a topic. They are deleted when the transaction commits, and the lease is renewed. Only in
    the transaction that has acquired the lease."""
    rows = sorted(await conn.execute(_CLAIM, {"of_topic": topic, "owner": owner}), key=itemgetter(0))
    return [Entry(*row[1:]) for row in rows]
