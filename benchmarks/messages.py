"""Visit messages through a real worker, compared with an empty Faust agent and with one message per transaction."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.catalogue import CATALOGUE
from runtime.dev import sample
from storage import migrate
from storage.database import DatabaseSettings
from topics import admin, names
from topics.envelope import JSON, RequestHeaders
from topics.kafka import KafkaSettings

PARTITIONS = 4
VISITS = 30_000
QUICK_VISITS = 15_000
SINGLES = 4_000
VISITORS = 500


@dataclass(frozen=True)
class Person:
    barcode: str
    plate: str
    pc_code: str


@asynccontextmanager
async def prepared(bootstrap: str, url: str, *, quick: bool) -> AsyncIterator["Bench"]:
    """Create tables, topics, and visitors with one vehicle each."""
    kafka = KafkaSettings(bootstrap=bootstrap, partitions=PARTITIONS, replication=1, min_insync=1)
    observer = AIOKafkaConsumer(**kafka.client(), enable_auto_commit=False)
    bench = Bench(kafka, url, observer, quick=quick)
    await bench.prepare()
    try:
        await observer.start()
        yield bench
    finally:
        await observer.stop()


class Bench:
    """Each round sends its messages before it starts the worker. The rate is measured from the worker's first result to
    its last, so it contains neither the start nor the sending."""

    def __init__(self, kafka: KafkaSettings, url: str, observer: AIOKafkaConsumer, *, quick: bool) -> None:
        self._kafka = kafka
        self._url = url
        self._observer = observer
        self._visits = QUICK_VISITS if quick else VISITS
        self.people: list[Person] = []
        self._round = 0

    async def prepare(self) -> None:
        await migrate.upgrade(DatabaseSettings(url=self._url))  # type: ignore[arg-type]
        await admin.ensure(self._kafka, CATALOGUE.topics(self._kafka))
        worker = self._worker("runtime.cli")
        try:
            await self._create_people()
        finally:
            await _end(worker)

    async def full_path(self) -> float:
        return await self._measure("runtime.cli", self._visits)

    async def one_per_transaction(self) -> float:
        return await self._measure("benchmarks.single", SINGLES)

    async def empty_agent(self) -> float:
        """Messages per second that a Faust agent with the same settings reads and acknowledges without any work."""
        self._round += 1
        topic = f"bench.empty.{self._round}"
        client = AIOKafkaAdminClient(**self._kafka.client())
        await client.start()
        await client.create_topics([NewTopic(topic, PARTITIONS, 1)])
        await client.close()
        await self._send(topic, self._visits)
        environment = {**os.environ, "BENCH_TOPIC": topic, "BENCH_COUNT": str(self._visits)}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.empty", self._kafka.bootstrap, env=environment, stdout=subprocess.PIPE
        )
        out, _ = await child.communicate()
        return float(out.decode().split()[-1])

    async def _measure(self, module: str, count: int) -> float:
        results_before = await self._count_results()
        await self._send(names.requests("visits"), count)
        worker = self._worker(module)
        try:
            return await self._result_rate(results_before, count)
        finally:
            await _end(worker)

    async def _result_rate(self, results_before: int, count: int) -> float:
        """Wait for `count` new results. Returns the results per second, from the first new result to the last."""
        started_at, first_count = 0.0, 0
        while True:
            results = await self._count_results() - results_before
            if results and not started_at:
                started_at, first_count = time.perf_counter(), results
            if results >= count:
                return (results - first_count) / (time.perf_counter() - started_at)
            await asyncio.sleep(0.02)

    async def _count_results(self) -> int:
        topic_partitions = [TopicPartition(names.results("visits"), number) for number in range(PARTITIONS)]
        end_offsets: dict[TopicPartition, int] = await self._observer.end_offsets(topic_partitions)
        return sum(end_offsets.values())

    def _worker(self, module: str) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "VISITOR_KAFKA_BOOTSTRAP": self._kafka.bootstrap,
            "VISITOR_DATABASE_URL": self._url,
            "VISITOR_WORKER_HEALTH_PORT": "0",
            "VISITOR_LOG_LEVEL": "error",
        }
        return subprocess.Popen([sys.executable, "-m", module, "worker"], env=environment, start_new_session=True)

    async def _send(self, topic: str, count: int) -> None:
        rng = random.Random(count)
        producer = AIOKafkaProducer(**self._kafka.client(), linger_ms=5, max_batch_size=256 * 1024)
        await producer.start()
        for number in range(count):
            person = rng.choice(self.people)
            headers = RequestHeaders(str(uuid4()), "visits.create", "gateway/bench", JSON)
            await producer.send(topic, _visit(rng, person), headers=headers.encode(), partition=number % PARTITIONS)
        await producer.flush()
        await producer.stop()

    async def _create_people(self) -> None:
        producer = AIOKafkaProducer(**self._kafka.client())
        await producer.start()
        center = {**sample.CENTERS[0], "isWestfield": True}
        await self._create(producer, "centers.create", [{"body": center}])
        visitors = await self._create(
            producer,
            "visitors.create",
            [{"body": _visitor(number, str(center["pcCode"]))} for number in range(VISITORS)],
        )
        vehicles = await self._create(
            producer,
            "vehicles.create",
            [
                {"path": {"visitorId": visitor["visitorId"]}, "body": {"licensePlate": f"B-{number}"}}
                for number, visitor in enumerate(visitors)
            ],
        )
        plates = {vehicle["visitorId"]: vehicle["licensePlate"] for vehicle in vehicles}
        self.people = [
            Person(visitor["barcode"], plates[visitor["visitorId"]], str(center["pcCode"])) for visitor in visitors
        ]
        await producer.stop()

    async def _create(self, producer: AIOKafkaProducer, operation: str, requests: list[Any]) -> list[Any]:
        family = CATALOGUE.family_of[operation]
        topic_partitions = [TopicPartition(names.results(family), number) for number in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(**self._kafka.client(), enable_auto_commit=False)
        await consumer.start()
        consumer.assign(topic_partitions)
        await consumer.seek_to_end(*topic_partitions)
        for topic_partition in topic_partitions:
            await consumer.position(topic_partition)
        for request in requests:
            headers = RequestHeaders(str(uuid4()), operation, "bench/bench", JSON)
            await producer.send(names.requests(family), json.dumps(request).encode(), headers=headers.encode())
        results = [json.loads((await consumer.getone()).value) for _ in requests]
        await consumer.stop()
        assert {result["status"] for result in results} == {201}, results[0]
        return [result["body"]["data"] for result in results]


async def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    await asyncio.to_thread(worker.wait, 60)


def _visitor(number: int, pc_code: str) -> dict[str, Any]:
    return {
        "firstName": "Bench", "lastName": "Mark", "email": f"bench.{number}@example.com", "gender": "u",
        "acquisitionPcCode": pc_code, "countryCode": "FR", "optins": [],
    }  # fmt: skip


def _visit(rng: random.Random, person: Person) -> bytes:
    identification = rng.choice([{"barcode": person.barcode}, {"licensePlate": person.plate}])
    parts = {"path": {"visitType": rng.choice(["entry", "exit"])}, "body": {**identification, "pcCode": person.pc_code}}
    return json.dumps(parts).encode()
