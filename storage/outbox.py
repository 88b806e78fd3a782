"""The outbox: changes that are committed and not published yet, and which publisher owns each change topic.

A row is inserted after its entity's row was locked, so the ids of one entity's changes have the order of their
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
"""How many changes, and how many bytes of values, are published in one transaction; at least one change of any size."""
LEASE_SECONDS = 0.3
"""How long a topic stays with its owner after each claim. Without a lease, two busy workers would take over from each
other all the time, and a takeover costs more than the change. No worker waits longer for an owner that is idle or
dead. A suspended owner keeps the lock until PostgreSQL ends its transaction, for up to 45 s
(`storage.database.IDLE_IN_TRANSACTION_TIMEOUT`)."""
OWNER_EXPIRES = timedelta(days=1)
"""After so long without a claim, the owner takes over again: Kafka forgets an unused transactional id after 7 days
(transactional.id.expiration.ms)."""


class Ownership(StrEnum):
    """What a publisher can do with a topic."""

    NO_CHANGES = "no changes to publish"
    OTHER_OWNER = "another publisher owns the topic"
    SAME_OWNER = "locked; this publisher was the last owner"
    NEW_OWNER = "locked; another publisher may have been the last owner"


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


_ROWS = sa.func.unnest(*_arrays()).table_valued(*_COLUMNS, with_ordinality="position").render_derived()
_INSERT = sa.insert(OUTBOX).from_select(
    (*_COLUMNS, "created_at"),
    sa.select(
        *(_ROWS.c[name] for name in _COLUMNS), sa.bindparam("created_at", type_=sa.TIMESTAMP(timezone=True))
    ).order_by(_ROWS.c.position),
)


def _claim() -> Any:
    """Delete and return the oldest rows of a topic within the limits, and renew the owner's lease.

    The inner LIMIT and the array make PostgreSQL read the index only, in time proportional to the claim. PostgreSQL's
    statistics are usually taken while the table is almost empty. With a join, the planner then chose to compare each
    row of a backlog with each row of the claim, and the statement exceeded its timeout."""
    of_topic = OUTBOX.c.topic == sa.bindparam("of_topic")
    size = sa.func.coalesce(sa.func.octet_length(OUTBOX.c.value), 0).label("size")
    oldest = sa.select(OUTBOX.c.id, size).where(of_topic).order_by(OUTBOX.c.id).limit(CLAIM_LIMIT).subquery("oldest")
    before = (sa.func.sum(oldest.c.size).over(order_by=oldest.c.id) - oldest.c.size).label("before")
    summed = sa.select(oldest.c.id, before).subquery("summed")
    some = sa.func.array(sa.select(summed.c.id).where(summed.c.before < CLAIM_BYTES).scalar_subquery())
    deletion = sa.delete(OUTBOX).where(of_topic, OUTBOX.c.id == sa.any_(some))
    owned = postgresql.insert(PUBLISHERS).values(
        topic=sa.bindparam("of_topic"), owner=sa.bindparam("owner"), renewed_at=sa.func.clock_timestamp()
    )
    renewed = owned.on_conflict_do_update(
        index_elements=[PUBLISHERS.c.topic],
        set_={"owner": owned.excluded.owner, "renewed_at": owned.excluded.renewed_at},
    )
    return deletion.returning(OUTBOX.c.id, *(OUTBOX.c[name] for name in _COLUMNS)).add_cte(renewed.cte("renewed"))


def _acquire() -> Any:
    """Return no row if the topic has no changes. Try the lock only if no other publisher has a lease."""
    of_topic = PUBLISHERS.c.topic == sa.bindparam("of_topic")
    is_owner = PUBLISHERS.c.owner == sa.bindparam("owner")
    idle = sa.func.clock_timestamp() - PUBLISHERS.c.renewed_at
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("of_topic"), 0))
    ownership = sa.case(
        (sa.exists().where(of_topic, ~is_owner, idle < timedelta(seconds=LEASE_SECONDS)), Ownership.OTHER_OWNER),
        (~lock, Ownership.OTHER_OWNER),
        (sa.exists().where(of_topic, is_owner, idle < OWNER_EXPIRES), Ownership.SAME_OWNER),
        else_=Ownership.NEW_OWNER,
    )
    return sa.select(ownership).where(_has_changes(sa.bindparam("of_topic")))


def _topics_with_changes() -> Any:
    candidate = sa.func.unnest(sa.bindparam("topics", type_=ARRAY(sa.Text))).column_valued("candidate")
    return sa.select(candidate).where(_has_changes(candidate))


def _has_changes(topic: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """One index lookup. With EXISTS, PostgreSQL may scan the rows of other topics instead."""
    oldest = sa.select(OUTBOX.c.id).where(OUTBOX.c.topic == topic).order_by(OUTBOX.c.id).limit(1)
    return oldest.scalar_subquery().is_not(None)


_COUNT = sa.select(sa.func.count()).select_from(
    sa.select(OUTBOX.c.id)
    .where(OUTBOX.c.topic == sa.bindparam("of_topic"))
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .subquery()
)
_CLAIM = _claim()
_ACQUIRE = _acquire()
_TOPICS_WITH_CHANGES = _topics_with_changes()
_DELETE_UNPUBLISHED = sa.delete(OUTBOX).where(
    any_of(OUTBOX.c.partition_key, "keys"), OUTBOX.c.value.is_not(None), OUTBOX.c.change_type.not_like("%.deleted")
)


async def insert(conn: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    columns: dict[str, Any] = dict(zip(_COLUMNS, map(list, zip(*entries, strict=True)), strict=True))
    await conn.execute(_INSERT, columns | {"created_at": now})


async def delete_unpublished(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Delete the unpublished changes of these visitors. Deletions and tombstones stay: they contain no personal data,
    and consumers may know the entity already."""
    await conn.execute(_DELETE_UNPUBLISHED, {"keys": [str(visitor) for visitor in visitors]})


async def topics_with_changes(conn: AsyncConnection, topics: Sequence[str]) -> Sequence[str]:
    """Those of the topics that have changes to publish."""
    return (await conn.scalars(_TOPICS_WITH_CHANGES, {"topics": list(topics)})).all()


async def count(conn: AsyncConnection, topic: str, *, limit: int) -> int:
    """How many changes of a topic wait, at most `limit`."""
    return (await conn.execute(_COUNT, {"of_topic": topic, "limit": limit})).scalar_one()


async def acquire(conn: AsyncConnection, topic: str, owner: UUID) -> Ownership:
    """Lock the topic for the publisher `owner` until the transaction ends, if it has changes and no other owner.

    Rarely, SAME_OWNER is out of date: another publisher may commit while this statement runs. This is harmless, because
    Kafka refuses what this publisher sends: the other publisher has fenced it."""
    state = await conn.scalar(_ACQUIRE, {"of_topic": topic, "owner": owner})
    return Ownership.NO_CHANGES if state is None else Ownership(state)


async def claim(conn: AsyncConnection, topic: str, owner: UUID) -> list[Entry]:
    """Delete and return the oldest changes of a topic, in order, and make `owner` its owner. Call it only in the
    transaction in which `acquire` has locked the topic."""
    rows = sorted(await conn.execute(_CLAIM, {"of_topic": topic, "owner": owner}), key=itemgetter(0))
    return [Entry(*row[1:]) for row in rows]
