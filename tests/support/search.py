"""Looks for texts in all tables."""

import sqlalchemy as sa

from storage.table import METADATA
from tests.support.stack import Stack


async def tables_with(stack: Stack, *texts: str) -> list[str]:
    """Return `table: text` for each row that contains one of the texts in any column. Bytes are decoded. The table
    `deletions` is left out: it keeps the ids of deleted entities for 30 days, so that tombstones can be repeated."""
    tables = []
    async with stack.engine.connect() as conn:
        for table in (table for table in METADATA.sorted_tables if table.name != "deletions"):
            for row in await conn.execute(sa.select(table)):
                values = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row]
                row_text = " ".join(values)
                tables += [f"{table.name}: {text}" for text in texts if text in row_text]
    return tables
