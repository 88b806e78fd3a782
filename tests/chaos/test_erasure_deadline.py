"""After the deadline of an erasure, no topic and no table has the visitor's data. A day has 1.2 seconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from storage import migrate
from tests.support import data
from tests.support.scaled import DAY, scaled
from tests.support.search import tables_with
from tests.support.servers import Choice, KafkaAndPostgres, Servers, own_servers
from tests.support.stack import Stack, bare_stack_on, eventually
from topics import admin, names
from topics.envelope import JSON, RequestHeaders

BROKER = {
    "log.cleaner.backoff.ms": "100",
    "log.initial.task.delay.ms": "100",
    "log.retention.check.interval.ms": "200",
    "log.segment.delete.delay.ms": "100",
}
SHORTEST_RETENTION = timedelta(seconds=4)
"""Of queries and replies, which would be deleted before they are read."""


@pytest.fixture(scope="module")
def kafka_and_postgres(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAndPostgres]:
    with own_servers(choice, tmp_path_factory.mktemp("servers"), BROKER) as servers:
        yield servers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scaled_stack(
    kafka_and_postgres: KafkaAndPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """An installation whose topics have the service's configuration, with a day of `DAY` seconds."""
    kafka, postgres = kafka_and_postgres
    async with bare_stack_on(Servers(kafka.bootstrap, postgres.url), tmp_path_factory.mktemp("stack")) as stack:
        await migrate.upgrade(stack.database)
        specs = CATALOGUE.topics(stack.kafka)
        await admin.ensure(stack.kafka, [replace(spec, config=_scaled_config(spec.config)) for spec in specs])
        worker, (edge, stack.url) = stack.worker("tests.support.scaled"), stack.edge()
        await eventually("a ready worker", worker.ready)
        await eventually("a ready edge", edge.ready)
        yield stack


def _scaled_config(config: Mapping[str, str]) -> dict[str, str]:
    return {
        name: _scaled_value(value) if name.endswith(".ms") and value != "-1" else value
        for name, value in config.items()
    }


def _scaled_value(value: str) -> str:
    duration = timedelta(milliseconds=int(value))
    shortest = SHORTEST_RETENTION if duration < timedelta(days=1) else timedelta(0)
    return str(max(scaled(duration), shortest) // timedelta(milliseconds=1))


async def _records_with(stack: Stack, *texts: str) -> list[str]:
    """Return `topic: text` for each record that contains one of the texts."""
    topics = [spec.name for spec in CATALOGUE.topics(stack.kafka)]
    holders = []
    for record in await stack.read(*topics):
        content = f"{record.key} {record.headers} {record.raw!r}"
        holders += [f"{record.topic}: {text}" for text in texts if text in content]
    return holders


async def _write_a_year_ahead(stack: Stack, text: str) -> None:
    """Write records as a worker would whose clock is a year ahead."""
    timestamp = int((time.time() + timedelta(days=365).total_seconds()) * 1000)
    for topic in (names.results("visitors"), names.DEAD_LETTERS, names.changes("visits", "visit")):
        await stack.producer.send_and_wait(topic, text.encode(), timestamp_ms=timestamp)


async def test_an_erased_visitor_is_nowhere_after_the_deadline_and_a_consumer_that_was_away_sees_the_tombstone(
    scaled_stack: Stack,
) -> None:
    stack = scaled_stack
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        parker = await data.visitor_with_vehicle(client)
        path, name = f"/visitors/{parker['visitorId']}", "Quillfeather"
        await client.patch(path, json={"lastName": name})
        email = (await client.get(path)).json()["data"]["email"]
        personal = (email, name, parker["licensePlate"], parker["barcode"])
        await client.get("/visitors", params={"email": email})
        unreadable = RequestHeaders("id", "visitors.create", "crm", JSON).encode()
        await stack.raw(names.requests("visitors"), f"{{{' '.join(personal)}".encode(), unreadable)
        await _write_a_year_ahead(stack, " ".join(personal))
        await client.post("/visits/entry", json={"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]})
        topic = names.changes("visitors", "visitor")
        await stack.await_record(names.DEAD_LETTERS, lambda record: "ce_id" in record.headers)
        await stack.await_record(topic, lambda record: record.key == parker["visitorId"])
        before = await stack.ends(topic)
        holders = set(await _records_with(stack, *personal))
        analytics_id = await data.analytics_id(client, parker["visitorId"])
        erased = await client.post("/visitors/erase", json=[{"analyticsId": analytics_id}])
        assert erased.json()["data"]["success"] == [analytics_id]
    erased_at = time.monotonic()
    for text in personal:
        assert holders >= {f"{each}: {text}" for each in (names.DEAD_LETTERS, names.requests("visitors"))}
        assert holders >= {f"{each}: {text}" for each in (names.results("visitors"), names.changes("visits", "visit"))}
    assert holders >= {f"{topic}: {email}", f"{topic}: {parker['barcode']}"}

    await asyncio.sleep(erased_at + names.TOMBSTONES_KEPT / timedelta(days=1) * DAY - time.monotonic())
    missed = [
        record
        for record in await stack.read(topic)
        if record.offset >= next(end for partition, end in before.items() if partition.partition == record.partition)
    ]
    assert (parker["visitorId"], None) in [(record.key, record.raw) for record in missed]

    await asyncio.sleep(erased_at + names.ERASURE_DEADLINE / timedelta(days=1) * DAY - time.monotonic())
    assert await _records_with(stack, *personal) == []
    assert await tables_with(stack, *personal) == []
