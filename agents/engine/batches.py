"""Batches: tasks that take the events of lanes and process them.

A task takes what waits in all lanes that no other task works on, in offset order within each, so batches grow with the
total load. A batch that fails is split: its lanes are retried one by one, so that a partition that fails delays only
itself. A request that waits for a lock of another transaction is parked, with the later requests of the same order key,
and the others go on; a task of its own retries parked requests.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from agents.engine.lanes import Delivery, Event, Lane, OrderKey, Source, TopicPartition
from agents.engine.readiness import Readiness
from agents.engine.retry import is_retryable, note_failure, pause_after
from storage.database import is_too_slow
from telemetry.metrics import BATCH_DURATION, FLOODS, RETRIES
from topics.supervision import Failed, Supervisor, interruptions_raised

log = structlog.get_logger(__name__)

PARKED_SECONDS = 0.5
"""Seconds between two attempts to apply parked events."""
OVERLAP_SECONDS = 0.02
"""While a batch runs, the next one collects events for up to so many seconds, even if a task is free: two small batches
cost more than a large one. A batch that takes longer waits for the database, and the other task can use the time."""
SHARED_SECONDS = 1.0
"""A lane whose last batch took longer is taken by itself, so that it does not delay the others."""


class Feed:
    """Counts the events that arrive in all lanes. A source delivers the events of one fetch one by one, and its work
    competes with that of a batch. If a batch started at the first event, it would be small, and it would delay the
    delivery of the next events. So a batch waits while the source delivers events, each within `TURNS` turns of the
    event loop."""

    TURNS = 8

    def __init__(self, source: Source) -> None:
        self.count = 0
        self._source = source

    async def has_more(self) -> bool:
        """True as soon as another event arrives. False if the source has delivered all that it has fetched, or if no
        event arrives for TURNS turns of the event loop, which take a fraction of a millisecond."""
        before = self.count
        for _ in range(self.TURNS):
            if not self._source.is_delivering:
                return False
            await asyncio.sleep(0)
            if self.count != before:
                return True
        return False


@dataclass
class Batch:
    """Deliveries of one or more lanes, those of a lane in order.

    - `parked`: the deliveries have been parked before, and still are.
    - `locks_are_held`: some requests of the worker wait for locks.
    """

    parked: bool
    locks_are_held: bool
    deliveries: list[Delivery] = field(default_factory=list)
    lanes: dict[Lane, None] = field(default_factory=dict)

    @property
    def parked_keys(self) -> set[OrderKey]:
        """The order keys of requests that are parked and not in this batch."""
        return set() if self.parked else {key for lane in self.lanes for key in lane.parked.order_keys}

    @property
    def slow_attempts(self) -> int:
        return min((lane.parked if self.parked else lane).slow_attempts for lane in self.lanes)

    def add(self, lane: Lane, deliveries: Sequence[Delivery]) -> None:
        if not lane.attempts and not self.parked:
            lane.since = time.monotonic()
        self.lanes[lane] = None
        self.deliveries.extend(deliveries)

    def conclude(self, deliveries: Iterable[Delivery]) -> None:
        """The results of these deliveries are with the broker."""
        concluded: dict[Lane, list[Delivery]] = {}
        for delivery in deliveries:
            concluded.setdefault(delivery.lane, []).append(delivery)
        for lane, of_lane in concluded.items():
            lane.conclude(of_lane)
        self._remove({delivery for of_lane in concluded.values() for delivery in of_lane})

    def park(self, deliveries: Sequence[tuple[Delivery, OrderKey]]) -> None:
        """The requests of these deliveries wait for a lock."""
        for delivery, order_key in deliveries:
            delivery.lane.park(delivery, order_key)
        self._remove({delivery for delivery, _ in deliveries})

    def _remove(self, deliveries: set[Delivery]) -> None:
        self.deliveries = [delivery for delivery in self.deliveries if delivery not in deliveries]


Work = Callable[[Batch], Awaitable[None]]
"""Processes a batch: concludes or parks its deliveries. Those that it leaves are in one of the next batches. Exceptions
that `is_retryable` accepts are a failed attempt."""


class Batches:
    """The lanes of one source, and the tasks that process their events. `tasks` is how many batches run at once, each
    with lanes of its own. If not `shared`, each batch has one lane. `limit` tells how many events a batch may have.
    `failed` is called if a task ends by itself."""

    def __init__(
        self,
        work: Work,
        source: Source,
        readiness: Readiness,
        failed: Failed,
        *,
        tasks: int,
        shared: bool,
        limit: Callable[[], int],
    ) -> None:
        self._work = work
        self._source = source
        self._readiness = readiness
        self._shared = shared
        self._limit = limit
        self._feed = Feed(source)
        self._lanes: dict[TopicPartition, Lane] = {}
        """Those that were taken last are at the end."""
        self._working: set[Lane] = set()
        self._ended_batches = 0
        self._collecting = asyncio.Lock()
        self._running = 0
        self._batch_has_ended = asyncio.Event()
        self._lane_is_ready = asyncio.Event()
        self._closed = False
        self._supervisor = Supervisor(failed)
        for number in range(tasks):
            self._supervisor.start(f"batches {number + 1}", self._run())
        self._supervisor.start("parked", self._run_parked())

    def put(self, event: Event) -> None:
        if self._closed:
            return
        topic_partition = (event.message.topic, event.message.partition)
        lane = self._lanes.get(topic_partition)
        if lane is not None and lane.generation != event.message.generation_id:
            lane.close()  # Its events are delivered again.
            self._source.resume(topic_partition)
            self._readiness.ready(lane.name)
            lane = None
        if lane is None:
            generation = event.message.generation_id
            lane = self._lanes[topic_partition] = Lane(topic_partition, generation, self._source, self._working)
            # Prometheus does not notice the first increment of a counter that did not exist before.
            FLOODS.labels(*topic_partition)
            RETRIES.labels(lane.name)
        self._feed.count += 1
        lane.put(event)
        self._lane_is_ready.set()

    async def drop(self, topic_partitions: Sequence[TopicPartition], patience: float) -> None:
        """Close the lanes of partitions that another worker takes over."""
        leaving = [self._lanes.pop(each) for each in topic_partitions if each in self._lanes]
        for lane in leaving:
            lane.close()
        await asyncio.gather(*(lane.wait_closed(patience) for lane in leaving))
        for lane in leaving:
            self._readiness.ready(lane.name)

    async def close(self, patience: float) -> None:
        self._closed = True
        self._lane_is_ready.set()
        await self.drop(list(self._lanes), patience)
        await self._supervisor.stop()

    def is_delayed(self, topic_partition: TopicPartition) -> bool:
        return topic_partition in self._lanes and self._lanes[topic_partition].delayed

    def has_work(self, topic_partition: TopicPartition) -> bool:
        """True if events of the partition wait here or are being processed."""
        return topic_partition in self._lanes and self._lanes[topic_partition].has_work

    def oldest(self, topic_partition: TopicPartition) -> float | None:
        """When Kafka stored the first event of the partition that is not concluded; None if it has none here."""
        lane = self._lanes.get(topic_partition)
        return None if lane is None else lane.oldest

    def position(self, topic_partition: TopicPartition) -> Hashable:
        """A value that changes as long as the events of the partition move on. It is None if it has no events here.

        - While a batch has events of the lane: that batch, and how many events of the lane are concluded.
        - While its events wait for their turn: also how many batches have ended since its last one. The oldest lane is
          always taken first, so a lane that was not taken after twice as many batches as there are lanes is stuck."""
        lane = self._lanes.get(topic_partition)
        if lane is None or not lane.has_work:
            return None
        waited = 0 if lane.busy else min(self._ended_batches - lane.last_turn, 2 * len(self._lanes))
        return lane.batches, lane.concluded, waited

    def next_offsets(self) -> dict[TopicPartition, int]:
        """The next offset of each lane that has acknowledged an event."""
        return {partition: lane.next_offset for partition, lane in self._lanes.items() if lane.next_offset}

    async def _run(self) -> None:
        while True:
            async with self._collecting:
                batch = await self._collect()
                self._running += 1
            error, seconds = await self._process(batch)
            self._ended_batches += 1
            self._running -= 1
            self._batch_has_ended.set()
            for lane in batch.lanes:
                lane.alone = error is not None or seconds > SHARED_SECONDS
                if error is None:
                    self._succeeded(lane)
                else:
                    self._retry_later(lane, error)
            self._lane_is_ready.set()

    async def _collect(self) -> Batch:
        """Wait for events, and take those that wait or are just arriving, up to the limit."""
        await self._wait_for_events()
        batch = Batch(parked=False, locks_are_held=any(lane.parked for lane in self._lanes.values()))
        limit = self._limit()
        while lanes := self._lanes_for(batch):
            for lane in lanes:
                batch.add(lane, lane.take(limit - len(batch.deliveries)))
                lane.last_turn = self._ended_batches
                self._lanes[lane.topic_partition] = self._lanes.pop(lane.topic_partition)
                if len(batch.deliveries) >= limit:
                    return batch
            # Events may also arrive in lanes that cannot join the batch, so this alone would not end.
            if not await self._feed.has_more():
                break
        return batch

    async def _wait_for_events(self) -> None:
        """Return when a batch can take events."""
        has_waited = not self._shared
        while True:
            while not any(lane.is_ready for lane in self._lanes.values()):
                self._lane_is_ready.clear()
                await self._lane_is_ready.wait()
            if has_waited or not self._running:
                return
            has_waited = True
            self._batch_has_ended.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._batch_has_ended.wait(), OVERLAP_SECONDS)

    def _lanes_for(self, batch: Batch) -> Sequence[Lane]:
        """The lanes whose waiting events may join the batch."""
        ready = [lane for lane in self._lanes.values() if lane.is_ready]
        others = [lane for lane in ready if not lane.alone]
        if not batch.lanes:
            takes_one = not self._shared or (ready and ready[0].alone)
            return ready[:1] if takes_one else others
        own = [lane for lane in batch.lanes if lane.has_waiting]
        takes_own = not self._shared or any(lane.alone for lane in batch.lanes)
        return own if takes_own else own + others

    async def _process(self, batch: Batch) -> tuple[Exception | None, float]:
        """Returns the error of an attempt that is to be repeated, and the duration in seconds. Raises other errors."""
        started_at = time.monotonic()
        try:
            with interruptions_raised():
                await self._work(batch)
        except Exception as error:
            if not is_retryable(error):
                raise
            return error, time.monotonic() - started_at
        finally:
            if not batch.parked:
                for lane in batch.lanes:
                    lane.give_back([delivery for delivery in batch.deliveries if delivery.lane is lane])
        return None, time.monotonic() - started_at

    def _succeeded(self, lane: Lane) -> None:
        BATCH_DURATION.labels(lane.topic_partition[0]).observe(time.monotonic() - lane.since)
        if lane.attempts:
            lane.attempts = lane.slow_attempts = 0
            self._readiness.ready(lane.name)
        if flood := lane.floods.detect():
            topic, partition = lane.topic_partition
            FLOODS.labels(topic, partition).inc()
            log.error("flood", topic=topic, partition=partition, offset=lane.next_offset, **flood._asdict())
            self._delay(lane, flood.pause)

    def _retry_later(self, lane: Lane, error: Exception) -> None:
        if lane.closed:
            return
        lane.attempts += 1
        lane.slow_attempts += is_too_slow(error)
        note_failure(lane.name, lane.attempts, error, self._readiness)
        self._delay(lane, pause_after(lane.attempts))

    def _delay(self, lane: Lane, seconds: float) -> None:
        lane.delayed = True
        asyncio.get_running_loop().call_later(seconds, self._end_delay, lane)

    def _end_delay(self, lane: Lane) -> None:
        lane.delayed = False
        self._lane_is_ready.set()

    async def _run_parked(self) -> None:
        while True:
            await asyncio.sleep(PARKED_SECONDS)
            for lane in [lane for lane in self._lanes.values() if lane.parked]:
                await self._retry_parked(lane)

    async def _retry_parked(self, lane: Lane) -> None:
        batch = Batch(parked=True, locks_are_held=True)
        batch.add(lane, lane.parked.oldest(self._limit()))
        error, _ = await self._process(batch)
        if lane.closed:
            return
        lane.parked.slow_attempts = lane.parked.slow_attempts + is_too_slow(error) if error is not None else 0
        if error is not None:
            note_failure(lane.name, 2, error, self._readiness)
        elif lane.parked:
            self._readiness.not_ready(lane.name, f"{len(lane.parked)} requests wait for locks of other transactions")
        else:
            self._readiness.ready(lane.name)
        self._lane_is_ready.set()
