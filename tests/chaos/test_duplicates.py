"""Every request is applied once, however often and wherever it is sent."""

import random

from tests.support import oracle
from tests.support.callers import calling
from tests.support.load import populate, send_all, visit
from tests.support.oracle import Sent
from tests.support.stack import Stack, eventually
from topics import names

VISITS = 9_000
DUPLICATES = 1_000
FAMILIES = ("visits", "visitors", "parking", "centers")


async def test_10_000_visits_with_duplicates_over_all_partitions_are_each_applied_once(lonely: Stack) -> None:
    worker = lonely.worker()
    await eventually("a ready worker", worker.ready)
    rng, sent = random.Random(7), Sent()
    population = await populate(lonely, sent, 20)
    visits = [visit(rng, population) for _ in range(VISITS)]
    shuffled = visits + rng.sample(visits, DUPLICATES)
    rng.shuffle(shuffled)

    ids = {message.request_id for message in visits}

    async def told() -> int:
        return sum([1 for record in await lonely.read(names.results("visits")) if record.id in ids])

    async def all_told(count: int) -> bool:
        return await told() >= count

    async with calling(lonely, sent, population.pc_code) as callers:
        await send_all(lonely, sent, rng, shuffled)
        await eventually("a result for every message", lambda: all_told(VISITS + DUPLICATES), 120)
        await callers.finish()
    await eventually("all changes published", lambda: oracle.outbox_empty(lonely))
    await oracle.verify(lonely, sent, FAMILIES)
    await callers.verify(lonely)
    rows = await lonely.rows("select count(*) from visits")
    assert rows[0][0] == VISITS + callers.visits
    changes = len(await lonely.read(names.changes("visits")))
    assert changes == VISITS + callers.visits

    await send_all(lonely, sent, rng, shuffled)
    await eventually("a result for every message again", lambda: all_told(2 * (VISITS + DUPLICATES)), 120)
    await oracle.verify(lonely, sent, FAMILIES)
    assert (await lonely.rows("select count(*) from visits"))[0][0] == VISITS + callers.visits
    assert len(await lonely.read(names.changes("visits"))) == changes
    assert worker.terminate() == 0
