"""Requests while another session holds locks that they need, for example an open transaction in psql."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from tests.support import oracle
from tests.support.load import Population, populate, send_all, visit
from tests.support.oracle import Sent
from tests.support.stack import Process, Stack, eventually
from topics import names

VISITORS, LOCKED = 12, 2
FAMILIES = ["visits", "visitors", "parking", "centers"]
DEADLOCK_ATTEMPTS = 5
STATISTICS_SECONDS = 30.0
"""How long PostgreSQL may take to count a deadlock. An idle session reports its statistics after 10 seconds."""


@pytest.fixture(scope="module")
def sent() -> Sent:
    """The requests of all tests of this module."""
    return Sent()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    process = own_stack.worker()
    await eventually("a ready worker", process.ready)
    return process


@asynccontextmanager
async def _session(stack: Stack, statement: str, **parameters: Any) -> AsyncIterator[None]:
    """An open transaction that has executed the statement."""
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text(statement), parameters)
        yield


async def _answered(stack: Stack) -> set[str]:
    return {row.request_id for row in await stack.rows("select request_id from inbox")}


async def _assert_all_applied(stack: Stack, worker: Process, sent: Sent) -> None:
    await eventually("a result for every request", lambda: oracle.all_answered(stack, sent, FAMILIES))
    await eventually("all changes are published", lambda: oracle.outbox_empty(stack))
    await oracle.verify(stack, sent, FAMILIES)
    await eventually("a ready worker", worker.ready)
    assert await stack.count(names.DEAD_LETTERS) == 0


async def test_only_requests_of_locked_visitors_wait_and_those_stay_in_order(
    own_stack: Stack, worker: Process, sent: Sent
) -> None:
    rng = random.Random(3)
    population = await populate(own_stack, sent, VISITORS)
    locked, others = population.people[:LOCKED], population.people[LOCKED:]
    ids = [person.visitor_id for person in locked]
    async with _session(own_stack, "select 1 from visitors where visitor_id = any(:ids) for update", ids=ids):
        cities = [
            await _set_city(own_stack, sent, person.visitor_id, f"City {number}")
            for number in range(3)
            for person in locked
        ]
        waiting = [visit(rng, replace(population, people=locked)) for _ in range(20)]
        passing = [visit(rng, replace(population, people=others)) for _ in range(100)]
        messages = [*waiting, *passing]
        rng.shuffle(messages)
        await send_all(own_stack, sent, rng, messages)

        async def others_are_answered() -> bool:
            return {message.request_id for message in passing} <= await _answered(own_stack)

        await eventually("the answers to the visits of the other visitors", others_are_answered)

        async def reason_is_told() -> bool:
            return any("wait for locks" in reason for reason in (await worker.reasons()).values())

        await eventually("the worker tells what it waits for", reason_is_told)
        assert await _answered(own_stack) & {*cities, *(message.request_id for message in waiting)} == set()
    await _assert_all_applied(own_stack, worker, sent)
    rows = await own_stack.rows("select address_city, revision from visitors where visitor_id = any(:ids)", ids=ids)
    assert [tuple(row) for row in rows] == [("City 2", 4)] * LOCKED


async def _set_city(stack: Stack, sent: Sent, visitor_id: str, city: str, partition: int | None = None) -> str:
    parts = {"path": {"visitorId": visitor_id}, "body": {"addressCity": city}}
    request_id = await stack.send("visitors.update", parts, key=visitor_id, partition=partition)
    sent.note(request_id, "visitors.update")
    return request_id


async def test_requests_for_a_locked_table_wait_and_all_others_are_answered(
    own_stack: Stack, worker: Process, sent: Sent
) -> None:
    rng = random.Random(4)
    population = await populate(own_stack, sent, VISITORS)
    async with _session(own_stack, "lock table visitors in access exclusive mode"):
        visits = [visit(rng, population) for _ in range(200)]
        await send_all(own_stack, sent, rng, visits)

        async def reason_is_told() -> bool:
            reasons = await worker.reasons()
            return all(
                "wait for locks" in reasons.get(f"{names.requests('visits')}:{partition}", "") for partition in range(4)
            )

        await eventually("the worker tells which partitions wait", reason_is_told)
        for number in range(5):
            request_id = await _rename_center(own_stack, sent, population, number)
            assert (await own_stack.result("centers.update", request_id)).value["status"] == 204
        assert await _answered(own_stack) & {message.request_id for message in visits} == set()
    await _assert_all_applied(own_stack, worker, sent)


async def _rename_center(stack: Stack, sent: Sent, population: Population, number: int) -> str:
    parts = {"path": {"pcCode": population.pc_code}, "body": {"centerCode": number}}
    request_id = await stack.send("centers.update", parts, partition=number % 4)
    sent.note(request_id, "centers.update")
    return request_id


async def test_a_deadlock_lets_the_requests_wait_and_no_batch_fail(
    own_stack: Stack, worker: Process, sent: Sent
) -> None:
    population = await populate(own_stack, sent, VISITORS)
    first, second = (person.visitor_id for person in population.people[:2])
    logged, before = len(worker.log.read_text()), await _deadlocks(own_stack)
    for attempt in range(DEADLOCK_ATTEMPTS):
        await _cross_locks(own_stack, sent, first, second, f"City {attempt}")
        await _assert_all_applied(own_stack, worker, sent)
        if await _counts_more_deadlocks(own_stack, before):
            break
    assert await _deadlocks(own_stack) == before + 1
    assert "retrying" not in worker.log.read_text()[logged:]


async def _cross_locks(stack: Stack, sent: Sent, first: str, second: str, city: str) -> None:
    """Let the worker and another session wait for each other. This fails if the worker does not get both requests at
    once, or if this process is slower than PostgreSQL, which looks for a deadlock after a second."""
    lock = sa.text("select 1 from visitors where visitor_id = :id for update")
    async with stack.engine.begin() as session:
        await session.execute(lock, {"id": second})
        # In one record batch, so that the worker applies both in one transaction, in which it waits for the second one.
        await asyncio.gather(*(_set_city(stack, sent, each, city, partition=0) for each in (first, second)))
        await stack.await_lock_wait()
        # PostgreSQL ends the wait of the session that has waited longer, so this statement succeeds.
        await session.execute(lock, {"id": first})


async def _counts_more_deadlocks(stack: Stack, before: int) -> bool:
    """Whether PostgreSQL's statistics count another deadlock in time."""

    async def more() -> bool:
        return await _deadlocks(stack) > before

    try:
        await eventually("another deadlock", more, STATISTICS_SECONDS)
    except AssertionError:
        return False
    return True


async def _deadlocks(stack: Stack) -> int:
    rows = await stack.rows("select deadlocks from pg_stat_database where datname = current_database()")
    return int(rows[0].deadlocks)
