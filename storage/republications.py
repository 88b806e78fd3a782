"""The progress of `visitor republish`: one row per resource, written in the transactions that republish its pages."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.table import METADATA

REPUBLICATIONS = sa.Table(
    "republications",
    METADATA,
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("last_key", sa.Text),
    sa.Column("rows_finished", sa.Boolean, nullable=False),
    sa.Column("last_deleted_key", sa.Text),
    sa.Column("published_rows", sa.BigInteger, nullable=False),
    sa.Column("published_deletions", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
)


class Republication(NamedTuple):
    """How far a resource is republished: the key of the last row and of the last deletion, and how many of each."""

    resource: str
    started_at: datetime
    last_key: str | None = None
    rows_finished: bool = False
    last_deleted_key: str | None = None
    published_rows: int = 0
    published_deletions: int = 0
    finished_at: datetime | None = None


_OF_RESOURCE = REPUBLICATIONS.c.resource == sa.bindparam("of_resource")
_LOCK = sa.select(REPUBLICATIONS).where(_OF_RESOURCE).with_for_update()
_INSERT = postgresql.insert(REPUBLICATIONS)
_STORE = _INSERT.on_conflict_do_update(
    index_elements=[REPUBLICATIONS.c.resource],
    set_={column.name: _INSERT.excluded[column.name] for column in REPUBLICATIONS.c if not column.primary_key},
)


async def lock(conn: AsyncConnection, resource: str) -> Republication | None:
    """The republication of a resource, locked until the transaction ends. None if there has never been one."""
    row = (await conn.execute(_LOCK, {"of_resource": resource})).first()
    return None if row is None else Republication(*row)


async def store(conn: AsyncConnection, republication: Republication) -> None:
    await conn.execute(_STORE, republication._asdict())
