"""Migrations: applied by Alembic, one process at a time, and waited for by all others."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from storage.database import DatabaseSettings

_LOCK = 7_161_001
"""Key of the advisory lock under which migrations run; any number that no other program uses on this database."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def newest() -> str:
    """The revision that this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def upgrade(settings: DatabaseSettings) -> tuple[str | None, str]:
    """Bring the schema to the newest revision; from which to which. Two at once: the second waits and does nothing.

    Has no time limits: a migration takes what it takes."""
    engine = create_async_engine(settings.url.get_secret_value(), poolclass=NullPool)
    async with engine.begin() as conn:
        await conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        before = await conn.run_sync(_current)
        await conn.run_sync(_upgrade)
    await engine.dispose()
    return before, newest()


async def current(engine: AsyncEngine) -> str | None:
    async with engine.connect() as conn:
        return await conn.run_sync(_current)


def _current(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def _upgrade(conn: Connection) -> None:
    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
