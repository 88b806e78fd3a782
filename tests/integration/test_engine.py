"""Parts of the engine on real servers. With a complete worker, these tests would take minutes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from aiokafka.errors import ProducerClosed
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import agents.catalogue
from agents.engine import apply, republish
from agents.engine.apply import Attempt
from agents.engine.decode import Decoder, ValidRequest
from agents.engine.schema_lookup import SchemaLookup
from agents.families.visits.visits import VISITS
from agents.operation import Catalogue, operation
from agents.wire import Wire
from schemas.model import Model, NoFields
from schemas.requests import Request
from schemas.types import Int64
from storage import inbox, outbox
from storage.database import LOCK_TIMEOUT, connect, is_too_slow, is_transient
from storage.outbox import Ownership
from storage.settings import DatabaseSettings
from storage.tx import Tx
from tests.support import data
from tests.support.load import populate
from tests.support.oracle import Sent
from tests.support.plans import plan_of
from tests.support.stack import Stack, eventually
from topics import json, kafka, names, patches
from topics.envelope import JSON, Headers, RequestHeaders
from topics.kafka import DeliveryError, Outgoing, Producer


class Nap(Model):
    seconds: Int64


@operation("naps.create", "POST /naps", summary="Sleeps in the database", body=Nap, reply=Nap)
async def nap(tx: Tx, request: Request[NoFields, NoFields, Nap]) -> Nap:
    await tx.first(sa.select(sa.func.pg_sleep(request.body.seconds)))
    return request.body


CATALOGUE = Catalogue({"naps": (nap,)})
WIRE = Wire(CATALOGUE)


@pytest_asyncio.fixture(loop_scope="session")
async def database(stack: Stack) -> AsyncIterator[AsyncEngine]:
    settings = DatabaseSettings(url=SecretStr(stack.servers.database))
    engine = connect(settings, connections=1)
    yield engine
    await engine.dispose()


def _valid_requests(database: AsyncEngine, *seconds: int) -> list[ValidRequest]:
    decoder = Decoder(CATALOGUE, WIRE, SchemaLookup(WIRE, database, None))
    records = [
        SimpleNamespace(
            topic=names.requests("naps"), partition=0, offset=offset, key=None, timestamp=0.0,
            value=json.write({"body": {"seconds": nap_seconds}}),
            headers=RequestHeaders(str(uuid4()), "naps.create", "test/naps", JSON).encode(),
        )
        for offset, nap_seconds in enumerate(seconds)
    ]  # fmt: skip
    requests = [decoder.decode(record) for record in records]
    assert all(isinstance(request, ValidRequest) for request in requests)
    return cast(list[ValidRequest], requests)


async def _apply(conn: AsyncConnection, requests: Sequence[ValidRequest], **options: Any) -> list[int | None]:
    await conn.execute(sa.text("set local statement_timeout = 3000"))
    await apply.apply(conn, requests, Attempt(WIRE, LOCK_TIMEOUT, **options))
    return [request.answer.status if request.answer else None for request in requests]


async def test_a_slow_write_is_retried_and_fails_alone_on_the_last_try(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "APPLY_SECONDS", 60.0)  # The slow write takes 3 s at each attempt.
    requests = _valid_requests(database, 0, 30, 0)
    async with database.connect() as conn:
        with pytest.raises(DBAPIError) as error:
            await _apply(conn, requests)
        assert is_transient(error.value)
        assert is_too_slow(error.value)
    async with database.connect() as conn:
        assert await _apply(conn, requests, last_try=True) == [201, 503, 201]
        rows = await conn.execute(sa.text("select request_id, status from inbox where operation = 'naps.create'"))
        statuses = dict(tuple(row) for row in rows)
        assert [statuses[request.key.request_id] for request in requests] == [201, 503, 201]


async def test_a_visit_takes_six_statements(stack: Stack, database: AsyncEngine) -> None:
    population = await populate(stack, Sent(), 1)
    (person,) = population.people
    body = {"licensePlate": person.plate, "barcode": person.barcode, "pcCode": population.pc_code}
    wire = Wire(agents.catalogue.CATALOGUE)
    value = json.write({"path": {"visitType": "entry"}, "body": body})
    decoder = Decoder(agents.catalogue.CATALOGUE, wire, SchemaLookup(wire, database, None))
    statements: list[str] = []

    headers = RequestHeaders(str(uuid4()), "visits.create", "test/statements", JSON).encode()
    request = decoder.decode(_record(names.requests("visits"), value, headers))
    assert isinstance(request, ValidRequest)
    sa.event.listen(
        database.sync_engine, "before_cursor_execute", lambda _conn, _cursor, sql, *_: statements.append(sql)
    )
    async with database.begin() as conn:
        await apply.apply(conn, [request], Attempt(wire, LOCK_TIMEOUT, savepoints=False))
    assert request.answer is not None
    assert request.answer.status == 201
    # In addition to BEGIN and COMMIT.
    assert len(statements) == 4, statements


def _record(topic: str, value: bytes, headers: Headers) -> Any:
    return SimpleNamespace(topic=topic, partition=0, offset=0, key=None, timestamp=0.0, value=value, headers=headers)


async def test_a_transaction_ends_after_a_time_limit_and_leaves_the_other_requests(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "APPLY_SECONDS", -1.0)
    async with database.connect() as conn:
        assert await _apply(conn, _valid_requests(database, 0, 0, 0)) == [201, None, None]


async def test_a_connection_to_a_standby_is_closed_and_the_work_is_retried(database: AsyncEngine) -> None:
    async with database.connect() as conn:
        await conn.execute(sa.text("set transaction read only"))
        with pytest.raises(DBAPIError) as error:
            await conn.execute(sa.text("delete from inbox"))
        assert is_transient(error.value)
        assert conn.invalidated


async def test_changes_are_claimed_in_order_and_in_claims_of_limited_size(database: AsyncEngine) -> None:
    sizes = (5, 5, 5, 20, 1)
    entries = [
        outbox.Entry("a topic of the test", f"k:{number}", "k", f"k:{number}:1", "k.created", b"x" * (size * 2**20))
        for number, size in enumerate(sizes)
    ]
    async with database.connect() as conn:
        await outbox.insert(conn, entries, datetime.now(UTC))
        claims = [await outbox.claim(conn, "a topic of the test", uuid4()) for _ in range(5)]
    assert [[entry.key for entry in claim] for claim in claims] == [
        ["k:0", "k:1"],
        ["k:2", "k:3"],
        ["k:4"],
        [],
        [],
    ]


async def test_a_backlog_of_changes_is_claimed_by_the_index_whatever_the_statistics_say(database: AsyncEngine) -> None:
    """PostgreSQL analyzes the table mostly while it is nearly empty."""

    async def insert(count: int) -> None:
        entries = [outbox.Entry("a topic of the test", "k:1", "k", "k:1:1", "k.created", b"x") for _ in range(count)]
        await outbox.insert(conn, entries, datetime.now(UTC))

    async with database.connect() as conn:
        await insert(1)
        await conn.execute(sa.text("analyze outbox"))
        await insert(20 * outbox.CLAIM_LIMIT)
        parameters = {"of_topic": "a topic of the test", "of_owner": str(uuid4())}
        nodes = await plan_of(conn, outbox._CLAIM, parameters, "force_generic_plan")
    assert max(node["Actual Rows"] for node in nodes) == outbox.CLAIM_LIMIT
    assert [node["Node Type"] for node in nodes if node["Node Type"] in ("Seq Scan", "Nested Loop", "Sort")] == []


async def test_claims_leave_out_dead_rows_and_find_a_change_that_is_committed_late(stack: Stack) -> None:
    topic = f"topic {uuid4()}"

    async def insert(conn: AsyncConnection, key: str) -> None:
        await outbox.insert(conn, [outbox.Entry(topic, key, "k", key, "k.created", b"x")], datetime.now(UTC))

    async def claim() -> list[str]:
        async with stack.engine.begin() as conn:
            return [entry.key for entry in await outbox.claim(conn, topic, uuid4())]

    async def insert_and_claim(key: str) -> list[str]:
        async with stack.engine.begin() as conn:
            await insert(conn, key)
        return await claim()

    async def bound() -> int:
        (row,) = await stack.rows("select after_id from publishers where topic = :topic", topic=topic)
        after_id: int = row.after_id
        return after_id

    async with stack.engine.begin() as late:
        await insert(late, "late")
        assert await insert_and_claim("first") == ["first"]
        assert await insert_and_claim("second") == ["second"]
        assert await bound() == 0
    async with stack.engine.begin() as conn:
        await outbox.claim(conn, f"another {topic}", uuid4())
        assert await outbox.topics_with_changes(conn, [topic, f"another {topic}"]) == [topic]
    assert await claim() == ["late"]
    await eventually("a scan that begins after the claimed rows", lambda: _claim_until_bounded(insert_and_claim, bound))
    (row,) = await stack.rows(
        "select checkpoint_id >= after_id as ordered from publishers where topic = :topic", topic=topic
    )
    assert row.ordered


async def _claim_until_bounded(
    insert_and_claim: Callable[[str], Awaitable[list[str]]], bound: Callable[[], Awaitable[int]]
) -> bool:
    """Other transactions of the shared database delay the bound."""
    key = str(uuid4())
    assert await insert_and_claim(key) == [key]
    return await bound() > 0


async def test_expired_answers_are_deleted_oldest_first_and_each_scan_begins_where_the_last_one_ended(
    database: AsyncEngine,
) -> None:
    start = datetime(2000, 1, 1, tzinfo=UTC)
    async with database.connect() as conn:
        for day in range(3):
            entries = [
                inbox.Entry("a topic of the test", "s", f"{day}-{number}", "o", b"f", 200, None)
                for number in range(4_000)
            ]
            await inbox.insert(conn, entries, [], start + timedelta(days=day))
        before = start + timedelta(days=2)
        ends = [await inbox.prune(conn, start, before)]
        while ends[-1] is not None:
            ends.append(await inbox.prune(conn, ends[-1], before))
        left = await conn.execute(
            sa.text("select count(*), min(received_at) from inbox where topic = 'a topic of the test'")
        )
        assert tuple(left.one()) == (4_000, before)
    assert ends == [start + timedelta(days=1), start + timedelta(days=1), None]


async def test_a_topic_keeps_its_owner_during_the_lease_and_gets_a_new_owner_after_it(
    stack: Stack,
) -> None:
    topic, first, second = f"topic {uuid4()}", uuid4(), uuid4()
    entry = outbox.Entry(topic, "k:1", "k", "k:1:1", "k.created", b"x")

    async def acquire(owner: UUID, *, claim: bool = False) -> Ownership:
        async with stack.engine.begin() as conn:
            ownership, _ = await outbox.acquire(conn, topic, owner)
            if claim:
                await outbox.claim(conn, topic, owner)
        return ownership

    async def change(statement: str) -> None:
        async with stack.engine.begin() as conn:
            await conn.execute(sa.text(statement), {"topic": topic})

    assert await acquire(first) is Ownership.NO_CHANGES
    async with stack.engine.begin() as conn:
        await outbox.insert(conn, [entry], datetime.now(UTC))
    async with stack.engine.begin() as conn:
        assert await outbox.topics_with_changes(conn, ["none of this", topic]) == [topic]
        assert (await outbox.acquire(conn, topic, first))[0] is Ownership.NEW_OWNER
        assert await acquire(second) is Ownership.OTHER_OWNER
    assert await acquire(second, claim=True) is Ownership.NEW_OWNER
    assert await acquire(first) is Ownership.NO_CHANGES
    async with stack.engine.begin() as conn:
        await outbox.insert(conn, [entry], datetime.now(UTC))
    await change("update publishers set renewed_at = now() + interval '1 hour' where topic = :topic")
    assert (await acquire(first), await acquire(second)) == (Ownership.OTHER_OWNER, Ownership.SAME_OWNER)
    await change("update publishers set renewed_at = now() - interval '1 second' where topic = :topic")
    assert (await acquire(second), await acquire(first)) == (Ownership.SAME_OWNER, Ownership.NEW_OWNER)
    await change("update publishers set renewed_at = now() - interval '1 day' where topic = :topic")
    assert (await acquire(second), await acquire(first)) == (Ownership.NEW_OWNER, Ownership.NEW_OWNER)
    await change("delete from outbox where topic = :topic")


async def test_a_client_connects_to_another_broker_if_one_accepts_connections_and_does_not_answer(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections, as a frozen one does. aiokafka tries the addresses in a random order."""
    monkeypatch.setattr("aiokafka.conn.random.shuffle", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bootstrap = f"127.0.0.1:{silent.getsockname()[1]},{stack.kafka.bootstrap}"
        producer = Producer(stack.kafka.model_copy(update={"bootstrap": bootstrap}))
        await producer.start()
        await producer.stop()


@pytest.mark.parametrize(
    ("setting", "url", "reason"),
    [
        ("VISITOR_DATABASE_URL", "postgresql://visitor@{}/visitor", "waiting for the schema in PostgreSQL"),
        ("VISITOR_KAFKA_BOOTSTRAP", "{}", "waiting for the topics in Kafka"),
    ],
)
async def test_a_worker_names_the_server_that_hangs_while_it_starts(
    stack: Stack, setting: str, url: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        worker = stack.worker(**{setting: url.format(f"127.0.0.1:{silent.getsockname()[1]}")})

        async def is_named() -> bool:
            return (await worker.reasons()).get("start") == reason

        await eventually("the reason", is_named)
        worker.kill()


async def test_an_aborted_producer_sends_nothing_over_a_connection_that_it_was_making(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, connected = asyncio.Event(), asyncio.Event()
    create = patches._create_conn_of_aiokafka

    async def create_slowly(*address: Any, **options: Any) -> Any:
        connecting.set()
        await connected.wait()
        return await create(*address, **options)

    client = await kafka.connect(stack.kafka)
    await client.send_and_wait(names.DEAD_LETTERS, b"early", partition=0)
    kafka._cut_connections(client.client)
    monkeypatch.setattr(patches, "_create_conn_of_aiokafka", create_slowly)
    sent = await client.send(names.DEAD_LETTERS, b"late", partition=0)
    await connecting.wait()
    aborted = asyncio.create_task(kafka.abort(client))
    connected.set()
    await aborted
    with pytest.raises(ProducerClosed):
        await sent
    await stack.raw(names.DEAD_LETTERS, b"later", [], partition=0)
    assert b"late" not in [record.raw for record in await stack.read(names.DEAD_LETTERS)]


async def test_a_message_that_is_too_large_for_the_broker_fails_no_other_send(stack: Stack) -> None:
    producer = Producer(stack.kafka)
    await producer.start()

    def message(size: int) -> Outgoing:
        return Outgoing(names.DEAD_LETTERS, b"x" * size, b"k", [], partition=0)

    async def assert_refused() -> None:
        with pytest.raises(DeliveryError, match="MessageSizeTooLarge"):
            await producer.send([message(20 * 2**20)])

    client = await producer._connected()
    await asyncio.gather(assert_refused(), *(producer.send([message(10)]) for _ in range(50)))
    assert await producer._connected() is client
    await producer.stop()


async def test_pending_sends_of_a_replaced_client_end_at_once_and_later_sends_use_the_new_client(
    stack: Stack,
) -> None:
    producer = Producer(stack.kafka)
    await producer.start()
    old_client = await producer._connected()
    pending_send = await old_client.send(names.DEAD_LETTERS, b"x", partition=0)
    await producer._discard(old_client)
    assert isinstance(await asyncio.wait_for(asyncio.gather(pending_send, return_exceptions=True), 5), list)
    new_client = await producer._connected()
    await producer._discard(old_client)
    assert await producer._connected() is new_client
    await producer.stop()


async def test_of_libraries_only_warnings_and_errors_are_logged(stack: Stack) -> None:
    lines = [
        json.read(line.encode()) for process in stack.processes[:2] for line in process.log.read_text().splitlines()
    ]
    ours = ("agents", "edge", "runtime", "storage", "telemetry", "topics")
    assert {line["event"] for line in lines if line["level"] == "info"} >= {"started", "assigned"}
    others = [line for line in lines if not line["logger"].startswith(ours) or line["event"].startswith("[^")]
    assert [line for line in others if line["level"] not in ("warning", "error")] == []


async def test_a_republication_of_events_begins_with_the_first_that_is_recent_or_after_the_last(
    stack: Stack, database: AsyncEngine, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parker, now = await data.visitor_with_vehicle(client), datetime.now(UTC)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    for hours in (4, 3, 2, 1, 1):
        visit = body | {"visitDate": (now - timedelta(hours=hours)).isoformat()}
        request = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": visit}, partition=0)
        assert (await stack.result("visits.create", request)).value["status"] == 201
    first = "select min(visit_id) as id from visits where visit_date >= :time"
    expected = (await stack.rows(first, time=now - timedelta(hours=2, minutes=30)))[0].id
    last = (await stack.rows("select max(visit_id) as id from visits"))[0].id
    monkeypatch.setattr(republish, "KEYS_AT_ONCE", 2)
    monkeypatch.setattr(republish, "EMPTY_RANGES", 1_000_000)  # The visits of other tests have dates of all kinds.
    async with database.connect() as conn:
        for retention, last_key in ((timedelta(hours=2, minutes=30), str(expected - 1)), (timedelta(0), str(last))):
            monkeypatch.setattr(names, "EVENT_RETENTION", retention)
            search = await republish.begin_search(conn, VISITS)
            while not search.finished:
                search = await republish.search_range(conn, VISITS, search)
            republication = await republish.begin(conn, VISITS, restart=True, search=search)
            assert republication.last_key == last_key
