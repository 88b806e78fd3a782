"""A gateway's backlog and those who read meanwhile."""

import random

import httpx

from tests.support import oracle
from tests.support.load import populate, send_all, visit
from tests.support.oracle import Sent
from tests.support.stack import Stack, eventually
from topics import names

VISITS = 30_000


async def test_reads_do_not_wait_behind_a_gateways_backlog(lonely: Stack) -> None:
    rng, sent = random.Random(7), Sent()
    first = lonely.worker()
    edge, lonely.url = lonely.edge()
    await eventually("a ready worker", first.ready)
    await eventually("a ready edge", edge.ready)
    population = await populate(lonely, sent, 5)
    assert first.terminate() == 0
    await send_all(lonely, sent, rng, [visit(rng, population) for _ in range(VISITS)])

    async def answered() -> int:
        return await lonely.count(names.results("visits"))

    worker = lonely.worker()
    await eventually("the backlog is under way", answered)
    async with httpx.AsyncClient(base_url=lonely.url, timeout=30) as client:
        for _ in range(5):
            assert (await client.get(f"/centers/{population.pc_code}")).status_code == 200
    assert await answered() < VISITS / 2

    await eventually(
        "a result for every request",
        lambda: oracle.all_answered(lonely, sent, ["visits", "visitors", "parking", "centers"]),
    )
    assert worker.terminate() == 0
    edge.kill()
