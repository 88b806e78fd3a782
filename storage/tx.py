"""The transaction that a handler gets: a connection, the cause of the request, and the changes recorded so far."""

from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.changes import Action
from schemas.model import Model
from storage.allowance import Allowance


class Caller(NamedTuple):
    """The sender of a request, from `ce_source`. `origin_type` is the part before the slash, the kind of sender.
    `origin` is the part after the slash, for example the name of the API key. A source without a slash is an `origin`
    of the type `message`."""

    origin_type: str
    origin: str


class Cause(NamedTuple):
    """The request that causes the writes of a transaction. `arrived` is the time at which the broker stored it."""

    request_id: str
    caller: Caller
    arrived: datetime


class EntityChange(NamedTuple):
    """A change that is not encoded yet. `after` is the row in the form in which the API answers it; None if it was
    deleted. `is_event` is True if the resource is an event, see `storage.table.Table`."""

    family: str
    resource: str
    is_event: bool
    id: str
    revision: int
    action: Action
    visitor_id: UUID | None
    after: Model | None


CHUNK_ROWS = 250
"""Rows that `Tx.chunks` reads at once."""

_ADVISORY_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0)))
_CLOCK = sa.select(sa.func.clock_timestamp())


async def clock(conn: AsyncConnection) -> datetime:
    """The time of the database's clock, which all workers share."""
    return cast(datetime, (await conn.execute(_CLOCK)).scalar_one()).astimezone(UTC)


Resources = Mapping[type, Any]
"""Objects that handlers need and the engine does not know, by their types; the process that starts the engine passes
them."""

Resource = TypeVar("Resource")


@dataclass(slots=True)
class Target:
    """The row that a request reads or writes: the row of `table` whose columns have these `values`. `revision` is the
    last one that was read or written, None if there was none."""

    table: Any
    values: Mapping[str, Any]
    revision: int | None = None


@dataclass(slots=True)
class Tx:
    """One request's view of the batch's transaction. Handlers never commit; the engine commits the batch and stores the
    changes with it. A read has a transaction of its own.

    - `now` is the time at which the batch started, or the time of the last `refresh_now`. A read has no time before
      its handler calls `refresh_now`, because most reads need none.
    - `changes` are the changes that the request has recorded.
    - `resources` holds what the handler of a read needs in addition to the database; see `Resources`. It is empty for
      writes.
    - `wrote` is true once the request has executed a statement that may write.
    - `erased` are the visitors that the request erased. The engine removes their data from inbox and outbox, including
      the data of earlier requests of the batch.
    - `visitors` are the visitors whose data a read answers and whom the value of its handler does not name.
    - `target` is None if the request is not about a single row.
    - `allowance` limits what a read may load. It is None for writes.
    - `fields` are the fields of the reply that the caller wants; None for all.
    """

    conn: AsyncConnection
    cause: Cause
    _now: datetime | None = None
    changes: list[EntityChange] = field(default_factory=list)
    resources: Resources = field(default_factory=dict)
    erased: list[UUID] = field(default_factory=list)
    visitors: list[UUID] = field(default_factory=list)
    target: Target | None = None
    allowance: Allowance | None = None
    fields: Container[str] | None = None
    wrote: bool = False

    @property
    def now(self) -> datetime:
        if self._now is None:
            raise RuntimeError("A read that needs the time must call refresh_now first.")
        return self._now

    @property
    def revision(self) -> int | None:
        """The revision of the target that was read or written last."""
        return None if self.target is None else self.target.revision

    def note_revision(self, table: Any, columns: Mapping[str, Any], revision: int) -> None:
        """Note the revision of a row that was read or written, if it is the target. `columns` are its values."""
        target = self.target
        if target is None or target.table is not table:
            return
        if all(columns[name] == value for name, value in target.values.items()):
            target.revision = revision

    def wants(self, field: str) -> bool:
        """True if the reply has the field of this name."""
        return self.fields is None or field in self.fields

    def resource(self, kind: type[Resource]) -> Resource | None:
        """The resource of this type; None if the process has none."""
        return self.resources.get(kind)

    async def advisory_lock(self, name: str) -> None:
        """Take a transaction-scoped advisory lock on `name`. Waits while another transaction holds it."""
        await self.conn.execute(_ADVISORY_LOCK, {"name": name})

    async def refresh_now(self) -> None:
        """Read the database's clock into `now`. Call it after taking a lock: rows that the previous holder of the lock
        wrote then have an earlier time."""
        self._now = await clock(self.conn)

    @staticmethod
    async def refresh_all(txs: Sequence["Tx"]) -> None:
        """Read the clock like `refresh_now`, with one statement for several requests of a batch."""
        now = await clock(txs[0].conn)
        for tx in txs:
            tx._now = now

    async def execute(self, statement: Any, parameters: dict[str, Any] | None = None) -> sa.CursorResult[Any]:
        self.wrote = self.wrote or not isinstance(statement, sa.SelectBase)
        result: sa.CursorResult[Any] = await self.conn.execute(statement, parameters)
        return result

    async def all(self, statement: Any, parameters: dict[str, Any] | None = None) -> list[Any]:
        """Execute a statement and return its rows."""
        return list((await self.execute(statement, parameters)).all())

    async def chunks(self, statement: Any, parameters: dict[str, Any] | None = None) -> AsyncGenerator[Sequence[Any]]:
        """Execute a SELECT statement that may return any number of rows. A read gets `CHUNK_ROWS` of them at a time; it
        calls `note_loaded` for each chunk, and needs a transaction, see `Operation.one_statement`. A write gets all of
        them at once. Use it with `aclosing`, so that the cursor is closed before the connection."""
        if self.allowance is None:
            yield await self.all(statement, parameters)
            return
        async with self.conn.stream(statement, parameters) as result:
            async for rows in result.partitions(CHUNK_ROWS):
                yield rows

    def note_loaded(self, size: int) -> None:
        """Note that the request has loaded records whose JSON has at least `size` bytes. Raises LoadsTooMuch if a read
        has loaded more than it may."""
        if self.allowance is not None:
            self.allowance.take(size)

    async def first(self, statement: Any, parameters: dict[str, Any] | None = None) -> Any | None:
        """Execute a statement and return its first row; None if it has none."""
        return (await self.execute(statement, parameters)).first()
