"""Where scans of the outbox begin, after the database was moved to another server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from runtime import doctor
from runtime.doctor.findings import Finding
from runtime.settings import Settings
from storage import outbox
from storage.database import connect
from storage.settings import DatabaseSettings
from tests.support import data
from tests.support.oracle import outbox_empty
from tests.support.stack import Stack, eventually
from topics import names
from topics.acls import Role

CENTERS = names.changes("centers", "center")
MOVED = "select setval(pg_get_serial_sequence('outbox', 'id'), 1)"
"""What a migration of a database does with the sequence of an empty table. Logical replication also leaves it there."""
MAX_INT = 2**63 - 1


async def _execute(engine: AsyncEngine, statement: str, **parameters: Any) -> None:
    async with engine.begin() as conn:
        await conn.execute(sa.text(statement), parameters)


async def _create_center(stack: Stack) -> str:
    """Create a center, and wait until its change is published."""
    center = data.center()
    request = await stack.send("centers.create", {"body": center})
    assert (await stack.result("centers.create", request)).value["status"] == 201
    code: str = center["pcCode"]
    await stack.await_record(CENTERS, lambda record: record.key == code)
    return code


async def _changes(stack: Stack) -> Finding:
    settings = Settings(kafka=stack.kafka, database=stack.database)
    findings = {result.check: result.finding for result in await doctor.examine(settings, Role.operator)}
    return findings["changes"]


async def _last_published(stack: Stack) -> int:
    rows = await stack.rows("select max(greatest(after_id, checkpoint_id)) as id from publishers")
    last: int = rows[0].id
    return last


@pytest.mark.parametrize("restarted", [True, False])
async def test_changes_are_published_after_the_ids_have_begun_again(own_stack: Stack, restarted: bool) -> None:
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    await _create_center(own_stack)
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))
    if restarted:
        worker.terminate()
    await _execute(own_stack.engine, "update publishers set after_id = 50000000, checkpoint_id = 50000000")
    await _execute(own_stack.engine, MOVED)
    if restarted:
        finding = await _changes(own_stack)
        assert (finding.state, CENTERS in finding.message) == ("failed", True), finding
        worker = own_stack.worker()
        await eventually("a ready worker", worker.ready)
    await _create_center(own_stack)
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))
    assert await _last_published(own_stack) < 1_000
    assert (await _changes(own_stack)).state == "ok"
    worker.terminate()


async def test_a_scan_begins_after_claimed_rows_if_transaction_ids_have_begun_again(own_stack: Stack) -> None:
    topic = f"topic {uuid4()}"

    async def insert_and_claim() -> None:
        async with own_stack.engine.begin() as conn:
            await outbox.insert(conn, [outbox.Entry(topic, "k", "k", "k:1", "k.created", b"x")], datetime.now(UTC))
        async with own_stack.engine.begin() as conn:
            assert await outbox.topics_with_changes(conn, [topic]) == [topic]
        async with own_stack.engine.begin() as conn:
            assert len(await outbox.claim(conn, topic, uuid4())) == 1

    async def is_bounded() -> bool:
        """Other transactions delay the bound."""
        await insert_and_claim()
        return bool(await own_stack.rows("select 1 from publishers where topic = :topic and after_id > 0", topic=topic))

    await insert_and_claim()
    await _execute(
        own_stack.engine, "update publishers set checkpoint_xid = :xid where topic = :topic", xid=2**40, topic=topic
    )
    await insert_and_claim()
    await eventually("a scan that begins after the claimed rows", is_bounded)
    assert await own_stack.rows("select 1 from publishers where checkpoint_xid = :xid", xid=2**40) == []


async def test_of_the_same_server_a_look_for_changes_leaves_all_positions(own_stack: Stack) -> None:
    """Otherwise each scan would begin with the rows that are deleted already."""
    topics = [f"topic {uuid4()}" for _ in range(2)]
    positions = "select * from publishers order by topic"
    async with own_stack.engine.begin() as conn:
        await outbox.insert(
            conn, [outbox.Entry(topic, "k", "k", "k:1", "k.created", b"x") for topic in topics], datetime.now(UTC)
        )
        for topic in topics:
            await outbox.claim(conn, topic, uuid4())
    before = await own_stack.rows(positions)
    async with own_stack.engine.begin() as conn:
        assert await outbox.topics_with_changes(conn, topics) == []
        assert await outbox.outdated(conn) == []
    assert await own_stack.rows(positions) == before


async def test_a_look_for_changes_does_not_wait_for_a_publisher(own_stack: Stack) -> None:
    """A publisher may wait for Kafka for half a minute, after it has written its position."""
    topic = f"topic {uuid4()}"
    async with own_stack.engine.begin() as conn:
        await outbox.claim(conn, topic, uuid4())
    await _execute(
        own_stack.engine, "update publishers set checkpoint_id = :id where topic = :topic", id=MAX_INT, topic=topic
    )
    async with own_stack.engine.begin() as publishing:
        await outbox.claim(publishing, topic, uuid4())
        async with own_stack.engine.begin() as conn:
            await conn.execute(sa.text("set local lock_timeout = 100"))
            assert await outbox.topics_with_changes(conn, [topic]) == []
            assert await outbox.outdated(conn) == [topic]
    async with own_stack.engine.begin() as conn:
        await outbox.topics_with_changes(conn, [topic])
        assert await outbox.outdated(conn) == []


@asynccontextmanager
async def _user_of_tables(stack: Stack) -> AsyncIterator[AsyncEngine]:
    """Connections of a user with the rights of docs/deploy.md, which do not include those on sequences."""
    user, password = f"worker_{uuid4().hex}", uuid4().hex
    url = sa.make_url(stack.servers.database).set(username=user, password=password)
    await _execute(stack.engine, f"create role {user} login password '{password}'")
    await _execute(stack.engine, f"grant select, insert, update, delete on all tables in schema public to {user}")
    engine = connect(DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False))), connections=1)
    try:
        yield engine
    finally:
        await engine.dispose()
        await _execute(stack.engine, f"drop owned by {user}")
        await _execute(stack.engine, f"drop role {user}")


async def test_a_user_without_rights_to_sequences_looks_for_changes_and_leaves_all_positions(own_stack: Stack) -> None:
    topic = f"topic {uuid4()}"
    async with own_stack.engine.begin() as conn:
        await outbox.insert(conn, [outbox.Entry(topic, "k", "k", "k:1", "k.created", b"x")], datetime.now(UTC))
        await outbox.claim(conn, topic, uuid4())
    async with _user_of_tables(own_stack) as engine, engine.begin() as conn:
        assert await outbox.topics_with_changes(conn, [topic]) == []
        assert await outbox.outdated(conn) == []
        assert await outbox.last_id(conn) == 0
    assert await own_stack.rows("select 1 from publishers where topic = :topic and checkpoint_id > 0", topic=topic)
