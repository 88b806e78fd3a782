"""Stops a worker in which nearly every request fails because of a bug, so that a bad deployment does not dead-letter
the whole stream. A bug that only one source or only one operation meets stops nothing: such messages make their
partition pause, see `agents.engine.floods`. So do unreadable messages, which do not count here."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

WINDOW = 5_000
"""Number of most recent requests that may count."""
SHARE = 300
"""Of each operation from each source, so many of its latest requests count at most. This keeps the requests of the
others in view."""
LEAST = 500
"""The limit applies only if this number of requests counts."""
LEAST_OTHERS = 200
"""The limit applies only if this number of requests counts even without any one operation, and without any one
source."""


class NearlyEverythingFails(Exception):
    """The worker stops and acknowledges nothing of its last batch."""


class Outcome(NamedTuple):
    """`failed`: because of a bug."""

    operation: str
    source: str
    failed: bool


class _Counts(NamedTuple):
    """Requests, and how many of them failed."""

    requests: int
    failures: int


class Breaker:
    """`limit` is the share of requests that may fail because of a bug. With 1, there is no limit. A worker stops if
    more of them fail, of all requests that count and also of those that remain without any one operation or source."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._number = 0
        """Of the latest request."""
        self._forgotten = 0
        """The number of the latest request when the old ones were forgotten."""
        self._latest: defaultdict[tuple[str, str], deque[tuple[int, bool]]] = defaultdict(lambda: deque(maxlen=SHARE))
        """The numbers of the latest requests, and whether they failed, by operation and source."""

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Raises NearlyEverythingFails."""
        any_failed = False
        for operation, source, failed in outcomes:
            self._number += 1
            self._latest[operation, source].append((self._number, failed))
            any_failed |= failed
        if any_failed or self._number >= self._forgotten + WINDOW:
            self._forget_old()
        if any_failed:
            self._check()

    def _forget_old(self) -> None:
        self._forgotten = self._number
        oldest = self._number - WINDOW + 1
        for key, latest in list(self._latest.items()):
            while latest and latest[0][0] < oldest:
                latest.popleft()
            if not latest:
                del self._latest[key]

    def _check(self) -> None:
        counts = {
            key: _Counts(len(latest), sum(failed for _, failed in latest)) for key, latest in self._latest.items()
        }
        requests, failures = _sum(counts.values())
        if requests < LEAST or failures <= self._limit * requests:
            return
        if all(self._exceeded_without(counts, part) for part in (0, 1)):
            raise NearlyEverythingFails(
                f"{failures} of the {requests} latest requests failed because of a bug, in several operations and"
                " from several sources. Look at the newest dead letters; nothing of the last batch was acknowledged."
                " If these requests really should become dead letters, start with VISITOR_WORKER_FAILURE_LIMIT=1."
            )

    def _exceeded_without(self, counts: Mapping[tuple[str, str], _Counts], part: int) -> bool:
        """True if too many requests fail even without the operation (part 0), or the source (part 1), with the most
        failures."""
        failures_of: Counter[str] = Counter()
        for key, (_, failures) in counts.items():
            failures_of[key[part]] += failures
        [(worst, _)] = failures_of.most_common(1)
        others, failures = _sum(each for key, each in counts.items() if key[part] != worst)
        return others >= LEAST_OTHERS and failures > self._limit * others


def _sum(counts: Iterable[_Counts]) -> _Counts:
    requests = failures = 0
    for each in counts:
        requests += each.requests
        failures += each.failures
    return _Counts(requests, failures)
