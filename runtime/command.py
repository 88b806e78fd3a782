"""What the commands of the command line have in common."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
import uvloop
from rich.markup import escape

from runtime import logs, settings
from runtime.settings import Settings
from schemas.misconfigured import Misconfigured
from topics import json
from topics.supervision import interruptions_raised

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

WHOLE_LINES = 240
"""Columns of an output that is no terminal, so that programs find each line whole."""
PAUSE_SECONDS = 1.0
STARTING_SECONDS = 180.0
"""How long brokers that start may be fewer than the replicas of a topic."""
SLOW_ATTEMPTS = 3
"""How often in a row a statement may exceed its time limit. The database may be busy, or the statement may always be
too slow."""


class WrongRevision(Exception):
    """The database's schema is not that of this release. The message says what to do."""


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return uvloop.run(work)


def shown(text: str | None) -> str:
    """A text that others wrote, for a terminal: without control characters, with which it could clear the screen or
    write to the clipboard, and without the markup of rich."""
    return escape("".join(character if character.isprintable() else "\ufffd" for character in text or ""))


def print_json(value: Any, *, indent: bool = False) -> None:
    """Print a document, with escapes instead of the control characters that JSON leaves as they are."""
    encoded = json.write(value, indent=indent).decode()
    sys.stdout.write(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded) + "\n")


_CONTROL = re.compile("[\x7f-\x9f]")


def utc(time: datetime | None) -> datetime | None:
    """The time that an option names: in UTC, unless it has an offset."""
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def load_settings_and_configure_logs(*, is_command: bool = True) -> Settings:
    """`is_command` is False for a worker and an edge, see `logs.configure`."""
    loaded = settings.load()
    logs.configure(loaded.log, is_command=is_command)
    return loaded


def load_settings_and_disable_logs() -> Settings:
    """For commands that print what they find, errors of servers included."""
    loaded = load_settings_and_configure_logs()
    logging.disable()
    return loaded


class GaveUp(Exception):
    """A server answers, and will not do what the command asks for. The message says why."""


async def retry_until_available(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Retry every second while the server is not available: it may be starting. Raises Misconfigured, and GaveUp where
    waiting cannot help."""
    from aiokafka.errors import KafkaError  # slow

    from agents.engine.retry import is_retryable

    patience = _Patience()
    while True:
        try:
            with interruptions_raised():
                return await attempt()
        except Misconfigured:
            raise  # Retrying does not correct a setting.
        except Exception as error:
            if not (is_retryable(error) or isinstance(error, KafkaError)):
                raise
            patience.note(error)
            log.warning("waiting", error=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
            await asyncio.sleep(PAUSE_SECONDS)


class _Patience:
    """Decides when waiting cannot help any more."""

    def __init__(self) -> None:
        self._refused_at: float | None = None
        """When the brokers began to answer that they are too few, in seconds of the monotonic clock."""
        self._slow = 0

    def note(self, error: Exception) -> None:
        """Raises GaveUp."""
        from aiokafka import errors  # slow

        from storage.database import exceeds_statement_timeout

        cause = error.__cause__ if isinstance(error.__cause__, errors.KafkaError) else error
        text = str(error).partition("\n")[0]
        if isinstance(cause, _refusals()):
            raise GaveUp(f"Kafka refuses this: {text}") from error
        now = time.monotonic()
        # A broker says "unknown error" while it starts, and also to a request that it will never accept.
        if not isinstance(cause, (errors.InvalidReplicationFactorError, errors.UnknownError)):
            self._refused_at = None
        elif self._refused_at is None:
            self._refused_at = now
        elif now - self._refused_at > STARTING_SECONDS:
            raise GaveUp(f"{text}, for {STARTING_SECONDS / 60:.0f} minutes") from error
        self._slow = self._slow + 1 if exceeds_statement_timeout(error) else 0
        if self._slow == SLOW_ATTEMPTS:
            raise GaveUp(f"PostgreSQL ended a statement at its time limit, {SLOW_ATTEMPTS} times in a row.") from error


def _refusals() -> tuple[type[Exception], ...]:
    from aiokafka import errors  # slow

    return (
        errors.TopicAuthorizationFailedError,
        errors.GroupAuthorizationFailedError,
        errors.ClusterAuthorizationFailedError,
        errors.TransactionalIdAuthorizationFailed,
        errors.InvalidConfigurationError,
        errors.InvalidPartitionsError,
        errors.InvalidRequestError,
        errors.InvalidTopicError,
        errors.MessageSizeTooLargeError,
        errors.PolicyViolationError,
    )
