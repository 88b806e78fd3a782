"""Lanes, retries and the circuit breaker, without Kafka and PostgreSQL."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from agents.engine.breaker import LEAST, Breaker, NearlyEverythingFails
from agents.engine.lanes import BATCH_LIMIT, EVENT_BYTES, LANE_LIMIT, Batch, Event, Lanes, TopicPartition
from agents.engine.retry import until_done
from agents.engine.telemetry import Readiness
from tests.support.stack import eventually
from topics.kafka import DeliveryError
from topics.supervision import TaskEnded


@dataclass
class _Event:
    message: SimpleNamespace

    def ack(self) -> None:
        raise AssertionError("a lane acknowledges through its source")


class _Source:
    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.calls: list[tuple[str, TopicPartition]] = []

    def acknowledge(self, event: Event) -> None:
        self.acknowledged.append(event.message.offset)

    def pause(self, topic_partition: TopicPartition) -> None:
        self.calls.append(("pause", topic_partition))

    def resume(self, topic_partition: TopicPartition) -> None:
        self.calls.append(("resume", topic_partition))


def _event(offset: int, partition: int = 0) -> _Event:
    return _Event(SimpleNamespace(topic="t", partition=partition, offset=offset, key=None, value=None, headers=()))


class _LanesUnderTest:
    """Lanes whose batches wait for `gate`. Each batch applies at most `applied_limit` events."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.applied_limit = BATCH_LIMIT
        self.batches: list[list[int]] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.started = asyncio.Event()
        self.source = _Source()
        self.lanes = Lanes(self._work, self.source, lambda *failure: self.failures.append(failure))

    @property
    def acknowledged(self) -> list[int]:
        return self.source.acknowledged

    async def _work(self, batch: Batch) -> None:
        self.started.set()
        await self.gate.wait()
        await batch.drain()
        batch.requeue_from(self.applied_limit)
        self.batches.append([event.message.offset for event in batch.events])


async def _wait_until_acknowledged(under_test: _LanesUnderTest, count: int) -> None:
    async def acknowledged() -> bool:
        return len(under_test.acknowledged) == count

    await eventually(f"{count} acknowledged", acknowledged)


async def test_a_batch_has_all_waiting_events_up_to_the_limit_and_is_acknowledged_in_order() -> None:
    under_test = _LanesUnderTest()
    for offset in range(BATCH_LIMIT + 7):
        under_test.lanes.put(_event(offset))
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, BATCH_LIMIT + 7)
    assert [len(batch) for batch in under_test.batches] == [BATCH_LIMIT, 7]
    assert under_test.acknowledged == list(range(BATCH_LIMIT + 7))


async def test_the_partition_of_a_full_lane_is_paused_until_the_lane_is_half_empty() -> None:
    under_test = _LanesUnderTest()
    capacity = LANE_LIMIT // EVENT_BYTES
    for offset in range(capacity + 1):
        under_test.lanes.put(_event(offset))
    under_test.lanes.put(_event(0, partition=1))
    assert under_test.source.calls == [("pause", ("t", 0))]
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, capacity + 2)
    assert under_test.source.calls == [("pause", ("t", 0)), ("resume", ("t", 0))]


async def test_a_revoked_lane_finishes_its_running_batch_and_drops_waiting_events() -> None:
    under_test = _LanesUnderTest()
    under_test.lanes.put(_event(1))
    await under_test.started.wait()
    under_test.lanes.put(_event(2))
    closing = asyncio.create_task(under_test.lanes.drop([("t", 0)], patience=5))
    await asyncio.sleep(0)
    under_test.gate.set()
    await closing
    assert under_test.batches == [[1]]
    assert under_test.acknowledged == [1]


async def test_requeued_events_come_first_in_the_next_batch() -> None:
    under_test = _LanesUnderTest()
    under_test.applied_limit = 2
    for offset in range(5):
        under_test.lanes.put(_event(offset))
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, 5)
    assert under_test.batches == [[0, 1], [2, 3], [4]]
    assert under_test.acknowledged == [0, 1, 2, 3, 4]
    assert not under_test.lanes.has_work(("t", 0))


async def test_a_worker_is_ready_again_after_a_retried_task_is_cancelled() -> None:
    readiness = Readiness()
    retried = asyncio.Event()

    async def fail() -> None:
        if readiness.reasons:
            retried.set()
        raise DeliveryError("no broker")

    retrying = asyncio.create_task(until_done("lane", readiness, fail))
    await retried.wait()
    assert readiness.reasons == {"lane": "DeliveryError"}
    retrying.cancel()
    await asyncio.gather(retrying, return_exceptions=True)
    assert readiness.reasons == {}


async def test_work_that_a_library_cancels_by_mistake_is_retried() -> None:
    attempts = 0

    async def attempt() -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise asyncio.CancelledError
        return attempts

    assert await until_done("lane", Readiness(), attempt) == 2


@pytest.mark.parametrize(
    ("error", "reported"), [(NearlyEverythingFails("no"), NearlyEverythingFails), (asyncio.CancelledError(), TaskEnded)]
)
async def test_an_error_that_ends_a_lane_is_reported(error: BaseException, reported: type[Exception]) -> None:
    failures: list[tuple[str, BaseException]] = []

    async def fail(_: Batch) -> None:
        raise error

    source = _Source()
    lanes = Lanes(fail, source, lambda *failure: failures.append(failure))
    lanes.put(_event(1))

    async def failed() -> bool:
        return bool(failures)

    await eventually("the lane's failure", failed)
    assert [(name, type(why)) for name, why in failures] == [("lane t:0", reported)]
    assert source.acknowledged == []


def test_the_breaker_opens_if_nearly_all_requests_fail() -> None:
    breaker = Breaker(0.9)
    breaker.note([True] * (LEAST - 1))
    with pytest.raises(NearlyEverythingFails):
        breaker.note([True])


def test_the_breaker_stays_closed_if_some_requests_fail() -> None:
    breaker = Breaker(0.9)
    for _ in range(20):
        breaker.note([True] * 80 + [False] * 20)
    with pytest.raises(NearlyEverythingFails):
        breaker.note([True] * 1_000)


def test_a_breaker_with_a_limit_of_1_never_opens() -> None:
    Breaker(1).note([True] * 2_000)
