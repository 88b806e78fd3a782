"""The check of an edge: workers answer its reads, and their clocks agree with its own."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer

from runtime.doctor.findings import Finding, failed, listed, ok, warning
from runtime.doctor.installation import Installation
from runtime.doctor.kafka import CLOCK_LIMIT
from topics import json, names
from topics.envelope import CORRELATION, JSON, ReplyTo, RequestHeaders
from topics.kafka import DeliveryError, Outgoing, Producer, close_consumer, tail
from topics.settings import KafkaSettings

ANSWER_SECONDS = 5.0
"""How long a worker may take to answer."""
_OPERATION, _PARTS = "centers.get", {"path": {"pcCode": "XX-DOCTOR-1"}}
"""No center has this code, so the answer is a short 404."""
_REPLY_PARTITION = 0
"""Any partition does: an edge ignores the replies to others."""


async def answered(installation: Installation) -> Finding:
    """Send one read to each partition of the queries, because each may have another worker."""
    try:
        async with _clients(installation.settings.kafka) as (producer, consumer):
            partitions = range(await producer.partitions(names.QUERIES))
            offsets = await _clock_offsets(producer, consumer, partitions)
    except DeliveryError as error:
        return failed(str(error), "correct what it names")
    if unanswered := [f"{names.QUERIES}:{partition}" for partition in partitions if partition not in offsets]:
        return failed(
            f"no worker answered a read within {ANSWER_SECONDS:.0f} s, sent to {listed(unanswered)}",
            "ask the workers for their reasons with `visitor health worker`",
        )
    partition, furthest = max(offsets.items(), key=lambda item: abs(item[1]))
    if abs(furthest) > CLOCK_LIMIT.total_seconds():
        return warning(
            f"the clock of the worker that reads {names.QUERIES}:{partition} differs by {furthest:+.1f} s or more",
            "synchronise the clocks, by NTP: a worker whose clock is ahead drops reads that have time left",
        )
    return ok(f"workers answered {len(offsets)} reads; no clock of theirs differs by more than 1 s")


@asynccontextmanager
async def _clients(kafka: KafkaSettings) -> AsyncIterator[tuple[Producer, AIOKafkaConsumer]]:
    """A producer, and a consumer at the end of the replies. Raises DeliveryError, KafkaError."""
    producer = Producer(kafka)
    try:
        await producer.partitions(names.REPLIES)  # names a missing topic, for which the consumer would wait
        consumer = await tail(kafka, names.REPLIES, _REPLY_PARTITION)
        try:
            yield producer, consumer
        finally:
            await close_consumer(consumer)
    finally:
        await producer.stop()


async def _clock_offsets(
    producer: Producer, consumer: AIOKafkaConsumer, partitions: Sequence[int]
) -> Mapping[int, float]:
    """By how many seconds, at least, the clock of the worker of each partition is ahead of this one; 0 if that is not
    certain. Partitions without an answer are left out."""
    waiting = {secrets.token_hex(16).encode(): partition for partition in partitions}
    offsets: dict[int, float] = {}
    sent_at = now().timestamp()
    await producer.send([_read(correlation, partition) for correlation, partition in waiting.items()])
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while waiting:
                headers = dict((await consumer.getone()).headers)
                partition = waiting.pop(headers.get(CORRELATION, b""), None)
                if partition is not None:
                    # The worker wrote the reply after `sent_at` and before now. The time of the record may be Kafka's.
                    written_at = datetime.fromisoformat(headers["ce_time"].decode()).timestamp()
                    offsets[partition] = max(written_at - now().timestamp(), 0) or min(written_at - sent_at, 0)
    except TimeoutError:
        pass
    return offsets


def _read(correlation: bytes, partition: int) -> Outgoing:
    headers = RequestHeaders(
        correlation.decode(), _OPERATION, "visitor-doctor", JSON, ReplyTo(None, _REPLY_PARTITION),
        ((CORRELATION, correlation),),
    )  # fmt: skip
    return Outgoing(names.QUERIES, json.write(_PARTS), None, headers.encode(), partition=partition)


def now() -> datetime:
    return datetime.now(UTC)
