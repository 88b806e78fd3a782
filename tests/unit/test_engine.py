"""Lanes and the breaker, without Kafka and PostgreSQL."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from agents.engine.breaker import LEAST, Breaker, NearlyEverythingFails
from agents.engine.lanes import BATCH_LIMIT, Batch, Lanes
from tests.support.stack import eventually


@dataclass
class _Event:
    message: SimpleNamespace


def _event(offset: int, partition: int = 0) -> _Event:
    return _Event(SimpleNamespace(topic="t", partition=partition, offset=offset))


class _Bench:
    """Lanes whose work waits at a gate and remembers its batches."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.batches: list[list[int]] = []
        self.acknowledged: list[int] = []
        self.failures: list[BaseException] = []
        self.begun = asyncio.Event()
        self.lanes = Lanes(
            lambda _: self._work, lambda event: self.acknowledged.append(event.message.offset), self.failures.append
        )

    async def _work(self, batch: Batch) -> None:
        self.begun.set()
        await self.gate.wait()
        self.batches.append([event.message.offset for event in batch.drain()])


async def _settle(bench: _Bench, count: int) -> None:
    async def acknowledged() -> bool:
        return len(bench.acknowledged) == count

    await eventually(f"{count} acknowledged", acknowledged)


async def test_batches_grow_with_what_waits_and_are_acknowledged_in_order() -> None:
    bench = _Bench()
    for offset in range(BATCH_LIMIT + 7):
        await bench.lanes.put(_event(offset))
    bench.gate.set()
    await _settle(bench, BATCH_LIMIT + 7)
    assert [len(batch) for batch in bench.batches] == [BATCH_LIMIT, 7]
    assert bench.acknowledged == list(range(BATCH_LIMIT + 7))


async def test_a_lane_that_goes_drops_what_is_not_begun_and_ends_what_is() -> None:
    bench = _Bench()
    await bench.lanes.put(_event(1))
    await bench.begun.wait()
    await bench.lanes.put(_event(2))
    closing = asyncio.create_task(bench.lanes.drop([("t", 0)], patience=5))
    await asyncio.sleep(0)
    bench.gate.set()
    await closing
    assert bench.batches == [[1]]
    assert bench.acknowledged == [1]


async def test_what_ends_a_lane_is_told() -> None:
    failures: list[BaseException] = []

    async def fail(_: Batch) -> None:
        raise NearlyEverythingFails("no")

    acknowledged: list[object] = []
    lanes = Lanes(lambda _: fail, acknowledged.append, failures.append)
    await lanes.put(_event(1))

    async def failed() -> bool:
        return bool(failures)

    await eventually("the lane's failure", failed)
    assert isinstance(failures[0], NearlyEverythingFails)
    assert acknowledged == []


def test_the_breaker_opens_when_nearly_everything_fails() -> None:
    breaker = Breaker()
    breaker.note([True] * (LEAST - 1))
    with pytest.raises(NearlyEverythingFails):
        breaker.note([True])


def test_the_breaker_bears_some_failures() -> None:
    breaker = Breaker()
    for _ in range(20):
        breaker.note([True] * 80 + [False] * 20)
    with pytest.raises(NearlyEverythingFails):
        breaker.note([True] * 1_000)
