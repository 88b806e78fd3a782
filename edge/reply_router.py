"""Request messages out, replies back in: who waits for which reply."""

import asyncio
import itertools
import random
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from schemas.faults import Unavailable
from topics import json, names
from topics.kafka import DeliveryError, KafkaSettings, Outgoing, Producer, close_consumer, ended_tasks, tail
from topics.supervision import Failed, Interrupted, Supervisor, interruptions_raised, run_together

log = structlog.get_logger(__name__)

Reply = tuple[int, bytes]
"""A status and the JSON of a body."""
SEND_SECONDS = 5.0
"""How long a call waits until the broker has its request."""
CONNECT_SECONDS = 30.0
"""How long an attempt to connect may take."""
RETRY_SECONDS = 0.5
WATCH_SECONDS = 2.0


class ReplyRouter:
    """One partition of `visitor.replies`, read from its end. It may be shared: replies to others are skipped. `failed`
    is called where the listener has ended for good; as long as it runs, it connects again whatever happens."""

    def __init__(self, kafka: KafkaSettings, partition: int | None, failed: Failed) -> None:
        self._kafka = kafka
        self._partition = partition
        self._producer = Producer(kafka)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._correlations = (f"{random.getrandbits(64):016x}-{n}" for n in itertools.count())
        self._supervisor = Supervisor(failed)
        self._listening = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._listening.is_set()

    def start(self) -> None:
        """Connects in the background, for as long as it takes."""
        self._supervisor.start("reply listener", self._listen())

    async def stop(self) -> None:
        await self._supervisor.stop()
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
            with interruptions_raised():
                async with asyncio.timeout(SEND_SECONDS):
                    await self._producer.send([message])
        except (DeliveryError, TimeoutError, Interrupted) as error:
            log.warning("request_not_sent", error=type(error).__name__)
            raise Unavailable(
                "kafka_unavailable",
                "The request may not have been taken in; send it again, a write with the same Idempotency-Key.",
            ) from error

    async def _listen(self) -> None:
        while True:
            try:
                with interruptions_raised():
                    await self._follow()
            except Exception as error:
                # Whatever it was: without replies the edge is of no use, so it tries again for as long as it runs.
                log.warning("replies_unreachable", error=f"{type(error).__name__}: {error}"[:200])
            finally:
                self._listening.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        """Read replies until there is trouble. Raises what it was."""
        async with asyncio.timeout(CONNECT_SECONDS):
            consumer = await self._connected()
        try:
            self._listening.set()
            await run_together({"replies": self._read(consumer), "replies watch": self._watch(consumer)})
        finally:
            await close_consumer(consumer)

    async def _connected(self) -> AIOKafkaConsumer:
        await self._producer.start()
        count = await self._producer.partitions(names.REPLIES)
        if self._partition is None or self._partition >= count:
            self._partition = random.randrange(count)
        return await tail(self._kafka, names.REPLIES, self._partition)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            self._resolve(record.headers, record.value)

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """aiokafka reconnects silently, and does not tell where it stops reading. Raises KafkaError or TimeoutError
        when nobody answers, or nothing is read though there is something."""
        place = next(iter(consumer.assignment()))
        read = end = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if ended := ended_tasks(consumer):
                raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")
            before, waiting = read, end > read
            async with asyncio.timeout(2 * WATCH_SECONDS):
                end = (await consumer.end_offsets([place]))[place]
                read = await consumer.position(place)
            if waiting and read == before:
                raise KafkaError(f"replies wait at offset {read} and are not read")

    def _resolve(self, headers: Sequence[tuple[str, bytes]], value: bytes) -> None:
        correlation = next((found for name, found in headers if name == "correlation-id"), None)
        future = self._waiting.get((correlation or b"").decode(errors="replace"))
        if future is not None and not future.done():
            future.set_result(json.split_result(value))
