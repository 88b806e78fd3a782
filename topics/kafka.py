"""The connection to Kafka: the producers, and consumers without a group."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence, Set
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.partitioner import murmur2

from topics.envelope import Headers
from topics.settings import KafkaSettings, milliseconds
from topics.supervision import Interrupted, interruptions_raised

log = structlog.get_logger(__name__)

CHANGES_METADATA_SECONDS = 30.0
"""The same for the producers of change topics, of which a worker has dozens."""
DELIVERY_TIMEOUT = 20.0
"""Seconds for one request to the broker."""
CLOSE_LIMIT = 3.0
"""Seconds that closing a client may take. Without a limit, a broker that hangs delays it for minutes."""
SEND_LIMIT = 25.0
"""Seconds for a whole send, connecting included. A publisher sends inside a database transaction, so the database's
idle-in-transaction timeout is longer."""
TRANSACTION_TIMEOUT = SEND_LIMIT + 5
"""Seconds after which Kafka aborts a transaction whose producer is gone. The broker looks for such transactions every
10 seconds. Consumers with read_committed wait until then. A producer that takes over aborts the transaction at once."""


class Outgoing(NamedTuple):
    """A message to send.

    `key` is the key of the record, by which Kafka compacts a topic. `partition` or else the hash of `partition_key`
    selects the partition. Without both, the client's partitioner selects it from `key`, or at random."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Headers
    partition_key: bytes | None = None
    partition: int | None = None


class DeliveryError(Exception):
    """The broker did not confirm a message in time. The broker may have it nevertheless. Sending it again is safe."""


class TopicUnavailable(DeliveryError):
    """A topic does not exist, or the user has no right to it. The message says which, and the producer can still send
    to other topics."""


class Producer:
    """Sends with acks=all, idempotently. After a failure it connects anew, because the sequence numbers of the failed
    client may be lost."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        """Raises DeliveryError where no broker answers."""
        await self._connected()

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send messages in order and wait until the broker has all of them, at most `SEND_LIMIT`. Raises
        DeliveryError, of which TopicUnavailable leaves other sends alone. The broker may have some of the messages
        nevertheless."""
        client = self._client
        try:
            async with asyncio.timeout(SEND_LIMIT):
                client = await self._connected()
                await _deliver(client, messages)
        except MessageSizeTooLargeError as error:
            raise DeliveryError(describe(error)) from error
        except (KafkaError, TimeoutError, OSError) as error:
            await self._discard(client)
            raise DeliveryError(describe(error)) from error

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises DeliveryError."""
        client = await self._connected()
        try:
            await _require(client, {topic})
            return await _partitions(client, topic)
        except (KafkaError, TimeoutError, OSError) as error:
            raise DeliveryError(describe(error)) from error

    async def _connected(self) -> AIOKafkaProducer:
        if self._client is not None:
            return self._client
        async with self._replacing:
            if self._client is None:
                try:
                    self._client = await connect(self._settings)
                except (KafkaError, TimeoutError, OSError) as error:
                    raise DeliveryError(f"no connection to {self._settings.bootstrap}: {error}") from error
            return self._client

    async def _discard(self, client: AIOKafkaProducer | None) -> None:
        """Abort a failed client before the next `send` connects, so that no old message follows a newer one. A client
        that another `send` has replaced is aborted already."""
        if client is not None and client is self._client:
            self._client = None
            await abort(client)


class FencedProducer:
    """Sends messages in Kafka transactions under one transactional id. `take_over` fences the producers that took over
    before, in any process: from then on the brokers refuse what they send.

    `send` never connects. A process that was suspended before `send` would otherwise fence its successor, and then send
    old messages."""

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._settings = settings
        self._id = transactional_id
        self._client: AIOKafkaProducer | None = None

    @property
    def usable(self) -> bool:
        """True after `take_over`, until `send` fails. If another producer has taken over since, `send` raises."""
        return self._client is not None and not self._client._txn_manager.is_fatal_error()

    async def take_over(self) -> None:
        """Connect, fence the other producers, and abort the transaction that one of them left open, within
        `DELIVERY_TIMEOUT`. Raises DeliveryError."""
        await self._drop()
        try:
            self._client = await connect(
                self._settings,
                transactional_id=self._id,
                transaction_timeout_ms=milliseconds(TRANSACTION_TIMEOUT),
                metadata_max_age_ms=milliseconds(CHANGES_METADATA_SECONDS),
            )
        except TransactionalIdAuthorizationFailed as error:
            raise DeliveryError(
                f"transactional id {self._id}: this user needs an ACL that allows Write on it"
            ) from error
        except TimeoutError as error:
            raise DeliveryError(
                f"transactional id {self._id}: no transaction coordinator within {DELIVERY_TIMEOUT:.0f} s"
            ) from error
        except (KafkaError, OSError) as error:
            raise DeliveryError(f"transactional id {self._id}: {describe(error)}") from error

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send in order in one transaction, within `SEND_LIMIT`. Raises DeliveryError if it failed or may have failed,
        and if another producer has taken over. After an error, call `take_over` before the next `send`."""
        client = self._client
        if client is None:
            raise DeliveryError(f"transactional id {self._id}: take_over was not called")
        try:
            async with asyncio.timeout(SEND_LIMIT):
                await client.begin_transaction()
                await _deliver(client, messages)
                await client.commit_transaction()
        except (KafkaError, TimeoutError, OSError) as error:
            await self._drop()
            raise DeliveryError(f"transactional id {self._id}: {describe(error)}") from error
        except BaseException:
            await self._drop()
            raise

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await abort(client)


_DEFAULTS: dict[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "linger_ms": 0,
    "max_batch_size": 256 * 1024,
    "max_request_size": 32 * 2**20,
    "compression_type": None,
    "request_timeout_ms": milliseconds(DELIVERY_TIMEOUT),
}


async def connect(settings: KafkaSettings, **options: Any) -> AIOKafkaProducer:
    """A started client of aiokafka. `options` are arguments of it. Raises KafkaError, TimeoutError, OSError."""
    client = AIOKafkaProducer(**(settings.client() | _DEFAULTS | options))
    try:
        async with asyncio.timeout(DELIVERY_TIMEOUT):
            await client.start()
    except BaseException:
        await abort(client)
        raise
    return client


async def _deliver(client: AIOKafkaProducer, messages: Sequence[Outgoing]) -> None:
    """Send messages and return when the broker has all of them. Raises KafkaError and TopicUnavailable."""
    if ended := ended_tasks(client):
        raise KafkaError(f"the producer's background tasks have ended: {', '.join(ended)}")
    await _require(client, {message.topic for message in messages})
    groups: dict[tuple[str, int | None], list[Outgoing]] = {}
    for message in messages:
        partition = message.partition
        if partition is None and message.partition_key is not None:
            partition = partition_of(message.partition_key, await _partitions(client, message.topic))
        groups.setdefault((message.topic, partition), []).append(message)
    await asyncio.gather(*(_send_group(client, *target, group) for target, group in groups.items()))


async def _require(client: AIOKafkaProducer, topics: Set[str]) -> None:
    """Raises TopicUnavailable if one of the topics does not exist or may not be described; aiokafka would wait for it
    until its timeout, which is longer than others can wait. Raises KafkaError."""
    cluster = client.client.cluster
    unknown = [topic for topic in topics if cluster.partitions_for_topic(topic) is None]
    if not unknown or not (missing := await missing_topics(client.client, unknown)):
        return
    topic = min(missing)
    if topic in cluster.unauthorized_topics:
        needed = f"topic {topic}: this user needs an ACL that allows Describe and Write on it"
        raise TopicUnavailable(needed) from TopicAuthorizationFailedError(topic)
    raise TopicUnavailable(f"topic {topic} does not exist: run `visitor topics`")


async def _partitions(client: AIOKafkaProducer, topic: str) -> int:
    cached = client.client.cluster.partitions_for_topic(topic)
    return len(cached or await client.partitions_for(topic))


async def missing_topics(client: AIOKafkaClient, topics: Collection[str]) -> list[str]:
    """Those of the topics that do not exist, or that the user may not describe, from fresh metadata. Raises
    KafkaError."""
    for topic in topics:
        client.add_topic(topic)
    if not await client.force_metadata_update():
        raise KafkaConnectionError("no broker answers")
    return [topic for topic in topics if client.cluster.partitions_for_topic(topic) is None]


def describe(error: BaseException) -> str:
    """The text of an error with its type. The text of a KafkaError contains the type already."""
    if isinstance(error, InvalidTimestampError):
        return f"{error}: correct the clock of this machine, and run `visitor topics --alter`"
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"


async def _send_group(
    client: AIOKafkaProducer, topic: str, partition: int | None, messages: Sequence[Outgoing]
) -> None:
    """Send the messages of one topic partition in order, in batches; single sends cost several times as much. Raises
    KafkaError and TopicUnavailable."""
    if partition is not None and partition >= await _partitions(client, topic):
        raise TopicUnavailable(f"topic {topic} has no partition {partition} any more")
    if partition is None or len(messages) == 1:
        sent = [
            await client.send(topic, message.value, key=message.key, partition=partition, headers=message.headers)
            for message in messages
        ]
    else:
        sent = [await client.send_batch(batch, topic, partition=partition) for batch in _batches(client, messages)]
    try:
        await asyncio.gather(*sent)
    except TopicAuthorizationFailedError as error:
        raise TopicUnavailable(f"topic {topic}: this user needs an ACL that allows Write on it") from error
    finally:
        del sent  # Their errors refer to this frame: a cycle that would keep the messages.


def _batches(client: AIOKafkaProducer, messages: Sequence[Outgoing]) -> Iterator[Any]:
    batch, filled = client.create_batch(), False
    for message in messages:
        content = {"key": message.key, "value": message.value, "timestamp": None, "headers": message.headers}
        if batch.append(**content) is None and filled:
            yield batch
            batch = client.create_batch()
            batch.append(**content)
        filled = True
    yield batch


async def abort(client: AIOKafkaProducer) -> None:
    """Stop a producer without sending the messages that it holds. aiokafka's `stop` flushes first, and goes on sending
    in the background if it is cancelled."""
    client._closed = True
    # Before the first await: aiokafka's background tasks go on for a while and must not reach a broker.
    client.client.send = _refuse
    _cut_connections(client.client)
    client.client._conns = _NoMoreConnections(client.client._conns)
    sender = client._sender.sender_task
    if sender is not None:
        sender.cancel()
        await asyncio.wait([sender], timeout=CLOSE_LIMIT)
    with suppress(Interrupted, KafkaError, TimeoutError, OSError), interruptions_raised():
        async with asyncio.timeout(CLOSE_LIMIT):
            await client.client.close()
    # Concurrent sends through this client would otherwise wait for all of SEND_LIMIT.
    client._message_accumulator.fail_all(ProducerClosed())
    _retrieve_exceptions(client)


class _NoMoreConnections(dict[Any, Any]):
    """The connections of a client. It closes those that its client was still making."""

    def __setitem__(self, key: Any, connection: Any) -> None:
        connection.close()
        raise ProducerClosed


async def _refuse(*_: Any, **__: Any) -> Any:
    raise ProducerClosed


def _retrieve_exceptions(client: AIOKafkaProducer) -> None:
    """Retrieve the exceptions of futures that nobody awaits. asyncio would log each of them as an error."""
    waiters = [batch._drain_waiter for batches in client._message_accumulator._batches.values() for batch in batches]
    transactions = client._txn_manager  # None without idempotence.
    for future in (*waiters, transactions and transactions._transaction_waiter):
        if future is not None and future.done() and not future.cancelled():
            future.exception()


def _cut_connections(client: AIOKafkaClient) -> None:
    """Close the connections at once. With TLS, closing takes up to 30 seconds if the broker hangs."""
    for connection in client._conns.values():
        if connection._writer is not None:
            connection._writer.transport.abort()
        connection.close()


async def close_admin(admin: AIOKafkaAdminClient) -> None:
    """Close an admin client, within a second even if the broker hangs."""
    _cut_connections(admin._client)
    with suppress(Interrupted, KafkaError, TimeoutError, OSError), interruptions_raised():
        async with asyncio.timeout(1):
            await admin.close()


async def _close(client: AIOKafkaProducer) -> None:
    try:
        with interruptions_raised():
            async with asyncio.timeout(CLOSE_LIMIT):
                await client.stop()
    except (Interrupted, KafkaError, TimeoutError, OSError) as error:
        log.warning("producer_close_failed", error=repr(error))
        await abort(client)


@lru_cache(maxsize=10_000)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default partitioner selects for a key. Cached, because murmur2 is in Python; visitors
    who enter soon leave."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


@asynccontextmanager
async def consumer_at_ends(settings: KafkaSettings, topics: Iterable[str]) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, at the ends of all partitions of the topics. Raises KafkaError."""
    consumer = AIOKafkaConsumer(
        *topics, **settings.client(), enable_auto_commit=False, auto_offset_reset="latest",
        isolation_level="read_committed",
    )  # fmt: skip
    try:
        await consumer.start()
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)
        yield consumer
    finally:
        await close_consumer(consumer)


async def tail(settings: KafkaSettings, topic: str, partition: int) -> AIOKafkaConsumer:
    """A started consumer without a group, at the end of one partition."""
    consumer = AIOKafkaConsumer(
        **settings.client(), enable_auto_commit=False, auto_offset_reset="latest", fetch_max_wait_ms=100
    )
    topic_partition = TopicPartition(topic, partition)
    try:
        await consumer.start()
        consumer.assign([topic_partition])
        await consumer.seek_to_end(topic_partition)
        await consumer.position(topic_partition)
    except BaseException:
        await close_consumer(consumer)
        raise
    return consumer


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer and close its connections within 4 seconds, even if `stop` raises or hangs."""
    for close, limit in ((consumer.stop, CLOSE_LIMIT), (consumer._client.close, 1)):
        with suppress(Interrupted, KafkaError, TimeoutError, OSError), interruptions_raised():
            async with asyncio.timeout(limit):
                await close()


def ended_tasks(client: AIOKafkaConsumer | AIOKafkaProducer) -> list[str]:
    """The background tasks of a started client that have ended although the client is not closed, each with the reason.
    aiokafka 0.14.0 does not report them: a consumer without its fetcher waits for ever, and a producer without its
    sender sends nothing."""
    if client._closed:
        return []
    if isinstance(client, AIOKafkaProducer):
        tasks = {"metadata": client.client._sync_task, "sender": client._sender.sender_task}
    else:
        tasks = {"metadata": client._client._sync_task, "fetcher": client._fetcher and client._fetcher._fetch_task}
        # A consumer with a group has the first of these tasks, a consumer without a group the second.
        for name in ("_coordination_task", "_reset_committed_task"):
            tasks[name] = getattr(client._coordinator, name, None)
    return [f"{name} ({_end_of(task)})" for name, task in tasks.items() if task is not None and task.done()]


def _end_of(task: "asyncio.Task[Any]") -> str:
    """How a task has ended, without values of messages."""
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        return "returned"
    *_, frame = traceback.extract_tb(error.__traceback__) or [None]
    return type(error).__name__ if frame is None else f"{type(error).__name__} in {frame.name}, line {frame.lineno}"
