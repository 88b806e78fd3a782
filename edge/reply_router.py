"""Sends request messages, and gives each reply to the call that waits for it."""

import asyncio
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from schemas.faults import Unavailable
from topics import json, names
from topics.envelope import CORRELATION, MORE, REVISION, ReplyTo, RequestHeaders
from topics.kafka import DeliveryError, Outgoing, Producer, close_consumer, describe, ended_tasks, tail
from topics.settings import KafkaSettings
from topics.supervision import Failed, Interrupted, Supervisor, interruptions_raised, run_together

log = structlog.get_logger(__name__)


class Reply(NamedTuple):
    """`body` is JSON. `revision` is that of the record that was read or written, `more` tells whether the next page of
    a list has records; None if the reply does not say it."""

    status: int
    body: bytes
    revision: int | None = None
    more: bool | None = None


class _Call(NamedTuple):
    """A call that waits for its reply. `attributes` are the headers by which the reply names the request."""

    attributes: Mapping[str, bytes]
    reply: "asyncio.Future[Reply]"


CORRELATION_BYTES = 16
"""Random bytes of a correlation id. A sender that knows the id of a waiting call can have a reply sent to it, so nobody
may guess one."""
SEND_SECONDS = 5.0
"""Limit for sending one request to the broker."""
CONNECT_SECONDS = 30.0
"""Limit for one attempt to connect."""
RETRY_SECONDS = 0.5
"""Pause between two attempts to connect."""
WATCH_SECONDS = 2.0
"""Interval of the checks that replies are still read."""


class ReplyRouter:
    """Reads one partition of `visitor.replies` from its end. Edges may share a partition: a router ignores the replies
    to other edges. The listener reconnects after every error. If the listener itself ends, it calls `failed`."""

    def __init__(self, kafka: KafkaSettings, partition: int | None, failed: Failed) -> None:
        self._kafka = kafka
        self._partition = partition
        self._producer = Producer(kafka)
        self._waiting: dict[bytes | None, _Call] = {}
        """By correlation id."""
        self._correlation_ids = _correlation_ids()
        self._supervisor = Supervisor(failed)
        self._listening = asyncio.Event()

    @property
    def ready(self) -> bool:
        """True while the router reads replies."""
        return self._listening.is_set()

    async def wait_until_ready(self) -> None:
        await self._listening.wait()

    def start(self) -> None:
        """Connect in the background, and retry until it succeeds."""
        self._supervisor.start("reply listener", self._listen())

    async def stop(self) -> None:
        await self._supervisor.stop()
        await self._producer.stop()

    def expect(self, request: RequestHeaders) -> tuple[RequestHeaders, "asyncio.Future[Reply]"]:
        """The headers of the request with the address of the reply, and a future of the reply. Raises Unavailable."""
        if not self.ready or self._partition is None:
            raise Unavailable("not_ready", "The service has no connection to Kafka. Try again in a moment.")
        correlation_id = next(self._correlation_ids)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = _Call(request.reply_attributes(), reply)
        reply.add_done_callback(lambda _: self._waiting.pop(correlation_id, None))
        address = ReplyTo(None, self._partition)
        return request._replace(reply_to=address, correlation=((CORRELATION, correlation_id),)), reply

    async def send(self, message: Outgoing) -> None:
        """Raises Unavailable if the broker does not accept the message in time."""
        try:
            with interruptions_raised():
                async with asyncio.timeout(SEND_SECONDS):
                    await self._producer.send([message])
        except (DeliveryError, TimeoutError, Interrupted) as error:
            log.warning("request_not_sent", error=describe(error))
            raise Unavailable(
                "kafka_unavailable",
                "The request may not have been sent. Repeat the call, a write with the same Idempotency-Key.",
            ) from error

    async def _listen(self) -> None:
        while True:
            try:
                with interruptions_raised():
                    await self._connect_and_read()
            except Exception as error:
                # Retry after every kind of error: without replies the edge cannot answer calls.
                log.warning("replies_unreachable", error=_reason(error))
            finally:
                self._listening.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect_and_read(self) -> None:
        """Read replies until an error occurs, and raise it."""
        async with asyncio.timeout(CONNECT_SECONDS):
            consumer = await self._connect()
        try:
            self._listening.set()
            await run_together({"replies": self._read(consumer), "replies watch": self._watch(consumer)})
        finally:
            await close_consumer(consumer)

    async def _connect(self) -> AIOKafkaConsumer:
        """Choose a random partition if none is configured, or if the configured one does not exist."""
        await self._producer.start()
        partition_count = await self._producer.partitions(names.REPLIES)
        if self._partition is None or self._partition >= partition_count:
            self._partition = random.randrange(partition_count)
        return await tail(self._kafka, names.REPLIES, self._partition)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            self._resolve(record.headers, record.value)

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """Detect that the consumer does not read any more; aiokafka reconnects silently and reports nothing. Raises
        KafkaError or TimeoutError if the broker does not answer, or if the consumer did not advance since the last
        check although there were records."""
        topic_partition = next(iter(consumer.assignment()))
        position = end_offset = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if ended := ended_tasks(consumer):
                raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")
            last_position, had_records = position, end_offset > position
            async with asyncio.timeout(2 * WATCH_SECONDS):
                end_offset = (await consumer.end_offsets([topic_partition]))[topic_partition]
                position = await consumer.position(topic_partition)
            if had_records and position == last_position:
                raise KafkaError(f"the consumer does not read the replies from offset {position}")

    def _resolve(self, headers: Sequence[tuple[str, bytes]], value: bytes | None) -> None:
        """Complete the call that waits for this reply, if there is one. Never raises for the content of a record: all
        senders whose requests name this partition can have records written to it."""
        by_name = dict(headers)
        call = self._waiting.get(by_name.get(CORRELATION))
        if call is None or call.reply.done():
            return
        reply = _read(by_name, value)
        if reply is None or any(by_name.get(name) != attribute for name, attribute in call.attributes.items()):
            log.warning("reply_ignored", reason="it does not answer the call that has its correlation id")
            return
        call.reply.set_result(reply)


def _reason(error: Exception) -> str:
    if isinstance(error.__cause__ or error, TopicAuthorizationFailedError):
        return f"topic {names.REPLIES}: this user needs an ACL that allows Describe and Read on it"
    return f"{type(error).__name__}: {error}"[:200]


def _correlation_ids() -> Iterator[bytes]:
    """Random ids, in hexadecimal. A system call for each of them would cost a tenth of a call."""
    length = 2 * CORRELATION_BYTES
    while True:
        block = secrets.token_hex(256 * CORRELATION_BYTES).encode()
        for start in range(0, len(block), length):
            yield block[start : start + length]


def _read(headers: Mapping[str, bytes], value: bytes | None) -> Reply | None:
    """None if the record is not a result as the worker writes it."""
    revision, more = headers.get(REVISION), headers.get(MORE)
    try:
        status, body = json.split_result(value or b"")
        return Reply(
            status, body, None if revision is None else int(revision), None if more is None else more == b"true"
        )
    except ValueError:
        return None
