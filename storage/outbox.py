"""The outbox: changes that were committed and are still to be published, and whose turn it is to publish them.

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
"""How many changes, and how much of them, are published at once; one at least, whatever its size."""
LEASE = 0.3
"""Seconds for which a topic stays with the publisher that took changes of it last, since a change of publishers costs
ten times what a lone change does. No publisher waits longer for one that is idle or dead."""
KEPT = timedelta(days=1)
"""After so long without changes a publisher takes over from itself: Kafka forgets a transactional id in seven days."""


class Turn(StrEnum):
    """Whether a publisher may take a topic's changes."""

    NOTHING = "no changes wait"
    OTHERS = "another publisher has the turn"
    KEPT = "the publisher has it, and had it before"
    NEW = "the publisher has it, and another may have had it before"


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
    """The oldest of a topic, as many as go out at once. Both the limit and the array keep PostgreSQL to the index: its
    statistics are of hardly any rows, and by them it would compare each of a backlog with each that goes out."""
    of_topic = OUTBOX.c.topic == sa.bindparam("of_topic")
    size = sa.func.coalesce(sa.func.octet_length(OUTBOX.c.value), 0).label("size")
    oldest = sa.select(OUTBOX.c.id, size).where(of_topic).order_by(OUTBOX.c.id).limit(CLAIM_LIMIT).subquery("oldest")
    before = (sa.func.sum(oldest.c.size).over(order_by=oldest.c.id) - oldest.c.size).label("before")
    summed = sa.select(oldest.c.id, before).subquery("summed")
    some = sa.func.array(sa.select(summed.c.id).where(summed.c.before < CLAIM_BYTES).scalar_subquery())
    taken = sa.delete(OUTBOX).where(of_topic, OUTBOX.c.id == sa.any_(some))
    owned = postgresql.insert(PUBLISHERS).values(
        topic=sa.bindparam("of_topic"), owner=sa.bindparam("owner"), renewed_at=sa.func.clock_timestamp()
    )
    renewed = owned.on_conflict_do_update(
        index_elements=[PUBLISHERS.c.topic],
        set_={"owner": owned.excluded.owner, "renewed_at": owned.excluded.renewed_at},
    )
    return taken.returning(OUTBOX.c.id, *(OUTBOX.c[name] for name in _COLUMNS)).add_cte(renewed.cte("renewed"))


def _turn() -> Any:
    """No row where nothing waits. The lock is tried only where another publisher's lease is over."""
    of_topic = PUBLISHERS.c.topic == sa.bindparam("of_topic")
    is_owner = PUBLISHERS.c.owner == sa.bindparam("owner")
    idle = sa.func.clock_timestamp() - PUBLISHERS.c.renewed_at
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("of_topic"), 0))
    turn = sa.case(
        (sa.exists().where(of_topic, ~is_owner, idle < timedelta(seconds=LEASE)), Turn.OTHERS),
        (~lock, Turn.OTHERS),
        (sa.exists().where(of_topic, is_owner, idle < KEPT), Turn.KEPT),
        else_=Turn.NEW,
    )
    return sa.select(turn).where(_has_changes(sa.bindparam("of_topic")))


def _waiting() -> Any:
    wanted = sa.func.unnest(sa.bindparam("topics", type_=ARRAY(sa.Text))).column_valued("wanted")
    return sa.select(wanted).where(_has_changes(wanted))


def _has_changes(topic: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """One look into the index, however many changes wait; for EXISTS PostgreSQL may read through those of others."""
    oldest = sa.select(OUTBOX.c.id).where(OUTBOX.c.topic == topic).order_by(OUTBOX.c.id).limit(1)
    return oldest.scalar_subquery().is_not(None)


_CLAIM = _claim()
_TURN = _turn()
_WAITING = _waiting()
_DELETE_UNPUBLISHED = sa.delete(OUTBOX).where(
    any_of(OUTBOX.c.partition_key, "keys"), OUTBOX.c.value.is_not(None), OUTBOX.c.change_type.not_like("%.deleted")
)


async def insert(conn: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    columns: dict[str, Any] = dict(zip(_COLUMNS, map(list, zip(*entries, strict=True)), strict=True))
    await conn.execute(_INSERT, columns | {"created_at": now})


async def delete_unpublished(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Delete what was not published yet about these visitors, but for deletions and tombstones, which hold nothing of
    them: a consumer may know the entity already."""
    await conn.execute(_DELETE_UNPUBLISHED, {"keys": [str(visitor) for visitor in visitors]})


async def waiting(conn: AsyncConnection, topics: Sequence[str]) -> Sequence[str]:
    """Those of the topics whose changes wait."""
    return (await conn.scalars(_WAITING, {"topics": list(topics)})).all()


async def turn(conn: AsyncConnection, topic: str, owner: UUID) -> Turn:
    """Whether the publisher `owner` may take a topic's changes. KEPT and NEW lock the topic until the transaction ends.

    KEPT may be wrong where another publisher had its turn at this very moment; Kafka's fencing shows it."""
    found = await conn.scalar(_TURN, {"of_topic": topic, "owner": owner})
    return Turn.NOTHING if found is None else Turn(found)


async def claim(conn: AsyncConnection, topic: str, owner: UUID) -> list[Entry]:
    """The oldest changes of a topic, deleted once the transaction commits; the turn stays with `owner` for `LEASE`.
    Only in the transaction in which it is its turn."""
    found = sorted(await conn.execute(_CLAIM, {"of_topic": topic, "owner": owner}), key=itemgetter(0))
    return [Entry(*row[1:]) for row in found]
