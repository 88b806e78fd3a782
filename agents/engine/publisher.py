"""Publishes the changes in the outbox: one publisher per topic at a time, in whichever worker it runs.

A publisher locks the topic for its database transaction, claims the oldest changes, sends them in a Kafka transaction,
commits that one, and then its own. A crash in between leaves the rows in the outbox, and they are sent again: at least
once, and in order.

A process can be suspended at any moment, lose its lock, and continue. Therefore a publisher that acquires the lease
first fences all other publishers (`FencedProducer.take_over`) and then claims changes. The claim fails if the lock has
been lost by then, and whoever holds the lock then has fenced this publisher.
"""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from agents.engine.retry import until_done
from agents.engine.telemetry import CHANGES, Readiness
from storage import outbox
from storage.outbox import Lease
from topics.envelope import change_headers
from topics.kafka import FencedProducer, Outgoing
from topics.supervision import run_together

POLL_SECONDS = 1.0
"""How often a worker looks for changes that other workers left. Its own changes wake the publishers at once."""

STOP_SECONDS = 3.0
"""Seconds for the current portion to be published when the worker stops."""


class Publisher:
    """The publishers of a worker; `producers` has one producer per change topic."""

    def __init__(self, producers: Mapping[str, FencedProducer], engine: AsyncEngine, readiness: Readiness) -> None:
        self._engine = engine
        self._producers = producers
        self._readiness = readiness
        self._wake_up = {topic: asyncio.Event() for topic in producers}
        self._owner = uuid4()

    def wake(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._wake_up[topic].set()

    async def run(self) -> None:
        """Publish until cancelled. Raises errors that are not transient, and TaskEnded."""
        publishers = {f"publisher {topic}": self._publish_topic(topic) for topic in self._wake_up}
        try:
            await run_together({"publisher": self._poll()} | publishers)
        finally:
            await asyncio.gather(*(producer.stop() for producer in self._producers.values()))

    async def _poll(self) -> None:
        """Wake the publishers of topics with changes, also of changes that a dead worker left."""
        while True:
            self.wake(await until_done("publisher", self._readiness, self._waiting))
            await asyncio.sleep(POLL_SECONDS)

    async def _waiting(self) -> Iterable[str]:
        async with self._engine.connect() as conn:
            return await outbox.waiting(conn, list(self._wake_up))

    async def _publish_topic(self, topic: str) -> None:
        wake_up, publish = self._wake_up[topic], partial(self._publish_portion, topic)
        while True:
            await wake_up.wait()
            wake_up.clear()
            while (lease := await until_done(f"{topic} publisher", self._readiness, publish)) is not Lease.EMPTY:
                if lease is Lease.HELD_BY_OTHER:
                    await asyncio.sleep(outbox.LEASE_SECONDS)

    async def _publish_portion(self, topic: str) -> Lease:
        """Publish the oldest changes if this publisher gets the lease. A portion is finished even if the worker stops,
        or its successor would send it again."""
        attempt = asyncio.ensure_future(self._attempt(topic))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.gather(asyncio.wait_for(attempt, STOP_SECONDS), return_exceptions=True)
            raise

    async def _attempt(self, topic: str) -> Lease:
        producer = self._producers[topic]
        async with self._engine.connect() as conn, conn.begin():
            lease = await outbox.acquire(conn, topic, self._owner)
            if lease in (Lease.EMPTY, Lease.HELD_BY_OTHER):
                return lease
            if lease is Lease.ACQUIRED or not producer.usable:
                await producer.take_over()
            entries = await outbox.claim(conn, topic, self._owner)
            if entries:
                await producer.send([_message(entry) for entry in entries])
        CHANGES.labels(topic).inc(len(entries))
        return lease


def _message(entry: outbox.Entry) -> Outgoing:
    resource, _, action = entry.change_type.partition(".")
    return Outgoing(
        entry.topic,
        entry.value,
        entry.key.encode(),
        change_headers(entry.change_id, resource, action),
        partition_key=entry.partition_key.encode(),
    )
