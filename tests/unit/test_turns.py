"""Turns of the event loop: writes wait for reads, but not for long."""

import asyncio
import time

import pytest

from agents.engine import turns
from agents.engine.turns import BATCH_LIMIT, BATCH_LIMIT_BESIDE_READS, FIRST_SECONDS, ITEMS, SHARE, ReadsFirst, in_turns


async def test_a_write_waits_until_all_reads_are_answered() -> None:
    reads_first, order = ReadsFirst(), []

    async def read(name: str) -> None:
        with reads_first.reading():
            for _ in range(10):
                await asyncio.sleep(0)
            order.append(name)

    reads = [asyncio.create_task(read(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    await reads_first.give_way()
    order.append("write")
    await asyncio.gather(*reads)
    assert order == ["first", "second", "write"]


@pytest.mark.timeout(30)
async def test_a_write_does_not_wait_for_the_end_of_a_slow_read() -> None:
    reads_first = ReadsFirst()
    with reads_first.reading():
        await reads_first.give_way()


class _Clock:
    """In place of the module `time`."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    stopped_clock = _Clock()
    monkeypatch.setattr(turns, "time", stopped_clock)
    return stopped_clock


async def test_a_write_waits_for_the_first_part_of_a_read_only(clock: _Clock) -> None:
    reads_first = ReadsFirst()
    with reads_first.reading():
        clock.now += FIRST_SECONDS + 0.001
        write = asyncio.create_task(reads_first.give_way())
        for _ in range(3):
            await asyncio.sleep(0)
        assert write.done()


@pytest.mark.parametrize("writers", [1, 3])
async def test_reads_that_never_end_take_a_bounded_share_of_the_time(writers: int) -> None:
    reads_first, started_at, waiting = ReadsFirst(), time.monotonic(), 0
    waited, since = 0.0, started_at

    async def write() -> None:
        nonlocal waiting, waited, since
        while time.monotonic() < started_at + 1.5:
            await asyncio.sleep(0.001)
            since = since if waiting else time.monotonic()
            waiting += 1
            with reads_first.reading():  # A new read goes first each time.
                await reads_first.give_way()
            waiting -= 1
            waited += 0 if waiting else time.monotonic() - since

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    seconds = time.monotonic() - started_at  # The last wait may have ended late.
    assert 0.4 < waited / seconds < SHARE / (SHARE + 1) + 0.1


def test_batches_are_smaller_within_a_second_after_a_read(clock: _Clock) -> None:
    reads_first = ReadsFirst()
    assert reads_first.batch_limit() == BATCH_LIMIT
    with reads_first.reading():
        assert reads_first.batch_limit() == BATCH_LIMIT_BESIDE_READS
    clock.now += 0.9
    assert reads_first.batch_limit() == BATCH_LIMIT_BESIDE_READS
    clock.now += 0.2
    assert reads_first.batch_limit() == BATCH_LIMIT


async def test_long_work_pauses_after_every_few_items() -> None:
    pauses = []

    async def pause() -> None:
        pauses.append(len(items))

    items: list[int] = []
    async for item in in_turns(range(2 * ITEMS + 1), pause):
        items.append(item)
    assert pauses == [ITEMS, 2 * ITEMS]
    assert items == list(range(2 * ITEMS + 1))
