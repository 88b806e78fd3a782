"""The limit that stops a worker when nearly everything fails: a bad deploy must not dead-letter the whole stream."""

from collections import deque
from collections.abc import Iterable

WINDOW = 1_000
"""Requests looked back on."""
LEAST = 500
"""Requests before the limit means anything."""


class NearlyEverythingFails(Exception):
    """The worker stops, with nothing acknowledged of what it last read."""


class Breaker:
    """`limit` is the share of requests that may fail by a bug or be invalid_message; 1 lets everything pass."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._failed: deque[bool] = deque(maxlen=WINDOW)

    def note(self, failed: Iterable[bool]) -> None:
        """Raises NearlyEverythingFails."""
        self._failed.extend(failed)
        count = sum(self._failed)
        if len(self._failed) >= LEAST and count > self._limit * len(self._failed):
            raise NearlyEverythingFails(
                f"{count} of the last {len(self._failed)} messages met a bug or were unreadable. Look at the newest"
                " dead letters; nothing of the last batch was acknowledged. Where all of them are to be dead letters,"
                " start with VISITOR_WORKER_FAILURE_LIMIT=1."
            )
