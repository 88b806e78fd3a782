"""The engine of a worker: waits for servers, consumes, publishes, watches its progress, and stops in order."""

import asyncio
import faulthandler
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.engine import measurements, tombstones
from agents.engine.batches import Work
from agents.engine.breaker import Breaker, NearlyEverythingFails
from agents.engine.decode import Decoder
from agents.engine.group_consumer import ConsumerFailed, GroupConsumer
from agents.engine.lag import Lag, LagReport
from agents.engine.outbound import Outbound
from agents.engine.processor import BatchProcessor
from agents.engine.progress import Progress
from agents.engine.publisher import Publisher
from agents.engine.readiness import Readiness
from agents.engine.retry import until_done
from agents.engine.schema_lookup import SchemaLookup
from agents.engine.settings import EngineSettings
from agents.engine.turns import BATCH_LIMIT, ReadsFirst
from agents.operation import Catalogue
from agents.wire import Wire
from storage import deletions, inbox, migrate
from storage.connecting import WrongPooling
from storage.database import connect
from storage.settings import DatabaseSettings
from storage.tx import Resources, clock
from telemetry import event_loop, garbage
from telemetry.metrics import READY
from topics import admin, names
from topics.kafka import DeliveryError, FencedProducer, Producer, close_consumer, missing_topics
from topics.replies import ReplyProducer
from topics.schema_registry import SchemaRegistry
from topics.settings import KafkaSettings, SchemaRegistrySettings
from topics.supervision import Interrupted, Supervisor, TaskEnded, interruptions_raised

log = structlog.get_logger(__name__)

SHUTDOWN_LIMIT = 20.0
"""Seconds after which a stopping worker ends in any case. Its parts end one after the other, and a broker that hangs
makes each of them take its limit: `group_consumer.STOP_SECONDS`, `group_consumer.LEAVE_SECONDS`, CLOSE_SECONDS."""
CLOSE_SECONDS = 5.0
"""How long a stopping worker waits for changes that are being sent, and for its connections to close."""
PRUNE_INTERVAL = 60.0
"""Seconds between two looks for expired answers and deletions, and for tombstones to repeat."""
PRUNE_ALL_INTERVAL = 3600.0
"""Seconds between two looks for expired answers that begin with the oldest one, for those that were locked before."""
PRUNE_PAUSE = 0.1
"""Seconds between two deletions of expired answers, so that they leave time for requests. With `inbox.PRUNE_LIMIT`, a
worker deletes answers several times as fast as it can write them."""
TOPICS_SECONDS = 10.0
"""How long a starting worker waits for missing topics if others exist. `visitor topics` creates all of them within
seconds; after that time, a topic is missing by mistake, and the worker does what it can without it."""
WATCH_SECONDS = 5.0
"""Seconds between two looks at the progress."""


class Stalled(Exception):
    """Messages wait, no fault is known, and no partition has moved."""


_EXPLAINED = (NearlyEverythingFails, Stalled, TaskEnded, ConsumerFailed, WrongPooling)
"""Failures whose message says what happened and contains no personal data."""


def explain(error: BaseException) -> str:
    """The message of an error that has ended the engine, if it contains no personal data."""
    return str(error) if isinstance(error, _EXPLAINED) else "an unexpected error"


class Engine:
    """The engine of a worker process. `run` returns after `stop` was called, or raises the failure that ended the
    engine. `failure` has the failure, if there is one."""

    def __init__(
        self,
        kafka: KafkaSettings,
        database: DatabaseSettings,
        settings: EngineSettings,
        catalogue: Catalogue,
        resources: Resources,
        schema_registry: SchemaRegistrySettings,
    ) -> None:
        self.readiness = Readiness()
        self.readiness.not_ready("start", "starting")
        READY.set_function(lambda: not self.readiness.reasons)
        self._kafka = kafka
        self._settings = settings
        self._catalogue = catalogue
        self._families = sorted(catalogue.families)
        self._database = database
        # One more for parked requests.
        self._writes = connect(database, connections=database.connections + 1, pool="writes")
        self._reads = connect(database, connections=database.query_connections, read_only=True, pool="reads")
        # A publisher keeps a connection while it waits for Kafka, which may take half a minute.
        self._publishing = connect(database, connections=2, pool="publishers")
        self._background = connect(database, connections=1, pool="background")
        self._producer = Producer(kafka)
        self._reply_producer = ReplyProducer(kafka)
        wire = Wire(catalogue)
        self._registry = SchemaRegistry(schema_registry) if schema_registry.url else None
        self._schemas = SchemaLookup(wire, self._background, self._registry)
        self._publisher = Publisher(self._change_producers(), self._publishing, self.readiness)
        self._reads_first = ReadsFirst()
        self._work = BatchProcessor(
            decoder=Decoder(catalogue, wire, self._schemas, settings.reply_topic_patterns),
            wire=wire,
            outbound=Outbound(self._producer, self._reply_producer, catalogue.family_of),
            writes=self._writes,
            reads=self._reads,
            breaker=Breaker(settings.failure_limit),
            reads_first=self._reads_first,
            resources=resources,
            changed=self._publisher.wake,
        )
        self.failure: BaseException | None = None
        self._stopping = asyncio.Event()
        self._supervisor = Supervisor(self.fail)
        self._consumers: list[GroupConsumer] = []
        self._lag = LagReport()
        self._observing: AIOKafkaConsumer | None = None

    def _change_producers(self) -> dict[str, FencedProducer]:
        """One producer per change topic, not connected yet."""
        return {
            topic: FencedProducer(self._kafka, names.transactional_id(self._settings.group, topic))
            for topic, _ in self._catalogue.change_topics
        }

    def stop(self) -> None:
        self._stopping.set()

    def fail(self, task: str, error: BaseException) -> None:
        """Stop the engine because a task has ended."""
        log.critical("worker_failed", task=task, error=type(error).__name__, reason=explain(error), exc_info=error)
        self.failure = self.failure or error
        self._stopping.set()

    async def run(self) -> None:
        """Raises NearlyEverythingFails, Stalled, TaskEnded, ConsumerFailed, or any other exception for a bug."""
        heart = Supervisor(self.fail)
        heart.start("heartbeat", self._heartbeat())
        heart.start("event loop delay", event_loop.measure_delay())
        heart.start("garbage", garbage.collect_regularly())
        try:
            if await self._unless_stopped(self._wait_for_needs()):
                await self._serve()
        finally:
            self._stopping.set()
            closing = asyncio.create_task(self._close())
            # Not `asyncio.timeout`: some libraries delay a cancellation.
            await asyncio.wait([closing], timeout=CLOSE_SECONDS)
            if closing.done():
                await closing
            await heart.stop()
            faulthandler.cancel_dump_traceback_later()
        if self.failure is not None:
            raise self.failure

    async def _unless_stopped(self, work: Awaitable[None]) -> bool:
        """True if the work has ended; False if the engine was stopped before, which cancels the work."""
        task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            with interruptions_raised():
                await task
            return True
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return False

    async def _wait_for_needs(self) -> None:
        """Wait for migrations and topics, which other commands create. The reason `start` says what the worker waits
        for: a server that hangs fails no attempt for a while."""
        self.readiness.not_ready("start", "waiting for the schema in PostgreSQL")
        await self._until("migrations", self._migrated)
        await until_done("schemas", self.readiness, self._schemas.store)
        if self._registry is not None:
            self.readiness.not_ready("start", "waiting for the schema registry")
        await until_done("schema registry", self.readiness, self._schemas.register)
        self.readiness.not_ready("start", "waiting for the topics in Kafka")
        existing = await self._wait_for_topics()
        requests = [topic for topic in map(names.requests, self._families) if topic in existing]
        await self._until("retention", lambda: self._inbox_outlives_requests(requests))
        await until_done("producer", self.readiness, self._producer.start)

    async def _wait_for_topics(self) -> set[str]:
        """Wait until all topics exist, or some of them after TOPICS_SECONDS. Returns those that exist."""
        topics = [spec.name for spec in self._catalogue.topics(self._kafka)]
        deadline = time.monotonic() + TOPICS_SECONDS
        missing: list[str] = []

        async def enough_exist() -> str | None:
            nonlocal missing
            missing = await self._missing_at_start()
            waits = missing and (len(missing) == len(topics) or time.monotonic() < deadline)
            return _missing(missing) if waits else None

        await self._until("topics", enough_exist)
        self._report_topics(missing)
        return set(topics) - set(missing)

    async def _until(self, need: str, check: Callable[[], Awaitable[str | None]]) -> None:
        """Wait until `check` finds nothing missing."""
        while True:
            missing = await until_done(need, self.readiness, check)
            if missing is None:
                self.readiness.ready(need)
                return
            self.readiness.not_ready(need, missing)
            log.info("waiting", needs=need, missing=missing)
            await asyncio.sleep(1)

    async def _migrated(self) -> str | None:
        return migrate.mismatch(await migrate.current(self._background))

    async def _missing_at_start(self) -> list[str]:
        try:
            return await admin.missing_topics(self._kafka, self._catalogue.topics(self._kafka))
        except KafkaError as error:
            raise DeliveryError(str(error)) from error

    async def _inbox_outlives_requests(self, topics: Sequence[str]) -> str | None:
        """A request that is delivered after its answer was deleted would be applied a second time."""
        try:
            lifetimes = await admin.record_lifetimes(self._kafka, topics)
        except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            log.warning("retention_not_checked", hint="allow DESCRIBE_CONFIGS on the request topics")
            return None
        except KafkaError as error:
            raise DeliveryError(str(error)) from error
        inbox_days = timedelta(days=self._settings.inbox_days)
        longer = [topic for topic, lifetime in lifetimes.items() if lifetime is None or lifetime > inbox_days]
        if not longer:
            return None
        return (
            f"Kafka keeps requests longer than the inbox keeps answers ({self._settings.inbox_days:g} days), and would"
            f" deliver them twice after an offset reset: {', '.join(longer)}. Run `visitor topics --alter`, or raise"
            " VISITOR_WORKER_INBOX_DAYS above retention.ms + segment.ms."
        )

    async def _serve(self) -> None:
        self._consumers = [
            self._consumer(
                "requests",
                [names.requests(family) for family in self._families],
                self._work.write,
                tasks=self._database.connections,
                shared=True,
                limit=self._reads_first.batch_limit,
            ),
            # One lane per batch: a slow read delays only those of its own partition.
            self._consumer(
                "queries",
                [names.QUERIES],
                self._work.read,
                tasks=self._database.query_connections,
                shared=False,
                limit=lambda: BATCH_LIMIT,
            ),
        ]
        self._supervisor.start("publisher", self._publisher.run())
        self._supervisor.start("prune", self._prune())
        self._supervisor.start("watch", self._watch())
        topics = [topic for topic, _ in self._catalogue.change_topics]
        self._supervisor.start("measurements", measurements.run(self._background, topics))
        for consumer in self._consumers:
            consumer.start()
        self.readiness.ready("start")
        log.info("started", group=self._settings.group)
        await self._stopping.wait()
        self.readiness.not_ready("stop", "stopping")
        log.info("stopping")
        await asyncio.gather(*(consumer.end() for consumer in self._consumers))
        await self._supervisor.stop()

    def _consumer(
        self, name: str, topics: Sequence[str], work: Work, *, tasks: int, shared: bool, limit: Callable[[], int]
    ) -> GroupConsumer:
        return GroupConsumer(
            name,
            kafka=self._kafka,
            group=names.consumer_group(self._settings.group, name),
            session=self._settings.session_seconds,
            topics=topics,
            work=work,
            tasks=tasks,
            shared=shared,
            limit=limit,
            readiness=self.readiness,
            failed=self.fail,
        )

    async def _prune(self) -> None:
        """Delete expired answers and deletions, and repeat tombstones."""
        keep = timedelta(days=self._settings.inbox_days)
        since = start = datetime.min.replace(tzinfo=UTC)
        start_again_at = time.monotonic() + PRUNE_ALL_INTERVAL

        async def prune() -> tuple[datetime | None, datetime, int]:
            nonlocal start_again_at
            begin = since
            if time.monotonic() >= start_again_at:
                # Not at the next attempt: with an old snapshot, the scan may exceed its timeout.
                begin, start_again_at = start, time.monotonic() + PRUNE_ALL_INTERVAL
            async with self._background.begin() as conn:
                # A worker whose clock is wrong would delete the answers to requests that may be delivered again.
                now = await clock(conn)
                repeated = await tombstones.repeat(conn, now)
                last = await inbox.prune(conn, begin, now - keep)
                return last, now - keep, repeated + await deletions.prune(conn, now)

        while True:
            last, before, deletion_count = await until_done("prune", self.readiness, prune)
            # Also after an empty scan: another worker may have deleted all, and there can be millions of dead rows.
            since = last or before
            await asyncio.sleep(PRUNE_PAUSE if last or deletion_count else PRUNE_INTERVAL)

    async def _heartbeat(self) -> None:
        """Postpone, each second, a timer that runs in a thread and ends the process. If the event loop is blocked, the
        timer is not postponed and ends the process. After `stop`, a final timer ends the process if it hangs."""
        while not self._stopping.is_set():
            faulthandler.dump_traceback_later(self._settings.stall_seconds, exit=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)
        faulthandler.dump_traceback_later(SHUTDOWN_LIMIT, exit=True)
        await asyncio.Event().wait()

    async def _watch(self) -> None:
        """Compare the ends of the partitions with the acknowledged offsets. Raises Stalled if a partition with
        messages, or an assignment, has not moved for too long and no known fault explains it; partitions that wait for
        their turn move as long as any batch ends. Raises ConsumerFailed."""
        progress = Progress(self._settings.stall_seconds)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for consumer in self._consumers:
                consumer.check()
            try:
                with interruptions_raised():
                    waiting = await self._waiting()
                    self._report_topics(await self._missing_topics())
            except (KafkaError, OSError, TimeoutError, Interrupted) as error:
                self.readiness.not_ready("kafka", type(error).__name__)
                progress.reset()
                await self._drop_observer()
                continue
            self.readiness.ready("kafka")
            reasons = self.readiness.reasons.keys()
            # A part with a known fault is retried for as long as the fault lasts.
            unexplained = {part: position for part, position in waiting.items() if part not in reasons}
            unassigned: dict[str, Hashable] = {
                consumer.assignment: 0
                for consumer in self._consumers
                if consumer.assignment in reasons and not consumer.forbidden
            }
            if stalled := progress.update(unexplained | unassigned, time.monotonic()):
                raise Stalled(f"{', '.join(stalled)}: did not move for {self._settings.stall_seconds:.0f} s")

    async def _waiting(self) -> dict[str, Hashable]:
        """The assigned partitions with messages that are not acknowledged, except those that pause. By partition, a
        value that changes as long as it moves on."""
        assigned = {
            KafkaPartition(*partition): (consumer, next_offset)
            for consumer in self._consumers
            for partition, next_offset in consumer.positions().items()
        }
        if not assigned:
            self._lag.update({})
            return {}
        async with asyncio.timeout(WATCH_SECONDS):
            observer = await self._observer()
            starts = await observer.beginning_offsets(list(assigned))
            ends = await observer.end_offsets(list(assigned))
        lags = {}
        for partition, (consumer, next_offset) in assigned.items():
            # Ignore offsets whose records Kafka has deleted.
            position = max(next_offset, starts[partition])
            waits = consumer.waits(tuple(partition), position, ends[partition])
            messages = ends[partition] - position if waits else 0
            lags[tuple(partition)] = Lag(messages, position, consumer.oldest(tuple(partition)))
        self._lag.update(lags)
        return {
            f"{partition.topic}:{partition.partition}": consumer.progress(tuple(partition), next_offset)
            for partition, (consumer, next_offset) in assigned.items()
            if lags[tuple(partition)].messages and not consumer.pauses(tuple(partition))
        }

    async def _missing_topics(self) -> list[str]:
        """The topics that were deleted since the start."""
        topics = [spec.name for spec in self._catalogue.topics(self._kafka)]
        async with asyncio.timeout(WATCH_SECONDS):
            observer = await self._observer()
            return await missing_topics(observer._client, topics)

    def _report_topics(self, missing: Sequence[str]) -> None:
        """Report the worker as not ready if topics are missing, or if it may not read them or a group."""
        forbidden = [resource for consumer in self._consumers for resource in consumer.forbidden]
        if missing and self.readiness.reasons.get("topics") != _missing(missing):
            log.error("topics_missing", topics=missing)
        self._report("topics", _missing(missing) if missing else None)
        self._report("read access", f"allow Read on: {', '.join(forbidden)}" if forbidden else None)

    def _report(self, part: str, reason: str | None) -> None:
        if reason is None:
            self.readiness.ready(part)
        else:
            self.readiness.not_ready(part, reason)

    async def _observer(self) -> AIOKafkaConsumer:
        if self._observing is None:
            self._observing = AIOKafkaConsumer(
                **self._kafka.client(), enable_auto_commit=False, isolation_level="read_committed"
            )
            await self._observing.start()
        return self._observing

    async def _drop_observer(self) -> None:
        """The next look uses a new connection, because this one may be the cause."""
        observer, self._observing = self._observing, None
        if observer is not None:
            await close_consumer(observer)

    async def _close(self) -> None:
        """Close everything at once, because each part may wait some seconds for a server that hangs."""
        engines = (self._writes, self._reads, self._publishing, self._background)
        producers = (self._producer, self._reply_producer)
        await self._publisher.close()
        closing = [
            self._drop_observer(),
            *(producer.stop() for producer in producers),
            *(_dispose(engine) for engine in engines),
        ]
        if self._registry is not None:
            closing.append(self._registry.close())
        await asyncio.gather(*closing)


def _missing(topics: Sequence[str]) -> str:
    return f"run `visitor topics`; missing: {', '.join(topics)}"


async def _dispose(engine: AsyncEngine) -> None:
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(3):
            await engine.dispose()
