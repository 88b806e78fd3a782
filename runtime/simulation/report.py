"""What a simulation did, and how long it took."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from statistics import quantiles
from typing import Literal
from uuid import uuid4

from rich.table import Table

Moment = Literal["request", "result", "change"]

KEPT = 100_000
"""Latencies of one kind that are kept: the newest."""
REQUESTS_KEPT = 20_000
"""Requests whose times are kept: the newest."""


class Report:
    """Counts and latencies of one run. The ids of its requests begin with `run_id`, which no other run has."""

    def __init__(self) -> None:
        self.run_id = uuid4().hex[:12]
        self.simulated_until = 0.0
        """How far the gateways have come, in simulated seconds."""
        self.sent: Counter[str] = Counter()
        """Messages by the reason why they were sent when they were sent."""
        self.results: Counter[int] = Counter()
        """Requests by the status of their first result."""
        self.changes: Counter[str] = Counter()
        """Changes of all senders, by topic."""
        self.calls: Counter[str] = Counter()
        """Calls by status, or by the error that prevented an answer."""
        self.unanswered: set[str] = set()
        """The ids of the requests that have no result yet."""
        self._times: dict[str, dict[Moment, int]] = {}
        self._latencies: dict[str, deque[float]] = {
            name: deque(maxlen=KEPT) for name in ("call", "append to result", "append to change")
        }

    def note_sent(self, request_id: str, reason: str, simulated_time: float) -> None:
        self.sent[reason] += 1
        self.simulated_until = simulated_time
        if reason != "repeated" and "result" not in self._times.get(request_id, ()):
            self.unanswered.add(request_id)

    def note_result(self, request_id: str, status: int, timestamp: int) -> None:
        if self._is_own(request_id) and "result" not in self._times.get(request_id, ()):
            self.results[status] += 1
            self.unanswered.discard(request_id)
        self.note_time("result", request_id, timestamp)

    def note_change(self, topic: str) -> None:
        self.changes[topic] += 1

    def note_call(self, status: str, seconds: float) -> None:
        self.calls[status] += 1
        self._latencies["call"].append(seconds)

    def note_time(self, moment: Moment, request_id: str, timestamp: int) -> None:
        """`timestamp` is that of a record, in milliseconds. The first record of each kind counts."""
        if not self._is_own(request_id):
            return
        times = self._times.setdefault(request_id, {})
        if moment in times:
            return
        times[moment] = timestamp
        if moment == "request":
            for other in ("result", "change"):
                self._note_latency(times, other)
        else:
            self._note_latency(times, moment)
        if len(self._times) > REQUESTS_KEPT:
            del self._times[next(iter(self._times))]

    def latencies(self, name: str) -> Sequence[float]:
        """Seconds, of `call`, `append to result` or `append to change`."""
        return self._latencies[name]

    def tables(self) -> Iterable[Table]:
        latencies = Table("latency", "count", "p50", "p99", title="Simulation", title_justify="left")
        for name, seconds in self._latencies.items():
            latencies.add_row(
                name, f"{len(seconds):,}", *(f"{value * 1000:,.0f} ms" for value in _percentiles(seconds))
            )
        counts = Table("what", "count")
        for name, counter in (
            ("messages", self.sent), ("results", self.results), ("calls", self.calls), ("changes", self.changes),
        ):  # fmt: skip
            for key, count in sorted(counter.items(), key=lambda item: str(item[0])):
                counts.add_row(f"{name}: {key}", f"{count:,}")
        counts.add_row("requests without a result", f"{len(self.unanswered):,}")
        return latencies, counts

    @property
    def is_complete(self) -> bool:
        """True if all requests have results, and all that were applied have changes, as far as times are kept."""
        applied = sum(count for status, count in self.results.items() if status < 400)
        return not self.unanswered and len(self._latencies["append to change"]) >= min(applied, KEPT)

    def _is_own(self, request_id: str) -> bool:
        return request_id.startswith(f"{self.run_id}-")

    def _note_latency(self, times: dict[Moment, int], moment: Moment) -> None:
        if "request" in times and moment in times:
            seconds = max(0, times[moment] - times["request"]) / 1000
            self._latencies[f"append to {moment}"].append(seconds)


def _percentiles(seconds: Sequence[float]) -> Sequence[float]:
    """The 50th and the 99th; none without values."""
    if len(seconds) < 2:
        return [*seconds, *seconds]
    percentiles = quantiles(seconds, n=100, method="inclusive")
    return percentiles[49], percentiles[98]
