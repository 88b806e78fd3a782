"""The database connection of the commands that operators run."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from runtime.command import WrongRevision
from storage import migrate
from storage.database import connect
from storage.settings import DatabaseSettings

Result = TypeVar("Result")


class Retry(Protocol):
    """Repeats an attempt for as long as a server is unavailable."""

    def __call__(self, attempt: Callable[[], Awaitable[Result]]) -> Awaitable[Result]: ...


@asynccontextmanager
async def connected(settings: DatabaseSettings, retry: Retry) -> AsyncIterator[AsyncEngine]:
    """A pool of one connection to a database whose schema is that of this release. Raises WrongRevision."""
    database = connect(settings, connections=1)
    try:
        if reason := migrate.mismatch(await retry(lambda: migrate.current(database))):
            raise WrongRevision(reason)
        yield database
    finally:
        await database.dispose()
