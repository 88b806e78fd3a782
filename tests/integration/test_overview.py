"""The overview of an installation, which `visitor status`, `visitor doctor` and the console show."""

import socket
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import SecretStr

from runtime import overview
from runtime.overview import DatabaseOverview, KafkaOverview, Overview, Source, Unavailable
from runtime.settings import Settings
from storage import migrate
from storage.settings import DatabaseSettings
from storage.statistics import LockWait
from tests.support import data
from tests.support.outbox import waiting_changes
from tests.support.stack import PARTITIONS, Stack, eventually
from topics import names
from topics.settings import KafkaSettings


def _settings(stack: Stack) -> Settings:
    return Settings(kafka=stack.kafka, database=stack.database)


@pytest_asyncio.fixture(loop_scope="session")
async def source(stack: Stack) -> AsyncIterator[Source]:
    async with overview.source(_settings(stack)) as opened:
        yield opened


def _kafka(read: Overview) -> KafkaOverview:
    assert isinstance(read.kafka, KafkaOverview), read.kafka
    return read.kafka


def _database(read: Overview) -> DatabaseOverview:
    assert isinstance(read.database, DatabaseOverview), read.database
    return read.database


async def test_the_worker_is_shown_once_with_all_its_partitions(source: Source) -> None:
    (worker,) = _kafka(await source.read()).workers
    assert worker.client_id.startswith("visitor-worker-")
    assert worker.partitions[names.QUERIES] == tuple(range(PARTITIONS))
    assert worker.partitions[names.requests("visits")] == tuple(range(PARTITIONS))


async def test_groups_have_a_state_and_the_lag_of_every_partition(source: Source) -> None:
    requests, queries = _kafka(await source.read()).groups
    assert (requests.name, requests.state) == ("visitor-worker.requests", "Stable")
    assert (queries.name, queries.state) == ("visitor-worker.queries", "Stable")
    assert [lag.partition for lag in queries.partitions] == list(range(PARTITIONS))

    async def has_no_lag() -> bool:
        return all(group.messages == 0 and group.seconds == 0 for group in _kafka(await source.read()).groups)

    await eventually("no lag", has_no_lag)


async def test_a_request_and_its_change_are_rates(stack: Stack, source: Source, client: httpx.AsyncClient) -> None:
    before = await source.read()
    await data.visitor_with_vehicle(client)
    after = await source.read()
    rates = overview.rates(before, after)
    assert rates.topics[names.requests("visitors")] > 0
    assert rates.topics[names.results("visitors")] > 0
    assert rates.changes > 0
    assert _kafka(after).missing_topics == ()


async def test_waiting_requests_have_an_age_and_the_session_that_blocks_them_is_shown(
    stack: Stack, source: Source, client: httpx.AsyncClient
) -> None:
    topic, parker = names.requests("visits"), await data.visitor_with_vehicle(client)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    async with stack.engine.connect() as conn, conn.begin():
        blocker = await conn.scalar(sa.text("select pg_backend_pid()"))
        await conn.execute(sa.text("lock table visits"))
        request_id = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": body}, partition=0)

        async def has_age() -> bool:
            lags = _kafka(await source.read()).groups[0].partitions
            lag = next(lag for lag in lags if (lag.topic, lag.partition) == (topic, 0))
            return lag.messages == 1 and (lag.seconds or 0) > 1

        async def has_wait() -> LockWait | None:
            waits = _database(await source.read()).lock_waits
            return next((wait for wait in waits if wait.blocked_by == blocker), None)

        await eventually("one request that waits, with its age", has_age)
        wait = await eventually("a session that waits", has_wait)
        assert wait.state == "idle in transaction"
    await stack.result("visits.create", request_id)  # The next tests count changes.


async def test_the_newest_dead_letter_is_shown_without_its_content(stack: Stack, source: Source) -> None:
    request_source = f"gateway/{uuid4()}"
    await stack.raw(
        names.requests("visits"),
        b"{Zora",
        [("ce_id", b"a"), ("ce_type", b"visitor.visits.create"), ("ce_source", request_source.encode())],
    )

    async def is_shown() -> overview.DeadLetter | None:
        newest = _kafka(await source.read()).dead_letters[:1]
        return newest[0] if newest and newest[0].source == request_source else None

    letter = await eventually("the dead letter", is_shown)
    assert (letter.operation, letter.topic) == ("visits.create", names.requests("visits"))
    assert "Zora" not in str(letter)


async def test_changes_in_the_outbox_are_counted_with_the_age_of_the_oldest(stack: Stack, source: Source) -> None:
    topic = names.changes("visits", "visit")
    before = _database(await source.read())
    assert before.revision == migrate.newest()
    async with waiting_changes(stack, topic):
        read = _database(await source.read())
    (waiting,) = [each for each in read.change_topics if each.topic == topic]
    assert waiting.waiting == 3
    assert 60 < (waiting.oldest_seconds or 0) < 120
    assert read.outbox_rows >= 3
    assert read.last_change_id >= before.last_change_id + 3


async def test_one_broker_that_hangs_does_not_hide_the_others(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections, as a frozen one does. aiokafka tries the addresses in a random order."""
    monkeypatch.setattr("aiokafka.conn.random.shuffle", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bootstrap = f"127.0.0.1:{silent.getsockname()[1]},{stack.kafka.bootstrap}"
        kafka = stack.kafka.model_copy(update={"bootstrap": bootstrap})
        async with overview.source(Settings(kafka=kafka, database=stack.database)) as source:
            assert _kafka(await source.read()).missing_topics == ()


async def test_servers_that_do_not_answer_are_unavailable() -> None:
    settings = Settings(
        kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
        database=DatabaseSettings(url=SecretStr("postgresql://nobody@127.0.0.1:1/none")),
    )
    async with overview.source(settings) as source:
        read = await source.read()
    assert isinstance(read.kafka, Unavailable)
    assert isinstance(read.database, Unavailable)
    assert read.kafka.reason == "no broker answers at VISITOR_KAFKA_BOOTSTRAP"
    assert read.database.reason.startswith("PostgreSQL does not answer at VISITOR_DATABASE_URL")


async def test_a_database_of_another_revision_says_what_to_do(stack: Stack, source: Source) -> None:
    async with stack.engine.begin() as conn:
        revision = await conn.scalar(sa.text("select version_num from alembic_version"))
        await conn.execute(sa.text("update alembic_version set version_num = '0001'"))
    try:
        read = await source.read()
    finally:
        async with stack.engine.begin() as conn:
            await conn.execute(sa.text("update alembic_version set version_num = :revision"), {"revision": revision})
    assert isinstance(read.database, Unavailable)
    assert "visitor migrate" in read.database.reason
