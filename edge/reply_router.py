"""Request messages out, replies back in: who waits for which reply."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer

from schemas.faults import Unavailable
from topics import json, names
from topics.kafka import DeliveryError, KafkaSettings, Outgoing, Producer, tail

log = structlog.get_logger(__name__)

Reply = tuple[int, bytes]
"""A status and the JSON of a body."""
SEND_SECONDS = 5.0
"""How long a call waits until the broker has its request."""


class ReplyRouter:
    """One partition of `visitor.replies`, read from its end. It may be shared: replies to others are skipped."""

    def __init__(self, kafka: KafkaSettings, partition: int | None) -> None:
        self._kafka = kafka
        self._partition = partition
        self._producer = Producer(kafka)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._correlations = (f"{random.getrandbits(64):016x}-{n}" for n in itertools.count())
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._listening.is_set()

    def start(self) -> None:
        """Connects in the background, for as long as it takes."""
        self._task = asyncio.create_task(self._listen(), name="replies")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._producer.stop()

    def expect(self) -> tuple[int, str, "asyncio.Future[Reply]"]:
        """Where to reply to, and the reply to come. Raises Unavailable."""
        if not self.ready or self._partition is None:
            raise Unavailable("not_ready", "The service has no connection to Kafka; try again in a moment.")
        correlation = next(self._correlations)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = future
        future.add_done_callback(lambda _: self._waiting.pop(correlation, None))
        return self._partition, correlation, future

    async def send(self, message: Outgoing) -> None:
        """Raises Unavailable where the broker does not take it in time."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._producer.send([message])
        except (DeliveryError, TimeoutError) as error:
            log.warning("request_not_sent", error=type(error).__name__)
            raise Unavailable(
                "kafka_unavailable",
                "The request may not have been taken in; send it again, a write with the same Idempotency-Key.",
            ) from error

    async def _listen(self) -> None:
        while True:
            try:
                await self._producer.start()
                await self._follow()
            except Exception as error:
                # Whatever it was: without replies the edge is of no use, so it tries again for as long as it runs.
                log.warning("replies_unreachable", error=f"{type(error).__name__}: {error}"[:200])
            finally:
                self._listening.clear()
            await asyncio.sleep(0.5)

    async def _follow(self) -> None:
        count = await self._producer.partitions(names.REPLIES)
        if self._partition is None or self._partition >= count:
            self._partition = random.randrange(count)
        consumer = await tail(self._kafka, names.REPLIES, self._partition)
        try:
            self._listening.set()
            watch = asyncio.create_task(self._broker_answers(consumer))
            read = asyncio.create_task(self._read(consumer))
            done, pending = await asyncio.wait([watch, read], return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            for task in done:
                await task
        finally:
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            self._resolve(record.headers, record.value)

    async def _broker_answers(self, consumer: AIOKafkaConsumer) -> None:
        """aiokafka reconnects silently; asking shows when nobody is there. Raises KafkaError then."""
        place = next(iter(consumer.assignment()))
        while True:
            await asyncio.sleep(2)
            async with asyncio.timeout(4):
                await consumer.end_offsets([place])

    def _resolve(self, headers: Sequence[tuple[str, bytes]], value: bytes) -> None:
        correlation = next((found for name, found in headers if name == "correlation-id"), None)
        future = self._waiting.get((correlation or b"").decode(errors="replace"))
        if future is not None and not future.done():
            future.set_result(json.split_result(value))
