"""Applies the migrations with Alembic. One process applies them at a time; other processes wait."""

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
"""The key of the advisory lock that migrations take. No other program may use the same number on this database."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def newest() -> str:
    """The schema revision that this release needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def upgrade(settings: DatabaseSettings) -> tuple[str | None, str]:
    """Migrate the schema to the newest revision. Returns the revisions before and after.

    If another process migrates at the same time, this one waits for it and then has nothing to do. There is no timeout,
    because a migration may take long.
    """
    engine = create_async_engine(settings.url.get_secret_value(), poolclass=NullPool)
    async with engine.begin() as conn:
        await conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        before = await conn.run_sync(_current)
        await conn.run_sync(_upgrade)
    await engine.dispose()
    return before, newest()


async def current(engine: AsyncEngine) -> str | None:
    """The revision of the database's schema; None for an empty database."""
    async with engine.connect() as conn:
        return await conn.run_sync(_current)


def mismatch(revision: str | None) -> str | None:
    """Why a worker of this release cannot use a schema at this revision, and what to do. None if the worker can."""
    if revision == newest():
        return None
    revisions = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is None or revision in revisions:
        return f"run `visitor migrate`; the database is at {revision}"
    return f"the database is at {revision}, which this release does not know; start a worker of the newest release"


def _current(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def _upgrade(conn: Connection) -> None:
    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
