"""Batches, retries and floods, without Kafka and PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace

import pytest
import pytest_asyncio

from agents.engine.batches import Batch, Batches
from agents.engine.breaker import NearlyEverythingFails
from agents.engine.floods import FLOOD, LONGEST_PAUSE, WINDOW, FloodDetector
from agents.engine.lanes import BLOCKED_LIMIT, EVENT_BYTES, LANE_LIMIT, LANES_LIMIT, Event, OrderKey, TopicPartition
from agents.engine.readiness import Readiness
from agents.engine.retry import until_done
from agents.engine.turns import BATCH_LIMIT
from telemetry.metrics import WORKER
from tests.support.stack import eventually
from topics.kafka import DeliveryError
from topics.supervision import TaskEnded


@dataclass
class _Event:
    message: SimpleNamespace

    def ack(self) -> None:
        raise AssertionError("a lane acknowledges through its source")


class _Source:
    is_delivering = False

    def __init__(self) -> None:
        self.acknowledged: list[tuple[int, int]] = []
        self.calls: list[tuple[str, TopicPartition]] = []

    def acknowledge(self, event: Event) -> None:
        self.acknowledged.append(_position(event))

    def pause(self, topic_partition: TopicPartition) -> None:
        self.calls.append(("pause", topic_partition))

    def resume(self, topic_partition: TopicPartition) -> None:
        self.calls.append(("resume", topic_partition))


def _event(offset: int, partition: int = 0, key: bytes = b"k", generation: int = 1) -> _Event:
    content = {"key": key, "value": None, "headers": ()}
    return _Event(SimpleNamespace(topic="t", partition=partition, offset=offset, generation_id=generation, **content))


def _position(event: Event) -> tuple[int, int]:
    return event.message.partition, event.message.offset


class _BatchesUnderTest:
    """Batches that wait for `gate`. Each applies at most `applied_limit` events."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.applied_limit = BATCH_LIMIT
        self.batches: list[list[tuple[int, int]]] = []
        """The partition and the offset of each event."""
        self.parked_keys: set[OrderKey] = set()
        """Of the last batch, when it was let through `gate`."""
        self.failing: set[tuple[int, int]] = set()
        """Batches with one of these events fail."""
        self.locked: set[bytes] = set()
        """Requests with these record keys wait for a lock."""
        self.slow: set[bytes] = set()
        """Requests with these record keys take too long, until their batch has had `slow_attempts` such attempts."""
        self.slow_attempts = 3
        self.failures: list[tuple[str, BaseException]] = []
        self.started = asyncio.Event()
        self.source = _Source()
        self.readiness = Readiness()
        self.tested = Batches(
            self._work,
            self.source,
            self.readiness,
            lambda *failure: self.failures.append(failure),
            tasks=2,
            shared=True,
            limit=lambda: BATCH_LIMIT,
        )

    @property
    def acknowledged(self) -> list[tuple[int, int]]:
        return self.source.acknowledged

    def put(self, offset: int, partition: int = 0, key: bytes = b"k") -> None:
        self.tested.put(_event(offset, partition, key))

    async def _work(self, batch: Batch) -> None:
        positions = [_position(delivery.event) for delivery in batch.deliveries]
        self.batches.append(positions)
        self.started.set()
        await self.gate.wait()
        self.parked_keys = batch.parked_keys
        if self.failing & set(positions):
            raise DeliveryError("no broker")
        if (
            self.slow & {delivery.record.key for delivery in batch.deliveries}
            and batch.slow_attempts < self.slow_attempts
        ):
            raise TimeoutError
        blocked = {
            delivery: (*delivery.lane.topic_partition, delivery.record.key)
            for delivery in batch.deliveries
            if delivery.record.key in self.locked
        }
        batch.park(list(blocked.items()))
        batch.conclude([delivery for delivery in batch.deliveries if delivery not in blocked][: self.applied_limit])


@pytest_asyncio.fixture
async def under_test() -> AsyncIterator[_BatchesUnderTest]:
    fresh = _BatchesUnderTest()
    yield fresh
    await fresh.tested.close(0)
    assert fresh.failures == []


async def _wait_until_acknowledged(under_test: _BatchesUnderTest, *positions: tuple[int, int]) -> None:
    """Wait until these are the last acknowledged events of their partitions."""

    async def acknowledged() -> bool:
        return dict(under_test.acknowledged) == dict(positions)

    await eventually(f"{positions} acknowledged", acknowledged)


@pytest.mark.parametrize("ends_by", ["a revoked partition", "a new generation"])
async def test_a_lane_that_ends_lets_no_later_request_of_a_parked_key_be_applied_first(
    under_test: _BatchesUnderTest, ends_by: str
) -> None:
    """The batch that has the later request is being processed when the lane ends."""
    under_test.locked = {b"a"}
    under_test.gate.set()
    under_test.put(0, key=b"a")

    async def parked() -> bool:
        return len(under_test.batches) > 1  # It is tried again, so it is parked.

    await eventually("a parked request", parked)
    under_test.gate.clear()
    seen = len(under_test.batches)
    under_test.put(1, key=b"a")

    async def is_in_a_batch() -> bool:
        return [(0, 1)] in under_test.batches[seen:]

    await eventually("a batch with the later request", is_in_a_batch)
    if ends_by == "a revoked partition":
        dropping = asyncio.create_task(under_test.tested.drop([("t", 0)], 5))
    else:
        dropping = asyncio.create_task(asyncio.sleep(0))
        under_test.tested.put(_event(0, key=b"a", generation=2))
    await asyncio.sleep(0)
    under_test.gate.set()
    await dropping
    assert under_test.parked_keys == {("t", 0, b"a")}
    under_test.locked = set()


async def test_a_batch_has_the_waiting_events_of_all_lanes_in_order(under_test: _BatchesUnderTest) -> None:
    for offset in range(3):
        for partition in range(2):
            under_test.put(offset, partition)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, 2), (1, 2))
    assert under_test.batches == [[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]]


async def test_a_batch_has_a_limit_and_another_task_takes_the_lanes_that_it_leaves(
    under_test: _BatchesUnderTest,
) -> None:
    for offset in range(BATCH_LIMIT + 7):
        under_test.put(offset)
    for offset in range(5):
        under_test.put(offset, partition=1)

    async def two_batches() -> bool:
        return len(under_test.batches) == 2

    await eventually("two batches", two_batches)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, BATCH_LIMIT + 6), (1, 4))
    assert [len(batch) for batch in under_test.batches] == [BATCH_LIMIT, 5, 7]


async def test_no_two_batches_have_events_of_the_same_partition(under_test: _BatchesUnderTest) -> None:
    under_test.put(0)
    await under_test.started.wait()
    for offset in (1, 2):
        under_test.put(offset)
    under_test.put(0, partition=1)

    async def two_batches() -> bool:
        return len(under_test.batches) == 2

    await eventually("two batches", two_batches)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, 2), (1, 0))
    assert under_test.batches == [[(0, 0)], [(1, 0)], [(0, 1), (0, 2)]]


async def test_the_events_that_arrive_during_a_short_batch_share_the_next_one(under_test: _BatchesUnderTest) -> None:
    under_test.put(0)
    await under_test.started.wait()
    under_test.put(0, partition=1)
    await asyncio.sleep(0)
    under_test.put(0, partition=2)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, 0), (1, 0), (2, 0))
    assert under_test.batches == [[(0, 0)], [(1, 0), (2, 0)]]


async def test_the_partition_of_a_full_lane_is_paused_until_the_lane_is_half_empty(
    under_test: _BatchesUnderTest,
) -> None:
    capacity = LANE_LIMIT // (EVENT_BYTES + 1)
    for offset in range(capacity + 1):
        under_test.put(offset)
    under_test.put(0, partition=1)
    assert under_test.source.calls == [("pause", ("t", 0))]
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, capacity), (1, 0))
    assert under_test.source.calls == [("pause", ("t", 0)), ("resume", ("t", 0))]


async def test_many_lanes_share_the_memory_of_a_few(under_test: _BatchesUnderTest) -> None:
    lanes = 4 * LANES_LIMIT // LANE_LIMIT
    size = 0
    for offset in range(2 * LANE_LIMIT // EVENT_BYTES):
        for partition in range(lanes):
            if ("pause", ("t", partition)) not in under_test.source.calls:
                under_test.put(offset, partition)
                size += EVENT_BYTES
    assert len(under_test.source.calls) == lanes
    assert LANES_LIMIT / 2 < size < 1.5 * LANES_LIMIT


async def _keep_arriving(under_test: _BatchesUnderTest, partition: int) -> None:
    for offset in count(1):
        under_test.put(offset, partition=partition)
        await asyncio.sleep(0)


async def test_a_lane_may_be_revoked_while_a_batch_collects_its_events(under_test: _BatchesUnderTest) -> None:
    under_test.source.is_delivering = True
    under_test.gate.set()
    arriving = asyncio.create_task(_keep_arriving(under_test, partition=0))
    await asyncio.sleep(0.01)
    await under_test.tested.drop([("t", 0)], patience=5)
    arriving.cancel()
    await asyncio.gather(arriving, return_exceptions=True)
    under_test.source.is_delivering = False
    under_test.put(0, partition=1)

    async def goes_on() -> bool:
        return (1, 0) in under_test.acknowledged or bool(under_test.failures)

    await eventually("the next batch", goes_on, 10)
    assert under_test.failures == []


async def test_events_of_a_new_generation_do_not_follow_those_of_an_old_one(under_test: _BatchesUnderTest) -> None:
    under_test.put(1)
    await under_test.started.wait()
    for offset in (2, 3):
        under_test.put(offset)
    under_test.tested.put(_event(1, generation=2))
    under_test.gate.set()
    await eventually("both batches", lambda: _has_batches(under_test, 2))
    assert under_test.batches == [[(0, 1)], [(0, 1)]]


async def test_a_partition_that_a_full_lane_has_paused_resumes_in_a_new_generation(
    under_test: _BatchesUnderTest,
) -> None:
    for offset in range(1, LANE_LIMIT // EVENT_BYTES + 2):
        under_test.put(offset)
    assert under_test.source.calls[-1][0] == "pause"
    under_test.tested.put(_event(1, generation=2))
    assert under_test.source.calls[-1] == ("resume", ("t", 0))


async def _has_batches(under_test: _BatchesUnderTest, count: int) -> bool:
    return len(under_test.batches) == count


async def test_a_revoked_lane_finishes_its_running_batch_and_drops_waiting_events(
    under_test: _BatchesUnderTest,
) -> None:
    under_test.put(1)
    await under_test.started.wait()
    under_test.put(2)
    closing = asyncio.create_task(under_test.tested.drop([("t", 0)], patience=5))
    await asyncio.sleep(0)
    under_test.gate.set()
    await closing
    assert under_test.batches == [[(0, 1)]]
    assert under_test.acknowledged == [(0, 1)]


async def test_events_that_a_batch_leaves_come_first_in_the_next_batch(under_test: _BatchesUnderTest) -> None:
    under_test.applied_limit = 2
    for offset in range(5):
        under_test.put(offset)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, 4))
    assert under_test.batches == [[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)], [(0, 2), (0, 3), (0, 4)], [(0, 4)]]
    assert not under_test.tested.has_work(("t", 0))


async def test_a_batch_that_fails_is_split_and_only_the_failing_partition_is_retried(
    under_test: _BatchesUnderTest,
) -> None:
    under_test.failing = {(1, 0)}
    for partition in range(3):
        under_test.put(0, partition)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, 0), (2, 0))

    async def not_ready() -> bool:
        return under_test.readiness.reasons == {"t:1": "DeliveryError"}

    await eventually("the failing partition is not ready", not_ready)
    assert under_test.batches[0] == [(0, 0), (1, 0), (2, 0)]
    assert all(len(batch) == 1 for batch in under_test.batches[1:])
    under_test.failing = set()
    await _wait_until_acknowledged(under_test, (0, 0), (1, 0), (2, 0))
    assert under_test.readiness.reasons == {}


async def test_a_batch_does_not_wait_while_events_arrive_in_lanes_that_it_cannot_take(
    under_test: _BatchesUnderTest,
) -> None:
    under_test.put(0, partition=1)
    await under_test.started.wait()  # From here on, partition 1 is busy.

    arriving = asyncio.create_task(_keep_arriving(under_test, partition=1))
    under_test.put(0)

    async def two_batches() -> bool:
        return len(under_test.batches) == 2

    await eventually("a batch of the free partition", two_batches, 10)
    arriving.cancel()
    under_test.gate.set()
    assert under_test.batches[1] == [(0, 0)]


async def test_others_pass_requests_that_wait_for_a_lock_and_are_acknowledged_after_them(
    under_test: _BatchesUnderTest,
) -> None:
    under_test.locked = {b"a"}
    under_test.gate.set()
    for offset, key in enumerate((b"b", b"a", b"b", b"a", b"b")):
        under_test.put(offset, key=key)

    async def waits_for_lock() -> bool:
        return "wait for locks" in under_test.readiness.reasons.get("t:0", "")

    await eventually("the partition is not ready", waits_for_lock)
    assert under_test.acknowledged == [(0, 0)]
    under_test.put(5, key=b"b")
    under_test.locked = set()
    await _wait_until_acknowledged(under_test, (0, 5))
    assert [(0, 1), (0, 3)] in under_test.batches
    assert under_test.readiness.reasons == {}


async def test_a_parked_request_that_is_too_slow_at_each_attempt_does_not_wait_for_ever(
    under_test: _BatchesUnderTest,
) -> None:
    under_test.locked = {b"a"}
    under_test.gate.set()
    under_test.put(0, key=b"a")

    async def is_parked() -> bool:
        return "wait for locks" in under_test.readiness.reasons.get("t:0", "")

    await eventually("the request is parked", is_parked)
    under_test.slow, under_test.locked = {b"a"}, set()
    await _wait_until_acknowledged(under_test, (0, 0))
    assert under_test.readiness.reasons == {}


async def test_the_duration_of_a_batch_is_its_own_while_parked_requests_are_tried_again(
    under_test: _BatchesUnderTest,
) -> None:
    def duration() -> float:
        return WORKER.get_sample_value("visitor_batch_seconds_sum", {"topic": "t"}) or 0.0

    async def has(*batch: tuple[int, int], times: int) -> bool:
        return under_test.batches.count(list(batch)) >= times

    under_test.locked = {b"a"}
    under_test.gate.set()
    under_test.put(0, key=b"a")
    await eventually("an attempt for a parked request", lambda: has((0, 0), times=2))

    under_test.gate.clear()
    before, attempts = duration(), under_test.batches.count([(0, 0)])
    under_test.put(1, key=b"b")
    await eventually("a batch with another request", lambda: has((0, 1), times=1))
    started_at = time.monotonic()
    await eventually("an attempt for the parked request meanwhile", lambda: has((0, 0), times=attempts + 1))
    seconds = time.monotonic() - started_at
    under_test.gate.set()

    async def is_measured() -> bool:
        return duration() > before

    await eventually("a measured batch", is_measured)
    assert duration() - before >= seconds


async def test_a_lane_stops_if_all_its_requests_wait_for_locks_and_goes_on_without_the_locks(
    under_test: _BatchesUnderTest,
) -> None:
    under_test.locked = {b"%d" % number for number in range(BLOCKED_LIMIT)}
    under_test.gate.set()
    for number in range(BLOCKED_LIMIT):
        under_test.put(number, key=b"%d" % number)

    async def all_parked() -> bool:
        return f"{BLOCKED_LIMIT} requests wait" in under_test.readiness.reasons.get("t:0", "")

    await eventually("all requests are parked", all_parked)
    under_test.put(BLOCKED_LIMIT, key=b"free")
    tried = len(under_test.batches)

    async def tried_again() -> bool:
        return len(under_test.batches) > tried

    await eventually("the parked requests are tried again", tried_again)
    assert all((0, BLOCKED_LIMIT) not in batch for batch in under_test.batches)
    under_test.locked = set()
    await _wait_until_acknowledged(under_test, (0, BLOCKED_LIMIT))


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
async def test_an_error_that_ends_a_task_is_reported(error: BaseException, reported: type[Exception]) -> None:
    failures: list[tuple[str, BaseException]] = []

    async def fail(_: Batch) -> None:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None:
            task.cancel()
            await asyncio.sleep(0)
        raise error

    source = _Source()
    batches = Batches(
        fail, source, Readiness(), lambda *failure: failures.append(failure), tasks=1, shared=True, limit=lambda: 1
    )
    batches.put(_event(1))

    async def failed() -> bool:
        return bool(failures)

    await eventually("the failure of the task", failed)
    assert [(name, type(why)) for name, why in failures] == [("batches 1", reported)]
    assert source.acknowledged == []
    await batches.close(0)


def _floods(detector: FloodDetector, *reasons: str | None) -> list[float]:
    """The pauses of the floods among these messages."""
    pauses = []
    for reason in reasons:
        detector.note(reason)
        if flood := detector.detect():
            pauses.append(flood.pause)
    return pauses


def test_the_pause_doubles_with_each_flood_and_has_a_limit() -> None:
    pauses = _floods(FloodDetector(), *["not_json"] * 8 * FLOOD)
    assert pauses == [1, 2, 4, 8, *[LONGEST_PAUSE] * 4]


def test_a_flood_among_other_messages_is_detected_and_says_why() -> None:
    detector = FloodDetector()
    for number in range(4 * FLOOD):
        detector.note(None if number % 4 else "not_json")
    flood = detector.detect()
    assert flood is not None
    assert (flood.reasons, flood.messages) == ({"not_json": FLOOD}, 4 * FLOOD)


def test_unreadable_messages_among_many_others_are_no_flood_and_end_the_growth_of_the_pause() -> None:
    detector = FloodDetector()
    assert _floods(detector, *["not_json"] * 2 * FLOOD) == [1, 2]
    rare = [None if number % 10 else "not_json" for number in range(5 * WINDOW)]
    assert _floods(detector, *rare) == []
    assert _floods(detector, *["not_json"] * FLOOD) == [1]


async def test_a_partition_moves_while_others_have_their_turn_but_not_for_ever(under_test: _BatchesUnderTest) -> None:
    """Partition 1 is never ready, as a bug could do it."""
    under_test.gate.set()
    under_test.put(0, partition=1)
    await _wait_until_acknowledged(under_test, (1, 0))
    under_test.tested._lanes["t", 1].busy = False
    under_test.tested._lanes["t", 1].delayed = True
    under_test.put(1, partition=1)
    positions = []
    for offset in range(8):
        under_test.put(offset)
        await _wait_until_acknowledged(under_test, (0, offset), (1, 0))
        positions.append(under_test.tested.position(("t", 1)))
    assert len(set(positions[:3])) == 3
    assert len(set(positions[-3:])) == 1


async def test_a_partition_does_not_move_while_its_batch_runs(under_test: _BatchesUnderTest) -> None:
    under_test.put(0)
    await under_test.started.wait()
    position = under_test.tested.position(("t", 0))
    under_test.tested._ended_batches += 1
    assert under_test.tested.position(("t", 0)) == position
    under_test.put(1)
    under_test.gate.set()
    await _wait_until_acknowledged(under_test, (0, 1))
    assert under_test.tested.position(("t", 0)) is None
