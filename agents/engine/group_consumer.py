"""What brings events to lanes: a Faust app in a consumer group of its own, and the lanes of its partitions.

A worker has two. One consumer delivers all that it fetched before anything newer, so reads that shared one with the
requests would wait behind a gateway's backlog.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from agents.engine import app as faust_app
from agents.engine.lanes import Event, Lanes, TopicPartition, Work
from agents.engine.telemetry import Readiness
from topics.kafka import KafkaSettings

log = structlog.get_logger(__name__)

PATIENCE = 12.0
"""Seconds that begun batches get when the worker stops or loses partitions."""
LEAVE_SECONDS = 6.0


class GroupConsumer:
    """`name` says what it brings. `failed` is called with what ends a lane for good."""

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
        failed: Callable[[BaseException], None],
    ) -> None:
        self.assignment = f"{name} partitions"
        self._name = name
        self._readiness = readiness
        self._app = faust_app.create(kafka, group, session, topics, self._receive)
        self._lanes = Lanes(work, faust_app.FaustSource(self._app), failed)
        self._app.on_partitions_revoked.connect(self._revoked)
        self._app.on_partitions_assigned.connect(self._assigned)
        self._readiness.not_ready(self.assignment, "waiting for them")
        self._ending = False

    async def run(self) -> None:
        """Until it is ended. Raises what made Faust stop by itself."""
        await self._app.start()
        await self._app.wait_until_stopped()
        if not self._ending:
            raise self._app.crash_reason or RuntimeError("Faust stopped by itself")

    async def end(self) -> None:
        """Finish what is begun, commit what was acknowledged, and leave, so that the others take over at once."""
        self._ending = True
        await self._lanes.close(PATIENCE)
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._app.consumer.commit()
                await self._app.stop()
        except Exception as error:
            # Nothing is lost: what was not committed is delivered again, and the inbox knows it.
            log.warning("group_not_left", consumer=self._name, error=repr(error))

    def positions(self) -> Mapping[TopicPartition, int]:
        """The assigned partitions, each with the next offset that is neither acknowledged nor committed; none before
        the consumer has started."""
        acknowledged, committed = self._lanes.acknowledged(), self._app.consumer._committed_offset
        try:
            places = self._app.consumer.assignment()
        except ConsumerNotStarted:
            return {}
        return {tuple(place): max(acknowledged.get(place, 0), committed.get(place) or 0) for place in places}

    async def waits(self, place: TopicPartition, position: int, end: int) -> bool:
        """Whether a partition has messages from `position` on. Up to its end there may be none: the marker of a
        transaction has an offset as well."""
        if position >= end:
            return False
        if self._lanes.holds(place) or (self._app.consumer._read_offset[place] or 0) > position:
            return True
        fetched = await self._app.consumer.position(TP(*place))
        return fetched is None or fetched < end

    def _receive(self, event: Event) -> None:
        self._lanes.put(event)

    async def _revoked(self, _app: Any, revoked: Any, **_: Any) -> None:
        self._readiness.not_ready(self.assignment, "waiting for them")
        await self._lanes.drop([(place.topic, place.partition) for place in revoked], PATIENCE)

    async def _assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        self._readiness.ready(self.assignment)
        log.info("assigned", consumer=self._name, partitions=len(assigned))
