"""Retries work for as long as a transient error lasts."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from agents.engine.readiness import Readiness
from storage.database import is_transient
from telemetry.metrics import RETRIES
from topics.kafka import DeliveryError
from topics.schema_registry import RegistryUnavailable
from topics.supervision import Interrupted, interruptions_raised

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


def is_retryable(error: BaseException) -> bool:
    """True if the same work may succeed later without a change."""
    return isinstance(error, (DeliveryError, Interrupted, RegistryUnavailable)) or is_transient(error)


def pause_after(attempt: int) -> float:
    """Seconds to wait after this number of failed attempts: at random, so that many do not retry at the same moment."""
    return random.uniform(0, min(3, 0.1 * 2 ** min(attempt, 10)))


def note_failure(part: str, attempt: int, error: BaseException | None, readiness: Readiness) -> None:
    """Count and log a failed attempt. From the second one on, report `part` as not ready."""
    RETRIES.labels(part).inc()
    if attempt > 1:
        readiness.not_ready(part, type(error).__name__)
    log.warning("retrying", part=part, attempt=attempt, error=_first_line(error))


async def until_done(part: str, readiness: Readiness, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Retry an attempt until it succeeds, with at most 3 seconds in between. From the second failure on, report `part`
    as not ready. Raises errors that are not transient."""

    def note(state: RetryCallState) -> None:
        note_failure(part, state.attempt_number, state.outcome.exception() if state.outcome else None, readiness)

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_retryable),
        wait=lambda state: pause_after(state.attempt_number),
        before_sleep=note,
        reraise=True,
    )

    async def once() -> Result:
        with interruptions_raised():
            return await attempt()

    try:
        result: Result = await retrying(once)
    finally:
        # Also if the attempt is cancelled: what is stopped must not leave the worker "not ready".
        readiness.ready(part)
    return result


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
