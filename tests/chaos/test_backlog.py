"""Queries while the worker processes a backlog of requests."""

import random

import httpx

from tests.support import oracle
from tests.support.load import populate, send_all, visit
from tests.support.oracle import Sent
from tests.support.stack import Stack, eventually
from topics import names

VISITS = 30_000


async def test_queries_do_not_wait_for_a_backlog_of_requests(own_stack: Stack) -> None:
    rng, sent = random.Random(7), Sent()
    first_worker = own_stack.worker()
    edge, own_stack.url = own_stack.edge()
    await eventually("a ready worker", first_worker.ready)
    await eventually("a ready edge", edge.ready)
    population = await populate(own_stack, sent, 5)
    assert first_worker.terminate() == 0
    await send_all(own_stack, sent, rng, [visit(rng, population) for _ in range(VISITS)])

    async def result_count() -> int:
        return await own_stack.count(names.results("visits"))

    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    await eventually("the first results of the backlog", result_count)
    async with httpx.AsyncClient(base_url=own_stack.url, timeout=30) as client:
        for _ in range(5):
            assert (await client.get(f"/centers/{population.pc_code}")).status_code == 200
    assert await result_count() < VISITS / 2

    await eventually(
        "a result for every request",
        lambda: oracle.all_answered(own_stack, sent, ["visits", "visitors", "parking", "centers"]),
        180,
    )
    assert worker.terminate() == 0
    edge.kill()
