"""From the outbox to the change topics: one publisher a topic at a time, in whichever worker it runs.

A publisher holds the topic's advisory lock for its transaction, deletes the oldest rows, sends them, waits for the
broker and commits. A crash in between leaves the rows, and they are sent again: at least once, and in order.
"""

import asyncio
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncEngine

from agents.engine.retry import until_done
from agents.engine.telemetry import CHANGES, Readiness
from storage import outbox
from topics.envelope import change_headers
from topics.kafka import Outgoing, Producer
from topics.supervision import run_together

POLL_SECONDS = 1.0
"""How often a publisher looks by itself; workers of the same process wake it sooner."""


class Publisher:
    def __init__(self, topics: Iterable[str], engine: AsyncEngine, producer: Producer, readiness: Readiness) -> None:
        self._engine = engine
        self._producer = producer
        self._readiness = readiness
        self._news = {topic: asyncio.Event() for topic in topics}

    def wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._news[topic].set()

    async def run(self) -> None:
        """Publishes until it is cancelled. Raises what is not transient, and TaskEnded."""
        await run_together({f"publisher {topic}": self._publish_topic(topic) for topic in self._news})

    async def _publish_topic(self, topic: str) -> None:
        news = self._news[topic]
        while True:
            news.clear()
            if await until_done(f"{topic} publisher", self._readiness, lambda: self._publish_some(topic)):
                continue
            try:
                await asyncio.wait_for(news.wait(), POLL_SECONDS)
            except TimeoutError:
                continue

    async def _publish_some(self, topic: str) -> int:
        """Publish the oldest changes; how many it were."""
        async with self._engine.connect() as conn, conn.begin():
            entries = await outbox.claim(conn, topic)
            if entries:
                await self._producer.send([_message(entry) for entry in entries])
        CHANGES.labels(topic).inc(len(entries))
        return len(entries)


def _message(entry: outbox.Entry) -> Outgoing:
    resource, _, action = entry.change_type.partition(".")
    return Outgoing(
        entry.topic,
        entry.value,
        entry.key.encode(),
        change_headers(entry.change_id, resource, action),
        partition_key=entry.partition_key.encode(),
    )
