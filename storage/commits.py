"""COMMITs that are never cancelled.

With a synchronous standby, a COMMIT waits until the standby has the transaction. PostgreSQL ends a cancelled wait with
success, although a failover would lose the transaction. asyncpg cancels a statement that takes too long, and that of a
cancelled task; the next attempt would find the answers in the inbox and acknowledge the requests.
"""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import STATEMENT_TIMEOUT, NoStandby

COMMIT_SECONDS = STATEMENT_TIMEOUT
"""It is less than asyncpg's `command_timeout`, which would cancel the COMMIT."""

_ACTIVITY = sa.table("pg_stat_activity", sa.column("pid", sa.Integer), sa.column("wait_event", sa.Text))
_WAITING = sa.select(_ACTIVITY.c.pid).where(
    _ACTIVITY.c.pid == sa.any_(sa.bindparam("pids", type_=ARRAY(sa.Integer))), _ACTIVITY.c.wait_event == "SyncRep"
)
_WRITE_NOTHING = sa.text("select pg_logical_emit_message(true, 'visitor', ''::text)")


class Commits:
    """The COMMITs of the connections of one pool."""

    def __init__(self) -> None:
        self._abandoned: set[int] = set()
        """The server processes that may still wait for a standby."""

    async def begin(self, conn: AsyncConnection) -> None:
        """Call it at the start of a transaction. Raises NoStandby while abandoned COMMITs wait for a standby:
        each further one would keep another connection of the server. Behind a pooler, this check sees no process."""
        if not self._abandoned:
            return
        rows = await conn.scalars(_WAITING, {"pids": sorted(self._abandoned)})
        self._abandoned = set(rows)
        if self._abandoned:
            raise NoStandby(f"{len(self._abandoned)} transactions wait for a synchronous standby of PostgreSQL")

    async def commit(self, conn: AsyncConnection) -> None:
        """Commit. If it takes more than `COMMIT_SECONDS`, or if the task is cancelled, close the connection: the server
        goes on waiting, and keeps the rows locked until the standby has them. Raises a transient error in the first
        case."""
        driver_connection: Any = (await conn.get_raw_connection()).driver_connection
        committing = asyncio.create_task(conn.commit())
        try:
            await asyncio.wait([committing], timeout=COMMIT_SECONDS)
        finally:
            if not committing.done():
                self._abandoned.add(driver_connection.get_server_pid())
                driver_connection.terminate()
            await asyncio.gather(committing, return_exceptions=True)
        try:
            await committing
        finally:
            del committing  # Its error refers to this frame: a cycle that would keep the batch.


async def wait_for_standby(conn: AsyncConnection) -> None:
    """Make the COMMIT of this transaction wait for the standby, even if the transaction has only read. PostgreSQL makes
    a transaction visible after a crash, whether or not a standby has it, so what was read could still be lost."""
    await conn.execute(_WRITE_NOTHING)
