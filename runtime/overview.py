"""The state of a running installation as plain data, read from Kafka and PostgreSQL only, so that it is known when no
process of the service runs. `visitor status`, `visitor doctor` and the console of the edge show it.

Nothing here is personal data: keys, values and texts of errors are left out.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError
from pydantic.alias_generators import to_camel
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.catalogue import CATALOGUE
from runtime import latencies
from runtime.latencies import Latency, Offsets
from runtime.settings import Settings
from storage import inbox, migrate, outbox, statistics
from storage.connecting import ConnectionFailed, WrongPooling
from storage.database import connect
from storage.statistics import LockHolder, LockWait
from topics import dead_letters, names
from topics.connection_errors import ConnectionRefused
from topics.observer import Group, Observer
from topics.settings import KafkaSettings
from topics.supervision import interruptions_raised

LIMIT_SECONDS = 5.0
"""How long one server may take to answer."""
NEWEST_DEAD_LETTERS = 10
DELAYED_SECONDS = 10.0
"""From this age on, a request or a change that waits deserves a warning."""
LATE_SECONDS = 60.0
"""From this age on, it is an error."""
LOCK_SECONDS = 5.0
"""From this time on, a lock that another session holds, or waits for, deserves a warning."""

T = TypeVar("T")


@dataclass(frozen=True)
class Unavailable:
    """A server that does not answer, or cannot be used. `reason` is one line."""

    reason: str


@dataclass(frozen=True)
class PartitionLag:
    """The messages of a partition that its consumer group has not committed, and the transaction markers between
    them. Workers commit once per second, so a small number is normal under load. `seconds` is the age of the oldest
    message; None if it could not be read in time, 0 if there is none."""

    topic: str
    partition: int
    messages: int
    seconds: float | None


@dataclass(frozen=True)
class GroupLag:
    """A consumer group of the workers: `<VISITOR_WORKER_GROUP>.requests` or `.queries`. `state` is Kafka's, for example
    Stable, PreparingRebalance, Empty (no worker runs) or Dead (none ever ran). `partitions` has all partitions of its
    topics."""

    name: str
    state: str
    partitions: tuple[PartitionLag, ...]

    @property
    def messages(self) -> int:
        return sum(partition.messages for partition in self.partitions)

    @property
    def seconds(self) -> float:
        """The age of the oldest message, as far as it is known."""
        return max((partition.seconds or 0.0 for partition in self.partitions), default=0.0)


@dataclass(frozen=True)
class Worker:
    """A worker process that is a member of a consumer group. `client_id` contains its host name and process id, `host`
    is its address as the broker sees it. `partitions` are those of both groups, by topic."""

    client_id: str
    host: str
    partitions: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter without its content and without the text of its reason. `id` is that of `visitor dead-letters`,
    `topic` that of the original message."""

    id: str
    written_at: datetime
    reason: str
    topic: str
    operation: str | None
    source: str | None


@dataclass(frozen=True)
class KafkaOverview:
    """`ends` has the sum of the end offsets of each topic, for rates. On change topics, transaction markers count, too.
    `latencies` has those of the requests that were answered since the last read of the same source, by the topic of the
    requests. `missing_topics` do not exist, or may not be described. `dead_letters` are the newest, the newest
    first; those of the partitions `unread_dead_letters` could not be read in time."""

    groups: tuple[GroupLag, ...]
    workers: tuple[Worker, ...]
    ends: Mapping[str, int]
    latencies: Mapping[str, Latency]
    missing_topics: tuple[str, ...]
    dead_letters: tuple[DeadLetter, ...]
    unread_dead_letters: tuple[int, ...]


@dataclass(frozen=True)
class ChangeTopic:
    """What waits in the outbox for a change topic: `waiting` changes, counted up to `storage.outbox.WAITING_LIMIT`, the
    oldest of which was committed `oldest_seconds` ago (None if none waits). `owner` is the publisher, in any worker,
    that published last, `published_seconds` ago; None if no change was ever published."""

    topic: str
    waiting: int
    oldest_seconds: float | None
    owner: str | None
    published_seconds: float | None


@dataclass(frozen=True)
class DatabaseOverview:
    """`revision` is that of the schema. `inbox_rows` is PostgreSQL's estimate. `last_change_id` grows with each
    committed change of any resource, for rates."""

    revision: str
    inbox_rows: int
    outbox_rows: int
    """As `storage.outbox.rows` counts or estimates them."""
    last_change_id: int
    change_topics: tuple[ChangeTopic, ...]
    lock_waits: tuple[LockWait, ...]
    lock_holders: tuple[LockHolder, ...]

    @property
    def oldest_change_seconds(self) -> float:
        """The age of the oldest change in the outbox, 0 if it is empty."""
        return max((topic.oldest_seconds or 0.0 for topic in self.change_topics), default=0.0)


@dataclass(frozen=True)
class Overview:
    """The state at one moment, by the clock of this machine."""

    read_at: datetime
    kafka: KafkaOverview | Unavailable
    database: DatabaseOverview | Unavailable


@dataclass(frozen=True)
class Rates:
    """Per second: the new messages of each topic, and the committed changes of all resources."""

    topics: Mapping[str, float]
    changes: float


def rates(before: Overview, after: Overview) -> Rates:
    """The rates between two overviews. Topics without both values are left out."""
    seconds = (after.read_at - before.read_at).total_seconds()
    if seconds <= 0:
        return Rates({}, 0.0)
    topics: Mapping[str, float] = {}
    if isinstance(before.kafka, KafkaOverview) and isinstance(after.kafka, KafkaOverview):
        # Offsets begin again if a topic is created again.
        topics = {
            topic: max(0, end - before.kafka.ends[topic]) / seconds
            for topic, end in after.kafka.ends.items()
            if topic in before.kafka.ends
        }
    changes = 0.0
    if isinstance(before.database, DatabaseOverview) and isinstance(after.database, DatabaseOverview):
        changes = max(0, after.database.last_change_id - before.database.last_change_id) / seconds
    return Rates(topics, changes)


def as_document(overview: Overview, per_second: Rates) -> dict[str, Any]:
    """Everything as JSON values with camelCase names. A server that is unavailable is `{"unavailable": <reason>}`."""
    return {**_document(overview), "rates": _document(per_second)}


def _document(value: Any) -> Any:
    if isinstance(value, Unavailable):
        return {"unavailable": value.reason}
    if is_dataclass(value):
        return {to_camel(each.name): _document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _document(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_document(each) for each in value]
    return value


class Source:
    """Reads overviews of one installation. It keeps its connections: two to each broker, one to the database."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = _KafkaSource(settings.kafka, settings.worker.group)
        self._database = _DatabaseSource(connect(settings.database, connections=1, read_only=True))

    async def read(self) -> Overview:
        """Never raises because a server is unavailable. Takes some milliseconds, and at most `LIMIT_SECONDS`."""
        kafka, database = await asyncio.gather(
            _or_unavailable(self._kafka.read, self._kafka.disconnect),
            _or_unavailable(self._database.read, self._database.disconnect),
        )
        return Overview(datetime.now(UTC), kafka, database)

    async def close(self) -> None:
        await asyncio.gather(self._kafka.disconnect(), self._database.disconnect())


@asynccontextmanager
async def source(settings: Settings) -> AsyncIterator[Source]:
    """A source of overviews. The process must have called `topics.patches.apply`."""
    opened = Source(settings)
    try:
        yield opened
    finally:
        await opened.close()


async def _or_unavailable(
    read: Callable[[], Awaitable[T]], disconnect: Callable[[], Awaitable[None]]
) -> T | Unavailable:
    """The next read connects anew after a failure, because the connection may be the cause."""
    try:
        with interruptions_raised():
            async with asyncio.timeout(LIMIT_SECONDS):
                return await read()
    except TimeoutError:
        reason = f"no answer within {LIMIT_SECONDS:.0f} s"
    except Exception as error:
        reason = explain(error)
    with suppress(Exception):
        await disconnect()
    return Unavailable(reason)


def explain(error: Exception) -> str:
    """Why a server is unavailable, in one line."""
    if isinstance(error, TopicAuthorizationFailedError):
        return f"this user lacks a right to a topic, see `visitor acls` ({error})"
    if isinstance(error, KafkaConnectionError) and not isinstance(error, ConnectionRefused):
        return "no broker answers at VISITOR_KAFKA_BOOTSTRAP"
    if isinstance(error, OSError) and not isinstance(error, ConnectionFailed):
        return f"PostgreSQL does not answer at VISITOR_DATABASE_URL ({error.strerror or type(error).__name__})"
    named = isinstance(error, (ConnectionRefused, ConnectionFailed, WrongPooling, KafkaError))
    text = str(error) if named else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0][:300]


class _KafkaSource:
    def __init__(self, settings: KafkaSettings, worker_group: str) -> None:
        self._settings = settings
        self._topics = [spec.name for spec in CATALOGUE.topics(settings)]
        self._groups = {
            names.consumer_group(worker_group, "requests"): [names.requests(family) for family in CATALOGUE.families],
            names.consumer_group(worker_group, "queries"): [names.QUERIES],
        }
        self._results = {names.requests(family): names.results(family) for family in CATALOGUE.families}
        self._results[names.QUERIES] = names.REPLIES
        self._observer: Observer | None = None
        self._offsets: Offsets | None = None
        """Those of the last read."""
        self._dead_letters: tuple[Mapping[TopicPartition, int], tuple[DeadLetter, ...]] = ({}, ())
        """The newest dead letters, and the end offsets when they were read."""

    async def disconnect(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            await observer.stop()

    async def read(self) -> KafkaOverview:
        """Raises KafkaError and OSError."""
        if self._observer is None:
            self._observer = Observer(self._settings)
            await self._observer.start()
        observer = self._observer
        partitions = await observer.partitions(self._topics)
        groups, beginnings, ends = await asyncio.gather(
            asyncio.gather(*map(observer.group, self._groups)),
            observer.beginnings(partitions),
            observer.ends(partitions),
        )
        starts = {
            partition: max(group.committed.get(partition, 0), beginnings[partition])
            for group in groups
            for partition in partitions
            if partition.topic in self._groups[group.name]
        }
        waiting = {partition: start for partition, start in starts.items() if start < ends[partition]}
        oldest = await observer.oldest(waiting, ends)
        lags = [_lag(partition, ends[partition] - start, oldest) for partition, start in starts.items()]
        topic_ends: dict[str, int] = defaultdict(int)
        for partition, end in ends.items():
            topic_ends[partition.topic] += end
        newest, unread = await self._newest_dead_letters(observer, beginnings, ends)
        return KafkaOverview(
            groups=tuple(
                GroupLag(group.name, group.state, tuple(lag for lag in lags if lag.topic in self._groups[group.name]))
                for group in groups
            ),
            workers=_workers(groups),
            ends=dict(topic_ends),
            latencies=await self._latencies(observer, Offsets(ends, starts)),
            missing_topics=tuple(topic for topic in self._topics if topic not in topic_ends),
            dead_letters=newest,
            unread_dead_letters=unread,
        )

    async def _latencies(self, observer: Observer, offsets: Offsets) -> dict[str, Latency]:
        before, self._offsets = self._offsets, offsets
        if before is None:
            return {}
        measured = {
            requests: await latencies.measure(observer, before, offsets, requests, results)
            for requests, results in self._results.items()
        }
        return {requests: latency for requests, latency in measured.items() if latency is not None}

    async def _newest_dead_letters(
        self, observer: Observer, beginnings: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> tuple[tuple[DeadLetter, ...], tuple[int, ...]]:
        """The newest dead letters, and the partitions that could not be read. Reads only if there are new ones."""
        own_ends = {partition: end for partition, end in ends.items() if partition.topic == names.DEAD_LETTERS}
        if own_ends == self._dead_letters[0]:
            return self._dead_letters[1], ()
        offsets = {each: max(beginnings[each], end - NEWEST_DEAD_LETTERS) for each, end in own_ends.items()}
        records, unread = await observer.records(offsets, own_ends, NEWEST_DEAD_LETTERS)
        letters = map(dead_letters.read, records[: -NEWEST_DEAD_LETTERS - 1 : -1])
        newest = tuple(map(_without_content, letters))
        if not unread:
            self._dead_letters = (own_ends, newest)
        return newest, tuple(partition.partition for partition in unread)


class _DatabaseSource:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._topics = [topic.name for topic in CATALOGUE.change_topics]
        self._usable: migrate.Schema | None = None

    async def disconnect(self) -> None:
        await self._engine.dispose()

    async def read(self) -> DatabaseOverview | Unavailable:
        """Raises the exceptions of SQLAlchemy and asyncpg, and ConnectionFailed."""
        schema = await migrate.current(self._engine)
        if schema != self._usable:
            if reason := migrate.mismatch(schema):
                return Unavailable(reason)
            self._usable = schema
        async with self._engine.connect() as conn:
            waiting = await outbox.waiting(conn, self._topics)
            return DatabaseOverview(
                revision=schema.revision or "",
                inbox_rows=await statistics.rows(conn, inbox.INBOX.name),
                outbox_rows=await outbox.rows(conn, waiting),
                last_change_id=await outbox.last_id(conn),
                change_topics=tuple(map(_change_topic, waiting)),
                lock_waits=tuple(await statistics.lock_waits(conn)),
                lock_holders=tuple(await statistics.lock_holders(conn, LOCK_SECONDS)),
            )


def _lag(partition: TopicPartition, offsets: int, oldest: Mapping[TopicPartition, Any | None]) -> PartitionLag:
    """`oldest` has the oldest record that waits, None if there are transaction markers only."""
    if offsets <= 0 or oldest.get(partition, ...) is None:
        return PartitionLag(partition.topic, partition.partition, 0, 0.0)
    record = oldest.get(partition)
    seconds = None if record is None else max(0.0, datetime.now(UTC).timestamp() - record.timestamp / 1000)
    return PartitionLag(partition.topic, partition.partition, offsets, seconds)


def _workers(groups: Iterable[Group]) -> tuple[Worker, ...]:
    """The members of all groups, those with the same client id and host as one worker."""
    partitions: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for member in group.members:
            of_worker = partitions[member.client_id, member.host]
            for topic, number in member.partitions:
                of_worker[topic].append(number)
    return tuple(
        Worker(client_id, host, {topic: tuple(sorted(numbers)) for topic, numbers in sorted(by_topic.items())})
        for (client_id, host), by_topic in sorted(partitions.items())
    )


def _without_content(letter: dead_letters.DeadLetter) -> DeadLetter:
    return DeadLetter(
        str(letter.position), letter.written_at, letter.reason, letter.topic, letter.operation, letter.source
    )


def _change_topic(waiting: outbox.Waiting) -> ChangeTopic:
    owner = None if waiting.owner is None else str(waiting.owner)
    return ChangeTopic(waiting.topic, waiting.changes, waiting.oldest_seconds, owner, waiting.published_seconds)
