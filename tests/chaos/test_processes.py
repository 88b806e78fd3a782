"""Processes as operators meet them: start in any order, stop, health, topics, migrations, wrong settings."""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from runtime.dev.servers.processes import free_port
from tests.chaos.conftest import KafkaAndPostgres
from tests.support import oracle
from tests.support.callers import calling
from tests.support.load import populate, send_all, visit
from tests.support.oracle import Sent
from tests.support.servers import Servers
from tests.support.stack import PARTITIONS, Stack, bare_stack_on, eventually
from topics import names

SHUTDOWN_SECONDS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bare(kafka_and_postgres: KafkaAndPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Servers with neither our topics nor our tables."""
    kafka, postgres = kafka_and_postgres
    async with bare_stack_on(Servers(kafka.bootstrap, postgres.url), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def installed(bare: Stack) -> Stack:
    """A worker and an edge that were started before there was anything for them."""
    worker = bare.worker()
    edge, bare.url = bare.edge()

    async def waits_for(what: str) -> bool:
        return what in worker.log.read_text()

    await eventually("the worker waits for migrations", lambda: waits_for("visitor migrate"))
    assert not await worker.ready()
    first, second = await asyncio.gather(_run(bare, "migrate"), _run(bare, "migrate"))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "The database is at" in first.stdout

    await eventually("the worker waits for topics", lambda: waits_for("visitor topics"))
    created = await _run(bare, "topics")
    assert created.returncode == 0, created.stderr
    assert "created visitor.visits.requests" in created.stdout
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    return bare


def _visitor(stack: Stack, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    topic_settings = {
        "VISITOR_KAFKA_PARTITIONS": str(PARTITIONS),
        "VISITOR_KAFKA_REPLICATION": "1",
        "VISITOR_KAFKA_MIN_INSYNC": "1",
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli", *arguments],
        capture_output=True, text=True, check=False, timeout=60, env=stack.environment(**topic_settings),
    )  # fmt: skip


async def _run(stack: Stack, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(_visitor, stack, *arguments, **settings)


async def test_everything_may_start_before_migrations_and_topics(installed: Stack) -> None:
    assert [await process.ready() for process in installed.processes] == [True, True]
    # The image's working directory is not its user's.
    assert list(Path.cwd().glob("*-data")) == []


async def test_topics_shows_where_an_existing_topic_differs_and_changes_nothing(installed: Stack) -> None:
    clean = await _run(installed, "topics")
    assert (clean.returncode, clean.stdout) == (0, "All topics are there and as they should be.\n")
    wanting_more = await _run(installed, "topics", VISITOR_KAFKA_PARTITIONS=str(PARTITIONS + 1))
    assert wanting_more.returncode == 1
    told = f"differs visitor.visits.requests: partitions is {PARTITIONS}, the service needs {PARTITIONS + 1}"
    assert told in wanting_more.stdout
    assert len(await installed.producer.partitions_for("visitor.visits.requests")) == PARTITIONS


async def test_topics_shows_another_policy_and_retention(installed: Stack) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=installed.servers.kafka)
    await admin.start()
    topic = names.changes("articles")  # which no other test of this file reads: Kafka may empty it after a second
    await admin.delete_topics([topic])

    async def gone() -> bool:
        return topic not in await admin.list_topics()

    await eventually("the topic's end", gone)
    wrong = {"cleanup.policy": "delete", "retention.ms": "1000", "min.insync.replicas": "1"}
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=wrong)])
    await admin.close()
    found = await _run(installed, "topics")
    assert found.returncode == 1
    assert f"differs {topic}: cleanup.policy is delete, the service needs compact" in found.stdout
    assert f"differs {topic}: retention.ms is 1000, the service needs -1" in found.stdout


async def test_health_tells_by_its_status(installed: Stack) -> None:
    worker = next(process for process in installed.processes if process.name == "worker")
    port = worker.health_url.split(":")[2].split("/")[0]
    settings = {"VISITOR_WORKER_HEALTH_PORT": port, "VISITOR_HTTP_PORT": installed.url.rpartition(":")[2]}
    for arguments in (("worker",), ("worker", "--live"), ("edge",), ("edge", "--live")):
        assert (await _run(installed, "health", *arguments, **settings)).returncode == 0
    nobody = await _run(installed, "health", "worker", VISITOR_WORKER_HEALTH_PORT="1")
    assert nobody.returncode == 1
    assert "does not answer" in nobody.stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"VISITOR_WORKER_HEALTH_PORT": "many"}, "VISITOR_WORKER_HEALTH_PORT: input should be a valid integer"),
        ({"VISITOR_KAFKA_BOOTSTRAPS": "x"}, "did you mean VISITOR_KAFKA_BOOTSTRAP?"),
    ],
)
async def test_a_wrong_setting_ends_with_status_2_and_says_what_it_should_be(
    bare: Stack, settings: dict[str, str], told: str
) -> None:
    found = await _run(bare, "worker", **settings)
    assert found.returncode == 2
    assert told in found.stderr


async def test_reading_a_topic_without_a_broker_is_a_clear_error_and_no_more(bare: Stack) -> None:
    found = await _run(bare, "consume", "any", VISITOR_KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}")
    assert found.returncode == 2
    assert "VISITOR_KAFKA_BOOTSTRAP" in found.stderr
    assert "Unclosed" not in found.stderr


async def test_an_edge_for_the_world_needs_keys(bare: Stack) -> None:
    found = await _run(bare, "edge", VISITOR_HTTP_HOST="0.0.0.0")
    assert found.returncode == 2
    assert "VISITOR_HTTP_KEYS" in found.stderr


async def test_sigterm_under_load_ends_well_and_a_second_start_picks_up(installed: Stack) -> None:
    worker = next(process for process in installed.processes if process.name == "worker")
    rng, sent = random.Random(5), Sent()
    population = await populate(installed, sent, 5)
    visits = [visit(rng, population) for _ in range(4_000)]
    async with calling(installed, sent, population.pc_code) as callers:
        await send_all(installed, sent, rng, visits)
        assert await asyncio.to_thread(worker.terminate, SHUTDOWN_SECONDS) == 0
        assert not await oracle.all_answered(installed, sent, ["visits"]), "the load was over before the end; send more"

        before = len(await installed.read(names.results("visits")))
        second = installed.worker()
        await eventually("a ready worker", second.ready)
        await callers.finish()
    families = ("visits", "visitors", "parking", "centers")
    await eventually("a result for every request", lambda: oracle.all_answered(installed, sent, families))
    await eventually("all changes published", lambda: oracle.outbox_empty(installed))
    await oracle.verify(installed, sent, families)
    await callers.verify(installed)
    ids = {message.request_id for message in visits}
    results = len([record for record in await installed.read(names.results("visits")) if record.id in ids])
    assert results == 4_000, f"{before} before the end; what was acknowledged was answered again"
    assert await asyncio.to_thread(second.terminate) == 0
