"""The connection to Kafka: its settings, and a producer that says when the broker has a message."""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, TransactionalIdAuthorizationFailed
from aiokafka.helpers import create_ssl_context
from aiokafka.partitioner import murmur2
from pydantic import BaseModel, Field, SecretStr

from topics.envelope import Headers
from topics.supervision import Interrupted, interruptions_raised

log = structlog.get_logger(__name__)

DELIVERY_TIMEOUT = 20.0
"""Seconds for one request to the broker."""
CLOSE_LIMIT = 5.0
"""Seconds that closing a connection may take; a broker that hangs would make it last for minutes."""
SEND_LIMIT = 25.0
"""Seconds for a whole send, connecting included. The publisher holds its lock while it sends, so the database's
idle-in-transaction timeout is longer."""
TRANSACTION_TIMEOUT = SEND_LIMIT + 5
"""Seconds after which Kafka aborts a transaction whose producer is gone; it checks every 10 seconds. Consumers with
read_committed wait until then. A producer that takes over aborts the transaction at once."""


class KafkaSettings(BaseModel):
    """How to reach Kafka; names and values as in Kafka's own client settings."""

    bootstrap: str = Field("localhost:9092", description="Addresses of brokers, comma-separated.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    sasl_username: str | None = Field(None, description="User of the SASL mechanism.")
    sasl_password: SecretStr | None = Field(None, description="Password of the SASL mechanism.")
    ssl_cafile: str | None = Field(None, description="File with the CA certificates to trust; by default the system's.")
    ssl_certfile: str | None = Field(None, description="File with the client's certificate, for mutual TLS.")
    ssl_keyfile: str | None = Field(None, description="File with the client's private key, for mutual TLS.")
    partitions: int = Field(6, ge=1, description="Partitions of a topic that `visitor topics` creates.")
    replication: int = Field(3, ge=1, description="Replicas of a topic that `visitor topics` creates.")
    min_insync: int = Field(2, ge=1, description="min.insync.replicas of a topic that `visitor topics` creates.")
    retention_days: float = Field(
        7.0, gt=0, le=3650, description="Retention of requests and results, in topics that `visitor topics` creates."
    )

    def ssl_context(self) -> ssl.SSLContext | None:
        if "SSL" not in self.security_protocol.split("_"):
            return None
        context: ssl.SSLContext = create_ssl_context(
            cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile
        )
        return context

    def client(self) -> dict[str, Any]:
        """The arguments that every aiokafka client takes."""
        given: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context(),
        }
        if self.security_protocol.startswith("SASL"):
            given |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password.get_secret_value() if self.sasl_password else None,
            }
        return given


class Outgoing(NamedTuple):
    """A message to send. `partition_key` decides the partition and `key` is what compaction sees; where both are None
    and no partition is given, the broker's partitions take turns."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Headers
    partition_key: bytes | None = None
    partition: int | None = None


class DeliveryError(Exception):
    """The broker did not confirm a message in time. It may have it all the same; sending again is safe."""


class Producer:
    """acks=all and idempotent. After a failure the client is replaced, since its sequence numbers may be lost."""

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
        """Send in order and wait until the broker has all, within `SEND_LIMIT`. Raises DeliveryError, then
        possibly after a part of them."""
        client = self._client
        try:
            async with asyncio.timeout(SEND_LIMIT):
                client = await self._connected()
                await _deliver(client, messages)
        except MessageSizeTooLargeError as error:
            raise DeliveryError(_describe(error)) from error
        except (KafkaError, TimeoutError, OSError) as error:
            await self._discard(client)
            raise DeliveryError(_describe(error)) from error

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises DeliveryError."""
        client = await self._connected()
        try:
            return await _partitions(client, topic)
        except (KafkaError, TimeoutError, OSError) as error:
            raise DeliveryError(_describe(error)) from error

    async def _connected(self) -> AIOKafkaProducer:
        if self._client is not None:
            return self._client
        async with self._replacing:
            if self._client is None:
                try:
                    self._client = await _connect(self._settings)
                except (KafkaError, TimeoutError, OSError) as error:
                    raise DeliveryError(f"no connection to {self._settings.bootstrap}: {error}") from error
            return self._client

    async def _discard(self, client: AIOKafkaProducer | None) -> None:
        """Whatever this client has still to send is dropped before a new one is made, so that nothing old is sent after
        something new. One that another send has replaced already is left alone, and so is its replacement."""
        if client is not None and client is self._client:
            self._client = None
            await _abort(client)


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
        """True if it took over and has not failed since. It may have been fenced meanwhile; then `send` raises."""
        return self._client is not None and not self._client._txn_manager.is_fatal_error()

    async def take_over(self) -> None:
        """Connect, fence the other producers, and abort the transaction that one of them left open, within
        `DELIVERY_TIMEOUT`. Raises DeliveryError."""
        await self._drop()
        try:
            self._client = await _connect(
                self._settings, transactional_id=self._id, transaction_timeout_ms=int(TRANSACTION_TIMEOUT * 1000)
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
            raise DeliveryError(f"transactional id {self._id}: {_describe(error)}") from error

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
            raise DeliveryError(f"transactional id {self._id}: {_describe(error)}") from error
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
            await _abort(client)


async def _connect(settings: KafkaSettings, **transactions: Any) -> AIOKafkaProducer:
    """Raises KafkaError, TimeoutError, OSError."""
    client = AIOKafkaProducer(
        **settings.client(),
        **transactions,
        enable_idempotence=True,
        acks="all",
        linger_ms=0,
        max_batch_size=256 * 1024,
        max_request_size=32 * 2**20,
        compression_type=None,
        request_timeout_ms=int(DELIVERY_TIMEOUT * 1000),
    )
    try:
        async with asyncio.timeout(DELIVERY_TIMEOUT):
            await client.start()
    except BaseException:
        await _abort(client)
        raise
    return client


async def _deliver(client: AIOKafkaProducer, messages: Sequence[Outgoing]) -> None:
    """Returns when the broker has all."""
    if ended := ended_tasks(client):
        raise KafkaError(f"the producer's background tasks have ended: {', '.join(ended)}")
    placed: dict[tuple[str, int | None], list[Outgoing]] = {}
    for message in messages:
        partition = message.partition
        if partition is None and message.partition_key is not None:
            partition = partition_of(message.partition_key, await _partitions(client, message.topic))
        placed.setdefault((message.topic, partition), []).append(message)
    await asyncio.gather(*(_send_group(client, *place, group) for place, group in placed.items()))


async def _partitions(client: AIOKafkaProducer, topic: str) -> int:
    known = client.client.cluster.partitions_for_topic(topic)
    return len(known or await client.partitions_for(topic))


def _describe(error: BaseException) -> str:
    """The error with its type, which the text of a KafkaError contains already."""
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"


async def _send_group(
    client: AIOKafkaProducer, topic: str, partition: int | None, messages: Sequence[Outgoing]
) -> None:
    """Send what goes to one place, in order. Whole batches cost a fraction of what as many single sends cost."""
    if partition is None or len(messages) == 1:
        sent = [
            await client.send(topic, message.value, key=message.key, partition=partition, headers=message.headers)
            for message in messages
        ]
    else:
        sent = [await client.send_batch(batch, topic, partition=partition) for batch in _batches(client, messages)]
    await asyncio.gather(*sent)


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


async def _abort(client: AIOKafkaProducer) -> None:
    """Stop at once. aiokafka's `stop` flushes first, and goes on sending in the background where that is cut short."""
    client._closed = True
    # First, and without waiting: aiokafka's background tasks go on for a while and must not reach a broker.
    client.client.send = _refuse
    for connection in client.client._conns.values():
        connection.close()
    sender = client._sender.sender_task
    if sender is not None:
        sender.cancel()
        await asyncio.wait([sender], timeout=CLOSE_LIMIT)
    with suppress(KafkaError, TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_LIMIT):
            await client.client.close()
    # Others wait for what this client was to send; they would wait for all of SEND_LIMIT.
    client._message_accumulator.fail_all(ProducerClosed())
    _retrieve_exceptions(client)


async def _refuse(*_: Any, **__: Any) -> Any:
    raise ProducerClosed


def _retrieve_exceptions(client: AIOKafkaProducer) -> None:
    """Of futures that nobody awaits; asyncio would log each of them as an error."""
    waiters = [batch._drain_waiter for batches in client._message_accumulator._batches.values() for batch in batches]
    for future in (*waiters, client._txn_manager._transaction_waiter):
        if future is not None and future.done() and not future.cancelled():
            future.exception()


async def _close(client: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(CLOSE_LIMIT):
            await client.stop()
    except (KafkaError, TimeoutError, OSError) as error:
        log.warning("producer_close_failed", error=repr(error))
        await _abort(client)


@lru_cache(65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives this key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


async def tail(settings: KafkaSettings, topic: str, partition: int) -> AIOKafkaConsumer:
    """A started consumer at the end of one partition, with no group."""
    consumer = AIOKafkaConsumer(
        **settings.client(), enable_auto_commit=False, auto_offset_reset="latest", fetch_max_wait_ms=100
    )
    place = TopicPartition(topic, partition)
    try:
        await consumer.start()
        consumer.assign([place])
        await consumer.seek_to_end(place)
        await consumer.position(place)
    except BaseException:
        await close_consumer(consumer)
        raise
    return consumer


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer and close its connections, at most some seconds long and whatever its `stop` raises."""
    for close, limit in ((consumer.stop, CLOSE_LIMIT), (consumer._client.close, 1)):
        with suppress(Interrupted, KafkaError, TimeoutError, OSError), interruptions_raised():
            async with asyncio.timeout(limit):
                await close()


def ended_tasks(client: AIOKafkaConsumer | AIOKafkaProducer) -> list[str]:
    """The background tasks of a started client that have ended although the client was not closed. aiokafka 0.14.0
    does not tell: without its fetcher a consumer waits for ever, without its sender a producer keeps what it gets."""
    if client._closed:
        return []
    if isinstance(client, AIOKafkaProducer):
        tasks = {"metadata": client.client._sync_task, "sender": client._sender.sender_task}
    else:
        tasks = {"metadata": client._client._sync_task, "fetcher": client._fetcher and client._fetcher._fetch_task}
        # With a consumer group the first, else the second.
        for name in ("_coordination_task", "_reset_committed_task"):
            tasks[name] = getattr(client._coordinator, name, None)
    return [name for name, task in tasks.items() if task is not None and task.done()]


async def _close_fetcher(fetcher: Any) -> None:
    """Fetcher.close. That of aiokafka 0.14.0 raises the CancelledError of a fetch that was waiting for its next
    attempt, as while the broker is away; the consumer's `stop` ended there and left its connections open."""
    fetcher._closed = True
    tasks = (fetcher._fetch_task, *fetcher._pending_tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for waiter in fetcher._fetch_waiters:
        fetcher._notify(waiter)


Fetcher.close = _close_fetcher
