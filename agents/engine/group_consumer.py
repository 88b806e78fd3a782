"""A Faust app in a consumer group of its own, and the batches of its partitions.

A worker has two of them. A consumer delivers everything it has fetched before anything newer, so reads that shared a
consumer with requests would wait behind a gateway's backlog.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import structlog
from faust.exceptions import ConsumerNotStarted

from agents.engine import app as faust_app
from agents.engine.batches import Batches, Work
from agents.engine.lanes import Event, TopicPartition
from agents.engine.readiness import Readiness
from topics.settings import KafkaSettings
from topics.supervision import Failed, Supervisor, TaskEnded, interruptions_raised

log = structlog.get_logger(__name__)

REVOKED_SECONDS = 12.0
"""Seconds that current batches get when the worker loses partitions."""
STOP_SECONDS = 6.0
"""Seconds that current batches get when the worker stops."""
LEAVE_SECONDS = 3.0
"""Seconds for the last commit and for leaving the group."""


class ConsumerFailed(Exception):
    """A part of the consumer has ended by itself."""


class GroupConsumer:
    """`name` says what it consumes. `tasks`, `shared` and `limit` are those of Batches. `failed` is called when a task
    of Batches or Faust ends by itself."""

    def __init__(
        self,
        name: str,
        *,
        kafka: KafkaSettings,
        group: str,
        session: float,
        topics: Sequence[str],
        work: Work,
        tasks: int,
        shared: bool,
        limit: Callable[[], int],
        readiness: Readiness,
        failed: Failed,
    ) -> None:
        self.assignment = f"{name} partitions"
        self._name = name
        self._group = group
        self._readiness = readiness
        self._app = faust_app.create(kafka, group, session, topics, self._receive)
        source = faust_app.FaustSource(self._app)
        self._batches = Batches(work, source, readiness, failed, tasks=tasks, shared=shared, limit=limit)
        self._app.on_partitions_revoked.connect(self._revoked)
        self._app.on_partitions_assigned.connect(self._assigned)
        self._readiness.not_ready(self.assignment, "waiting for an assignment")
        self._supervisor = Supervisor(failed)
        self._ended_parts: list[str] = []

    def start(self) -> None:
        self._supervisor.start(f"{self._name} consumer", self._run())

    async def _run(self) -> None:
        """Raises ConsumerFailed if Faust crashes."""
        await self._app.start()
        await self._app.wait_until_stopped()
        if reason := self._app.crash_reason:
            text = str(reason) if isinstance(reason, TaskEnded) else type(reason).__name__
            raise ConsumerFailed(f"Faust has crashed: {text}") from reason

    async def end(self) -> None:
        """Finish the current batches, commit the acknowledged offsets, and leave the group, so that other workers take
        over at once."""
        self._supervisor.let_end()
        await self._batches.close(STOP_SECONDS)
        leaving = asyncio.create_task(self._leave())
        # Not `asyncio.timeout`: Faust suppresses a cancellation while it waits for another commit.
        _, unfinished = await asyncio.wait([leaving], timeout=LEAVE_SECONDS)
        if unfinished:
            leaving.cancel()
            self._not_left(TimeoutError())
        await self._supervisor.stop()

    async def _leave(self) -> None:
        try:
            with interruptions_raised():
                await self._app.consumer.commit()
                await self._app.stop()
        except Exception as error:
            self._not_left(error)

    def _not_left(self, error: Exception) -> None:
        """Nothing is lost: requests that are delivered again are deduplicated through the inbox."""
        log.warning("group_not_left", consumer=self._name, error=repr(error))

    def check(self) -> None:
        """Raises ConsumerFailed if a part has ended unnoticed, in two checks in a row: aiokafka replaces some parts.
        Tries again to join a group that the user may not read."""
        if self._supervisor.ending or faust_app.retry_forbidden_group(self._app):
            return
        former, self._ended_parts = self._ended_parts, faust_app.ended_parts(self._app)
        if ended := [part for part in self._ended_parts if part in former]:
            raise ConsumerFailed(f"These parts of the {self._name} consumer have ended: {', '.join(ended)}.")

    def positions(self) -> Mapping[TopicPartition, int]:
        """The assigned partitions with their next offset that is neither acknowledged nor committed. Empty before the
        consumer has started."""
        acknowledged, committed = self._batches.next_offsets(), self._app.consumer._committed_offset
        try:
            assignment = self._app.consumer.assignment()
        except ConsumerNotStarted:
            return {}
        return {
            tuple(partition): max(acknowledged.get(partition, 0), committed.get(partition) or 0)
            for partition in assignment
        }

    def waits(self, topic_partition: TopicPartition, position: int, end: int) -> bool:
        """True if the partition has messages from `position` on. Even if `position` < `end`, there may be no message:
        transaction markers also take offsets."""
        if position >= end:
            return False
        if self._batches.has_work(topic_partition):
            return True
        if (self._app.consumer._read_offset[topic_partition] or 0) > position:
            return True
        fetched = faust_app.fetched(self._app, topic_partition)
        return fetched is None or fetched < end

    def oldest(self, topic_partition: TopicPartition) -> float | None:
        """When Kafka stored the first message of the partition that is not acknowledged, in seconds since 1970; None if
        no such message is fetched."""
        return self._batches.oldest(topic_partition)

    def progress(self, topic_partition: TopicPartition, next_offset: int) -> Hashable:
        """A value that changes as long as the partition moves on, or other partitions have their turn before it."""
        return self._batches.position(topic_partition) or next_offset

    def pauses(self, topic_partition: TopicPartition) -> bool:
        """True if the partition pauses for some seconds: because a batch failed, because of a flood, or because the
        user may not read the topic or the group."""
        needed = {f"topic {topic_partition[0]}", f"group {self._group}"}
        return self._batches.is_delayed(topic_partition) or not needed.isdisjoint(self.forbidden)

    @property
    def forbidden(self) -> Sequence[str]:
        """The topics and groups that the user may not read."""
        forbidden: Sequence[str] = self._app.consumer.forbidden
        return forbidden

    def _receive(self, event: Event) -> None:
        self._batches.put(event)

    async def _revoked(self, _app: Any, revoked: Any, **_: Any) -> None:
        self._readiness.not_ready(self.assignment, "waiting for an assignment")
        await self._batches.drop([(partition.topic, partition.partition) for partition in revoked], REVOKED_SECONDS)

    async def _assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        self._readiness.ready(self.assignment)
        log.info("assigned", consumer=self._name, partitions=len(assigned))
