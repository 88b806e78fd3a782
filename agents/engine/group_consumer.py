"""What brings events to lanes: a Faust app in a consumer group of its own, and the lanes of its partitions.

A worker has two. One consumer delivers all that it fetched before anything newer, so reads that shared one with the
requests would wait behind a gateway's backlog.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from faust.exceptions import ConsumerNotStarted

from agents.engine import app as faust_app
from agents.engine.lanes import Event, Lanes, TopicPartition, Work
from agents.engine.telemetry import Readiness
from topics.kafka import KafkaSettings
from topics.supervision import Failed, Supervisor, TaskEnded, interruptions_raised

log = structlog.get_logger(__name__)

PATIENCE = 12.0
"""Seconds that begun batches get when the worker stops or loses partitions."""
LEAVE_SECONDS = 6.0


class IntakeBroken(Exception):
    """Something that brings messages has ended by itself."""


class GroupConsumer:
    """`name` says what it brings. `failed` is called where a lane, or Faust, ends for good."""

    def __init__(
        self,
        name: str,
        *,
        kafka: KafkaSettings,
        group: str,
        session: float,
        topics: Sequence[str],
        work: Work,
        readiness: Readiness,
        failed: Failed,
    ) -> None:
        self.assignment = f"{name} partitions"
        self._name = name
        self._readiness = readiness
        self._app = faust_app.create(kafka, group, session, topics, self._receive)
        self._lanes = Lanes(work, faust_app.FaustSource(self._app), failed)
        self._app.on_partitions_revoked.connect(self._revoked)
        self._app.on_partitions_assigned.connect(self._assigned)
        self._readiness.not_ready(self.assignment, "waiting for them")
        self._supervisor = Supervisor(failed)
        self._ended_parts: list[str] = []

    def start(self) -> None:
        self._supervisor.start(f"{self._name} consumer", self._run())

    async def _run(self) -> None:
        """Raises what made Faust stop by itself."""
        await self._app.start()
        await self._app.wait_until_stopped()
        if reason := self._app.crash_reason:
            why = str(reason) if isinstance(reason, TaskEnded) else type(reason).__name__
            raise IntakeBroken(f"Faust has crashed: {why}") from reason

    async def end(self) -> None:
        """Finish what is begun, commit what was acknowledged, and leave, so that the others take over at once."""
        self._supervisor.let_end()
        await self._lanes.close(PATIENCE)
        try:
            with interruptions_raised():
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._app.consumer.commit()
                    await self._app.stop()
        except Exception as error:
            # Nothing is lost: what was not committed is delivered again, and the inbox knows it.
            log.warning("group_not_left", consumer=self._name, error=repr(error))
        await self._supervisor.stop()

    def check(self) -> None:
        """Raises IntakeBroken for what has ended unnoticed. Twice in a row, since aiokafka replaces some parts."""
        before, self._ended_parts = self._ended_parts, faust_app.ended_parts(self._app)
        if ended := [part for part in self._ended_parts if part in before]:
            raise IntakeBroken(f"Of the {self._name} consumer these parts have ended: {', '.join(ended)}.")

    def positions(self) -> Mapping[TopicPartition, int]:
        """The assigned partitions, each with the next offset that is neither acknowledged nor committed; none before
        the consumer has started."""
        acknowledged, committed = self._lanes.acknowledged(), self._app.consumer._committed_offset
        try:
            places = self._app.consumer.assignment()
        except ConsumerNotStarted:
            return {}
        return {tuple(place): max(acknowledged.get(place, 0), committed.get(place) or 0) for place in places}

    def waits(self, place: TopicPartition, position: int, end: int) -> bool:
        """Whether a partition has messages from `position` on. Up to its end there may be none: the marker of a
        transaction has an offset as well."""
        if position >= end:
            return False
        if self._lanes.holds(place) or (self._app.consumer._read_offset[place] or 0) > position:
            return True
        fetched = faust_app.fetched(self._app, place)
        return fetched is None or fetched < end

    def _receive(self, event: Event) -> None:
        self._lanes.put(event)

    async def _revoked(self, _app: Any, revoked: Any, **_: Any) -> None:
        self._readiness.not_ready(self.assignment, "waiting for them")
        await self._lanes.drop([(place.topic, place.partition) for place in revoked], PATIENCE)

    async def _assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        self._readiness.ready(self.assignment)
        log.info("assigned", consumer=self._name, partitions=len(assigned))
