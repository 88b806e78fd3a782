"""Lanes: the events of each assigned partition that wait or are being processed.

The Faust agent puts events into lanes and does nothing else; `agents.engine.batches` takes them. An event is concluded
once its result is with the broker. A lane acknowledges in offset order, up to its first event that is not concluded. A
crash before that repeats the events; redelivered requests are deduplicated through the inbox.

`put` never blocks, because one consumer feeds many lanes and a blocked lane would hold up all the others. Instead, a
full lane pauses its own partition at the source.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

from agents.engine.floods import FloodDetector
from topics.fetch_limits import bytes_of

LANE_LIMIT = 2 * 2**20
"""Bytes of waiting events at which a lane pauses its partition, if few lanes have events. It resumes below half of
that."""
LANES_LIMIT = 32 * 2**20
"""Bytes that all lanes with events share, if LANE_LIMIT for each would be more."""
SMALLEST_LANE_LIMIT = 256 * 2**10
"""A lane may have so many bytes, however many lanes have events. A batch can then take a hundred events of a lane."""
EVENT_BYTES = 1024
"""Approximate size of an event without its key, value and headers."""
PARKED_LIMIT = 2_000
"""Parked events at which a lane gives no more events to batches."""
BLOCKED_LIMIT = 10
"""After so many new order keys of a partition in a row that wait for a lock, a transaction tries no more of them, and
the lane gives no more events to batches until one of its parked events is applied. Probably all events wait, for
example because a whole table is locked."""

TopicPartition = tuple[str, int]
OrderKey = tuple[str, int, bytes]
"""Topic, partition, and record key of requests that are always applied in order; see `ValidRequest.order_key`."""


class Event(Protocol):
    """The part of a Faust event that a lane needs."""

    message: Any

    def ack(self) -> Any: ...


class Source(Protocol):
    """The consumer that the events come from."""

    @property
    def is_delivering(self) -> bool:
        """True while events that were fetched are being delivered."""

    def acknowledge(self, event: Event) -> None:
        """Acknowledge an event and all earlier ones of its partition."""

    def pause(self, topic_partition: TopicPartition) -> None:
        """Deliver no more events of a partition than those that are on their way."""

    def resume(self, topic_partition: TopicPartition) -> None: ...


@dataclass(eq=False, slots=True)
class Delivery:
    """An event in a lane. `previous` is the event that the lane received before it."""

    lane: "Lane"
    event: Event
    previous: Event | None
    size: int
    """In bytes."""
    counted: bool = False
    """By the breaker and the flood detector."""

    @property
    def record(self) -> Any:
        return self.event.message


class Parked:
    """Deliveries whose requests wait for a lock of another transaction, by order key. Those with the same order key are
    in the order of their arrival. `slow_attempts` counts the attempts to apply them that were too slow since one
    succeeded."""

    def __init__(self) -> None:
        self.slow_attempts = 0
        self.size = 0
        """In bytes."""
        self._by_key: dict[OrderKey, dict[Delivery, None]] = {}
        self._keys: dict[Delivery, OrderKey] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery in self._keys

    @property
    def order_keys(self) -> Iterable[OrderKey]:
        return self._by_key.keys()

    def add(self, delivery: Delivery, order_key: OrderKey) -> None:
        self._by_key.setdefault(order_key, {})[delivery] = None
        self._keys[delivery] = order_key
        self.size += delivery.size

    def remove(self, delivery: Delivery) -> None:
        order_key = self._keys.pop(delivery)
        self.size -= delivery.size
        del self._by_key[order_key][delivery]
        if not self._by_key[order_key]:
            del self._by_key[order_key]

    def oldest(self, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries."""
        return list(islice(chain.from_iterable(self._by_key.values()), limit))

    def postpone(self, order_key: OrderKey) -> None:
        """Put the deliveries with this order key behind the others."""
        self._by_key[order_key] = self._by_key.pop(order_key)


class Lane:
    """The events of one partition that were read in one generation, see `faust_patches`: without a gap, from the
    committed offset on.

    - `busy`: a batch has events of the lane that are not parked.
    - `alone`: its next batch has no events of other lanes.
    - `delayed`: it pauses, because a batch failed or because of a flood.
    - `floods`: counts its messages that become dead letters.
    - `batches` counts the batches that have had events of the lane. `last_turn`: how many batches, of any lanes, had
      ended when the last of them began. `concluded` counts the events.
    - `attempts` and `slow_attempts` count the failed attempts, and those of them that were too slow, since a batch
      succeeded. `since` is the time of the first of them, or of the current batch.

    `working` has the lanes of the source that have events.
    """

    def __init__(self, topic_partition: TopicPartition, generation: int, source: Source, working: "set[Lane]") -> None:
        self.topic_partition = topic_partition
        self.generation = generation
        self.name = f"{topic_partition[0]}:{topic_partition[1]}"
        self.next_offset = 0
        """The offset after the last acknowledged event; 0 before the first one."""
        self.parked = Parked()
        self.floods = FloodDetector()
        self.busy = self.alone = self.delayed = self.closed = False
        self.attempts = self.slow_attempts = self.batches = self.last_turn = self.concluded = 0
        self.since = 0.0
        self._source = source
        self._working = working
        self._queue: deque[Delivery] = deque()
        self._queue_size = 0
        self._not_concluded: OrderedDict[Delivery, None] = OrderedDict()
        """In the order of arrival."""
        self._last: Event | None = None
        self._blocked_in_a_row = 0
        self._paused = False
        self._released = asyncio.Event()

    def put(self, event: Event) -> None:
        delivery = Delivery(self, event, self._last, _size(event))
        self._last = event
        self._queue.append(delivery)
        self._queue_size += delivery.size
        self._not_concluded[delivery] = None
        self._working.add(self)
        if self._queue_size >= self._limit and not self._paused:
            self._paused = True
            self._source.pause(self.topic_partition)

    @property
    def _limit(self) -> int:
        """Bytes of waiting events at which the lane pauses its partition."""
        return max(SMALLEST_LANE_LIMIT, min(LANE_LIMIT, LANES_LIMIT // len(self._working)))

    @property
    def has_waiting(self) -> bool:
        """True if a batch may take events."""
        may_park = len(self.parked) < PARKED_LIMIT and self.parked.size < LANE_LIMIT
        return bool(self._queue) and may_park and self._blocked_in_a_row < BLOCKED_LIMIT

    @property
    def is_ready(self) -> bool:
        """True if a new batch may take events."""
        return not self.busy and not self.delayed and self.has_waiting

    @property
    def has_work(self) -> bool:
        return bool(self._not_concluded)

    @property
    def oldest(self) -> float | None:
        """When Kafka stored the first event that is not concluded, in seconds since 1970."""
        delivery = next(iter(self._not_concluded), None)
        return None if delivery is None else float(delivery.record.timestamp)

    def take(self, limit: int) -> Sequence[Delivery]:
        """Remove the oldest waiting events, at most `limit`, for a batch."""
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._queue_size -= sum(delivery.size for delivery in taken)
        if self._paused and self._queue_size < self._limit / 2:
            self._paused = False
            self._source.resume(self.topic_partition)
        if not self.busy:
            self.busy = True
            self.batches += 1
        return taken

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """End a batch. `deliveries` are those that it has neither concluded nor parked."""
        self.busy = False
        self._released.set()
        if not self.closed:
            self._queue.extendleft(reversed(deliveries))
            self._queue_size += sum(delivery.size for delivery in deliveries)

    def park(self, delivery: Delivery, order_key: OrderKey) -> None:
        """Put a delivery of a batch aside, because its request waits for a lock."""
        if self.closed:
            return
        if delivery in self.parked:
            self.parked.postpone(order_key)
            return
        self._blocked_in_a_row += order_key not in self.parked.order_keys
        self.parked.add(delivery, order_key)

    def conclude(self, deliveries: Iterable[Delivery]) -> None:
        """The results of these events are with the broker. Acknowledge what has no earlier event without result."""
        for delivery in deliveries:
            self._not_concluded.pop(delivery, None)
            self.concluded += 1
            if delivery in self.parked:
                self.parked.remove(delivery)
        self._blocked_in_a_row = 0
        first = next(iter(self._not_concluded), None)
        event = self._last if first is None else first.previous
        if event is not None and event.message.offset >= self.next_offset:
            self._source.acknowledge(event)
            self.next_offset = event.message.offset + 1
        if first is None:
            self._last = None  # It may have a megabyte.
            self._working.discard(self)

    def close(self) -> None:
        """Drop the events that wait. Events that are not acknowledged are delivered again. The keys of parked events
        stay known: a batch that is being processed may have later requests of the same keys."""
        self.closed = True
        self._working.discard(self)
        self._queue.clear()
        self._released.clear()

    async def wait_closed(self, patience: float) -> None:
        """Wait up to `patience` seconds for the end of a running batch."""
        if self.busy:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), patience)


def _size(event: Event) -> int:
    message = event.message
    return EVENT_BYTES + bytes_of(message.key, message.value, message.headers or ())
