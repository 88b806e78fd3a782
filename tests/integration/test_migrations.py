"""What the migrations make, held against what the code works with."""

from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from storage.table import METADATA
from tests.support.stack import Stack


def _differences(connection: sa.Connection) -> Any:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA)


async def test_the_migrations_make_the_tables_of_the_code(stack: Stack) -> None:
    async with stack.engine.connect() as conn:
        assert await conn.run_sync(_differences) == []
        sequences = await conn.run_sync(lambda connection: sa.inspect(connection).get_sequence_names())
    assert "challenge_arrivals" in sequences
