"""`visitor republish`: writes the current state of resources to their change topics again, with a progress bar."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.catalogue import CATALOGUE
from agents.engine import republish
from agents.engine.schema_lookup import SchemaLookup
from agents.wire import Wire
from runtime import progress
from runtime.operator_database import Retry, connected
from runtime.settings import Settings
from storage.republications import Republication
from storage.table import Table
from topics.schema_registry import SchemaRegistry

PAGE = 200
"""Rows of one transaction, which locks them."""
RESOURCES_HINT = f"The resources are: {', '.join(sorted(table.resource for table in CATALOGUE.tables))}."
CONGESTED_SECONDS = 0.5
"""How long to wait if too many changes wait for the publisher."""

Result = TypeVar("Result")


def tables(resources: Sequence[str]) -> list[Table[Any]]:
    """The tables of these resources; without names, those of all entities. Raises KeyError."""
    by_resource = {table.resource: table for table in CATALOGUE.tables}
    return [by_resource[name] for name in resources] or [table for table in CATALOGUE.tables if not table.are_events]


async def run(settings: Settings, selected: Sequence[Table[Any]], rate: int, *, restart: bool, retry: Retry) -> None:
    """Republish the tables one after the other, at most `rate` rows per second. Raises
    WrongRevision."""
    registry = SchemaRegistry(settings.schema_registry) if settings.schema_registry.url else None
    wire = Wire(CATALOGUE)
    console = Console(soft_wrap=True)
    try:
        async with connected(settings.database, retry) as database:
            schemas = SchemaLookup(wire, database, registry)
            await retry(schemas.store)
            await retry(schemas.register)
            with progress.bar(console) as bar:
                for table in selected:
                    done = await _Republisher(database, wire, table, rate, retry).run(bar, restart=restart)
                    console.print(f"{table.resource}: {done.published_rows} rows, {done.published_deletions} deletions")
    finally:
        if registry is not None:
            await registry.close()


class _Republisher:
    """Republishes one table."""

    def __init__(self, database: AsyncEngine, wire: Wire, table: Table[Any], rate: int, retry: Retry) -> None:
        self._database = database
        self._wire = wire
        self._table = table
        self._rate = rate
        self._limit = min(PAGE, rate)
        self._retry = retry

    async def run(self, bar: Progress, *, restart: bool) -> Republication:
        """Republish until nothing is left."""
        republication = await self._begin(restart=restart)
        total = await self._in_transaction(republish.count)
        task = bar.add_task(self._table.resource, total=total)
        while republication.finished_at is None:
            started = time.monotonic()
            before = _published(republication)
            republication = await self._next_page()
            bar.update(task, completed=_published(republication))
            await self._keep_rate(_published(republication) - before, started)
        bar.update(task, total=_published(republication))
        return republication

    async def _begin(self, *, restart: bool) -> Republication:
        search = None
        if self._table.are_events and (restart or not await self._in_transaction(republish.unfinished)):
            search = await self._in_transaction(republish.begin_search)
            while not search.finished:
                search = await self._in_transaction(republish.search_range, search=search)
        return await self._in_transaction(republish.begin, restart=restart, search=search)

    async def _next_page(self) -> Republication:
        """Republish a page as soon as few changes of the topic wait for the publisher."""
        while True:
            if not await self._in_transaction(republish.is_congested):
                return await self._in_transaction(republish.republish_page, wire=self._wire, limit=self._limit)
            await asyncio.sleep(CONGESTED_SECONDS)

    async def _keep_rate(self, rows: int, started: float) -> None:
        await asyncio.sleep(max(0.0, started + rows / self._rate - time.monotonic()))

    async def _in_transaction(self, step: Callable[..., Awaitable[Result]], **arguments: Any) -> Result:
        async def attempt() -> Result:
            async with self._database.begin() as conn:
                return await step(conn, self._table, **arguments)

        return await self._retry(attempt)


def _published(republication: Republication) -> int:
    return republication.published_rows + republication.published_deletions
