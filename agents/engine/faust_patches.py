"""Patches of Faust and of mode, which runs Faust's services. `agents.engine.app` applies them.

| patch | why |
| --- | --- |
| `_execute_noticed` | a task of Faust's that is cancelled by mistake ends unnoticed, for example the one that commits |
| `_Fetcher` | Faust's task that hands messages over suppresses its cancellation and ends unnoticed |
| `_ClientService` | Faust reads in a thread of its own, and handing a fetch over between threads takes long |
| `_ClientService._create_worker_consumer` | Faust has no setting for `isolation_level` and `consumer_timeout_ms` |
| `_RebalanceListener`, `_Consumer.resume_flow` | Faust takes messages of an earlier assignment for current ones |
| `_Consumer.seek_to_committed` | Faust continues at an offset of which the broker has refused the commit |
| `_Consumer._wait_next_records`, `perform_seek` | Faust seeks, and does not tell when it hands records over |
| `_Consumer._wait_next_records` | Faust crashes if the user may not read one of the topics, or the group |
| `_Consumer._commit_offsets` | likewise; and Faust takes a refused commit for a successful one |
| `_RebalanceListener._commit_before` | Faust forgets what is acknowledged and not committed when a rebalance begins |
| `_Consumer.wait_first` | Faust creates four tasks for each message, which takes half of its time |
| `_Consumer.verify_all_partitions_active` | Faust reads a position that aiokafka may not have; the worker ends |
| `_Consumer._to_message` | Faust drops all messages whose offsets begin again below those that were read |
| `_Consumer._to_message` | a message keeps its value of up to 16 MiB, even if it is too large for a request |
| `_Consumer._new_offset`, `_add_gap` | Faust never commits a partition whose first offsets have no message |
| `NoMonitor` | Faust takes its own metrics several times for each message |

`tests/unit/test_patches.py` fails once a library no longer needs a patch.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import faust
import structlog
from aiokafka import OffsetAndMetadata, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka
from faust.types import TP
from mode import Service
from mode.utils.futures import maybe_async

from topics import fetch_limits, names
from topics.patches import require_versions
from topics.supervision import TaskEnded

log = structlog.get_logger(__name__)

PATCHED = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1"}
"""The version of each library that the patches were written for."""

UNASSIGNED = 0
"""The generation of messages that are dropped."""

FORBIDDEN_SECONDS = 5.0
"""Seconds between two attempts to read a topic or a group that the user may not read."""

REVOKED_COMMIT_SECONDS = 5.0
"""How long a rebalance may wait for the last commit of a member that loses its partitions."""

HANDED_OVER_AT_ONCE = 50
"""How many messages are put into the agents' queues before the agents run."""


def apply() -> None:
    """For all apps of this process. Safe to call again. Raises WrongVersion."""
    require_versions(PATCHED)
    Service._execute_task = _execute_noticed  # type: ignore[method-assign, assignment]


class NoMonitor(faust.Monitor):
    """Faust's metrics are off: they cost time for each message and repeat ours."""

    def on_message_in(self, *_: Any) -> None: ...

    def on_message_out(self, *_: Any) -> None: ...

    def on_stream_event_in(self, *_: Any) -> None: ...

    def on_stream_event_out(self, *_: Any) -> None: ...


_execute_task = Service._execute_task
"""Mode's own method, before the patch."""


async def _execute_noticed(service: Any, work: Awaitable[Any]) -> None:
    """Run a task of a service. Mode 0.7.1 only logs that a task was cancelled, also if a library raised CancelledError.
    Here the service crashes instead, unless it is stopping. Otherwise Faust would run on without committing
    offsets."""

    async def noticed() -> None:
        try:
            await work
        except asyncio.CancelledError as error:
            if service.should_stop:
                raise
            name = getattr(work, "__qualname__", service.shortlabel)
            raise TaskEnded(f"Faust's task {name} was cancelled, but should run until Faust stops.") from error

    await _execute_task(service, noticed())


class _Fetcher(Fetcher):
    @Service.task
    async def _fetcher(self) -> None:
        """Hand over messages. Faust's own method suppresses a CancelledError. The task would end unnoticed, and Faust
        would read no more messages."""
        consumer: Any = self.app.consumer
        try:
            await consumer._drain_messages(self)
        finally:
            self.set_shutdown()


class _ClientService(aiokafka.AIOKafkaConsumerThread):
    """Runs aiokafka's consumer in the event loop of the worker, where Faust runs it in a thread with a second loop."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, thread_loop=consumer.loop, **options)

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await maybe_async(fun(*args, **options))

    async def on_stop(self) -> None:
        await self.on_thread_stop()
        self.set_shutdown()

    # A service that is no thread.
    maybe_start, start, stop = Service.maybe_start, Service.start, Service.stop
    crash = Service.crash  # type: ignore[assignment]
    _stopped_set, set_shutdown = Service._stopped_set, Service.set_shutdown
    _stop_children, _stop_futures = Service._stop_children, Service._stop_futures
    _stop_exit_stacks = Service._stop_exit_stacks

    @Service.task
    async def _thread_keepalive(self) -> None:
        """Do nothing; no thread needs to be kept awake."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Set two options that Faust does not offer."""
        consumer = super()._create_worker_consumer(transport)
        # By default, the task that sends fetches wakes up five times per second. Answers wake it up in any case.
        consumer._consumer_timeout = 1.0
        # Do not read the messages of a transaction that its producer aborted.
        consumer._isolation_level = "read_committed"
        return consumer


class _RebalanceListener(aiokafka.ConsumerRebalanceListener):
    def on_partitions_revoked(self, revoked: Any) -> Any:
        consumer: Any = self._thread.consumer
        consumer._is_revoked = True
        consumer.end_generation()
        return self._commit_before(super().on_partitions_revoked(revoked))

    async def _commit_before(self, revocation: Awaitable[None]) -> None:
        """Commit what is acknowledged, so that the next owner of the partitions does not read it again."""
        consumer: Any = self._thread.consumer
        try:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(REVOKED_COMMIT_SECONDS):
                    await consumer._commit_offsets(consumer._filter_committable_offsets(list(consumer._acked)))
        finally:
            await revocation

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await super().on_partitions_assigned(assigned)
        consumer: Any = self._thread.consumer
        consumer._is_revoked = False


class _Consumer(aiokafka.Consumer):
    """A generation begins when all partitions are read from their committed offsets. It ends when partitions are
    revoked, and when Faust resumes after an assignment, because Faust then clears the queues of the agents. Within a
    generation, the messages of a partition follow each other without a gap. Faust takes the generation of Kafka
    instead: a member that joins again at once gets the same one, and it is still the old one while partitions are
    revoked. Messages that come then could follow others that were dropped; a commit of their offsets would lose those.

    Only the task that fetches records seeks, and only right before a fetch. So no record is being handed over during a
    seek."""

    RebalanceListener = _RebalanceListener
    _generation = UNASSIGNED
    _last_generation = 0
    _is_revoked = True
    """True from the revocation of partitions to the end of the next assignment."""
    is_delivering = False
    """True while the records of a fetch are being handed over."""
    _handed_over = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._restarted: dict[TP, int] = {}
        """The partitions whose offsets have begun again since the current generation began, each with a generation of
        its own."""
        self._forbidden: dict[str, float] = {}
        """When a broker last refused to let this user read a topic or a group, on the monotonic clock."""

    async def _wait_next_records(self, timeout: float) -> Any:
        """Faust calls this when it has handed over all records of the last fetch."""
        self.is_delivering = False
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        if self.flow_active and self._generation == UNASSIGNED and not self._is_revoked and self.assignment():
            # Without an answer, the records that come are dropped, and the next call seeks again.
            with suppress(KafkaError):
                await self._begin_generation()
        try:
            records, partitions = await super()._wait_next_records(timeout)
        except TopicAuthorizationFailedError as error:
            (topic,) = error.args
            self._pause_forbidden(topic)
            return {}, set()
        except GroupAuthorizationFailedError:  # See `retry_forbidden_group`.
            await asyncio.sleep(1)
            return {}, set()
        self.is_delivering = bool(records)
        return records, partitions

    def _pause_forbidden(self, topic: str) -> None:
        """Do not read a topic for a while. aiokafka keeps the positions of its partitions."""
        self._note_forbidden(f"topic {topic}")
        states = [self._state_of(tp) for tp in self.assignment() if tp.topic == topic]
        for state in filter(None, states):
            state.pause()
            self.loop.call_later(FORBIDDEN_SECONDS, state.resume)

    def retry_forbidden_group(self) -> bool:
        """True if this user may not read the group. Then join it again: aiokafka tries nothing until its error is
        taken, which Faust never does."""
        client: Any = self._thread._consumer
        coordinator = client and client._coordinator
        if coordinator is None or not isinstance(coordinator._pending_exception, GroupAuthorizationFailedError):
            return False
        self._note_forbidden(f"group {coordinator.group_id}")
        coordinator.request_rejoin()
        with suppress(GroupAuthorizationFailedError):
            coordinator.check_errors()
        return True

    def _note_forbidden(self, resource: str) -> None:
        if not self.is_forbidden(resource):
            log.error("read_forbidden", resource=resource, hint="this user needs an ACL that allows Read on it")
        self._forbidden[resource] = time.monotonic()

    def is_forbidden(self, resource: str) -> bool:
        """True if this user may not read a topic or a group, for example `topic visitor.visits.requests`."""
        refused_at = self._forbidden.get(resource)
        return refused_at is not None and time.monotonic() - refused_at < 2 * FORBIDDEN_SECONDS

    @property
    def forbidden(self) -> list[str]:
        """The topics and groups that this user may not read."""
        return [resource for resource in sorted(self._forbidden) if self.is_forbidden(resource)]

    async def _begin_generation(self) -> None:
        """Read all partitions from their committed offsets. Raises KafkaError."""
        number = self.end_generation()
        await super().perform_seek()
        if self._last_generation == number:  # Otherwise, partitions were revoked or assigned during the seek.
            self._generation = number

    def end_generation(self) -> int:
        """Returns the number of the next generation."""
        self._generation = UNASSIGNED
        self._restarted.clear()
        self._last_generation += 1
        return self._last_generation

    def generation_of(self, tp: TP) -> int:
        """The current generation of a partition."""
        return UNASSIGNED if self._generation == UNASSIGNED else self._restarted.get(tp, self._generation)

    async def perform_seek(self) -> None:
        """Do nothing, because `_wait_next_records` seeks. Faust calls this after an assignment, and when it has read
        records while it should not."""

    def resume_flow(self) -> None:
        self.end_generation()
        super().resume_flow()

    async def seek_to_committed(self) -> Any:
        """Partitions without a committed offset are read from their start. aiokafka leaves these where they are, and
        Faust remembers an offset of which the broker has refused the commit."""
        offsets = await super().seek_to_committed()
        client: Any = self._thread._consumer
        for partition in (partition for partition, offset in offsets.items() if not offset):
            self._committed_offset.pop(partition, None)
            if self.position_of(partition):
                client.seek(partition, 0)
        return offsets

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        """Hand a message over. Faust creates four tasks for each message, so that it can stop when a rebalance begins.
        They take half of Faust's time. Our agents never wait, so nothing can begin during a hand-over."""
        if timeout is not None or len(coros) != 2 or not self.flow_active:
            return await super().wait_first(*coros, timeout=timeout)
        hand_over, suspended = coros
        suspended.close()
        await hand_over
        self._handed_over += 1
        if self._handed_over % HANDED_OVER_AT_ONCE == 0:
            # Let the agents run. Otherwise their queues fill up, and each message costs more.
            await asyncio.sleep(0)
        return None

    def _new_consumer_thread(self) -> Any:
        return _ClientService(self, loop=self.loop, beacon=self.beacon)

    async def verify_all_partitions_active(self) -> None:
        """Do nothing; `Engine._watch` watches progress. Faust would read a position that aiokafka does not know yet,
        for example after unread records were deleted, and the AssertionError would end the worker."""

    def _to_message(self, tp: TP, record: Any) -> Any:
        """The message of a fetched record. If a broker has lost the end of a partition, offsets begin again below those
        that were read. Faust drops such messages silently. Here they are delivered; the inbox recognises duplicates."""
        if record.offset < (self._read_offset[tp] or 0):
            log.warning("offsets_begin_again", topic=tp.topic, partition=tp.partition, offset=record.offset)
            for offsets in (self._read_offset, self._committed_offset, self._acked, self._acked_index):
                offsets.pop(tp, None)
            # Messages that were read before must not be acknowledged any more: others have their offsets now.
            self._last_generation += 1
            self._restarted[tp] = self._last_generation
        message = super()._to_message(tp, record)
        message.generation_id = self.generation_of(tp)
        # A longer key is never used as a whole.
        message.key = message.key and message.key[: names.KEY_LIMIT + 1]
        message.value = fetch_limits.cut(message.value)
        return message

    def position_of(self, tp: TP) -> int | None:
        """The next offset that aiokafka fetches of a partition; None if it has none. Not `position()`, which may
        wait."""
        state = self._state_of(tp)
        position: int | None = state and state._position
        return position

    def _state_of(self, tp: TP) -> Any:
        """What aiokafka knows about a partition; None if it is not assigned."""
        client = self._thread._consumer
        subscription = client and client._subscription.subscription
        if not subscription or not subscription.assignment or tp not in subscription.assignment.tps:
            return None
        return subscription.assignment.state_value(tp)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit offsets. Those of topics that the user may not read are committed later. Returns False if the group
        rebalances, or if the user may not read it: the partitions are then read from the offsets that the broker
        knows."""
        last_generation = self._last_generation
        assignment = self.assignment()
        offsets = {tp: offset for tp, offset in offsets.items() if tp in assignment}
        if not offsets:
            return False
        client: Any = self._thread._consumer
        forbidden: set[str] = set()
        try:
            await client.commit({TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()})
        except (CommitFailedError, GroupAuthorizationFailedError):
            return False
        except TopicAuthorizationFailedError as error:
            (forbidden,) = error.args
        for topic in forbidden:
            self._note_forbidden(f"topic {topic}")
        if self._last_generation != last_generation:
            return False
        for tp, offset in offsets.items():
            if tp.topic in forbidden:
                self._acked[tp].append(offset - 1)
            else:
                self._committed_offset[tp] = offset
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing; see `_new_offset`."""

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit: the one after the last acknowledged message, because lanes acknowledge in order. Faust
        commits past offsets without a message only if it recorded them as a gap when it read the next message. It does
        not record a gap directly after offset 0. If the records there were deleted, or their transaction was aborted,
        Faust would never commit the partition again."""
        acknowledged = self._acked[tp]
        if not acknowledged:
            return None
        offset: int = max(acknowledged) + 1
        acknowledged.clear()
        self._acked_index[tp].clear()
        return offset


class Transport(aiokafka.Transport):
    Consumer = _Consumer
    Fetcher = _Fetcher
