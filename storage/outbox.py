"""The outbox: changes that are committed and not published yet, and which publisher owns each change topic.

A row is inserted after its entity's row was locked and written, in the same transaction. So the ids of one entity's
changes have the order of their commits, and a transaction has its transaction id before its first row has an id, which
`_renewal` needs.
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

from storage import statistics
from storage.statements import any_of, unnest_rows
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
    sa.Column("traceparent", sa.Text),
    sa.Column("requested_at", sa.TIMESTAMP(timezone=True)),
)
PUBLISHERS = sa.Table(
    "publishers",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("owner", sa.Uuid, nullable=False),
    sa.Column("renewed_at", sa.TIMESTAMP(timezone=True), nullable=False),
    # The outbox has no row of the topic up to this id, and never will.
    sa.Column("after_id", sa.BigInteger, nullable=False, server_default="0"),
    # The last id of an earlier claim, and the first transaction id that was not assigned then.
    sa.Column("checkpoint_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("checkpoint_xid", sa.BigInteger, nullable=False, server_default="0"),
)
CLAIM_LIMIT, CLAIM_BYTES = 500, 8 * 2**20
"""How many changes, and how many bytes of values, are published in one transaction; at least one change of any size."""
LEASE_SECONDS = 0.3
"""How long a topic stays with its owner after each claim. Without a lease, two busy workers would take over from each
other all the time, and a takeover costs more than the change. No worker waits longer for an owner that is idle or
dead. A suspended owner keeps the lock until PostgreSQL ends its transaction, for up to 45 s
(`storage.database.IDLE_IN_TRANSACTION_TIMEOUT`)."""
WAITING_LIMIT = 1_000
"""How many changes of a topic `waiting` counts."""
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
    """One message of a change topic, ready to send; a value of None is a tombstone. `traceparent` is the trace of the
    request that caused the change, `requested_at` the time at which Kafka stored that request; None if there was no
    request."""

    topic: str
    key: str
    partition_key: str
    change_id: str
    change_type: str
    value: bytes | None
    traceparent: str | None = None
    requested_at: datetime | None = None


class Waiting(NamedTuple):
    """What waits for the publisher of a topic. `changes` counts at most `WAITING_LIMIT` of them. `oldest_seconds` is
    the age of the oldest one, None if there is none. `owner` is the publisher that published last, `published_seconds`
    ago; None if the topic never had one."""

    topic: str
    changes: int
    oldest_seconds: float | None
    owner: UUID | None
    published_seconds: float | None


_COLUMNS = Entry._fields


def insertion(*, created_at: str) -> sa.Insert:
    """Insert the changes in the parameters that `insertion_parameters` makes. The parameter `created_at` has the
    time."""
    arrays = (sa.bindparam(f"change_{name}", type_=ARRAY(OUTBOX.c[name].type)) for name in _COLUMNS)
    rows = sa.func.unnest(*arrays).table_valued(*_COLUMNS, with_ordinality="position").render_derived()
    values = (*(rows.c[name] for name in _COLUMNS), sa.bindparam(created_at, type_=sa.TIMESTAMP(timezone=True)))
    return sa.insert(OUTBOX).from_select((*_COLUMNS, "created_at"), sa.select(*values).order_by(rows.c.position))


def insertion_parameters(changes: Sequence[Entry]) -> dict[str, Any]:
    columns = zip(*changes, strict=True) if changes else [()] * len(_COLUMNS)
    return {f"change_{name}": list(column) for name, column in zip(_COLUMNS, columns, strict=True)}


def _after_id(topic: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The id after which a scan of a topic begins. Without it, each scan would visit the index entries of all rows that
    are deleted and not vacuumed yet: there can be millions while another session keeps an old snapshot."""
    of_topic = sa.select(PUBLISHERS.c.after_id).where(PUBLISHERS.c.topic == topic)
    # SQLAlchemy itself would correlate `topic` with the next enclosing select only.
    return sa.func.coalesce(of_topic.correlate_except(PUBLISHERS).scalar_subquery(), 0)


def _xid(bound: str) -> sa.ColumnElement[int]:
    """`xmin`: the first transaction id that is still running. `xmax`: the first one that is not assigned."""
    snapshot = sa.func.pg_current_snapshot()
    return sa.cast(sa.cast(getattr(sa.func, f"pg_snapshot_{bound}")(snapshot), sa.Text), sa.BigInteger)


def _claim() -> Any:
    """Delete and return the oldest rows of a topic within the limits, and renew the owner's lease.

    The inner LIMIT and the array make PostgreSQL read the index only, in time proportional to the claim. PostgreSQL's
    statistics are usually taken while the table is almost empty. With a join, the planner then chose to compare each
    row of a backlog with each row of the claim, and the statement exceeded its timeout."""
    topic = sa.bindparam("of_topic", type_=sa.Text)
    of_topic = OUTBOX.c.topic == topic
    size = sa.func.coalesce(sa.func.octet_length(OUTBOX.c.value), 0).label("size")
    oldest = (
        sa.select(OUTBOX.c.id, size)
        .where(of_topic, OUTBOX.c.id > _after_id(topic))
        .order_by(OUTBOX.c.id)
        .limit(CLAIM_LIMIT)
        .subquery("oldest")
    )
    before = (sa.func.sum(oldest.c.size).over(order_by=oldest.c.id) - oldest.c.size).label("before")
    summed = sa.select(oldest.c.id, before).subquery("summed")
    some = sa.func.array(sa.select(summed.c.id).where(summed.c.before < CLAIM_BYTES).scalar_subquery())
    deletion = sa.delete(OUTBOX).where(of_topic, OUTBOX.c.id == sa.any_(some))
    claimed = deletion.returning(OUTBOX.c.id, *(OUTBOX.c[name] for name in _COLUMNS)).cte("claimed")
    return sa.select(claimed).add_cte(_renewal(claimed).cte("renewed"))


def _renewal(claimed: sa.CTE) -> Any:
    """Write the owner, and move `after_id` to the last checkpoint if that is safe.

    A row with a smaller id than those of a claim can become visible after the claim, but only if its transaction was
    running during the claim: ids are assigned in ascending order. Once all transactions have ended that were running at
    the checkpoint, the next claim sees all rows up to the checkpoint's id. If all its rows are after that id, none is
    left."""
    last_id = sa.select(sa.func.coalesce(sa.func.max(claimed.c.id), 0)).scalar_subquery()
    renewal = postgresql.insert(PUBLISHERS).from_select(
        ("topic", "owner", "renewed_at", "checkpoint_id", "checkpoint_xid"),
        sa.select(
            sa.bindparam("of_topic", type_=sa.Text),
            sa.bindparam("of_owner", type_=sa.Uuid),
            sa.func.clock_timestamp(),
            last_id,
            _xid("xmax"),
        ),
    )
    new, old = renewal.excluded, PUBLISHERS.c
    first_id = sa.select(sa.func.min(claimed.c.id)).scalar_subquery()
    is_safe = sa.and_(_xid("xmin") >= old.checkpoint_xid, first_id > old.checkpoint_id)
    return renewal.on_conflict_do_update(
        index_elements=[old.topic],
        set_={
            "owner": new.owner,
            "renewed_at": new.renewed_at,
            "after_id": sa.case((is_safe, old.checkpoint_id), else_=old.after_id),
            "checkpoint_id": sa.case((is_safe, new.checkpoint_id), else_=old.checkpoint_id),
            "checkpoint_xid": sa.case((is_safe, new.checkpoint_xid), else_=old.checkpoint_xid),
        },
    )


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
    return sa.select(ownership, sa.func.pg_postmaster_start_time()).where(_has_changes(sa.bindparam("of_topic")))


def _topics_with_changes() -> Any:
    """The statement also resets the publishers of `_is_outdated`, whose changes the next look finds. Zero is always
    safe. SKIP LOCKED: a publisher that waits for Kafka keeps its row."""
    candidate = sa.func.unnest(sa.bindparam("topics", type_=ARRAY(sa.Text))).column_valued("candidate")
    stale = sa.select(PUBLISHERS.c.topic).where(_is_outdated()).with_for_update(skip_locked=True)
    outdated = PUBLISHERS.c.topic == sa.any_(sa.func.array(stale.scalar_subquery()))
    reset = sa.update(PUBLISHERS).where(outdated).values(after_id=0, checkpoint_id=0, checkpoint_xid=0)
    return sa.select(candidate).where(_has_changes(candidate)).add_cte(reset.cte("reset"))


def _is_outdated() -> sa.ColumnElement[bool]:
    """True if a publisher's ids or transaction id are those of another server, from which the database was moved: they
    are greater than the last ones of this server. Its changes would wait until the server has reached them, and nothing
    would show them."""
    last_id = sa.func.greatest(PUBLISHERS.c.after_id, PUBLISHERS.c.checkpoint_id)
    return sa.or_(last_id > _last_id().scalar_subquery(), PUBLISHERS.c.checkpoint_xid > _xid("xmax"))


def _last_id() -> Any:
    """Null if this user may not read the sequence: rights on a table do not include it."""
    ids = sa.cast(sa.func.pg_get_serial_sequence(OUTBOX.name, OUTBOX.c.id.name), postgresql.REGCLASS)
    may_read = sa.func.has_sequence_privilege(ids, "select, usage")
    return sa.select(sa.case((may_read, sa.func.coalesce(sa.func.pg_sequence_last_value(ids), 0))))


def _has_changes(topic: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """One index lookup. With EXISTS, PostgreSQL may scan the rows of other topics instead."""
    of_topic = (OUTBOX.c.topic == topic, OUTBOX.c.id > _after_id(topic))
    oldest = sa.select(OUTBOX.c.id).where(*of_topic).order_by(OUTBOX.c.id).limit(1)
    return oldest.correlate_except(OUTBOX).scalar_subquery().is_not(None)


def _waiting() -> Any:
    """One row per topic. The limit, the order and `_after_id` make PostgreSQL read a part of the index only."""
    topics = unnest_rows(topic=sa.Text())
    oldest = (
        sa.select(OUTBOX.c.created_at)
        .where(OUTBOX.c.topic == topics.c.topic, OUTBOX.c.id > _after_id(topics.c.topic))
        .order_by(OUTBOX.c.id)
        .limit(WAITING_LIMIT)
        .correlate(topics)
        .subquery("oldest")
    )
    waiting = sa.select(sa.func.count().label("changes"), sa.func.min(oldest.c.created_at).label("since")).lateral(
        "waiting"
    )
    publishers = topics.join(waiting, sa.true()).outerjoin(PUBLISHERS, PUBLISHERS.c.topic == topics.c.topic)
    return sa.select(
        topics.c.topic,
        waiting.c.changes,
        _age(waiting.c.since),
        PUBLISHERS.c.owner,
        _age(PUBLISHERS.c.renewed_at),
    ).select_from(publishers)


def _age(time: sa.ColumnElement[datetime]) -> sa.ColumnElement[float]:
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp() - time), sa.Double)


_COUNT = sa.select(sa.func.count()).select_from(
    sa.select(OUTBOX.c.id)
    .where(OUTBOX.c.topic == sa.bindparam("of_topic"))
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .subquery()
)
_CONTAINING = sa.select(*(OUTBOX.c[name] for name in _COLUMNS)).where(
    sa.text("position(:text in value) > 0").bindparams(sa.bindparam("text", type_=sa.LargeBinary))
)
_INSERT = insertion(created_at="created_at")
_CLAIM = _claim()
_ACQUIRE = _acquire()
_TOPICS_WITH_CHANGES = _topics_with_changes()
_WAITING = _waiting()
_OUTDATED = sa.select(PUBLISHERS.c.topic).where(_is_outdated()).order_by(PUBLISHERS.c.topic)
_LAST_ID = _last_id()
_DELETE_UNPUBLISHED = sa.delete(OUTBOX).where(
    any_of(OUTBOX.c.partition_key, "keys"), OUTBOX.c.value.is_not(None), OUTBOX.c.change_type.not_like("%.deleted")
)


async def insert(conn: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    await conn.execute(_INSERT, insertion_parameters(entries) | {"created_at": now})


async def delete_unpublished(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Delete the unpublished changes of these visitors. Deletions and tombstones stay: they contain no personal data,
    and consumers may know the entity already."""
    await conn.execute(_DELETE_UNPUBLISHED, {"keys": [str(visitor) for visitor in visitors]})


async def topics_with_changes(conn: AsyncConnection, topics: Sequence[str]) -> Sequence[str]:
    """Those of the topics that have changes to publish. If the database was moved from another server, the next call
    returns all of them."""
    return (await conn.scalars(_TOPICS_WITH_CHANGES, {"topics": list(topics)})).all()


async def outdated(conn: AsyncConnection) -> Sequence[str]:
    """The topics whose changes are not found, because the database was moved from another server and no worker has
    called `topics_with_changes` since then."""
    return (await conn.scalars(_OUTDATED)).all()


async def count(conn: AsyncConnection, topic: str, *, limit: int) -> int:
    """How many changes of a topic wait, at most `limit`."""
    return (await conn.execute(_COUNT, {"of_topic": topic, "limit": limit})).scalar_one()


async def waiting(conn: AsyncConnection, topics: Sequence[str]) -> list[Waiting]:
    """What waits, by topic, in the order of `topics`."""
    return [Waiting(*row) for row in await conn.execute(_WAITING, {"topic": list(topics)})]


async def rows(conn: AsyncConnection, of_topics: Sequence[Waiting]) -> int:
    """How many changes wait in all topics: exact while no topic has more than `WAITING_LIMIT`, else PostgreSQL's
    estimate."""
    counted = sum(topic.changes for topic in of_topics)
    if all(topic.changes < WAITING_LIMIT for topic in of_topics):
        return counted
    return max(counted, await statistics.rows(conn, OUTBOX.name))


async def containing(conn: AsyncConnection, text: bytes) -> list[Entry]:
    """The waiting changes whose values contain a text. Reads the whole outbox, which is short if publishers work."""
    return [Entry(*row) for row in await conn.execute(_CONTAINING, {"text": text})]


async def last_id(conn: AsyncConnection) -> int:
    """The last id of a change: how many changes this database ever had, plus those that were rolled back. 0 if this
    user may not read the sequence."""
    return int(await conn.scalar(_LAST_ID) or 0)


async def acquire(conn: AsyncConnection, topic: str, owner: UUID) -> tuple[Ownership, datetime | None]:
    """Lock the topic for the publisher `owner` until the transaction ends, if it has changes and no other owner. Also
    returns when the server was started; None if there are no changes.

    Rarely, SAME_OWNER is out of date: another publisher may commit while this statement runs. This is harmless, because
    Kafka refuses what this publisher sends: the other publisher has fenced it."""
    row = (await conn.execute(_ACQUIRE, {"of_topic": topic, "owner": owner})).first()
    return (Ownership.NO_CHANGES, None) if row is None else (Ownership(row[0]), row[1])


async def claim(conn: AsyncConnection, topic: str, owner: UUID) -> list[Entry]:
    """Delete and return the oldest changes of a topic, in order, and make `owner` its owner. Call it only in the
    transaction in which `acquire` has locked the topic."""
    rows = sorted(await conn.execute(_CLAIM, {"of_topic": topic, "of_owner": owner}), key=itemgetter(0))
    return [Entry(*row[1:]) for row in rows]


def is_full(claimed: Sequence[Entry]) -> bool:
    """True if a claim has reached a limit, so that the topic may have more changes."""
    return len(claimed) >= CLAIM_LIMIT or sum(len(entry.value or b"") for entry in claimed) >= CLAIM_BYTES
