"""PostgreSQL with a synchronous standby."""

import os
import shutil

import asyncpg
from sqlalchemy.engine import make_url

from runtime.dev.servers import Postgres
from runtime.dev.servers.postgres import BIN, make_passable, unprivileged
from tests.support.stack import eventually

_RETRY = "500ms"
"""wal_retrieve_retry_interval: how soon a standby connects again. Until then no commit ends. The default is 5 s."""

_KEPT = "1GB"
"""wal_keep_size: WAL for standbys that were away. Without it, a standby that misses some can never follow again."""
_REPLICATED = "select bool_or(sync_state = 'sync' and flush_lsn >= $1) from pg_stat_replication"
_REPLICATION_SECONDS = 120.0
"""Longer than any fault of the network between the two."""


class ReplicatedPostgres(Postgres):
    """A server that can become a standby of another one, and can be promoted."""

    def copy(self, primary: "ReplicatedPostgres", port: int) -> None:
        """Create the data of a standby, which follows `primary` through a proxy at `port`. Raises ServerFailed."""
        user = unprivileged()
        make_passable(self._home, BIN)
        shutil.copy(primary._password_file, self._password_file)
        if user is not None:
            os.chown(self._home, user, user)
        self._tool(
            "pg_basebackup", "-D", str(self._data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
            "-h", "127.0.0.1", "-p", str(primary.port), "-U", "visitor", user=user,
        )  # fmt: skip
        settings = self._data / "postgresql.auto.conf"
        settings.write_text(settings.read_text().replace(f"port={primary.port}", f"port={port}"))

    async def replicate_synchronously(self) -> None:
        """Let each commit wait until the standby has it, so that a failover loses nothing. Returns when the standby has
        all commits."""
        await self._execute(
            f"alter system set wal_retrieve_retry_interval = '{_RETRY}'",
            f"alter system set wal_keep_size = '{_KEPT}'",
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        )
        connection = await self.connect()
        try:
            position = await connection.fetchval("select pg_current_wal_flush_lsn()")

            async def replicated() -> bool:
                return bool(await connection.fetchval(_REPLICATED, position))

            await eventually("a standby with all commits", replicated, _REPLICATION_SECONDS)
        finally:
            await connection.close()

    async def promote(self) -> None:
        """Make a standby the primary. Its commits wait for no standby until `replicate_synchronously`."""
        await self._execute(
            "select pg_promote(true, 60)",
            "alter system reset synchronous_standby_names",
            "select pg_reload_conf()",
        )

    async def connect(self) -> asyncpg.Connection:
        """A connection without proxy."""
        url = make_url(self.url).set(drivername="postgresql")
        return await asyncpg.connect(url.render_as_string(hide_password=False), timeout=30)

    async def _execute(self, *statements: str) -> None:
        connection = await self.connect()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()
