"""What a handler is given: a connection inside a transaction, who asks, and where its changes are kept."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.changes import Action
from schemas.model import Model


class Caller(NamedTuple):
    """Who asks: `origin_type` is the kind of caller, `origin` its name (of the API key or the message's source)."""

    origin_type: str
    origin: str


class Cause(NamedTuple):
    """The request that something is done for. `arrived` is when the broker took it in."""

    request_id: str
    caller: Caller
    arrived: datetime


class EntityChange(NamedTuple):
    """A row before it is encoded for its change topic. `after` is the row as the API answers it; None once deleted."""

    family: str
    resource: str
    id: str
    revision: int
    action: Action
    visitor_id: UUID | None
    after: Model | None


_ADVISORY_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0)))
_CLOCK = sa.select(sa.func.clock_timestamp())


async def clock(conn: AsyncConnection) -> datetime:
    """The time by the database's clock, the one that all workers share."""
    return cast(datetime, (await conn.execute(_CLOCK)).scalar_one()).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Signing:
    """What event tokens are signed with, and for how many seconds they hold."""

    secret: str
    seconds: int


@dataclass(slots=True)
class Tx:
    """One request's view of the transaction. Handlers never commit; changes go out when the whole batch does. `now` is
    when the batch began. `erased` are visitors of whom neither inbox nor outbox may keep anything, also not of earlier
    requests of the batch."""

    conn: AsyncConnection
    cause: Cause
    now: datetime
    changes: list[EntityChange] = field(default_factory=list)
    signing: Signing | None = None
    erased: list[UUID] = field(default_factory=list)

    async def advisory_lock(self, name: str) -> None:
        """Wait until no other transaction is alone with this name, and be it until this one ends."""
        await self.conn.execute(_ADVISORY_LOCK, {"name": name})

    async def refresh_now(self) -> None:
        """Take `now` anew, after a lock that others may have held: what they wrote is older then."""
        self.now = await clock(self.conn)

    async def all(self, statement: Any, parameters: dict[str, Any] | None = None) -> list[Any]:
        return list((await self.conn.execute(statement, parameters)).all())

    async def first(self, statement: Any, parameters: dict[str, Any] | None = None) -> Any | None:
        return (await self.conn.execute(statement, parameters)).first()
