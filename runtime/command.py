"""What the commands of the command line have in common."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
import uvloop

from runtime import logs, settings
from runtime.settings import Settings
from schemas.misconfigured import Misconfigured
from topics.supervision import interruptions_raised

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class WrongRevision(Exception):
    """The database's schema is not that of this release. The message says what to do."""


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return uvloop.run(work)


def utc(time: datetime | None) -> datetime | None:
    """The time that an option names: in UTC, unless it has an offset."""
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def load_settings_and_configure_logs() -> Settings:
    loaded = settings.load()
    logs.configure(loaded.log)
    return loaded


def load_settings_and_disable_logs() -> Settings:
    """For commands that print what they find, errors of servers included."""
    loaded = load_settings_and_configure_logs()
    logging.disable()
    return loaded


async def retry_until_available(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Retry every second while the server is not available: it may be starting. Raises Misconfigured."""
    from aiokafka.errors import KafkaError  # slow

    from agents.engine.retry import is_retryable

    while True:
        try:
            with interruptions_raised():
                return await attempt()
        except Misconfigured:
            raise  # Retrying does not correct a setting.
        except Exception as error:
            if not (is_retryable(error) or isinstance(error, KafkaError)):
                raise
            log.warning("waiting", error=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
            await asyncio.sleep(1)
