"""The metrics of lag: how many messages of each assigned partition wait, and for how long the oldest of them."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from agents.engine.lanes import TopicPartition
from telemetry.metrics import LAG_MESSAGES, LAG_SECONDS


class Lag(NamedTuple):
    """The messages of a partition that are not acknowledged, and the offset of the first one. `oldest` is the time at
    which Kafka stored that one, None if it is not fetched yet."""

    messages: int
    position: int
    oldest: float | None


class LagReport:
    """Writes the lag of the assigned partitions to the metrics. Of a message that is not fetched, only its offset is
    known; its age is then the time for which it has been the first one that waits."""

    def __init__(self) -> None:
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        """By partition: the position, and the time at which it was seen first."""

    def update(self, lags: Mapping[TopicPartition, Lag]) -> None:
        """`lags` has all assigned partitions. The series of others end."""
        now = time.time()
        self._since = {partition: self._first_seen(partition, lag, now) for partition, lag in lags.items()}
        LAG_MESSAGES.clear()
        LAG_SECONDS.clear()
        for partition, lag in lags.items():
            since = self._since[partition][1] if lag.oldest is None else lag.oldest
            LAG_MESSAGES.labels(*partition).set(lag.messages)
            LAG_SECONDS.labels(*partition).set(max(0.0, now - since) if lag.messages else 0)

    def _first_seen(self, partition: TopicPartition, lag: Lag, now: float) -> tuple[int, float]:
        former = self._since.get(partition)
        return former if former is not None and former[0] == lag.position else (lag.position, now)
