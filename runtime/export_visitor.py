"""`visitor export-visitor`: all data that the database has about one visitor."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

import agents.catalogue  # noqa: F401 - declares the tables
from runtime.operator_database import Retry, connected
from storage import deletions, inbox
from storage.settings import DatabaseSettings
from storage.table import tables_with_column
from topics import json


class NoSuchVisitor(Exception):
    """The message says so."""


async def export(settings: DatabaseSettings, visitor_id: UUID, retry: Retry) -> bytes:
    """A JSON document with the rows of the visitor in all tables, by table, the answers in the inbox, and what is kept
    about deleted entities. Raises NoSuchVisitor, WrongRevision."""
    async with connected(settings, retry) as database, database.connect() as connection:
        conn = await connection.execution_options(isolation_level="REPEATABLE READ")
        document = {
            "visitorId": visitor_id,
            "exportedAt": await conn.scalar(sa.func.now()),
            "tables": await _rows(conn, visitor_id),
            "answers": await _answers(conn, visitor_id),
            "deletedEntities": [
                {"topic": row.topic, "key": row.key, "deletedAt": row.deleted_at}
                for row in await deletions.of_visitor(conn, visitor_id)
            ],
        }
    if not (document["tables"] or document["answers"] or document["deletedEntities"]):
        raise NoSuchVisitor(f"There is no data about a visitor {visitor_id}.")
    return json.write(document, indent=True)


async def _rows(conn: AsyncConnection, visitor_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """The rows that an erasure would delete, by table; tables without such a row are left out."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for table in tables_with_column("visitor_id"):
        selected = await conn.execute(
            sa.select(table.sql).where(table.columns["visitor_id"] == visitor_id).order_by(table.columns[table.key])
        )
        if matching := [_as_dict(row) for row in selected]:
            rows[table.name] = matching
    return rows


async def _answers(conn: AsyncConnection, visitor_id: UUID) -> list[dict[str, Any]]:
    """The answers to requests about the visitor. The body is left out if it may hold data of other visitors too."""
    return [
        {
            "topic": row.topic,
            "source": row.source,
            "requestId": row.request_id,
            "operation": row.operation,
            "receivedAt": row.received_at,
            "status": row.status,
            "body": json.read(row.body) if row.body is not None and row.visitor_ids is None else None,
        }
        for row in await inbox.of_visitor(conn, visitor_id)
    ]


def _as_dict(row: Any) -> dict[str, Any]:
    """The columns of a row. SQLAlchemy's names are a subclass of str, which orjson refuses."""
    return {str(name): value for name, value in row._mapping.items()}
