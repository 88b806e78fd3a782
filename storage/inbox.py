"""The inbox: what each request was answered, so that the same request is never applied twice.

Looked up before a batch is applied and filled at its end. Two batches with one request meet at the primary key: the
later one waits, sees `Repeat`, and finds the answer when it starts again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.faults import ErrorEntry, Errors
from storage.database import Repeat
from storage.table import METADATA, any_of

INBOX = sa.Table(
    "inbox",
    METADATA,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("body", sa.LargeBinary),
    sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, index=True),
    # Whose data the body may hold: of one visitor, or, for the few requests about several, of these.
    sa.Column("visitor_id", sa.Uuid),
    sa.Column("visitor_ids", ARRAY(sa.Uuid)),
    sa.Index("inbox_visitor_id_idx", "visitor_id", postgresql_where="visitor_id is not null"),
    sa.Index(
        "inbox_visitor_ids_idx", "visitor_ids", postgresql_using="gin", postgresql_where="visitor_ids is not null"
    ),
)


class Entry(NamedTuple):
    """An answered request. `fingerprint` is a digest of its content, `body` the JSON that was answered."""

    request_id: str
    operation: str
    fingerprint: bytes
    status: int
    body: bytes | None
    visitors: Sequence[UUID] = ()


_ERASED = Errors(
    errors=[ErrorEntry(code="visitor_erased", type="not_found", field=None, message="The visitor was erased.")]
).model_dump_json()
"""What requests of an erased visitor are answered when they come again; they are not applied again."""

_LOOK_UP = sa.select(INBOX).where(INBOX.c.request_id == sa.any_(sa.bindparam("ids", type_=ARRAY(sa.Text))))
_COLUMNS = ("request_id", "operation", "fingerprint", "status", "body", "visitor_id")
_INSERT = sa.insert(INBOX).from_select(
    (*_COLUMNS, "received_at"),
    sa.select(
        *(sa.func.unnest(sa.bindparam(name, type_=ARRAY(INBOX.c[name].type))).label(name) for name in _COLUMNS),
        sa.bindparam("received_at", type_=sa.TIMESTAMP(timezone=True)),
    ),
)
_SEVERAL = (
    sa.update(INBOX)
    .where(INBOX.c.request_id == sa.bindparam("of_request"))
    .values(visitor_ids=sa.bindparam("visitors", type_=ARRAY(sa.Uuid)))
)
_FORGET = (
    sa.update(INBOX)
    .where(
        any_of(INBOX.c.visitor_id, "visitors")
        | INBOX.c.visitor_ids.overlap(sa.bindparam("visitors", type_=ARRAY(sa.Uuid)))
    )
    .values(status=404, body=_ERASED.encode(), visitor_id=None, visitor_ids=None)
)
_PRUNE = sa.delete(INBOX).where(
    INBOX.c.request_id.in_(
        sa.select(INBOX.c.request_id).where(INBOX.c.received_at < sa.bindparam("before")).limit(1_000)
    )
)


async def look_up(conn: AsyncConnection, request_ids: Sequence[str]) -> dict[str, Entry]:
    found = await conn.execute(_LOOK_UP, {"ids": list(request_ids)})
    return {row.request_id: Entry(*row[:5]) for row in found}


async def insert(conn: AsyncConnection, entries: Sequence[Entry], now: datetime) -> None:
    """Keep the answers of new requests. Raises Repeat where another transaction answered one of them meanwhile."""
    # In one order everywhere, so that two batches with the same requests cannot wait for each other.
    ordered = sorted(entries, key=lambda entry: entry.request_id)
    columns: dict[str, Any] = dict(zip(Entry._fields[:-1], map(list, zip(*ordered, strict=True)), strict=False))
    columns["visitor_id"] = [entry.visitors[0] if len(entry.visitors) == 1 else None for entry in ordered]
    try:
        await conn.execute(_INSERT, columns | {"received_at": now})
    except IntegrityError as error:
        raise Repeat("a request was answered by another batch") from error
    for entry in ordered:
        if len(entry.visitors) > 1:
            await conn.execute(_SEVERAL, {"of_request": entry.request_id, "visitors": list(entry.visitors)})


async def forget(conn: AsyncConnection, visitors: Sequence[UUID]) -> None:
    """Keep of these visitors' requests only that they were answered."""
    await conn.execute(_FORGET, {"visitors": list(visitors)})


async def prune(conn: AsyncConnection, now: datetime, keep: timedelta) -> int:
    """Delete up to 1,000 entries older than `keep`; how many it were."""
    return (await conn.execute(_PRUNE, {"before": now - keep})).rowcount
