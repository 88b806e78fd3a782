"""Stops a worker in which nearly every request fails because of a bug, so that a bad deployment does not dead-letter
the whole stream. Unreadable messages do not count: they are faults of their senders, see `agents.engine.floods`."""

from collections import deque
from collections.abc import Iterable

WINDOW = 1_000
"""Number of most recent requests that count."""
LEAST = 500
"""The limit applies only after this number of requests."""


class NearlyEverythingFails(Exception):
    """The worker stops and acknowledges nothing of its last batch."""


class Breaker:
    """`limit` is the share of requests that may fail because of a bug. With 1, there is no limit."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._failed: deque[bool] = deque(maxlen=WINDOW)

    def note(self, failed: Iterable[bool]) -> None:
        """Raises NearlyEverythingFails."""
        self._failed.extend(failed)
        count = sum(self._failed)
        if len(self._failed) >= LEAST and count > self._limit * len(self._failed):
            raise NearlyEverythingFails(
                f"{count} of the last {len(self._failed)} requests failed because of a bug. Look at the newest dead"
                " letters; nothing of the last batch was acknowledged. If these requests really should become dead"
                " letters, start with VISITOR_WORKER_FAILURE_LIMIT=1."
            )
