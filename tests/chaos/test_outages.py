"""Servers that go away and come back, and two partitions that change the same entity."""

import asyncio
import functools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from aiokafka.errors import KafkaError
from sqlalchemy.engine import make_url

from tests.support import metrics, oracle
from tests.support.callers import calling
from tests.support.load import Message, Population, populate, send_all, update, visit
from tests.support.oracle import Sent
from tests.support.servers import KafkaAndPostgres, Postgres
from tests.support.stack import PARTITIONS, Process, Stack, eventually
from topics import names

AWAY_SECONDS = 10
SHUTDOWN_SECONDS = 20
COMMAND_SECONDS = 20
"""After so many seconds, asyncpg cancels a statement of a write."""
CONNECTIONS = 4
"""Of a worker, for requests and publishing."""
OTHER_EDGES = 2
READY_SECONDS = 5
"""In which an edge is ready again after its only broker is back."""
FAMILIES = ("visits", "visitors", "parking", "centers")
RESULTS = names.results("visits")
VISITS = names.changes("visits", "visit")


async def _not_ready(worker: Process) -> bool:
    return not await worker.ready()


async def _have_leaders(stack: Stack) -> bool:
    """A broker that has just started has none for a while."""
    try:
        await stack.count(names.REPLIES)
    except KafkaError:
        return False
    return True


async def _answered(stack: Stack, sent: Sent) -> None:
    await eventually("a result for every request", lambda: oracle.all_answered(stack, sent, FAMILIES), 120)
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))


async def _prepared(stack: Stack, sent: Sent) -> tuple[Process, Population]:
    worker = stack.worker()
    await eventually("a ready worker", worker.ready)
    return worker, await populate(stack, sent, 5)


async def _send_while(stack: Stack, sent: Sent, population: Population, ended: asyncio.Event) -> None:
    rng = random.Random(1)
    while not ended.is_set():
        await send_all(stack, sent, rng, [visit(rng, population) for _ in range(20)] + [update(rng, population)])
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("server", ["postgres", "kafka"])
async def test_a_server_away_for_10_seconds_loses_nothing_and_work_goes_on_by_itself(
    kafka_and_postgres: KafkaAndPostgres, own_stack: Stack, server: str
) -> None:
    """A broker that was killed, and one that has taken its leave: clients meet their end in other ways."""
    kafka, postgres = kafka_and_postgres
    away, ends = (postgres, [postgres.kill]) if server == "postgres" else (kafka, [kafka.kill, kafka.stop])
    sent, ended = Sent(), asyncio.Event()
    others = [own_stack.edge()[0] for _ in range(OTHER_EDGES)]
    worker, population = await _prepared(own_stack, sent)
    async with calling(own_stack, sent, population.pc_code) as callers:
        edges = [callers.edge, *others]
        for edge in others:
            await eventually("a ready edge", edge.ready)
        loading = asyncio.create_task(_send_while(own_stack, sent, population, ended))
        for end in ends:
            await asyncio.sleep(1)  # work is under way when the server goes
            await asyncio.to_thread(end)
            for process in [worker, *(edges if server == "kafka" else [])]:
                await eventually("not ready while it is away", functools.partial(_not_ready, process), 30)
            await asyncio.sleep(AWAY_SECONDS)
            assert not await worker.ready()
            for process in [worker, *(edges if server == "kafka" else [])]:
                assert (await metrics.scrape(process)).value("visitor_ready") == 0
            await asyncio.to_thread(away.start)
            await eventually("leaders", functools.partial(_have_leaders, own_stack))
            for edge in edges:
                await eventually("an edge that is ready again", edge.ready, READY_SECONDS)
            await eventually("ready again", worker.ready, 90)

        async def is_ready() -> bool:
            """A worker that waits for a row lock, or for an assignment, is not, for a moment."""
            return (await metrics.scrape(worker)).value("visitor_ready") == 1

        await eventually("a metric that says so", is_ready)
        scraped = await metrics.scrape(worker)
        if server == "postgres":
            # It looks for changes every second, also when there are none.
            assert scraped.value("visitor_retries_total", part="publisher") > 1
        ended.set()
        await loading
        await callers.finish()
        assert callers.repeats, "no call was under way while the server was away"

    await _answered(own_stack, sent)
    await oracle.verify(own_stack, sent, FAMILIES)
    await callers.verify(own_stack)
    assert worker.terminate() == 0
    for edge in others:
        edge.kill()


@pytest.mark.parametrize("has_work", [False, True], ids=["idle", "at work"])
async def test_a_worker_ends_within_20_seconds_of_sigterm_while_its_broker_hangs(
    kafka_and_postgres: KafkaAndPostgres, own_stack: Stack, has_work: bool
) -> None:
    """At work, each part of the worker waits for the broker when it is to end: batches, publishers and clients."""
    kafka, _ = kafka_and_postgres
    sent, ended = Sent(), asyncio.Event()
    worker, population = await _prepared(own_stack, sent)
    answered = await own_stack.count(RESULTS)
    loading = asyncio.create_task(_send_while(own_stack, sent, population, ended)) if has_work else None

    async def works() -> bool:
        return await own_stack.count(RESULTS) > answered

    if loading:
        await eventually("results", works)
    kafka.suspend()
    try:
        assert await asyncio.to_thread(worker.terminate, SHUTDOWN_SECONDS) == 0
    finally:
        ended.set()
        kafka.resume()
    if loading:
        await loading


async def _execute(url: str, *statements: str) -> list[asyncpg.Record]:
    """The rows of the last statement. On a connection of its own, since the server may have been killed before."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


@asynccontextmanager
async def _absent_standby(postgres: Postgres) -> AsyncIterator[str]:
    """PostgreSQL waits at each COMMIT for a standby that does not exist. Yields the server's URL."""
    url = make_url(postgres.url).set(drivername="postgresql").render_as_string(hide_password=False)
    await _execute(url, "alter system set synchronous_standby_names = 'absent'", "select pg_reload_conf()")
    try:
        yield url
    finally:
        await _execute(url, "alter system reset synchronous_standby_names", "select pg_reload_conf()")


async def _commits_waiting(url: str) -> int:
    return len(await _execute(url, "select from pg_stat_activity where wait_event = 'SyncRep'"))


async def test_a_request_that_no_standby_has_is_not_answered(
    kafka_and_postgres: KafkaAndPostgres, own_stack: Stack
) -> None:
    """PostgreSQL ends a cancelled COMMIT with success, although a failover would lose it."""
    sent, rng = Sent(), random.Random(4)
    worker, population = await _prepared(own_stack, sent)
    await _answered(own_stack, sent)
    answered = await own_stack.count(RESULTS)
    visits = len(await own_stack.rows("select 1 from visits"))
    async with _absent_standby(kafka_and_postgres[1]) as url:
        await send_all(own_stack, sent, rng, [visit(rng, population)])
        await eventually("a commit that waits for the standby", lambda: _commits_waiting(url))
        for _ in range(COMMAND_SECONDS + 2):
            await asyncio.sleep(1)
            await send_all(own_stack, sent, rng, [visit(rng, population)])
        assert await _commits_waiting(url) <= CONNECTIONS
        assert "wait for a synchronous standby" in worker.log.read_text()
        assert await asyncio.to_thread(worker.terminate, SHUTDOWN_SECONDS) == 0
        assert await own_stack.count(RESULTS) == answered
        assert len(await _execute(url, "select from visits")) == visits
    worker = own_stack.worker()
    await _answered(own_stack, sent)
    await oracle.verify(own_stack, sent, FAMILIES)
    assert worker.terminate() == 0


async def test_a_request_that_only_a_crash_made_visible_is_not_answered_without_a_standby(
    kafka_and_postgres: KafkaAndPostgres, own_stack: Stack
) -> None:
    """Nor is its change published: a failover would lose the request, and give the id of its entity to another one."""
    _, postgres = kafka_and_postgres
    sent, rng = Sent(), random.Random(5)
    worker, population = await _prepared(own_stack, sent)
    await _answered(own_stack, sent)  # so that no other commit waits
    answered, published = await own_stack.count(RESULTS), await own_stack.count(VISITS)
    async with _absent_standby(postgres) as url:
        await send_all(own_stack, sent, rng, [visit(rng, population)])
        await eventually("a commit that waits for the standby", lambda: _commits_waiting(url))
        worker.kill()
        visits = len(await _execute(url, "select from visits"))
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        await own_stack.engine.dispose()  # its connections are dead
        assert len(await _execute(url, "select from visits")) == visits + 1
        worker = own_stack.worker()
        await eventually("an assignment", worker.ready)
        await asyncio.sleep(2)
        assert await own_stack.count(RESULTS) == answered
        assert await own_stack.count(VISITS) == published
    await _answered(own_stack, sent)
    await oracle.verify(own_stack, sent, FAMILIES)
    assert worker.terminate() == 0


async def test_the_last_change_of_an_entity_that_two_partitions_change_at_once_equals_its_row(own_stack: Stack) -> None:
    sent, rng = Sent(), random.Random(3)
    worker, population = await _prepared(own_stack, sent)
    second = own_stack.worker()
    await eventually("a second ready worker", second.ready)
    person = population.people[0]

    def city(number: int) -> Message:
        parts = {"path": {"visitorId": person.visitor_id}, "body": {"addressCity": f"City {number}"}}
        return Message(f"same-{number}", "visitors.update", "application/json", parts)

    await send_all(own_stack, sent, rng, [city(number) for number in range(600)])
    await _answered(own_stack, sent)
    await oracle.verify(own_stack, sent, FAMILIES)
    changes = [r for r in await own_stack.read(names.changes("visitors", "visitor")) if r.key == person.visitor_id]
    assert len(changes) == 601
    row = (await own_stack.rows("select * from visitors where visitor_id = :id", id=person.visitor_id))[0]
    assert (changes[-1].value["after"]["addressCity"], changes[-1].value["revision"]) == (row.address_city, 601)
    requests = [r for r in await own_stack.read(names.requests("visitors")) if r.id.startswith("same-")]
    assert len({record.partition for record in requests}) == PARTITIONS
    assert (worker.terminate(), second.terminate()) == (0, 0)
