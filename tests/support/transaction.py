"""The transaction of tests that call handlers directly."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from storage.tx import Caller, Cause, Tx


def handler_tx(conn: AsyncConnection, now: datetime, arrived: datetime | None = None) -> Tx:
    """What a handler gets for a request that arrived at `arrived`, by default `now`."""
    return Tx(conn, Cause("test", Caller("test", "test"), arrived or now), now)
