"""Run worker and edge processes on test servers, send requests to them, and read their results and tables."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from runtime.dev.servers.processes import free_port
from storage import migrate
from storage.settings import DatabaseSettings
from tests.support.servers import Servers
from topics import admin, json, names, releases
from topics.content_types import format_of
from topics.envelope import JSON, RequestHeaders
from topics.settings import KafkaSettings

WIRE = Wire(CATALOGUE)
for _released in releases.released():
    WIRE.codec.add(_released.id, _released.schema)
PARTITIONS = 4
TOPIC_SETTINGS = {
    "VISITOR_KAFKA_PARTITIONS": str(PARTITIONS), "VISITOR_KAFKA_REPLICATION": "1", "VISITOR_KAFKA_MIN_INSYNC": "1",
}  # fmt: skip
PERSONAL = ("Zora", "Quill", "@example.com")
"""Texts in the names and emails of all visitors of `tests.support.data`."""
EVENT_TOKEN_SECRET = "a secret that only tests have, and know"
WAIT_SECONDS = 60.0
"""How long `eventually` waits for a condition by default. It is long because test machines are shared."""


async def eventually(condition: str, check: Callable[[], Awaitable[Any]], seconds: float = WAIT_SECONDS) -> Any:
    """Call `check` until it returns a true value, and return that value. Fails after `seconds`; the error message
    contains `condition`."""
    deadline = time.monotonic() + seconds
    while True:
        value = await check()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {condition}"
        await asyncio.sleep(0.1)


@dataclass
class Process:
    """A child process of the test, in a session of its own. Its output goes to the file `log`."""

    name: str
    child: "subprocess.Popen[bytes]"
    log: Path
    health_url: str
    metrics_url: str = ""

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(30)

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM and return the exit status. Fails if the process does not end within `seconds`."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(seconds)

    async def ended(self) -> bool:
        return self.child.poll() is not None

    async def ready(self) -> bool:
        """True if the health check answers 200. Fails if the process has ended."""
        health = await self._health()
        return health is not None and health.status_code == 200

    async def reasons(self) -> dict[str, str]:
        """Why the process is not ready, by part. Empty if it is ready or does not answer yet. Fails if it has
        ended."""
        health = await self._health()
        reasons: dict[str, str] = {} if health is None else health.json().get("reasons", {})
        return reasons

    async def exported(self) -> str:
        """The metrics that the process exports. Empty if it does not answer, for example because a test has suspended
        it."""
        if not self.metrics_url or self.child.poll() is not None:
            return ""
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(self.metrics_url, timeout=5)).text
        except httpx.HTTPError:
            return ""

    async def _health(self) -> httpx.Response | None:
        assert self.child.poll() is None, f"{self.name} ended:\n{self.log.read_text()[-3000:]}"
        try:
            async with httpx.AsyncClient() as client:
                return await client.get(self.health_url, timeout=5)
        except httpx.HTTPError:
            return None


@dataclass
class Record:
    """A decoded Kafka record. `timestamp` is when the broker appended it, in milliseconds. `raw` has the bytes of the
    value, `raw_headers` those of the headers."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | None
    headers: dict[str, str]
    value: Any
    raw: bytes | None = field(repr=False, default=None)
    raw_headers: dict[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def id(self) -> str:
        return self.headers["ce_id"]

    @property
    def position(self) -> tuple[int, int]:
        """The partition and the offset."""
        return self.partition, self.offset


@dataclass
class Stack:
    """One installation of the service: its servers and the processes that a test starts on them."""

    servers: Servers
    home: Path
    engine: AsyncEngine
    producer: AIOKafkaProducer
    processes: list[Process] = field(default_factory=list)
    url: str = ""
    """The URL of the edge, if the test has set it."""
    _results: "_Results | None" = None

    async def close(self) -> None:
        """Kill the processes that still run, and close all connections."""
        for process in self.processes:
            if process.child.poll() is None:
                process.kill()
        if self._results is not None:
            await self._results.stop()
        await self.producer.stop()
        await self.engine.dispose()

    @property
    def audit_log(self) -> Path:
        """A file for the setting VISITOR_LOG_AUDIT."""
        return self.home / "audit.log"

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(bootstrap=self.servers.kafka, partitions=PARTITIONS, replication=1, min_insync=1)

    @property
    def database(self) -> DatabaseSettings:
        return DatabaseSettings(url=SecretStr(self.servers.database))

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment variables of a process of this installation."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("VISITOR_")},
            "VISITOR_KAFKA_BOOTSTRAP": self.servers.kafka,
            "VISITOR_DATABASE_URL": self.servers.database,
            "VISITOR_LOG_FORMAT": "json",
            "VISITOR_WORKER_EVENT_TOKEN_SECRET": EVENT_TOKEN_SECRET,
            "PYTHONUNBUFFERED": "1",
            **settings,
        }

    def spawn(self, name: str, argv: Sequence[str], health_url: str, metrics_url: str = "", **settings: str) -> Process:
        """Start a Python process with these arguments."""
        log = self.home / f"{name}-{len(self.processes)}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, *argv], stdout=output, stderr=output, env=self.environment(**settings),
                start_new_session=True,
            )  # fmt: skip
        process = Process(name, child, log, health_url, metrics_url)
        self.processes.append(process)
        return process

    def worker(self, module: str = "runtime.cli", arguments: Sequence[str] = (), **settings: str) -> Process:
        """Start a worker. It may not be ready yet."""
        port = free_port()
        settings = {"VISITOR_WORKER_HEALTH_PORT": str(port), **settings}
        url = f"http://127.0.0.1:{port}"
        return self.spawn(
            "worker", ["-m", module, "worker", *arguments], f"{url}/health/ready", f"{url}/metrics", **settings
        )

    def edge(self, module: str = "runtime.cli", arguments: Sequence[str] = (), **settings: str) -> tuple[Process, str]:
        """Start an edge and return it with its URL. It may not be ready yet."""
        metrics_port = free_port()
        defaults = {"VISITOR_HTTP_PORT": str(free_port()), "VISITOR_HTTP_METRICS_PORT": str(metrics_port)}
        settings = defaults | settings
        url = f"http://127.0.0.1:{settings['VISITOR_HTTP_PORT']}"
        process = self.spawn(
            "edge", ["-m", module, "edge", *arguments], f"{url}/health", f"http://127.0.0.1:{metrics_port}/metrics",
            **settings,
        )  # fmt: skip
        return process, url

    async def command(
        self, *arguments: str, seconds: float = 60, **settings: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a `visitor` command until it ends, with the topic settings of this installation. Raises
        subprocess.TimeoutExpired after `seconds`."""
        return await asyncio.to_thread(
            subprocess.run, [sys.executable, "-m", "runtime.cli", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds,
            env=self.environment(**(TOPIC_SETTINGS | settings)),
        )  # fmt: skip

    async def consume(self, topic: str, matches: Callable[[Any], bool]) -> Any:
        """The first line that `visitor consume` prints for a topic and that `matches`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runtime.cli", "consume", topic, "--from-beginning",
            env=self.environment(), stdout=subprocess.PIPE, limit=32 * 2**20,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            while line := await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS):
                if matches(message := json.read(line)):
                    return message
            raise AssertionError(f"visitor consume {topic} ended")
        finally:
            process.terminate()
            await process.wait()

    async def prepare(self) -> None:
        """Migrate the database and create the topics."""
        await migrate.upgrade(self.database)
        await admin.ensure(self.kafka, CATALOGUE.topics(self.kafka))

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """Execute a SELECT statement and return its rows."""
        async with self.engine.connect() as conn:
            return list((await conn.execute(sa.text(statement), parameters)).all())

    async def await_lock_wait(self) -> None:
        """Wait until a transaction waits for a lock."""
        await eventually(
            "a transaction that waits for a lock", lambda: self.rows("select 1 from pg_locks where not granted")
        )

    async def send(
        self,
        operation: str,
        parts: Mapping[str, Any],
        *,
        request_id: str | None = None,
        content_type: str = JSON,
        source: str | None = "gateway/test",
        partition: int | None = None,
        key: str | None = None,
    ) -> str:
        """Send a request message like an upstream system does, and return its id."""
        request_id = request_id or str(uuid4())
        value = WIRE.write_request(CATALOGUE.by_name[operation], content_type, dict(parts))
        headers = RequestHeaders(request_id, operation, source, content_type).encode()
        await self.raw(request_topic(operation), value, headers, partition=partition, key=key)
        return request_id

    async def in_one_batch(
        self, locking: str, blocked: tuple[str, Mapping[str, Any]], requests: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> list[Any]:
        """The results of requests that wait in one partition, in this order, while the row lock of the statement
        `locking` blocks an earlier request of the same family. Requests are pairs of operation and parts."""
        async with self.engine.begin() as conn:
            await conn.exec_driver_sql(locking)
            await self.send(*blocked, partition=0)
            await self.await_lock_wait()
            sent = [(name, await self.send(name, parts, partition=0)) for name, parts in requests]
            await asyncio.sleep(0.5)  # Time for the worker to fetch them.
        return [(await self.result(name, request_id)).value for name, request_id in sent]

    async def raw(
        self,
        topic: str,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        *,
        partition: int | None = None,
        key: str | None = None,
    ) -> None:
        """Send a record with any bytes as its value."""
        await self.producer.send_and_wait(
            topic, value, key=key.encode() if key else None, headers=list(headers), partition=partition
        )

    async def result(self, operation: str, request_id: str, seconds: float = WAIT_SECONDS, nth: int = 1) -> Record:
        """Wait for the result of a request on its family's results topic. `nth` counts the results of a request that
        was sent several times."""
        if self._results is None:
            self._results = _Results(self.kafka)
            await self._results.start()
        topic = names.results(CATALOGUE.family_of[operation])
        return await self._results.nth(topic, request_id, nth, seconds)

    async def await_record(
        self, topic: str, matches: Callable[[Record], bool], seconds: float = WAIT_SECONDS
    ) -> Record:
        """Wait until a topic has a record that matches, and return the first one."""

        async def matching_record() -> Record | None:
            return next((record for record in await self.read(topic) if matches(record)), None)

        record: Record = await eventually(f"a record in {topic}", matching_record, seconds)
        return record

    async def count(self, topic: str) -> int:
        """The number of messages that were ever written to a topic. Not for change topics: there, each transaction
        also writes a marker, which has an offset."""
        return sum((await self.ends(topic)).values())

    async def ends(self, topic: str) -> dict[TopicPartition, int]:
        """The next offset of each partition."""
        partitions = await self._partitions(topic)
        async with _consumer_of(self.kafka, partitions) as consumer:
            end_offsets: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
            return end_offsets

    async def committed(self, topic: str) -> dict[TopicPartition, int]:
        """The offset that the workers have committed, of each partition that has one."""
        async with self._admin() as admin_client:
            offsets = await admin_client.list_consumer_group_offsets("visitor-worker.requests")
        return {partition: committed.offset for partition, committed in offsets.items() if partition.topic == topic}

    async def delete_records(self, topic: str) -> None:
        """Delete all records of a topic."""
        async with self._admin() as admin_client:
            partitions = await self._partitions(topic)
            await admin_client.delete_records({partition: RecordsToDelete(-1) for partition in partitions})

    async def add_partitions(self, *topics: str, count: int) -> None:
        """Give topics more partitions, so that each has `count`."""
        async with self._admin() as admin_client:
            await admin_client.create_partitions({topic: NewPartitions(count) for topic in topics})

        async def have_new_count() -> bool:
            await self.producer.client.force_metadata_update()
            return all([len(await self.producer.partitions_for(topic)) == count for topic in topics])

        await eventually("the new partitions", have_new_count)

    async def delete_topics(self, *topics: str) -> None:
        async with self._admin() as admin_client:
            await admin_client.delete_topics(list(topics))

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin_client = AIOKafkaAdminClient(bootstrap_servers=self.servers.kafka)
        await admin_client.start()
        try:
            yield admin_client
        finally:
            await admin_client.close()

    async def read(self, *topics: str) -> list[Record]:
        """All records that topics have now. Those of one partition are in the order of their offsets."""
        partitions = [partition for topic in topics for partition in await self._partitions(topic)]
        async with _consumer_of(self.kafka, partitions) as consumer:
            return [record async for record in _records_to_end(consumer)]

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in await self.producer.partitions_for(topic)]


class _Results:
    """The records of all results topics, from the beginning. A background task reads new ones."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._consumer = AIOKafkaConsumer(**kafka.client(), enable_auto_commit=False, auto_offset_reset="earliest")
        self._records: dict[tuple[str, str], list[Record]] = defaultdict(list)
        """By topic and request id."""
        self._new_record = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._consumer.start()
        topics = [names.results(family) for family in CATALOGUE.families]
        self._consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)])
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._consumer.stop()

    async def nth(self, topic: str, request_id: str, number: int, seconds: float) -> Record:
        """Wait until a request has this number of results, and return the last of them. Fails after `seconds`."""
        records = self._records[topic, request_id]
        try:
            async with asyncio.timeout(seconds), self._new_record:
                await self._new_record.wait_for(lambda: len(records) >= number)
        except TimeoutError:
            raise AssertionError(f"not within {seconds:.0f} s: result {number} of {request_id} in {topic}") from None
        return records[number - 1]

    async def _read(self) -> None:
        async for consumer_record in self._consumer:
            record = decode(consumer_record)
            async with self._new_record:
                self._records[record.topic, record.headers.get("ce_id", "")].append(record)
                self._new_record.notify_all()


def request_topic(operation: str) -> str:
    return CATALOGUE.topic_of[operation]


@asynccontextmanager
async def _consumer_of(kafka: KafkaSettings, partitions: Iterable[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group that reads these partitions from the beginning."""
    consumer = AIOKafkaConsumer(
        **kafka.client(), enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        consumer.assign(list(partitions))
        yield consumer
    finally:
        await consumer.stop()


async def _records_to_end(consumer: AIOKafkaConsumer) -> AsyncIterator[Record]:
    """Yield the records up to the current end of each assigned partition."""
    partitions = list(consumer.assignment())
    start_offsets = await consumer.beginning_offsets(partitions)
    end_offsets = await consumer.end_offsets(partitions)
    unfinished = {partition for partition in partitions if end_offsets[partition] > start_offsets[partition]}
    while unfinished:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                yield decode(record)
        for partition in list(unfinished):
            if await consumer.position(partition) >= end_offsets[partition]:
                unfinished.discard(partition)


def decode(record: Any) -> Record:
    """Decode a record of aiokafka. A value that cannot be decoded stays bytes."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    try:
        content_type = format_of(headers.get("content-type"), record.value or b"")
        value = None if record.value is None else WIRE.read(content_type, record.value)
    except Exception:
        value = record.value
    key = record.key.decode() if record.key else None
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        key,
        headers,
        value,
        record.value,
        dict(record.headers),
    )


@asynccontextmanager
async def stack_on(servers: Servers, home: Path) -> AsyncIterator[Stack]:
    """An installation with migrations and topics and without processes."""
    async with bare_stack_on(servers, home) as stack:
        await stack.prepare()
        yield stack


@asynccontextmanager
async def bare_stack_on(servers: Servers, home: Path) -> AsyncIterator[Stack]:
    """An installation without the service's tables and topics. At the end, the processes that a test started are
    killed. Fails if one of them has logged personal data of the visitors of `tests.support.data`, or exports it."""
    engine = create_async_engine(servers.database)
    producer = AIOKafkaProducer(
        bootstrap_servers=servers.kafka,
        enable_idempotence=True,
        max_request_size=32 * 2**20,
        linger_ms=1,
        metadata_max_age_ms=1_000,
        # While a broker is away, aiokafka fails what waits for longer.
        request_timeout_ms=120_000,
    )
    stack = Stack(servers, home, engine, producer)
    try:
        await producer.start()
        yield stack
    finally:
        metrics = [await process.exported() for process in stack.processes]
        await stack.close()
    for process, exported in zip(stack.processes, metrics, strict=True):
        assert_impersonal(process.log.read_text(), str(process.log))
        assert_impersonal(exported, f"the metrics of {process.name}")


def assert_impersonal(text: str, origin: str) -> None:
    """Fails if a text has personal data of the visitors of `tests.support.data`."""
    assert [personal for personal in PERSONAL if personal in text] == [], f"personal data in {origin}"


def plain(value: Any) -> Any:
    """Convert a value to JSON and back, so that a value decoded from Avro equals one decoded from JSON."""
    return json.read(json.write(value))
