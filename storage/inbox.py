"""The inbox: the table of answers by request. It ensures that a request is applied once and always gets the same
answer.

The engine looks up the requests of a batch before it applies the batch, and stores the new answers in the same
transaction. If two batches contain the same request, the primary key makes the second batch wait for the first. The
second batch then raises `Repeat`, starts again, and finds the answer.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.faults import ErrorEntry, Errors
from storage import outbox
from storage.database import Repeat, milliseconds
from storage.statements import any_of, unnest_rows
from storage.table import METADATA

INBOX = sa.Table(
    "inbox",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("body", sa.LargeBinary),
    sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, index=True),
    # `Entry.visitors`: visitor_id for one visitor, visitor_ids for several, which is rare.
    sa.Column("visitor_id", sa.Uuid),
    sa.Column("visitor_ids", ARRAY(sa.Uuid)),
    sa.Index("inbox_visitor_id_idx", "visitor_id", postgresql_where="visitor_id is not null"),
    sa.Index(
        "inbox_visitor_ids_idx", "visitor_ids", postgresql_using="gin", postgresql_where="visitor_ids is not null"
    ),
)


class RequestKey(NamedTuple):
    """The identity of a request. In CloudEvents, source and id together are unique. The topic is part of the key
    because ACLs protect topics: a sender cannot use up ids of another sender on a topic that it may not write."""

    topic: str
    source: str
    request_id: str

    @classmethod
    def legacy(cls, request_id: str) -> "RequestKey":
        """The key of an entry that release 0.1.0 wrote. That release identified requests by their id only. Migration
        0010 gave these entries an empty topic and source; no request has an empty topic."""
        return cls("", "", request_id)


class Entry(NamedTuple):
    """An answered request. `fingerprint` is a digest of the request's content. `body` is the JSON of the answer.
    `visitors` are the visitors whom the request names in its path or whose data the body may contain."""

    topic: str
    source: str
    request_id: str
    operation: str
    fingerprint: bytes
    status: int
    body: bytes | None
    visitors: Sequence[UUID] = ()

    @property
    def key(self) -> RequestKey:
        return RequestKey(self.topic, self.source, self.request_id)


_ERASED = Errors(
    errors=[ErrorEntry(code="visitor_erased", type="not_found", field=None, message="The visitor was erased.")]
).model_dump_json()
"""The answer to a repeated request of an erased visitor. The request is not applied again."""

_KEY = tuple(INBOX.c[name] for name in RequestKey._fields)
_LOOKED_UP = unnest_rows(**{column.name: column.type for column in _KEY})
_FIND = sa.select(INBOX).where(*(column == sa.bindparam(column.name) for column in _KEY))
_ACCESSES = (
    sa.select(INBOX.c.received_at, INBOX.c.source, INBOX.c.operation, INBOX.c.status, INBOX.c.request_id)
    .where(
        (INBOX.c.visitor_id == sa.bindparam("visitor_id"))
        | INBOX.c.visitor_ids.overlap(sa.bindparam("visitors", type_=ARRAY(sa.Uuid)))
    )
    .order_by(INBOX.c.received_at)
)
_STORED = Entry._fields[:-1]
_COLUMNS = (*_STORED, "visitor_id")


def _look_up() -> Any:
    """The entries that the inbox has for the keys in the list parameters; one row of nulls if it has none. Each row
    begins with the database's time. The statement also sets the lock timeout of the transaction."""
    lock_timeout = sa.func.set_config("lock_timeout", sa.bindparam("lock_timeout", type_=sa.Text), sa.true())
    start = sa.select(sa.func.clock_timestamp().label("now"), lock_timeout.label("lock_timeout")).cte("start")
    entries = INBOX.join(_LOOKED_UP, sa.and_(*(column == _LOOKED_UP.c[column.name] for column in _KEY)))
    columns = (INBOX.c[name] for name in (*_COLUMNS, "visitor_ids"))
    return sa.select(start.c.now, *columns).select_from(start.outerjoin(entries, start.c.lock_timeout.is_not(None)))


def _insert() -> Any:
    """Insert the answers and, with the same statement, their changes into the outbox."""
    rows = sa.select(
        *(sa.func.unnest(sa.bindparam(name, type_=ARRAY(INBOX.c[name].type))).label(name) for name in _COLUMNS),
        sa.bindparam("received_at", type_=sa.TIMESTAMP(timezone=True)),
    )
    changes = outbox.insertion(created_at="received_at").cte("changes")
    return sa.insert(INBOX).from_select((*_COLUMNS, "received_at"), rows).add_cte(changes)


_LOOK_UP, _INSERT = _look_up(), _insert()
_SET_VISITORS = (
    sa.update(INBOX)
    .where(*(column == sa.bindparam(f"of_{column.name}") for column in _KEY))
    .values(visitor_ids=sa.bindparam("visitors", type_=ARRAY(sa.Uuid)))
)
_REDACT = (
    sa.update(INBOX)
    .where(
        any_of(INBOX.c.visitor_id, "visitors")
        | INBOX.c.visitor_ids.overlap(sa.bindparam("visitors", type_=ARRAY(sa.Uuid)))
    )
    .values(status=404, body=_ERASED.encode(), visitor_id=None, visitor_ids=None)
)
_AGE = sa.select(sa.func.clock_timestamp() - sa.func.min(INBOX.c.received_at))
_REOPEN = sa.delete(INBOX).where(
    *(column == sa.bindparam(f"of_{column.name}") for column in _KEY), INBOX.c.status >= 500
)
_OF_VISITOR = (
    sa.select(INBOX)
    .where(
        (INBOX.c.visitor_id == sa.bindparam("visitor", type_=sa.Uuid))
        | INBOX.c.visitor_ids.contains(postgresql.array([sa.bindparam("visitor", type_=sa.Uuid)]))
    )
    .order_by(INBOX.c.received_at)
)
SENDERS_LIMIT = 10_000
"""Senders among which `with_id` looks for a request."""
PRUNE_LIMIT = 5_000


def _with_id() -> Any:
    """The entries with a request id, or with the idempotency key of an HTTP call: its request id is `<caller>/<key>`,
    and its source ends with `/<caller>`.

    The primary key begins with the topic and the source, so the statement jumps from each pair of these to the next
    one, and looks up the id for each pair. It reads as many index entries as there are senders, however many requests
    the inbox has."""
    pair = sa.tuple_(INBOX.c.topic, INBOX.c.source)
    in_order = sa.select(INBOX.c.topic, INBOX.c.source).order_by(INBOX.c.topic, INBOX.c.source).limit(1)
    senders = in_order.subquery("first").select().cte("senders", recursive=True)
    following = in_order.where(pair > sa.tuple_(senders.c.topic, senders.c.source)).lateral("following")
    senders = senders.union_all(sa.select(following.c.topic, following.c.source).select_from(senders, following))
    some = sa.select(senders).limit(SENDERS_LIMIT).subquery("some")
    request_id = sa.bindparam("request_id", type_=sa.Text)
    caller = sa.func.regexp_replace(some.c.source, "^[^/]*/", "")
    entry = (
        sa.select(INBOX)
        .where(
            INBOX.c.topic == some.c.topic,
            INBOX.c.source == some.c.source,
            INBOX.c.request_id == sa.any_(postgresql.array([request_id, caller + "/" + request_id])),
        )
        .lateral("entry")
    )
    return sa.select(entry).select_from(some, entry)


def _prune() -> Any:
    """Delete the oldest rows whose time is between `since` and `before`. SKIP LOCKED: several workers prune at the same
    time. The array makes PostgreSQL read the index only, see `outbox`."""
    tid: sa.ColumnElement[Any] = sa.literal_column("ctid")
    oldest = (
        sa.select(tid)
        .select_from(INBOX)
        .where(INBOX.c.received_at >= sa.bindparam("since"), INBOX.c.received_at < sa.bindparam("before"))
        .order_by(INBOX.c.received_at)
        .limit(PRUNE_LIMIT)
        .with_for_update(skip_locked=True)
    )
    return (
        sa.delete(INBOX).where(tid == sa.any_(sa.func.array(oldest.scalar_subquery()))).returning(INBOX.c.received_at)
    )


_PRUNE, _WITH_ID = _prune(), _with_id()


async def oldest_seconds(conn: AsyncConnection) -> float | None:
    """The age of the oldest answer; None if there is none. It reads the first entry of an index."""
    age: timedelta | None = await conn.scalar(_AGE)
    return None if age is None else age.total_seconds()


async def find(conn: AsyncConnection, key: RequestKey) -> Entry | None:
    """The entry of a request; None if the request is not answered."""
    row = (await conn.execute(_FIND, key._asdict())).first()
    return None if row is None else _entry(row)


class Receipt(NamedTuple):
    """An answered request, and when the service applied it."""

    entry: Entry
    received_at: datetime


async def with_id(conn: AsyncConnection, request_id: str) -> list[Receipt]:
    """The requests with this id, of all topics and sources. Of an HTTP call, the idempotency key is sufficient."""
    rows = await conn.execute(_WITH_ID, {"request_id": request_id})
    return [Receipt(_entry(row), row.received_at) for row in rows]


def _entry(row: Any) -> Entry:
    visitors = row.visitor_ids or ([] if row.visitor_id is None else [row.visitor_id])
    return Entry(**{name: getattr(row, name) for name in _STORED}, visitors=visitors)


class Access(NamedTuple):
    """A write that changed data of a visitor."""

    time: datetime
    source: str
    operation: str
    status: int
    request_id: str


async def accesses(conn: AsyncConnection, visitor_id: UUID) -> Sequence[Access]:
    """The writes whose answers may hold data of the visitor, oldest first. Reads are not in the inbox, answers are
    deleted after some days, and those about an erased visitor name it no more."""
    rows = await conn.execute(_ACCESSES, {"visitor_id": visitor_id, "visitors": [visitor_id]})
    return [Access(*row) for row in rows]


async def look_up(
    conn: AsyncConnection, keys: Sequence[RequestKey], lock_timeout: timedelta
) -> tuple[datetime, dict[RequestKey, Entry]]:
    """Begin a batch. Returns the time of the database's clock, which all workers share, and the entries of the requests
    that are answered already, by their keys. From now on, a statement of the transaction waits `lock_timeout` for a
    lock."""
    columns: dict[str, Any] = dict(zip(RequestKey._fields, map(list, zip(*keys, strict=True)), strict=True))
    rows = (await conn.execute(_LOOK_UP, columns | {"lock_timeout": milliseconds(lock_timeout)})).all()
    entries = (_entry(row) for row in rows if row.topic is not None)
    return rows[0].now.astimezone(UTC), {entry.key: entry for entry in entries}


async def insert(
    conn: AsyncConnection, entries: Sequence[Entry], changes: Sequence[outbox.Entry], now: datetime
) -> None:
    """Store the answers of new requests, and their changes in the outbox. Raises Repeat if another transaction has
    answered one of the requests."""
    # All batches insert in the same order, so that two batches with the same requests cannot deadlock.
    ordered = sorted(entries, key=lambda entry: entry.key)
    columns: dict[str, Any] = dict(zip(_STORED, map(list, zip(*ordered, strict=True)), strict=False))
    columns["visitor_id"] = [entry.visitors[0] if len(entry.visitors) == 1 else None for entry in ordered]
    try:
        await conn.execute(_INSERT, columns | {"received_at": now} | outbox.insertion_parameters(changes))
    except IntegrityError as error:
        raise Repeat("another batch has answered a request of this batch") from error
    for entry in ordered:
        if len(entry.visitors) > 1:
            parameters = {f"of_{name}": value for name, value in entry.key._asdict().items()}
            await conn.execute(_SET_VISITORS, parameters | {"visitors": list(entry.visitors)})


async def redact_visitors(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Replace the answers to all requests about these visitors with 404 `visitor_erased`. The entries stay, so that the
    requests are not applied again."""
    await conn.execute(_REDACT, {"visitors": list(visitors)})


async def reopen(conn: AsyncConnection, keys: Sequence[RequestKey]) -> None:
    """Delete the answers of these requests with a status of 500 or more, so that the requests are applied when they are
    sent again. Such a request changed nothing. Other answers stay."""
    if keys:
        await conn.execute(_REOPEN, [{f"of_{name}": value for name, value in key._asdict().items()} for key in keys])


async def of_visitor(conn: AsyncConnection, visitor: UUID) -> Sequence[Any]:
    """The rows whose answers may hold data of a visitor, oldest first."""
    return (await conn.execute(_OF_VISITOR, {"visitor": visitor})).all()


async def prune(conn: AsyncConnection, since: datetime, before: datetime) -> datetime | None:
    """Delete up to `PRUNE_LIMIT` of the oldest entries that were received from `since` on and before `before`. Returns
    when the last of them was received; None if there are no more. The next call can begin there: a scan from an
    earlier time would visit the index entries of all deleted rows."""
    times = (await conn.scalars(_PRUNE, {"since": since, "before": before})).all()
    return max(times, default=None)
