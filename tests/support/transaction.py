"""The transaction of tests that call handlers directly."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from agents.operation import Operation
from schemas.faults import Fault
from storage.tx import Caller, Cause, Tx


def handler_tx(conn: AsyncConnection, now: datetime, arrived: datetime | None = None) -> Tx:
    """What a handler gets for a request that arrived at `arrived`, by default `now`."""
    return Tx(conn, Cause("test", Caller("test", "test"), arrived or now), now)


async def handle(operation: Operation, tx: Tx, request: Any) -> Any:
    """Call the handler of an operation for one request. Raises Fault."""
    if operation.handler is not None:
        return await operation.handler(tx, request)
    assert operation.batch_handler is not None
    (outcome,) = await operation.batch_handler([(tx, request)])
    if isinstance(outcome, Fault):
        raise outcome
    return outcome
