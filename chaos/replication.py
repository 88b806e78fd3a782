"""PostgreSQL with a synchronous standby."""

import os
import shutil

import asyncpg
from sqlalchemy.engine import make_url

from runtime.dev.servers import Postgres
from runtime.dev.servers.postgres import BIN, make_passable, unprivileged

_RETRY = "500ms"
"""wal_retrieve_retry_interval: how soon a standby connects again. Until then no commit ends. The default is 5 s."""


class ReplicatedPostgres(Postgres):
    """A server that can become a standby of another one, and can be promoted."""

    def copy(self, primary: "ReplicatedPostgres") -> None:
        """Create the data of a standby of `primary`. Raises ServerFailed."""
        user = unprivileged()
        make_passable(self._home, BIN)
        shutil.copy(primary._password_file, self._password_file)
        if user is not None:
            os.chown(self._home, user, user)
        self._tool(
            "pg_basebackup", "-D", str(self._data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
            "-h", "127.0.0.1", "-p", str(primary.port), "-U", "visitor", user=user,
        )  # fmt: skip

    async def replicate_synchronously(self) -> None:
        """Let each commit wait until the standby has it, so that a failover loses nothing."""
        await self._execute(
            f"alter system set wal_retrieve_retry_interval = '{_RETRY}'",
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        )

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
