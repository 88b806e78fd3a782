"""Lanes: one for each assigned partition, each a bounded queue and a task that works it off in batches, in order.

The Faust agent puts events in and does nothing else. A lane takes a database connection first and then what waits, so
batches grow with load by themselves. Events are acknowledged in offset order once their results are with the broker;
a crash before that repeats the batch, and the inbox answers it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog

log = structlog.get_logger(__name__)

BATCH_LIMIT = 500
QUEUE_LIMIT = 1_000

TopicPartition = tuple[str, int]


class Event(Protocol):
    """What a lane needs of a Faust event."""

    message: Any


Work = Callable[["Batch"], Awaitable[None]]
"""Works off a batch completely; calls `drain` once it is ready to take more."""


class Batch:
    """Events of one partition, in order; may grow until its work drains what waits."""

    def __init__(self, topic: str, first: Event, waiting: "asyncio.Queue[Event]") -> None:
        self.topic = topic
        self.events: list[Event] = [first]
        self._waiting = waiting

    def drain(self) -> Sequence[Event]:
        """Take what waits, up to the limit; all events of the batch."""
        while len(self.events) < BATCH_LIMIT and not self._waiting.empty():
            self.events.append(self._waiting.get_nowait())
        return self.events


class Lane:
    def __init__(self, place: TopicPartition, work: Work, acknowledge: Callable[[Event], None]) -> None:
        self.place = place
        self.acknowledged = 0
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(QUEUE_LIMIT)
        self._work = work
        self._acknowledge = acknowledge
        self._busy = False
        self._closing = False
        self.task = asyncio.create_task(self._run(), name=f"lane {place[0]}:{place[1]}")

    async def put(self, event: Event) -> None:
        """Blocks while the lane is full, which holds back the whole topic's consumer."""
        await self._waiting.put(event)

    @property
    def idle(self) -> bool:
        return not self._busy and self._waiting.empty()

    async def _run(self) -> None:
        while not self._closing:
            first = await self._waiting.get()
            self._busy = True
            batch = Batch(self.place[0], first, self._waiting)
            await self._work(batch)
            for event in batch.events:
                self._acknowledge(event)
                self.acknowledged = event.message.offset + 1
            self._busy = False

    async def close(self, patience: float) -> None:
        """Drop what is not begun and give what is begun `patience` seconds to end; it is safe to repeat either way."""
        self._closing = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        if self._busy:
            await asyncio.wait([self.task], timeout=patience)
        self.task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self.task


class Lanes:
    """The lanes of a worker. `failed` is called with what ends a lane for good."""

    def __init__(
        self,
        work_of: Callable[[str], Work],
        acknowledge: Callable[[Event], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._work_of = work_of
        self._acknowledge = acknowledge
        self._failed = failed
        self._lanes: dict[TopicPartition, Lane] = {}
        self._closed = False

    async def put(self, event: Event) -> None:
        if self._closed:
            return
        place = (event.message.topic, event.message.partition)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(place, self._work_of(place[0]), self._acknowledge)
            lane.task.add_done_callback(self._ended)
        await lane.put(event)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failed(task.exception())  # type: ignore[arg-type]

    async def drop(self, places: Sequence[TopicPartition], patience: float) -> None:
        """End the lanes of partitions that go to another worker."""
        leaving = [self._lanes.pop(place) for place in places if place in self._lanes]
        await asyncio.gather(*(lane.close(patience) for lane in leaving))

    async def close(self, patience: float) -> None:
        self._closed = True
        await self.drop(list(self._lanes), patience)

    def acknowledged(self) -> dict[TopicPartition, int]:
        """The next offset of each lane that has acknowledged something."""
        return {place: lane.acknowledged for place, lane in self._lanes.items() if lane.acknowledged}
