"""How long requests waited for their results, from the timestamps of the newest records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from aiokafka import TopicPartition

from topics.observer import Observer

RESULTS = 50
"""How many results per partition are compared: the newest."""
REQUESTS = 1_000
"""How many requests per partition are read at most, to find those of the results."""


@dataclass(frozen=True)
class Latency:
    """Seconds from the moment when the broker stored a request until it stored the result. Of `count` requests."""

    count: int
    median: float
    p95: float


@dataclass(frozen=True)
class Offsets:
    """The end offsets of all partitions, and where the consumer groups begin to read those of requests."""

    ends: Mapping[TopicPartition, int]
    starts: Mapping[TopicPartition, int]


async def measure(observer: Observer, before: Offsets, after: Offsets, requests: str, results: str) -> Latency | None:
    """The latency of requests that were answered between two moments. None if there are none, or if none of them can be
    matched: that takes the header ce_id in both records. Raises KafkaError."""
    results_from = {
        partition: max(before.ends[partition], end - RESULTS)
        for partition, end in after.ends.items()
        if partition.topic == results and end > before.ends.get(partition, end)
    }
    if not results_from:
        return None
    requests_from = {
        partition: start
        for partition, start in before.starts.items()
        if partition.topic == requests and after.ends.get(partition, 0) > start
    }
    answers, _ = await observer.records(results_from, after.ends, RESULTS)
    asked, _ = await observer.records(requests_from, after.ends, REQUESTS)
    return of(asked, answers)


def of(requests: Iterable[Any], results: Iterable[Any]) -> Latency | None:
    """The latency of the requests that have a result. Both are records of aiokafka."""
    asked = {_identity(record, "ce_source"): record.timestamp for record in requests}
    identities = ((_identity(record, "ce_requestsource"), record.timestamp) for record in results)
    seconds = [max(0, time - asked[identity]) / 1000 for identity, time in identities if identity in asked]
    return _summary(seconds) if seconds else None


def _summary(seconds: Sequence[float]) -> Latency:
    if len(seconds) == 1:
        return Latency(1, seconds[0], seconds[0])
    percentiles = quantiles(seconds, n=100, method="inclusive")
    return Latency(len(seconds), percentiles[49], percentiles[94])


def _identity(record: Any, source_header: str) -> tuple[bytes, bytes]:
    headers = dict(record.headers)
    # A record without an id equals none of the other topic.
    return headers.get("ce_id") or source_header.encode(), headers.get(source_header) or b""
