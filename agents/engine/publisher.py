"""Moves changes from the outbox to the change topics. Each topic has one publisher at a time, in any of the workers.

A publisher locks the topic for one database transaction. It deletes the oldest rows, sends them in one Kafka
transaction, commits the Kafka transaction and then the database transaction. A crash in between leaves the rows in the
outbox, and they are sent again: at least once, in order.

A process can be suspended at any moment, lose the lock, and go on later. Therefore a publisher that was not the last
one of the topic first fences all others (`FencedProducer.take_over`) and then deletes rows. If the lock was lost
before the delete, the delete fails. If it is lost later, the next publisher fences this one, and the brokers refuse its
records.

After a crash, PostgreSQL shows transactions that no synchronous standby has. A failover would lose them, and other
entities would get their ids. So a publisher sends nothing from a server that has started until the standby has a
transaction of its own, and with it all earlier ones.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agents.engine import spans
from agents.engine.readiness import Readiness
from agents.engine.retry import until_done
from storage import outbox
from storage.commits import Commits, wait_for_standby
from storage.database import single_statements
from storage.outbox import Ownership
from telemetry.metrics import CHANGE_LATENCY, CHANGES, PUBLISHER, RETRIES
from topics.envelope import change_headers
from topics.kafka import FencedProducer, Outgoing
from topics.supervision import run_together

POLL_SECONDS = 1.0
"""How often a worker looks for changes that another worker committed and did not publish. Its own changes wake its
publishers at once."""

PAUSE_SECONDS = 0.1
"""The pause between two Kafka transactions of a topic that has few changes. Changes of several requests then share a
transaction, which costs as much as a request itself. After a longer silence, a change is published at once."""

STOP_SECONDS = 2.0
"""How long a worker that stops waits for changes that are being sent."""


class Publisher:
    """Publishes the changes of all topics. `producers` has one producer per topic, which need not be connected."""

    def __init__(self, producers: Mapping[str, FencedProducer], engine: AsyncEngine, readiness: Readiness) -> None:
        self._engine = engine
        self._producers = producers
        self._readiness = readiness
        self._wakeups = {topic: asyncio.Event() for topic in producers}
        self._owner = uuid4()
        self._attempts: set[asyncio.Task[float | None]] = set()
        self._failing: set[str] = set()
        """The topics whose last attempt failed."""
        self._retrying = asyncio.Semaphore(1)
        self._commits = Commits()
        self._replicating = asyncio.Lock()
        self._replicated: datetime | None = None
        """The start of the server of which all transactions that a crash made visible are on a standby."""
        for topic in producers:
            PUBLISHER.labels(topic).state("idle")
            RETRIES.labels(f"{topic} publisher")

    def wake(self, topics: Iterable[str]) -> None:
        """Publish the changes of these topics now."""
        for topic in topics:
            self._wakeups[topic].set()

    async def run(self) -> None:
        """Publish until cancelled. Attempts that run go on until `close`. Raises what is not transient, and
        TaskEnded."""
        publishers = {f"publisher {topic}": self._publish_topic(topic) for topic in self._wakeups}
        await run_together({"publisher": self._poll()} | publishers)

    async def close(self) -> None:
        """Call this after `run` has ended. An attempt may take STOP_SECONDS to finish: if it were cancelled between its
        two transactions, the next owner would send the changes again."""
        if self._attempts:
            _, unfinished = await asyncio.wait(self._attempts, timeout=STOP_SECONDS)
            for attempt in unfinished:
                attempt.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await asyncio.gather(*(producer.stop() for producer in self._producers.values()))

    async def _poll(self) -> None:
        while True:
            self.wake(await until_done("publisher", self._readiness, self._topics_with_changes))
            await asyncio.sleep(POLL_SECONDS)

    async def _topics_with_changes(self) -> Iterable[str]:
        # One round trip, without BEGIN and ROLLBACK.
        async with single_statements(self._engine).connect() as conn:
            return await outbox.topics_with_changes(conn, list(self._wakeups))

    async def _publish_topic(self, topic: str) -> None:
        wakeup, publish = self._wakeups[topic], partial(self._publish_oldest, topic)
        while True:
            await wakeup.wait()
            wakeup.clear()
            pause: float | None = 0
            while pause is not None:
                await asyncio.sleep(pause)
                pause = await until_done(f"{topic} publisher", self._readiness, publish)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _publish_oldest(self, topic: str) -> float | None:
        """Publish the oldest changes if this publisher owns the topic. Returns the pause before the next attempt in
        seconds, or None if no change is left."""
        attempt = asyncio.create_task(self._attempt_in_turn(topic))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        try:
            return await asyncio.shield(attempt)
        finally:
            del attempt  # Its error refers to this frame: a cycle that would keep the changes.

    async def _attempt_in_turn(self, topic: str) -> float | None:
        """Topics that fail take turns, because an attempt may keep a database connection until its timeout. So they do
        not delay the others."""
        async with self._retrying if topic in self._failing else nullcontext():
            try:
                state, pause = await self._attempt(topic)
            except BaseException:
                self._failing.add(topic)
                PUBLISHER.labels(topic).state("failing")
                raise
        self._failing.discard(topic)
        PUBLISHER.labels(topic).state(_STATES[state])
        return pause

    async def _attempt(self, topic: str) -> tuple[Ownership, float | None]:
        """Also returns the pause, see `_publish_oldest`. Raises DeliveryError and what `is_transient` accepts."""
        async with self._engine.connect() as conn, conn.begin():
            state, server_start = await outbox.acquire(conn, topic, self._owner)
            if state is Ownership.NO_CHANGES:
                return state, None
            if state is Ownership.OTHER_OWNER:
                return state, outbox.LEASE_SECONDS
            if server_start == self._replicated:
                return state, await self._send_oldest(conn, topic, state)
        await self._wait_for_standby(server_start)
        return state, 0

    async def _send_oldest(self, conn: AsyncConnection, topic: str, state: Ownership) -> float | None:
        """Send the oldest changes of a topic that is locked. Returns the pause, see `_publish_oldest`."""
        producer = self._producers[topic]
        if state is Ownership.NEW_OWNER or not producer.usable:
            await producer.take_over()
        entries = await outbox.claim(conn, topic, self._owner)
        if entries:
            with spans.of_changes(entries) as traced:
                await producer.send([_message(entry) for entry in traced])
        _count(topic, entries)
        # Changes that were committed after the claim have set the wakeup, or are noticed by the next poll.
        return 0 if outbox.is_full(entries) else None

    async def _wait_for_standby(self, server_start: datetime | None) -> None:
        """Return when the standby has all transactions that the crash before `server_start` made visible. Raises what
        `is_transient` accepts."""
        async with self._replicating:
            if self._replicated == server_start:
                return
            async with self._engine.connect() as conn, conn.begin():
                await self._commits.begin(conn)
                await wait_for_standby(conn)
                await self._commits.commit(conn)
            self._replicated = server_start


_STATES = {
    Ownership.NO_CHANGES: "idle",
    Ownership.OTHER_OWNER: "standby",
    Ownership.SAME_OWNER: "publishing",
    Ownership.NEW_OWNER: "publishing",
}


def _count(topic: str, entries: Iterable[outbox.Entry]) -> None:
    """Metrics of changes that Kafka has."""
    now, latency, count = time.time(), CHANGE_LATENCY.labels(topic), 0
    for entry in entries:
        count += 1
        if entry.requested_at is not None:
            latency.observe(max(0.0, now - entry.requested_at.timestamp()))
    CHANGES.labels(topic).inc(count)


def _message(entry: outbox.Entry) -> Outgoing:
    resource, _, action = entry.change_type.partition(".")
    return Outgoing(
        entry.topic,
        entry.value,
        entry.key.encode(),
        change_headers(entry.change_id, resource, action, entry.traceparent),
        partition_key=entry.partition_key.encode(),
    )
