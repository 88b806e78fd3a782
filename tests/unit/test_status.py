"""The view of `visitor status`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from rich.console import Console
from rich.live import Live

from runtime import latencies, status
from runtime.latencies import Latency
from runtime.overview import (
    ChangeTopic,
    DatabaseOverview,
    DeadLetter,
    GroupLag,
    KafkaOverview,
    Overview,
    PartitionLag,
    Source,
    Unavailable,
    Worker,
    _KafkaSource,
    rates,
)
from storage.statistics import LockHolder, LockWait
from topics import names
from topics.observer import Reading
from topics.settings import KafkaSettings

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
REQUESTS = names.requests("visits")
KAFKA = KafkaOverview(
    groups=(GroupLag("visitor-worker.requests", "Stable", (PartitionLag(REQUESTS, 0, 1_200, 75.0),)),),
    workers=(Worker("visitor-worker-a-1", "10.0.0.1", {REQUESTS: (0, 1, 2, 5)}),),
    ends={REQUESTS: 100},
    latencies={REQUESTS: Latency(10, 0.012, 1.5)},
    missing_topics=(),
    dead_letters=(DeadLetter("3:17", NOW, "not_json", REQUESTS, "visits.create", "gateway/[a]"),),
    unread_dead_letters=(),
)
DATABASE = DatabaseOverview("0021", 1_000_000, 0, 10, (), (), ())


def _shown(kafka: KafkaOverview | Unavailable = KAFKA, database: DatabaseOverview | Unavailable = DATABASE) -> str:
    """The text of the view, two seconds and 30 requests after another one."""
    earlier = replace(kafka, ends={REQUESTS: 70}) if isinstance(kafka, KafkaOverview) else kafka
    before, after = Overview(NOW, earlier, database), Overview(NOW + timedelta(seconds=2), kafka, database)
    console = Console(width=120, record=True, file=StringIO())
    console.print(status.view(before, after))
    return console.export_text()


def _row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(f"{name} "))


def test_a_family_has_its_rate_latency_and_lag() -> None:
    assert _row(_shown(), "visits") == ["visits", "15.0", "-", "12", "ms", "1.5", "s", "1,200", "75.0", "s"]
    assert _row(_shown(), "reads") == ["reads", "-", "-", "-", "-", "0", "-"]


def test_a_worker_has_its_partitions_as_ranges() -> None:
    assert _row(_shown(), "a-1") == ["a-1", "10.0.0.1", "0-2,", "5", "of", "1", "topics"]
    different = Worker("visitor-worker-a-1", "10.0.0.1", {REQUESTS: (0, 1), names.QUERIES: (2,)})
    assert "0-1 of visits; 2 of queries" in _shown(replace(KAFKA, workers=(different,)))


@pytest.mark.parametrize(
    ("kafka", "text"),
    [
        (replace(KAFKA, missing_topics=(REQUESTS,)), f"Topics are missing, run `visitor topics`: {REQUESTS}"),
        (replace(KAFKA, groups=(GroupLag("group", "Empty", ()),)), "No worker runs: the consumer group group has no"),
        (replace(KAFKA, groups=(GroupLag("group", "PreparingRebalance", ()),)), "is rebalancing (PreparingRebalance)"),
        (replace(KAFKA, dead_letters=()), "no dead letters"),
        (replace(KAFKA, dead_letters=(), unread_dead_letters=(1, 2, 4)), "partitions 1-2, 4 could not be read"),
        (Unavailable("no answer within 5 s"), "Kafka is unavailable: no answer within 5 s"),
    ],
)
def test_what_is_wrong_with_kafka_is_said(kafka: KafkaOverview | Unavailable, text: str) -> None:
    assert text not in _shown()
    assert text in _shown(kafka)


@pytest.mark.parametrize(
    ("database", "text"),
    [
        (
            replace(DATABASE, outbox_rows=5, change_topics=(ChangeTopic("changes", 5, 12.3, "owner", 99.0),)),
            "changes: 5 changes wait, the oldest for 12 s; last published 99 s ago",
        ),
        (
            replace(DATABASE, lock_waits=(LockWait(1, 2, 3.25, "psql", "idle in transaction", "visitor"),)),
            "session 1 (visitor) waits 3.2 s for a lock of session 2 (psql, idle in transaction)",
        ),
        (
            replace(
                DATABASE, lock_holders=(LockHolder(2, 61.4, "psql", "idle in transaction", ["visitors", "visits"]),)
            ),
            "session 2 (psql, idle in transaction) holds locks on visitors, visits for 61 s",
        ),
        (Unavailable("run `visitor migrate`"), "PostgreSQL is unavailable: run `visitor migrate`"),
    ],
)
def test_what_is_wrong_with_postgresql_is_said(database: DatabaseOverview | Unavailable, text: str) -> None:
    assert text not in _shown()
    assert text in _shown(database=database)


class _Source(Source):
    """Has two overviews, then fails."""

    def __init__(self) -> None:
        later = replace(KAFKA, ends={REQUESTS: 130})
        self._overviews = [Overview(NOW, KAFKA, DATABASE), Overview(NOW + timedelta(seconds=2), later, DATABASE)]

    async def read(self) -> Overview:
        return self._overviews.pop(0)


async def test_the_live_view_keeps_its_rates_until_the_next_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "INTERVAL_SECONDS", 0)
    console = Console(width=120, record=True, file=StringIO())
    live = Live(console=console, auto_refresh=False)
    with pytest.raises(IndexError):
        await status.follow(_Source(), live)
    console.print(live.renderable)
    assert "15.0" in _row(console.export_text(), "visits")


class _SlowThenQuick:
    """An observer that cannot read the dead letters at first."""

    def __init__(self) -> None:
        letter = SimpleNamespace(
            partition=0, offset=4, timestamp=0, key=None, value=b"", headers=[("error-reason", b"not_json")]
        )
        self._readings = [Reading([], [TopicPartition(names.DEAD_LETTERS, 0)]), Reading([letter], [])]

    async def records(self, *_: Any) -> Reading:
        return self._readings.pop(0)


async def test_dead_letters_that_could_not_be_read_are_read_again() -> None:
    source: Any = _KafkaSource(KafkaSettings(), "visitor-worker")
    observer, partition = _SlowThenQuick(), TopicPartition(names.DEAD_LETTERS, 0)
    assert await source._newest_dead_letters(observer, {partition: 0}, {partition: 5}) == ((), (0,))
    for _ in range(2):
        newest, unread = await source._newest_dead_letters(observer, {partition: 0}, {partition: 5})
        assert ([letter.id for letter in newest], unread) == (["0:4"], ())


def test_texts_of_senders_are_no_markup() -> None:
    assert "gateway/[a]" in _shown()


@dataclass
class _Record:
    timestamp: int
    headers: Sequence[tuple[str, bytes]]


def test_a_latency_is_the_time_between_a_request_and_its_own_result() -> None:
    requests = [
        _Record(1_000, [("ce_id", b"1"), ("ce_source", b"a")]),
        _Record(5_000, [("ce_id", b"1"), ("ce_source", b"b")]),
        _Record(6_000, []),
    ]
    results = [
        _Record(1_500, [("ce_id", b"1"), ("ce_requestsource", b"a")]),
        _Record(9_000, [("ce_id", b"2"), ("ce_requestsource", b"a")]),
        _Record(9_000, []),
    ]
    assert latencies.of(requests, results) == Latency(1, 0.5, 0.5)
    assert latencies.of(requests, []) is None


def test_rates_of_a_topic_that_was_created_again_are_zero() -> None:
    before = Overview(NOW, KAFKA, DATABASE)
    after = Overview(NOW + timedelta(seconds=2), replace(KAFKA, ends={REQUESTS: 10, "new": 5}), DATABASE)
    assert rates(before, after).topics == {REQUESTS: 0.0}
