"""Applies the migrations with Alembic, and tells which schemas this release can use. One process applies them at a
time; other processes wait.

The schema of a later release has a revision that this release does not know. Its table `compatibility` has the oldest
revision that a program must know to use the schema. A migration that only adds leaves it alone. A migration that
removes what an earlier release uses sets it, to the newest revision of the first release that does without.
"""

from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from storage import connecting
from storage.database import driver_options
from storage.settings import DatabaseSettings
from storage.table import METADATA

_LOCK = 7_161_001
"""The key of the advisory lock that migrations take. No other program may use the same number on this database."""


COMPATIBILITY = sa.Table("compatibility", METADATA, sa.Column("oldest_revision", sa.Text, primary_key=True))
"""Has one row."""


class Schema(NamedTuple):
    """The revision of a database's schema, None for an empty database, and the oldest revision that a program must know
    to use the schema, None before migration 0017."""

    revision: str | None
    oldest_revision: str | None = None


class UnusableSchema(Exception):
    """The schema is of a later release and cannot be used by this one. The message says what to do."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def newest() -> str:
    """The revision of the schema of this release."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def upgrade(settings: DatabaseSettings) -> tuple[str | None, str | None]:
    """Migrate the schema to the newest revision, if it is not that of a later release. Returns the revisions before and
    after. Raises UnusableSchema.

    If another process migrates at the same time, this one waits for it and then has nothing to do. There is no timeout,
    because a migration may take long.
    """
    url, arguments = connecting.arguments(settings.url.get_secret_value())
    engine = create_async_engine(url, connect_args=arguments | driver_options(settings, {}), poolclass=NullPool)
    try:
        async with engine.begin() as conn:
            await conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            before = await conn.run_sync(_schema)
            if _is_known(before.revision):
                await conn.run_sync(_upgrade)
                return before.revision, newest()
    finally:
        await engine.dispose()
    if reason := mismatch(before):
        raise UnusableSchema(reason)
    return before.revision, before.revision


async def current(engine: AsyncEngine) -> Schema:
    """The state of the database's schema."""
    async with engine.connect() as conn:
        return await conn.run_sync(_schema)


def mismatch(schema: Schema) -> str | None:
    """Why this release cannot use a schema, and what to do. None if it can."""
    if schema.revision == newest():
        return None
    if _is_known(schema.revision):
        return f"run `visitor migrate`; the database is at {schema.revision}"
    if schema.oldest_revision is not None and _is_known(schema.oldest_revision):
        return None
    return (
        f"the database is at {schema.revision}, which this release can neither use nor migrate; start the release that"
        " migrated it, or a newer one"
    )


def _is_known(revision: str | None) -> bool:
    """True if this release has the migration, or the database is empty."""
    revisions = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is None or revision in revisions


def _schema(conn: Connection) -> Schema:
    revision = MigrationContext.configure(conn).get_current_revision()
    has_table = sa.inspect(conn).has_table(COMPATIBILITY.name)
    return Schema(revision, conn.scalar(sa.select(COMPATIBILITY)) if has_table else None)


def _upgrade(conn: Connection) -> None:
    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
