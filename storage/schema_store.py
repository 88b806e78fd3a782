"""The Avro schemas of all releases that have used this database, by the ids that values in Kafka have. Rows are never
deleted, because topics contain values for as long as they exist."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.statements import any_of
from storage.table import METADATA

SCHEMAS = sa.Table(
    "schemas",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, sa.Identity(), nullable=False, unique=True),
    sa.Column("record_name", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("added_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
)
_LOCK = 7_161_002
"""The key of the advisory lock of `add`. Positions become visible in their order, because one transaction adds rows at
a time."""


class Entry(NamedTuple):
    """A schema. `record_name` is the record's full name, `schema` its JSON."""

    id: int
    record_name: str
    schema: str


class StoredEntry(NamedTuple):
    """An entry with its position, which increases with each added schema."""

    id: int
    record_name: str
    schema: str
    position: int


_ADD = postgresql.insert(SCHEMAS).on_conflict_do_nothing(index_elements=[SCHEMAS.c.id])
_COLUMNS = [SCHEMAS.c[name] for name in StoredEntry._fields]
_FIND = sa.select(*_COLUMNS).where(any_of(SCHEMAS.c.id, "ids"))
_AFTER = (
    sa.select(*_COLUMNS)
    .where(SCHEMAS.c.position > sa.bindparam("position", type_=sa.BigInteger))
    .order_by(SCHEMAS.c.position)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


async def add(conn: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Add the entries whose ids are new, in this order. Raises ValueError if a stored schema with one of the ids is
    another one."""
    new = list({entry.id: entry for entry in entries}.values())
    stored = await find(conn, [entry.id for entry in new])
    if len(stored) < len(new):
        await conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        await conn.execute(_ADD, [entry._asdict() for entry in new if entry.id not in stored])
        stored = await find(conn, [entry.id for entry in new])
    for entry in new:
        other = stored[entry.id]
        if (other.record_name, other.schema) != (entry.record_name, entry.schema):
            raise ValueError(f"the schema {entry.id} of {entry.record_name} is stored as one of {other.record_name}")


async def find(conn: AsyncConnection, ids: Collection[int]) -> dict[int, StoredEntry]:
    """The stored schemas among these ids."""
    rows = await conn.execute(_FIND, {"ids": list(ids)})
    return {row.id: StoredEntry(*row) for row in rows}


async def after(conn: AsyncConnection, position: int, limit: int) -> list[StoredEntry]:
    """The next schemas after this position, in their order, at most `limit`."""
    rows = await conn.execute(_AFTER, {"position": position, "limit": limit})
    return [StoredEntry(*row) for row in rows]
