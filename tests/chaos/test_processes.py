"""The processes from the view of an operator: order of starts, stop, health, topics, migrations, wrong settings."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from runtime.dev.servers.processes import free_port
from tests.support import data, oracle
from tests.support.balancer import Balancer
from tests.support.callers import CALLERS, calling
from tests.support.load import populate, send_all, visit
from tests.support.oracle import Sent
from tests.support.servers import Choice, KafkaAndPostgres, Servers, own_servers
from tests.support.stack import PARTITIONS, Process, Stack, bare_stack_on, eventually
from topics import names

SHUTDOWN_SECONDS = 20


@pytest.fixture(scope="module")
def kafka_and_postgres(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAndPostgres]:
    """The broker creates topics that a client asks for, as by Kafka's default."""
    with own_servers(choice, tmp_path_factory.mktemp("servers"), {"auto.create.topics.enable": "true"}) as servers:
        yield servers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bare(kafka_and_postgres: KafkaAndPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Servers without the service's topics and tables."""
    kafka, postgres = kafka_and_postgres
    async with bare_stack_on(Servers(kafka.bootstrap, postgres.url), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def installed(bare: Stack) -> Stack:
    """A worker and an edge that were started before the migrations and the topics."""
    # It stays in its groups while a test suspends it.
    worker = bare.worker(VISITOR_WORKER_HEALTH_HOST="0.0.0.0", VISITOR_WORKER_SESSION_SECONDS="30")
    edge, bare.url = bare.edge()

    async def logs(process: Process, text: str) -> bool:
        return text in process.log.read_text()

    await eventually("the worker waits for migrations", lambda: logs(worker, "visitor migrate"))
    await eventually("the edge waits for topics", lambda: logs(edge, "topic visitor.replies does not exist"))
    assert not await worker.ready()
    first, second = await asyncio.gather(bare.command("migrate"), bare.command("migrate"))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "The database is at" in first.stdout

    await eventually("the worker waits for topics", lambda: logs(worker, "visitor topics"))
    command = await bare.command("topics")
    assert command.returncode == 0, command.stderr
    assert {"created visitor.visits.requests", "created visitor.replies"} <= set(command.stdout.splitlines())
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    return bare


def _worker_of(stack: Stack) -> Process:
    """The worker of `installed`."""
    return next(process for process in stack.processes if process.name == "worker")


async def test_worker_and_edge_may_start_before_migrations_and_topics(installed: Stack) -> None:
    assert [await process.ready() for process in installed.processes] == [True, True]
    # Faust must create no data directory, because in the image the user cannot write to the working directory.
    assert list(Path.cwd().glob("*-data")) == []


async def test_topics_prints_how_an_existing_topic_differs_and_changes_nothing(installed: Stack) -> None:
    equal = await installed.command("topics")
    assert (equal.returncode, equal.stdout) == (0, "All topics exist and have the required configuration.\n")
    different = await installed.command("topics", VISITOR_KAFKA_PARTITIONS=str(PARTITIONS + 1))
    assert different.returncode == 1
    line = f"differs visitor.visits.requests: partitions is {PARTITIONS}, the service needs {PARTITIONS + 1}"
    assert line in different.stdout
    assert f"kafka-topics.sh --alter --topic visitor.visits.requests --partitions {PARTITIONS + 1}" in different.stdout
    assert len(await installed.producer.partitions_for("visitor.visits.requests")) == PARTITIONS


async def test_brokers_create_no_topics_for_the_service(installed: Stack) -> None:
    """The edge and the worker asked for topics before `visitor topics` created them."""
    assert len(await installed.producer.partitions_for(names.REPLIES)) == PARTITIONS
    unknown = installed.spawn("consume", ["-m", "runtime.cli", "consume", "visitor.unknown"], "")

    async def waits() -> bool:
        return "visitor.unknown" in unknown.log.read_text()

    await eventually("a consumer of a topic that does not exist", waits)
    unknown.kill()
    assert "visitor.unknown" not in await _topics(installed)


async def _topics(stack: Stack) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.servers.kafka)
    await admin.start()
    try:
        existing: list[str] = await admin.list_topics()
        return existing
    finally:
        await admin.close()


async def test_topics_prints_a_different_cleanup_policy_and_retention(installed: Stack) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=installed.servers.kafka)
    await admin.start()
    # No other test of this file reads it; Kafka deletes its records after a second.
    topic = names.changes("articles", "article")
    await admin.delete_topics([topic])

    async def is_deleted() -> bool:
        return topic not in await admin.list_topics()

    await eventually("a deleted topic", is_deleted)
    wrong_config = {"cleanup.policy": "delete", "retention.ms": "1000", "min.insync.replicas": "1"}
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=wrong_config)])
    await admin.close()
    command = await installed.command("topics")
    assert command.returncode == 1
    assert f"differs {topic}: cleanup.policy is delete, the service needs compact" in command.stdout
    assert f"differs {topic}: retention.ms is 1000, the service needs -1" in command.stdout
    # For up to 5 seconds, it may report that the topic is missing.
    await eventually("a ready worker", _worker_of(installed).ready)


async def test_the_exit_status_of_health_is_0_if_the_process_is_healthy_and_1_if_it_does_not_answer(
    installed: Stack,
) -> None:
    worker = _worker_of(installed)
    health_port = str(httpx.URL(worker.health_url).port)
    settings = {"VISITOR_WORKER_HEALTH_PORT": health_port, "VISITOR_HTTP_PORT": str(httpx.URL(installed.url).port)}
    for arguments in (("worker",), ("worker", "--live"), ("edge",), ("edge", "--live")):
        assert (await installed.command("health", *arguments, **settings)).returncode == 0
    settings["VISITOR_WORKER_HEALTH_HOST"] = "0.0.0.0"
    assert (await installed.command("health", "worker", **settings)).returncode == 0
    unreachable = await installed.command("health", "worker", VISITOR_WORKER_HEALTH_PORT="1")
    assert unreachable.returncode == 1
    assert "does not answer" in unreachable.stdout


async def test_a_worker_serves_health_and_metrics_on_the_address_of_the_settings(installed: Stack) -> None:
    worker = _worker_of(installed)
    async with httpx.AsyncClient() as client:
        for url in (worker.health_url, worker.metrics_url):
            other_address = httpx.URL(url).copy_with(host="127.0.0.2")
            assert (await client.get(other_address)).status_code == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"VISITOR_WORKER_HEALTH_PORT": "many"}, "VISITOR_WORKER_HEALTH_PORT: input should be a valid integer"),
        ({"VISITOR_KAFKA_BOOTSTRAPS": "x"}, "did you mean VISITOR_KAFKA_BOOTSTRAP?"),
    ],
)
async def test_with_a_wrong_setting_the_worker_exits_with_status_2_and_says_how_to_correct_it(
    bare: Stack, settings: dict[str, str], message: str
) -> None:
    command = await bare.command("worker", **settings)
    assert command.returncode == 2
    assert message in command.stderr


async def test_consume_without_a_broker_names_the_setting_and_prints_no_warning_of_a_library(bare: Stack) -> None:
    command = await bare.command("consume", "any", VISITOR_KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}")
    assert command.returncode == 2
    assert "VISITOR_KAFKA_BOOTSTRAP" in command.stderr
    assert "Unclosed" not in command.stderr


async def test_an_edge_that_listens_on_all_interfaces_needs_keys(bare: Stack) -> None:
    command = await bare.command("edge", VISITOR_HTTP_HOST="0.0.0.0")
    assert command.returncode == 2
    assert "VISITOR_HTTP_KEYS" in command.stderr


async def test_a_rolling_restart_of_edges_under_load_fails_no_call(installed: Stack) -> None:
    edges = [installed.edge() for _ in range(2)]
    balancer, statuses, ended = Balancer(*(url for _, url in edges)), Counter[int](), asyncio.Event()
    async with balancer.listening() as balancer_url, httpx.AsyncClient(base_url=balancer_url, timeout=30) as client:
        for url in balancer.urls:
            await eventually("calls for the edge", partial(balancer.is_ready, url))
        pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]

        async def call_until_the_end() -> None:
            while not ended.is_set():
                answer = await client.post("/visitors", json=data.visitor(pc_code))
                statuses[answer.status_code] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(call_until_the_end())
            for number, (edge, _) in enumerate(edges):
                await asyncio.to_thread(edge.terminate)
                balancer.urls[number] = installed.edge()[1]
                await eventually("calls for the new edge", partial(balancer.is_ready, balancer.urls[number]))
            ended.set()
        count = await client.get("/visitors/count", params={"acquisitionPcCode": pc_code})
    assert balancer.errors == []
    assert statuses.keys() == {201}
    assert count.json()["data"] == {"count": statuses[201]}


async def test_a_worker_that_gets_sigterm_under_load_exits_with_status_0_and_the_next_one_continues(
    installed: Stack,
) -> None:
    worker = _worker_of(installed)
    rng, sent = random.Random(5), Sent()
    population = await populate(installed, sent, 5)
    visits = [visit(rng, population) for _ in range(4_000)]
    ids = {message.request_id for message in visits}
    async with calling(installed, sent, population.pc_code) as callers:
        await send_all(installed, sent, rng, visits[:2_000])
        # However fast it is, it cannot answer before SIGTERM what is sent while it is suspended.
        worker.child.send_signal(signal.SIGSTOP)
        await send_all(installed, sent, rng, visits[2_000:])
        worker.child.send_signal(signal.SIGTERM)
        worker.child.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(worker.child.wait, SHUTDOWN_SECONDS) == 0
        answered_at_stop = await _answered_visits(installed, ids)
        assert set(answered_at_stop) != ids, "all was answered before SIGTERM; send more"

        next_worker = installed.worker()
        await eventually("a ready worker", next_worker.ready)
        await callers.finish()
    families = ("visits", "visitors", "parking", "centers")
    await eventually("a result for every request", lambda: oracle.all_answered(installed, sent, families))
    await eventually("all changes published", lambda: oracle.outbox_empty(installed))
    await oracle.verify(installed, sent, families)
    await callers.verify(installed)
    answered = await _answered_visits(installed, ids)
    assert set(answered) == ids
    # A worker whose last commit takes too long leaves answered requests to the next one, which answers them again.
    if "group_not_left" not in worker.log.read_text():
        repeated = f"{len(answered_at_stop)} results at the stop; some requests were answered by both workers"
        assert len(answered) == len(ids), repeated
    assert await asyncio.to_thread(next_worker.terminate) == 0


async def _answered_visits(stack: Stack, ids: set[str]) -> list[str]:
    """Those of the ids that have a result, each as often as it has one."""
    return [record.id for record in await stack.read(names.results("visits")) if record.id in ids]
