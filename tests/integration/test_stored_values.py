"""Whatever the models accept is stored, and read back equal."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agents.catalogue import CATALOGUE
from storage import table as storage_table
from storage.table import Table
from tests.support import values
from tests.support.stack import Stack
from tests.support.transaction import handler_tx

assert CATALOGUE.operations  # declares all tables
TABLES = list(storage_table._ALL)
_ANY: dict[type, Any] = {str: "hidden", int: 1, bool: False, datetime: datetime(2001, 2, 3, tzinfo=UTC)}


def _made_by_the_table(table: Table[Any]) -> set[str]:
    made = (column for column in table.sql.c if column.identity is not None or column.computed is not None)
    return {*table._derived, *(column.name for column in made)}


def _hidden(table: Table[Any]) -> dict[str, Any]:
    """Something for the columns that a handler fills and that no reply has."""
    shown = {*table.row.model_fields, *_made_by_the_table(table), "revision"}
    needed = [column for column in table.sql.c if column.name not in shown and not column.nullable]
    return {column.name: _ANY[column.type.python_type] for column in needed}


def _added(table: Table[Any]) -> sa.Select[Any]:
    """The row that this transaction added."""
    return sa.select(table.sql).where(sa.literal_column("xmin") == sa.literal_column("pg_current_xact_id()::xid"))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(
    max_examples=10, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(drawn=st.data())
async def test_a_row_is_read_back_as_it_was_stored(stack: Stack, table: Table[Any], drawn: st.DataObject) -> None:
    row = drawn.draw(values.of_model(table.row).map(table.row.model_validate))
    made, now = _made_by_the_table(table), datetime.now(UTC)
    fields = {name: value for name, value in vars(row).items() if name not in made}
    async with stack.engine.connect() as conn:
        # Its parents are not there.
        await conn.exec_driver_sql("set local session_replication_role = replica")
        await conn.execute(sa.delete(table.sql))  # a row of another test may have the same unique value
        tx = handler_tx(conn, now)
        stored = await table.insert(tx, _hidden(table) | fields)
        read = table.to_row(await tx.first(_added(table)))
        await conn.rollback()
    for row in (stored, read):
        assert {name: value for name, value in vars(row).items() if name not in made} == fields
