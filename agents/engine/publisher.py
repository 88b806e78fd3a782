"""From the outbox to the change topics: one publisher a topic at a time, in whichever worker it runs.

A publisher locks the topic for its transaction, deletes the oldest rows, sends them in a transaction of Kafka's,
commits that one and then its own. A crash in between leaves the rows, and they are sent again: at least once, and in
order.

A process can be suspended at any moment, lose its lock and go on. So whoever has the turn and did not have it before
fences all others first (`FencedProducer.take_over`), and only then deletes rows: that statement fails where the lock
was lost by then, and whoever has it later fences this publisher.
"""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from agents.engine.retry import until_done
from agents.engine.telemetry import CHANGES, Readiness
from storage import outbox
from storage.outbox import Turn
from topics.envelope import change_headers
from topics.kafka import FencedProducer, Outgoing
from topics.supervision import run_together

POLL_SECONDS = 1.0
"""How often a worker looks for changes that others left; its own wake the publishers at once."""

STOP_SECONDS = 3.0
"""What is being published when the worker stops gets so long."""


class Publisher:
    """`producers` has one for each topic."""

    def __init__(self, producers: Mapping[str, FencedProducer], engine: AsyncEngine, readiness: Readiness) -> None:
        self._engine = engine
        self._producers = producers
        self._readiness = readiness
        self._news = {topic: asyncio.Event() for topic in producers}
        self._owner = uuid4()

    def wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._news[topic].set()

    async def run(self) -> None:
        """Publishes until it is cancelled. Raises what is not transient, and TaskEnded."""
        publishers = {f"publisher {topic}": self._publish_topic(topic) for topic in self._news}
        try:
            await run_together({"publisher": self._look()} | publishers)
        finally:
            await asyncio.gather(*(producer.stop() for producer in self._producers.values()))

    async def _look(self) -> None:
        """For changes that a worker left which is gone."""
        while True:
            self.wake(await until_done("publisher", self._readiness, self._waiting))
            await asyncio.sleep(POLL_SECONDS)

    async def _waiting(self) -> Iterable[str]:
        async with self._engine.connect() as conn:
            return await outbox.waiting(conn, list(self._news))

    async def _publish_topic(self, topic: str) -> None:
        news, publish = self._news[topic], partial(self._publish_some, topic)
        while True:
            await news.wait()
            news.clear()
            while (turn := await until_done(f"{topic} publisher", self._readiness, publish)) is not Turn.NOTHING:
                if turn is Turn.OTHERS:
                    await asyncio.sleep(outbox.LEASE)

    async def _publish_some(self, topic: str) -> Turn:
        """Publish the oldest changes where it is this publisher's turn. What is begun ends also where the worker stops,
        or its successor would send it again."""
        begun = asyncio.ensure_future(self._attempt(topic))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            await asyncio.gather(asyncio.wait_for(begun, STOP_SECONDS), return_exceptions=True)
            raise

    async def _attempt(self, topic: str) -> Turn:
        producer = self._producers[topic]
        async with self._engine.connect() as conn, conn.begin():
            turn = await outbox.turn(conn, topic, self._owner)
            if turn in (Turn.NOTHING, Turn.OTHERS):
                return turn
            if turn is Turn.NEW or not producer.usable:
                await producer.take_over()
            entries = await outbox.claim(conn, topic, self._owner)
            if entries:
                await producer.send([_message(entry) for entry in entries])
        CHANGES.labels(topic).inc(len(entries))
        return turn


def _message(entry: outbox.Entry) -> Outgoing:
    resource, _, action = entry.change_type.partition(".")
    return Outgoing(
        entry.topic,
        entry.value,
        entry.key.encode(),
        change_headers(entry.change_id, resource, action),
        partition_key=entry.partition_key.encode(),
    )
