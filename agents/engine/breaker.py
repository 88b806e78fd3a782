"""Stops a worker in which nearly every request fails because of a bug, so that a bad deployment does not dead-letter
the whole stream. A bug that only one source or only one operation meets stops nothing: such messages make their
partition pause, see `agents.engine.floods`. So do unreadable messages, which do not count here."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

WINDOW = 5_000
"""Number of most recent requests that may count."""
LEAST = 500
"""The limit applies only if this number of requests counts."""
SHARE = 300
"""Of each operation, and of each source, so many of its latest requests count at most. It is less than `LEAST`, so that
neither one source nor one operation can stop a worker; and it keeps the requests of the others in the window."""


class NearlyEverythingFails(Exception):
    """The worker stops and acknowledges nothing of its last batch."""


class Outcome(NamedTuple):
    """`failed`: because of a bug."""

    operation: str
    source: str
    failed: bool


class Breaker:
    """`limit` is the share of requests that may fail because of a bug. With 1, there is no limit."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._number = 0
        """Of the latest request."""
        self._counted: OrderedDict[int, Outcome] = OrderedDict()
        """By number, the oldest first."""
        self._numbers: defaultdict[tuple[str, str], OrderedDict[int, None]] = defaultdict(OrderedDict)
        """The numbers of the requests that count, by operation and by source."""
        self._failures = 0

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Raises NearlyEverythingFails."""
        for outcome in outcomes:
            self._add(outcome)
        count = len(self._counted)
        if count >= LEAST and self._failures > self._limit * count:
            raise NearlyEverythingFails(
                f"{self._failures} of the {count} latest requests failed because of a bug, in several operations and"
                " from several sources. Look at the newest dead letters; nothing of the last batch was acknowledged."
                " If these requests really should become dead letters, start with VISITOR_WORKER_FAILURE_LIMIT=1."
            )

    def _add(self, outcome: Outcome) -> None:
        self._number += 1
        self._counted[self._number] = outcome
        self._failures += outcome.failed
        for key in _keys(outcome):
            self._numbers[key][self._number] = None
            if len(self._numbers[key]) > SHARE:
                self._drop(next(iter(self._numbers[key])))
        oldest = next(iter(self._counted))
        if oldest <= self._number - WINDOW:
            self._drop(oldest)

    def _drop(self, number: int) -> None:
        outcome = self._counted.pop(number)
        self._failures -= outcome.failed
        for key in _keys(outcome):
            del self._numbers[key][number]
            if not self._numbers[key]:
                del self._numbers[key]


def _keys(outcome: Outcome) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("operation", outcome.operation), ("source", outcome.source)
