"""Lanes: a queue and a task for each assigned partition.

The Faust agent puts events into lanes and does nothing else. The task of a lane applies its events in batches, in
order: it takes a database connection first and then all waiting events, so batches grow with the load. It acknowledges
events in offset order after their results are with the broker. A crash before that repeats the batch; redelivered
requests are deduplicated through the inbox.

`put` never blocks, because one consumer feeds many lanes and a blocked lane would hold up all the others. Instead, a
full lane pauses its own partition at the source.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from topics.supervision import Failed, Supervisor

BATCH_LIMIT = 500
LANE_LIMIT = 2 * 2**20
"""Bytes of waiting events at which a lane pauses its partition. It resumes below half of that."""
EVENT_BYTES = 1024
"""Approximate size of an event without its key, value and headers."""

TopicPartition = tuple[str, int]


class Event(Protocol):
    """The part of a Faust event that a lane needs."""

    message: Any

    def ack(self) -> Any: ...


class Source(Protocol):
    """The consumer that the events come from."""

    def acknowledge(self, event: Event) -> None: ...

    def pause(self, topic_partition: TopicPartition) -> None:
        """Deliver no more events of a partition than those that are on their way."""

    def resume(self, topic_partition: TopicPartition) -> None: ...


class Feed:
    """Counts the events that arrive in all lanes. Faust takes one or two turns of the event loop to deliver an event.
    If a lane started at its first event, its batches would be small, and its work would delay the delivery of the next
    events. So a lane waits until no event arrives for `TURNS` turns."""

    TURNS = 8

    def __init__(self) -> None:
        self.count = 0

    async def has_more(self) -> bool:
        """True if another event arrives within TURNS turns of the event loop, which take a fraction of a
        millisecond."""
        before = self.count
        for _ in range(self.TURNS):
            await asyncio.sleep(0)
            if self.count != before:
                return True
        return False


Work = Callable[["Batch"], Awaitable[None]]
"""Processes a batch completely; calls `drain` when it is ready to take more events."""


class Batch:
    """Events of one partition, in order. Grows until the work drains the waiting events."""

    def __init__(self, lane: "Lane", feed: Feed) -> None:
        self.topic = lane.topic_partition[0]
        self.name = f"{lane.topic_partition[0]}:{lane.topic_partition[1]}"
        self.slow_attempts = 0
        self.counted_by_breaker: set[int] = set()
        """Offsets that the breaker has counted."""
        self.answered: set[int] = set()
        """Offsets that were answered before the whole batch is done."""
        self.events: list[Event] = list(lane.take(1))
        self._lane = lane
        self._feed = feed

    async def drain(self) -> Sequence[Event]:
        """Take the events that wait or are just arriving, up to the limit. Returns all events of the batch."""
        while len(self.events) < BATCH_LIMIT:
            self.events.extend(self._lane.take(BATCH_LIMIT - len(self.events)))
            if not await self._feed.has_more():
                break
        return self.events

    def requeue_from(self, index: int) -> None:
        """Return the events from `index` on to the lane, for the next batch."""
        self._lane.put_back(self.events[index:])
        del self.events[index:]


class Lane:
    def __init__(self, topic_partition: TopicPartition, work: Work, source: Source, feed: Feed, failed: Failed) -> None:
        self.topic_partition = topic_partition
        self.next_offset = 0
        """The offset after the last acknowledged event; 0 before the first one."""
        self._queue: deque[tuple[Event, int]] = deque()
        """Events with their sizes in bytes."""
        self._queue_size = 0
        self._not_empty = asyncio.Event()
        self._work = work
        self._source = source
        self._feed = feed
        self._paused = False
        self._busy = False
        self._closing = False
        self._supervisor = Supervisor(failed)
        self._supervisor.start(f"lane {topic_partition[0]}:{topic_partition[1]}", self._run())

    def put(self, event: Event) -> None:
        size = _size(event)
        self._queue.append((event, size))
        self._queue_size += size
        self._not_empty.set()
        if self._queue_size >= LANE_LIMIT and not self._paused:
            self._paused = True
            self._source.pause(self.topic_partition)

    def take(self, limit: int) -> Sequence[Event]:
        """Remove the oldest waiting events, at most `limit`."""
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._queue_size -= sum(size for _, size in taken)
        if self._paused and self._queue_size < LANE_LIMIT / 2:
            self._paused = False
            self._source.resume(self.topic_partition)
        return [event for event, _ in taken]

    def put_back(self, events: Sequence[Event]) -> None:
        """Put events in front of all waiting ones."""
        sized = [(event, _size(event)) for event in events]
        self._queue.extendleft(reversed(sized))
        self._queue_size += sum(size for _, size in sized)

    @property
    def idle(self) -> bool:
        return not self._busy and not self._queue

    async def _run(self) -> None:
        while not self._closing:
            while not self._queue:
                self._not_empty.clear()
                await self._not_empty.wait()
            self._busy = True
            batch = Batch(self, self._feed)
            await self._work(batch)
            for event in batch.events:
                self._source.acknowledge(event)
                self.next_offset = event.message.offset + 1
            self._busy = False

    async def close(self, patience: float) -> None:
        """Drop the waiting events, and give the current batch `patience` seconds to end. Both are safe: events that are
        not acknowledged are delivered again."""
        self._closing = True
        self._queue.clear()
        await self._supervisor.stop(patience if self._busy else 0)


def _size(event: Event) -> int:
    message = event.message
    headers = sum(len(name) + len(value or b"") for name, value in message.headers or ())
    return EVENT_BYTES + len(message.value or b"") + len(message.key or b"") + headers


class Lanes:
    """The lanes of one source. `failed` is called when the task of a lane ends by itself."""

    def __init__(self, work: Work, source: Source, failed: Failed) -> None:
        self._work = work
        self._source = source
        self._feed = Feed()
        self._failed = failed
        self._lanes: dict[TopicPartition, Lane] = {}
        self._closed = False

    def put(self, event: Event) -> None:
        if self._closed:
            return
        topic_partition = (event.message.topic, event.message.partition)
        lane = self._lanes.get(topic_partition)
        if lane is None:
            lane = Lane(topic_partition, self._work, self._source, self._feed, self._failed)
            self._lanes[topic_partition] = lane
        self._feed.count += 1
        lane.put(event)

    async def drop(self, topic_partitions: Sequence[TopicPartition], patience: float) -> None:
        """Close the lanes of partitions that another worker takes over."""
        leaving = [self._lanes.pop(each) for each in topic_partitions if each in self._lanes]
        await asyncio.gather(*(lane.close(patience) for lane in leaving))

    async def close(self, patience: float) -> None:
        self._closed = True
        await self.drop(list(self._lanes), patience)

    def has_work(self, topic_partition: TopicPartition) -> bool:
        """True if events of the partition wait here or are being processed."""
        return topic_partition in self._lanes and not self._lanes[topic_partition].idle

    def next_offsets(self) -> dict[TopicPartition, int]:
        """The next offset of each lane that has acknowledged an event."""
        return {partition: lane.next_offset for partition, lane in self._lanes.items() if lane.next_offset}
