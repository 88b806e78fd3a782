"""An old backup of the database is restored: the steps of docs/deploy.md apply the requests since then again."""

import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agents.catalogue import CATALOGUE
from tests.support import data
from tests.support.load import Population, populate, send_all, visit
from tests.support.oracle import Sent, outbox_empty
from tests.support.stack import Process, Stack, eventually
from topics import names

GROUP = "visitor-worker.requests"
BACKUP = "backup"
VISITS = 20
RNG = random.Random(5)


@asynccontextmanager
async def _administration(stack: Stack) -> AsyncIterator[AsyncConnection]:
    """A connection to another database of the server, without a transaction. Nothing else of the test is connected."""
    await stack.engine.dispose()
    engine = create_async_engine(
        make_url(stack.servers.database).set(database="template1"), isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as conn:
        yield conn
    await engine.dispose()


async def _copy_database(stack: Stack, source: str, target: str) -> None:
    """What `pg_dump` and `pg_restore` do: `target` gets the tables of `source` as they are now."""
    async with _administration(stack) as conn:
        await conn.execute(sa.text(f'drop database if exists "{target}" with (force)'))
        await conn.execute(sa.text(f'create database "{target}" template "{source}"'))


async def _start_worker(stack: Stack) -> Process:
    worker = stack.worker()
    await eventually("a ready worker", worker.ready)
    return worker


async def _stop(stack: Stack, worker: Process) -> None:
    await eventually("an empty outbox", lambda: outbox_empty(stack))
    worker.child.send_signal(signal.SIGTERM)
    await eventually("the end of the worker", worker.ended)


async def _reset_offsets(stack: Stack, moment: datetime) -> None:
    """What `kafka-consumer-groups --reset-offsets --to-datetime … --execute` does."""
    milliseconds = int(moment.timestamp() * 1000)
    topics = [names.requests(family) for family in CATALOGUE.families]
    partitions = [partition for topic in topics for partition in await stack.ends(topic)]
    consumer = AIOKafkaConsumer(**stack.kafka.client(), group_id=GROUP, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(partitions)
        offsets = await consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
        await consumer.commit({partition: each.offset for partition, each in offsets.items() if each is not None})
    finally:
        await consumer.stop()


async def _erase(stack: Stack, visitor_id: str) -> None:
    statement = "select external_id from external_ids where visitor_id = :id and external_type = 'analytics'"
    analytics_id = (await stack.rows(statement, id=visitor_id))[0].external_id
    request = await stack.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics_id}]})
    assert (await stack.result("visitors.eraseByAnalyticsId", request)).value["status"] == 200


async def _last_changes(stack: Stack, resource: str) -> dict[str, Any]:
    records = await stack.read(names.changes("visitors", resource))
    return {str(record.key): record.value for record in records}


async def test_after_a_restore_the_steps_of_the_docs_apply_the_requests_since_the_backup_again(
    own_stack: Stack,
) -> None:
    database = str(make_url(own_stack.servers.database).database)
    worker = await _start_worker(own_stack)
    population = await populate(own_stack, Sent(), 3)
    kept, erased, _ = population.people
    before = await own_stack.send(
        "visitors.update", {"path": {"visitorId": kept.visitor_id}, "body": {"addressCity": "A"}}
    )
    await own_stack.result("visitors.update", before)

    await _stop(own_stack, worker)
    backup_time = datetime.now(UTC)
    await _copy_database(own_stack, database, BACKUP)

    worker = await _start_worker(own_stack)
    new_visitor = data.visitor(population.pc_code)
    created = await own_stack.send("visitors.create", {"body": new_visitor})
    old_id = (await own_stack.result("visitors.create", created)).value["body"]["data"]["visitorId"]
    updated = await own_stack.send(
        "visitors.update", {"path": {"visitorId": kept.visitor_id}, "body": {"addressCity": "B"}}
    )
    await own_stack.result("visitors.update", updated)
    sent = Sent()
    await send_all(own_stack, sent, RNG, [visit(RNG, Population(population.pc_code, [kept])) for _ in range(VISITS)])
    await _erase(own_stack, erased.visitor_id)
    await eventually("all visits", lambda: _has_visits(own_stack, kept.visitor_id))
    await _stop(own_stack, worker)

    await _copy_database(own_stack, BACKUP, database)
    assert not await _has_visits(own_stack, kept.visitor_id)

    await _reset_offsets(own_stack, backup_time - timedelta(hours=1))
    await own_stack.delete_topics(*(topic.name for topic in CATALOGUE.change_topics))
    assert (await own_stack.command("topics")).returncode == 0
    await _start_worker(own_stack)
    new_id = (await own_stack.result("visitors.create", created, nth=2)).value["body"]["data"]["visitorId"]
    await eventually("all visits", lambda: _has_visits(own_stack, kept.visitor_id))
    await own_stack.result("visitors.update", updated, nth=2)
    await eventually("the erasure", lambda: _is_absent(own_stack, erased.visitor_id))
    republication = await own_stack.command("republish", "--restart")
    assert republication.returncode == 0, republication.stderr
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))

    rows = await own_stack.rows("select visitor_id, email, address_city, revision from visitors")
    assert {str(row.visitor_id): row.address_city for row in rows}[kept.visitor_id] == "B"
    assert new_id != old_id, "the docs say that ids change"
    assert [str(row.visitor_id) for row in rows if row.email == new_visitor["email"]] == [new_id]
    twice = await own_stack.rows("select request_id from inbox group by request_id having count(*) > 1")
    assert twice == []
    changes = await _last_changes(own_stack, "visitor")
    assert {key: value["revision"] for key, value in changes.items() if value is not None} == {
        str(row.visitor_id): row.revision for row in rows
    }


async def _has_visits(stack: Stack, visitor_id: str) -> bool:
    rows = await stack.rows("select count(*) as visits from visits where visitor_id = :id", id=visitor_id)
    count: int = rows[0].visits
    assert count <= VISITS, "a visit was applied twice"
    return count == VISITS


async def _is_absent(stack: Stack, visitor_id: str) -> bool:
    return not await stack.rows("select 1 from visitors where visitor_id = :id", id=visitor_id)
