"""Kafka, PostgreSQL and processes of the service for one run, and the messages that the run sends."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.catalogue import CATALOGUE
from benchmarks import population
from benchmarks.population import Message, Messages, Person, Population
from runtime.dev.servers import Kafka, Postgres, Processes
from runtime.dev.servers.processes import free_port
from storage import migrate
from storage.settings import DatabaseSettings
from topics import admin, names
from topics.envelope import JSON, RequestHeaders
from topics.settings import KafkaSettings

PARTITIONS = 4
VISITORS = 500
_JAVA_OPTIONS = (
    "-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
)  # fmt: skip
"""Those of Kafka's start script (bin/kafka-run-class.sh)."""
_DOWNLOADS = Path(__file__).parents[1] / ".visitor" / "downloads"
_READY_SECONDS, _PROGRAM_SECONDS = 60, 120


@asynccontextmanager
async def installed(home: Path) -> AsyncIterator["Installation"]:
    """Start embedded servers with their data in `home`, and create what is missing of the tables and topics."""
    processes = Processes(home)
    servers = Kafka(home, _DOWNLOADS, processes, java_options=_JAVA_OPTIONS), Postgres(home, processes)
    kafka, postgres = servers
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            await asyncio.to_thread(server.start)
        settings = KafkaSettings(bootstrap=kafka.bootstrap, partitions=PARTITIONS, replication=1, min_insync=1)
        await migrate.upgrade(DatabaseSettings(url=postgres.url))
        await admin.ensure(settings, CATALOGUE.topics(settings))
        observer = AIOKafkaConsumer(**settings.client(), enable_auto_commit=False)
        await observer.start()
        stack.push_async_callback(observer.stop)
        database = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
        stack.push_async_callback(database.close)
        yield Installation(home, settings, postgres.url, database, observer)


class Installation:
    """Servers with tables and topics. `populate` creates the visitors."""

    def __init__(
        self,
        home: Path,
        kafka: KafkaSettings,
        url: str,
        database: "asyncpg.Connection[Any]",
        observer: AIOKafkaConsumer,
    ) -> None:
        self._home = home
        self.kafka = kafka
        self.url = url
        self.database = database
        self.population = Population("", 0, [])
        self._observer = observer

    # Processes

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[psutil.Popen]:
        """A worker. It may not be ready yet."""
        async with self.process("runtime.cli", "worker") as process:
            yield process

    @asynccontextmanager
    async def ready_worker(self) -> AsyncIterator[psutil.Popen]:
        port = free_port()
        async with self.process("runtime.cli", "worker", VISITOR_WORKER_HEALTH_PORT=str(port)) as process:
            await wait_until_ready(f"http://127.0.0.1:{port}/health/ready")
            yield process

    @asynccontextmanager
    async def edge(self) -> AsyncIterator[str]:
        """An edge that is ready. Yields its URL."""
        port = free_port()
        async with self.process("runtime.cli", "edge", VISITOR_HTTP_PORT=str(port)):
            await wait_until_ready(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"

    def process(self, *module: str, **environment: str) -> AbstractAsyncContextManager[psutil.Popen]:
        """Run a Python module with the settings of this installation, until the block ends."""
        return self.program([sys.executable, "-m", *module], self._environment() | environment)

    @asynccontextmanager
    async def program(
        self, command: Sequence[str], environment: Mapping[str, str], **options: Any
    ) -> AsyncIterator[psutil.Popen]:
        """Run a program until the block ends. `options` are those of Popen."""
        process = psutil.Popen(command, env={**os.environ, **environment}, start_new_session=True, **options)
        try:
            yield process
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 60)

    async def output_of(self, module: str, *arguments: str, **environment: str) -> str:
        """Run a Python module to its end. Returns its standard output."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            env=os.environ | self._environment() | environment,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_PROGRAM_SECONDS):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise RuntimeError(f"{module} failed with status {process.returncode}")
        return output.decode()

    def _environment(self) -> dict[str, str]:
        return {
            "VISITOR_KAFKA_BOOTSTRAP": self.kafka.bootstrap, "VISITOR_DATABASE_URL": self.url,
            "VISITOR_WORKER_HEALTH_PORT": "0", "VISITOR_HTTP_METRICS_PORT": "0", "VISITOR_LOG_LEVEL": "error",
        }  # fmt: skip

    # Messages

    async def create_topic(self, name: str) -> None:
        client = AIOKafkaAdminClient(**self.kafka.client())
        await client.start()
        await client.create_topics([NewTopic(name, PARTITIONS, 1)])
        await client.close()

    async def send(self, messages: Iterable[Message], topic: str | None = None) -> None:
        """Send requests to the topics of their families, or all of them to `topic`."""
        async with producer_of(self.kafka) as producer:
            batches: dict[tuple[str, int], Any] = {}
            for message in messages:
                target = topic or names.requests(CATALOGUE.family_of[message.operation])
                partition = message.person.number % PARTITIONS
                headers = RequestHeaders(str(uuid4()), message.operation, "gateway/bench", JSON).encode()
                record = {"key": None, "value": json.dumps(message.parts).encode(), "timestamp": None}
                batch = batches.get((target, partition)) or producer.create_batch()
                if batch.append(**record, headers=headers) is None:
                    await producer.send_batch(batch, target, partition=partition)
                    batch = producer.create_batch()
                    batch.append(**record, headers=headers)
                batches[target, partition] = batch
            for (target, partition), batch in batches.items():
                await producer.send_batch(batch, target, partition=partition)

    async def count_results(self) -> int:
        """How many results all families have."""
        topics = {names.results(family) for family in CATALOGUE.family_of.values()}
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
        end_offsets: dict[TopicPartition, int] = await self._observer.end_offsets(partitions)
        return sum(end_offsets.values())

    async def rate_of(self, messages: Messages, count: int, *, workers: int = 1) -> float:
        """Requests per second. All of them are sent before the workers start. The clock runs from the first result, or
        with several workers from the result at a third of all, when all of them have partitions, until all results are
        sent and all changes are published."""
        before = await self.count_results()
        await self.send(messages(self.population, count))
        async with AsyncExitStack() as stack:
            for _ in range(workers):
                await stack.enter_async_context(self.worker())
            first = await self.results_reach(before + 1 + count // 3 * (workers > 1)) - before
            started_at = time.perf_counter()
            await self.results_reach(before + count)
            await self.outbox_empties()
            return (count - first) / (time.perf_counter() - started_at)

    async def results_reach(self, count: int) -> int:
        """Wait until there are `count` results. Returns how many there are."""
        while (results := await self.count_results()) < count:
            await asyncio.sleep(0.02)
        return results

    async def outbox_empties(self) -> None:
        while await self.database.fetchval("select exists (select from outbox)"):
            await asyncio.sleep(0.02)

    def log_size(self, topic: str) -> int:
        """The bytes of all messages of a topic on the disk of the broker, without its indexes."""
        return sum(file.stat().st_size for file in self._home.glob(f"kafka/data/{topic}-*/*.log"))

    # Data

    async def populate(self, visitors: int = VISITORS) -> None:
        """Create a center, a service, a challenge, and visitors who each have a vehicle and participate."""
        async with self.worker(), producer_of(self.kafka) as producer:
            create = _Creator(self.kafka, producer)
            (center,) = await create("centers.create", [{"body": population.center()}])
            pc_code = str(center["pcCode"])
            (service,) = await create("services.create", [{"body": population.service(pc_code)}])
            (challenge,) = await create("challenges.create", [{"body": population.challenge(pc_code)}])
            bodies = [population.visitor(number, pc_code) for number in range(visitors)]
            rows = await create("visitors.create", [{"body": body} for body in bodies])
            paths = [{"visitorId": row["visitorId"]} for row in rows]
            cars = [{"path": path, "body": {"licensePlate": f"B-{n}"}} for n, path in enumerate(paths)]
            vehicles = {row["visitorId"]: row for row in await create("vehicles.create", cars)}
            entries = [{"path": path, "body": {"challengeId": challenge["challengeId"]}} for path in paths]
            joined = {row["visitorId"]: row for row in await create("visitorChallenges.create", entries)}
        people = [
            Person(
                number, row["visitorId"], row["barcode"], vehicles[row["visitorId"]]["licensePlate"],
                joined[row["visitorId"]]["visitorChallengeId"],
            )
            for number, row in enumerate(rows)
        ]  # fmt: skip
        self.population = Population(pc_code, service["serviceId"], people)


class _Creator:
    """Sends creations as messages, and waits for their results."""

    def __init__(self, kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
        self._kafka, self._producer = kafka, producer

    async def __call__(self, operation: str, requests: Sequence[Any]) -> list[Any]:
        """Returns the created records, in any order."""
        family = CATALOGUE.family_of[operation]
        consumer = AIOKafkaConsumer(**self._kafka.client(), enable_auto_commit=False)
        await consumer.start()
        partitions = [TopicPartition(names.results(family), number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        for partition in partitions:
            await consumer.position(partition)
        for request in requests:
            headers = RequestHeaders(str(uuid4()), operation, "bench/bench", JSON).encode()
            await self._producer.send(names.requests(family), json.dumps(request).encode(), headers=headers)
        results = [json.loads((await consumer.getone()).value) for _ in requests]
        await consumer.stop()
        assert {result["status"] for result in results} == {201}, results[0]
        return [result["body"]["data"] for result in results]


@asynccontextmanager
async def producer_of(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that sends everything before the block ends."""
    async with AIOKafkaProducer(**kafka.client(), linger_ms=5, max_batch_size=256 * 1024) as producer:
        yield producer


async def wait_until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(_READY_SECONDS):
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
