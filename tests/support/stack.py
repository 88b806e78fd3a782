"""Worker and edge processes on given servers, and what a test does with them."""

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
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from runtime.dev.servers.processes import free_port
from storage import migrate
from storage.database import DatabaseSettings
from tests.support.servers import Servers
from topics import admin, json, names
from topics.envelope import AVRO, JSON, RequestHeaders
from topics.kafka import KafkaSettings

WIRE = Wire(CATALOGUE)
PARTITIONS = 4
PERSONAL = ("Zora", "Quill", "@example.com")
"""What the names and emails of all sample visitors have in common."""
EVENT_TOKEN_SECRET = "a secret that only tests have, and know"
PATIENCE = 60.0
"""Seconds until a condition that is waited for counts as failed; generous, since machines are shared."""


async def eventually(what: str, holds: Callable[[], Awaitable[Any]], patience: float = PATIENCE) -> Any:
    """The first true answer of `holds`. Fails where there is none in time."""
    deadline = time.monotonic() + patience
    while True:
        found = await holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience:.0f} s: {what}"
        await asyncio.sleep(0.1)


@dataclass
class Process:
    """A child of the test, in its own session; its log is in `log`."""

    name: str
    child: "subprocess.Popen[bytes]"
    log: Path
    health: str

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(30)

    def terminate(self, patience: float = 30) -> int:
        """SIGTERM; the exit status."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(patience)

    async def ended(self) -> bool:
        return self.child.poll() is not None

    async def ready(self) -> bool:
        assert self.child.poll() is None, f"{self.name} ended:\n{self.log.read_text()[-3000:]}"
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(self.health, timeout=5)).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass
class Record:
    """A message that was read, decoded."""

    topic: str
    partition: int
    offset: int
    key: str | None
    headers: dict[str, str]
    value: Any
    raw: bytes | None = field(repr=False, default=None)

    @property
    def id(self) -> str:
        return self.headers["ce_id"]

    @property
    def place(self) -> tuple[int, int]:
        """Where in its topic it stands."""
        return self.partition, self.offset


@dataclass
class Stack:
    """One installation: its servers, its processes, its database."""

    servers: Servers
    home: Path
    engine: AsyncEngine
    producer: AIOKafkaProducer
    processes: list[Process] = field(default_factory=list)
    url: str = ""
    _results: "Results | None" = None

    async def close(self) -> None:
        """End whatever was started here."""
        for process in self.processes:
            if process.child.poll() is None:
                process.kill()
        if self._results is not None:
            await self._results.stop()
        await self.producer.stop()
        await self.engine.dispose()

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(bootstrap=self.servers.kafka, partitions=PARTITIONS, replication=1, min_insync=1)

    @property
    def database(self) -> DatabaseSettings:
        return DatabaseSettings(url=SecretStr(self.servers.database))

    def environment(self, **settings: str) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("VISITOR_")},
            "VISITOR_KAFKA_BOOTSTRAP": self.servers.kafka,
            "VISITOR_DATABASE_URL": self.servers.database,
            "VISITOR_LOG_FORMAT": "json",
            "VISITOR_WORKER_EVENT_TOKEN_SECRET": EVENT_TOKEN_SECRET,
            "PYTHONUNBUFFERED": "1",
            **settings,
        }

    def spawn(self, name: str, argv: Sequence[str], health: str, **settings: str) -> Process:
        log = self.home / f"{name}-{len(self.processes)}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, *argv], stdout=output, stderr=output, env=self.environment(**settings),
                start_new_session=True,
            )  # fmt: skip
        process = Process(name, child, log, health)
        self.processes.append(process)
        return process

    def worker(self, module: str = "runtime.cli", arguments: Sequence[str] = (), **settings: str) -> Process:
        """A worker that was started and need not be ready."""
        port = free_port()
        settings = {"VISITOR_WORKER_HEALTH_PORT": str(port), **settings}
        return self.spawn(
            "worker", ["-m", module, "worker", *arguments], f"http://127.0.0.1:{port}/health/ready", **settings
        )

    def edge(self, module: str = "runtime.cli", arguments: Sequence[str] = (), **settings: str) -> tuple[Process, str]:
        """An edge that was started and need not be ready, and its URL."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        process = self.spawn(
            "edge", ["-m", module, "edge", *arguments], f"{url}/health", VISITOR_HTTP_PORT=str(port), **settings
        )
        return process, url

    async def prepare(self) -> None:
        """Migrations and topics."""
        await migrate.upgrade(self.database)
        await admin.ensure(self.kafka, names.specs(CATALOGUE.families, self.kafka))

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """What a SELECT in SQL finds."""
        async with self.engine.connect() as conn:
            return list((await conn.execute(sa.text(statement), parameters)).all())

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
        """A request message as an upstream system sends it; its id."""
        found = CATALOGUE.by_name[operation]
        request_id = request_id or str(uuid4())
        value = WIRE.write_request(found, content_type, dict(parts))
        headers = RequestHeaders(request_id, operation, source, content_type).encode()
        await self.raw(request_topic(operation), value, headers, partition=partition, key=key)
        return request_id

    async def raw(
        self,
        topic: str,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        *,
        partition: int | None = None,
        key: str | None = None,
    ) -> None:
        """Any bytes at all."""
        await self.producer.send_and_wait(
            topic, value, key=key.encode() if key else None, headers=list(headers), partition=partition
        )

    async def result(self, operation: str, request_id: str, patience: float = PATIENCE, nth: int = 1) -> Record:
        """The result of a request on its family's results topic; the `nth` where it was sent several times."""
        if self._results is None:
            self._results = Results(self.kafka)
            await self._results.start()
        topic = names.results(CATALOGUE.family_of[operation])
        return await self._results.nth(topic, request_id, nth, patience)

    async def await_record(self, topic: str, wanted: Callable[[Record], bool], patience: float = PATIENCE) -> Record:
        """The first record of a topic, from its beginning, that is wanted."""

        async def look() -> Record | None:
            return next((record for record in await self.read(topic) if wanted(record)), None)

        found: Record = await eventually(f"a record in {topic}", look, patience)
        return found

    async def count(self, topic: str) -> int:
        """How many messages a topic holds, where none was deleted; not for change topics, in which the marker of each
        transaction has an offset as well."""
        return sum((await self.ends(topic)).values())

    async def ends(self, topic: str) -> dict[TopicPartition, int]:
        """The next offset of each partition."""
        places = [TopicPartition(topic, number) for number in await self.producer.partitions_for(topic)]
        async with _reading(self.kafka, places) as consumer:
            found: dict[TopicPartition, int] = await consumer.end_offsets(places)
            return found

    async def read(self, topic: str) -> list[Record]:
        """All records that a topic holds now, each partition in order."""
        places = [TopicPartition(topic, number) for number in await self.producer.partitions_for(topic)]
        async with _reading(self.kafka, places) as consumer:
            return [record async for record in _to_end(consumer)]


class Results:
    """All results topics, read from their beginnings as they grow."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._consumer = AIOKafkaConsumer(**kafka.client(), enable_auto_commit=False, auto_offset_reset="earliest")
        self._found: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self._news = asyncio.Condition()
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

    async def nth(self, topic: str, request_id: str, number: int, patience: float) -> Record:
        found = self._found[topic, request_id]
        try:
            async with asyncio.timeout(patience), self._news:
                await self._news.wait_for(lambda: len(found) >= number)
        except TimeoutError:
            raise AssertionError(f"not within {patience:.0f} s: result {number} of {request_id} in {topic}") from None
        return found[number - 1]

    async def _read(self) -> None:
        async for record in self._consumer:
            found = decode(record)
            async with self._news:
                self._found[found.topic, found.headers.get("ce_id", "")].append(found)
                self._news.notify_all()


def request_topic(operation: str) -> str:
    return CATALOGUE.topic_of[operation]


@asynccontextmanager
async def _reading(kafka: KafkaSettings, places: Iterable[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **kafka.client(), enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        consumer.assign(list(places))
        yield consumer
    finally:
        await consumer.stop()


async def _to_end(consumer: AIOKafkaConsumer) -> AsyncIterator[Record]:
    ends = await consumer.end_offsets(list(consumer.assignment()))
    starts = await consumer.beginning_offsets(list(consumer.assignment()))
    left = {place for place, end in ends.items() if end > starts[place]}
    while left:
        for place, records in (await consumer.getmany(timeout_ms=200)).items():
            for record in records:
                yield decode(record)
            if await consumer.position(place) >= ends[place]:
                left.discard(place)
        for place in list(left):
            if await consumer.position(place) >= ends[place]:
                left.discard(place)


def decode(record: Any) -> Record:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    content_type = headers.get("content-type", AVRO)
    try:
        value = None if record.value is None else WIRE.read(content_type, record.value)
    except Exception:
        value = record.value
    key = record.key.decode() if record.key else None
    return Record(record.topic, record.partition, record.offset, key, headers, value, record.value)


@asynccontextmanager
async def stack_on(servers: Servers, home: Path) -> AsyncIterator[Stack]:
    """An installation with migrations and topics, without processes."""
    async with bare_stack_on(servers, home) as stack:
        await stack.prepare()
        yield stack


@asynccontextmanager
async def bare_stack_on(servers: Servers, home: Path) -> AsyncIterator[Stack]:
    """An installation with neither our tables nor our topics. Processes that a test starts are ended afterwards, and
    must have logged nothing about the visitors of `tests.support.data`."""
    engine = create_async_engine(servers.database)
    producer = AIOKafkaProducer(
        bootstrap_servers=servers.kafka, enable_idempotence=True, max_request_size=32 * 2**20, linger_ms=1
    )
    stack = Stack(servers, home, engine, producer)
    try:
        await producer.start()
        yield stack
    finally:
        await stack.close()
    for process in stack.processes:
        said = process.log.read_text()
        assert [text for text in PERSONAL if text in said] == [], f"personal data in {process.log}"


def plain(value: Any) -> Any:
    """A value as its JSON reads, to compare what came in JSON with what came in Avro."""
    return json.read(json.write(value))
