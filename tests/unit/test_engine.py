"""Lanes and the breaker, without Kafka and PostgreSQL."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from agents.engine.breaker import LEAST, Breaker, NearlyEverythingFails
from agents.engine.lanes import BATCH_LIMIT, EVENT_BYTES, FULL, Batch, Event, Lanes, TopicPartition
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
        self.asked: list[tuple[str, TopicPartition]] = []

    def acknowledge(self, event: Event) -> None:
        self.acknowledged.append(event.message.offset)

    def pause(self, place: TopicPartition) -> None:
        self.asked.append(("hold back", place))

    def resume(self, place: TopicPartition) -> None:
        self.asked.append(("go on", place))


def _event(offset: int, partition: int = 0) -> _Event:
    return _Event(SimpleNamespace(topic="t", partition=partition, offset=offset, key=None, value=None, headers=()))


class _Bench:
    """Lanes whose work waits at a gate and remembers its batches."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.most = BATCH_LIMIT
        self.batches: list[list[int]] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.begun = asyncio.Event()
        self.source = _Source()
        self.lanes = Lanes(self._work, self.source, lambda *failure: self.failures.append(failure))

    @property
    def acknowledged(self) -> list[int]:
        return self.source.acknowledged

    async def _work(self, batch: Batch) -> None:
        self.begun.set()
        await self.gate.wait()
        await batch.drain()
        batch.requeue_from(self.most)
        self.batches.append([event.message.offset for event in batch.events])


async def _settle(bench: _Bench, count: int) -> None:
    async def acknowledged() -> bool:
        return len(bench.acknowledged) == count

    await eventually(f"{count} acknowledged", acknowledged)


async def test_batches_grow_with_what_waits_and_are_acknowledged_in_order() -> None:
    bench = _Bench()
    for offset in range(BATCH_LIMIT + 7):
        bench.lanes.put(_event(offset))
    bench.gate.set()
    await _settle(bench, BATCH_LIMIT + 7)
    assert [len(batch) for batch in bench.batches] == [BATCH_LIMIT, 7]
    assert bench.acknowledged == list(range(BATCH_LIMIT + 7))


async def test_a_full_lane_has_its_partition_held_back_until_half_of_it_is_done() -> None:
    bench = _Bench()
    events = FULL // EVENT_BYTES
    for offset in range(events + 1):
        bench.lanes.put(_event(offset))
    bench.lanes.put(_event(0, partition=1))
    assert bench.source.asked == [("hold back", ("t", 0))]
    bench.gate.set()
    await _settle(bench, events + 2)
    assert bench.source.asked == [("hold back", ("t", 0)), ("go on", ("t", 0))]


async def test_a_lane_that_goes_drops_what_is_not_begun_and_ends_what_is() -> None:
    bench = _Bench()
    bench.lanes.put(_event(1))
    await bench.begun.wait()
    bench.lanes.put(_event(2))
    closing = asyncio.create_task(bench.lanes.drop([("t", 0)], patience=5))
    await asyncio.sleep(0)
    bench.gate.set()
    await closing
    assert bench.batches == [[1]]
    assert bench.acknowledged == [1]


async def test_what_a_batch_leaves_comes_first_in_the_next_one() -> None:
    bench = _Bench()
    bench.most = 2
    for offset in range(5):
        bench.lanes.put(_event(offset))
    bench.gate.set()
    await _settle(bench, 5)
    assert bench.batches == [[0, 1], [2, 3], [4]]
    assert bench.acknowledged == [0, 1, 2, 3, 4]
    assert not bench.lanes.holds(("t", 0))


async def test_a_part_that_is_given_up_leaves_nobody_not_ready() -> None:
    readiness = Readiness()
    again = asyncio.Event()

    async def fail() -> None:
        if readiness.reasons:
            again.set()
        raise DeliveryError("away")

    retrying = asyncio.create_task(until_done("lane", readiness, fail))
    await again.wait()
    assert readiness.reasons == {"lane": "DeliveryError"}
    retrying.cancel()
    await asyncio.gather(retrying, return_exceptions=True)
    assert readiness.reasons == {}


async def test_work_that_a_library_cancels_by_mistake_is_attempted_again() -> None:
    attempts = 0

    async def attempt() -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise asyncio.CancelledError
        return attempts

    assert await until_done("lane", Readiness(), attempt) == 2


@pytest.mark.parametrize(
    ("error", "told"), [(NearlyEverythingFails("no"), NearlyEverythingFails), (asyncio.CancelledError(), TaskEnded)]
)
async def test_what_ends_a_lane_is_told(error: BaseException, told: type[Exception]) -> None:
    failures: list[tuple[str, BaseException]] = []

    async def fail(_: Batch) -> None:
        raise error

    source = _Source()
    lanes = Lanes(fail, source, lambda *failure: failures.append(failure))
    lanes.put(_event(1))

    async def failed() -> bool:
        return bool(failures)

    await eventually("the lane's failure", failed)
    assert [(name, type(why)) for name, why in failures] == [("lane t:0", told)]
    assert source.acknowledged == []


def test_the_breaker_opens_when_nearly_everything_fails() -> None:
    breaker = Breaker(0.9)
    breaker.note([True] * (LEAST - 1))
    with pytest.raises(NearlyEverythingFails):
        breaker.note([True])


def test_the_breaker_bears_some_failures() -> None:
    breaker = Breaker(0.9)
    for _ in range(20):
        breaker.note([True] * 80 + [False] * 20)
    with pytest.raises(NearlyEverythingFails):
        breaker.note([True] * 1_000)


def test_a_limit_of_1_lets_everything_pass() -> None:
    Breaker(1).note([True] * 2_000)
