"""Doing work again for as long as a transient fault lasts."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from agents.engine.telemetry import RETRIES, Readiness
from storage.database import is_transient
from topics.kafka import DeliveryError
from topics.supervision import Interrupted, interruptions_raised

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


def is_retryable(error: BaseException) -> bool:
    """Whether the same work may succeed later with nothing changed."""
    return isinstance(error, (DeliveryError, Interrupted)) or is_transient(error)


async def until_done(part: str, readiness: Readiness, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Attempt until it succeeds, at most some seconds apart; meanwhile `part` is not ready. Raises what is not
    transient."""

    def note(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        RETRIES.labels(part).inc()
        if state.attempt_number > 1:
            readiness.not_ready(part, type(error).__name__)
        log.warning("retrying", part=part, attempt=state.attempt_number, error=_first_line(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_retryable),
        wait=wait_random_exponential(multiplier=0.1, max=3),
        before_sleep=note,
        reraise=True,
    )

    async def once() -> Result:
        with interruptions_raised():
            return await attempt()

    try:
        result: Result = await retrying(once)
    finally:
        # Also when it is given up: a lane that ends must not leave the worker not ready for ever.
        readiness.ready(part)
    return result


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
