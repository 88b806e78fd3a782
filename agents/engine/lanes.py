"""Lanes: one for each assigned partition, each a queue and a task that works it off in batches, in order.

The Faust agent puts events in and does nothing else. A lane takes a database connection first and then what waits, so
batches grow with load by themselves. Events are acknowledged in offset order once their results are with the broker;
a crash before that repeats the batch, and the inbox answers it.

Putting never blocks: one consumer feeds many lanes, and a lane that made it wait would hold up all the others. Instead,
a full lane has its own partition held back at the source.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from topics.supervision import Failed, Supervisor

BATCH_LIMIT = 500
FULL = 2 * 2**20
"""Bytes of waiting events at which a lane's partition is held back; it goes on below half of that."""
EVENT_BYTES = 1024
"""What an event takes beside its value, roughly."""

TopicPartition = tuple[str, int]


class Event(Protocol):
    """What a lane needs of a Faust event."""

    message: Any

    def ack(self) -> Any: ...


class Source(Protocol):
    """Where the events come from."""

    def acknowledge(self, event: Event) -> None: ...

    def pause(self, place: TopicPartition) -> None:
        """Bring no more of a partition than what is under way already."""

    def resume(self, place: TopicPartition) -> None: ...


class Feed:
    """Counts what is handed over to all lanes. Faust takes a turn of the event loop or two for each event; a lane that
    began with the first of them would work in batches of a few, and keep the loop from bringing more."""

    TURNS = 8

    def __init__(self) -> None:
        self.count = 0

    async def has_more(self) -> bool:
        """Whether more is handed over within some turns of the loop; a fraction of a millisecond where nothing is."""
        before = self.count
        for _ in range(self.TURNS):
            await asyncio.sleep(0)
            if self.count != before:
                return True
        return False


Work = Callable[["Batch"], Awaitable[None]]
"""Works off a batch completely; calls `drain` once it is ready to take more."""


class Batch:
    """Events of one partition, in order; may grow until its work drains what waits."""

    def __init__(self, lane: "Lane", feed: Feed) -> None:
        self.topic = lane.place[0]
        self.place = f"{lane.place[0]}:{lane.place[1]}"
        self.too_slow = 0
        self.judged: set[int] = set()
        self.answered: set[int] = set()
        """Offsets of what was looked at for its failure, and of what was answered before the whole batch is."""
        self.events: list[Event] = list(lane.take(1))
        self._lane = lane
        self._feed = feed

    async def drain(self) -> Sequence[Event]:
        """Take what waits or is just being handed over, up to the limit; all events of the batch."""
        while len(self.events) < BATCH_LIMIT:
            self.events.extend(self._lane.take(BATCH_LIMIT - len(self.events)))
            if not await self._feed.has_more():
                break
        return self.events

    def requeue_from(self, number: int) -> None:
        """To the next batch: all but the first `number` events."""
        self._lane.put_back(self.events[number:])
        del self.events[number:]


class Lane:
    def __init__(self, place: TopicPartition, work: Work, source: Source, feed: Feed, failed: Failed) -> None:
        self.place = place
        self.acknowledged = 0
        self._waiting: deque[tuple[Event, int]] = deque()
        """With their sizes."""
        self._size = 0
        self._something = asyncio.Event()
        self._work = work
        self._source = source
        self._feed = feed
        self._paused = False
        self._busy = False
        self._closing = False
        self._supervisor = Supervisor(failed)
        self._supervisor.start(f"lane {place[0]}:{place[1]}", self._run())

    def put(self, event: Event) -> None:
        size = _size(event)
        self._waiting.append((event, size))
        self._size += size
        self._something.set()
        if self._size >= FULL and not self._paused:
            self._paused = True
            self._source.pause(self.place)

    def take(self, limit: int) -> Sequence[Event]:
        """The oldest that wait."""
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._size -= sum(size for _, size in taken)
        if self._paused and self._size < FULL / 2:
            self._paused = False
            self._source.resume(self.place)
        return [event for event, _ in taken]

    def put_back(self, events: Sequence[Event]) -> None:
        """Before all that waits."""
        sized = [(event, _size(event)) for event in events]
        self._waiting.extendleft(reversed(sized))
        self._size += sum(size for _, size in sized)

    @property
    def idle(self) -> bool:
        return not self._busy and not self._waiting

    async def _run(self) -> None:
        while not self._closing:
            while not self._waiting:
                self._something.clear()
                await self._something.wait()
            self._busy = True
            batch = Batch(self, self._feed)
            await self._work(batch)
            for event in batch.events:
                self._source.acknowledge(event)
                self.acknowledged = event.message.offset + 1
            self._busy = False

    async def close(self, patience: float) -> None:
        """Drop what is not begun and give what is begun `patience` seconds to end; it is safe to repeat either way."""
        self._closing = True
        self._waiting.clear()
        await self._supervisor.stop(patience if self._busy else 0)


def _size(event: Event) -> int:
    message = event.message
    headers = sum(len(name) + len(value or b"") for name, value in message.headers or ())
    return EVENT_BYTES + len(message.value or b"") + len(message.key or b"") + headers


class Lanes:
    """The lanes of one source. `failed` is called where a lane ends for good."""

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
        place = (event.message.topic, event.message.partition)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(place, self._work, self._source, self._feed, self._failed)
        self._feed.count += 1
        lane.put(event)

    async def drop(self, places: Sequence[TopicPartition], patience: float) -> None:
        """End the lanes of partitions that go to another worker."""
        leaving = [self._lanes.pop(place) for place in places if place in self._lanes]
        await asyncio.gather(*(lane.close(patience) for lane in leaving))

    async def close(self, patience: float) -> None:
        self._closed = True
        await self.drop(list(self._lanes), patience)

    def holds(self, place: TopicPartition) -> bool:
        """Whether something of a partition waits here or is being worked off."""
        return place in self._lanes and not self._lanes[place].idle

    def acknowledged(self) -> dict[TopicPartition, int]:
        """The next offset of each lane that has acknowledged something."""
        return {place: lane.acknowledged for place, lane in self._lanes.items() if lane.acknowledged}
