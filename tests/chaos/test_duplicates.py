"""Each request is applied once, even if it is sent several times and to several partitions."""

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


async def test_each_of_10_000_visits_is_applied_once_although_some_are_sent_to_two_partitions(own_stack: Stack) -> None:
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    rng, sent = random.Random(7), Sent()
    population = await populate(own_stack, sent, 20)
    visits = [visit(rng, population) for _ in range(VISITS)]
    messages = visits + rng.sample(visits, DUPLICATES)
    rng.shuffle(messages)
    ids = {message.request_id for message in visits}

    async def has_results(count: int) -> bool:
        results = [record for record in await own_stack.read(names.results("visits")) if record.id in ids]
        return len(results) >= count

    async with calling(own_stack, sent, population.pc_code) as callers:
        await send_all(own_stack, sent, rng, messages)
        await eventually("a result for every message", lambda: has_results(len(messages)), 120)
        await callers.finish()
    await eventually("all changes published", lambda: oracle.outbox_empty(own_stack))
    await oracle.verify(own_stack, sent, FAMILIES)
    await callers.verify(own_stack)
    rows = await own_stack.rows("select count(*) from visits")
    assert rows[0][0] == VISITS + callers.visits
    changes = len(await own_stack.read(names.changes("visits", "visit")))
    assert changes == VISITS + callers.visits

    await send_all(own_stack, sent, rng, messages)
    await eventually("a second result for every message", lambda: has_results(2 * len(messages)), 120)
    await oracle.verify(own_stack, sent, FAMILIES)
    assert (await own_stack.rows("select count(*) from visits"))[0][0] == VISITS + callers.visits
    assert len(await own_stack.read(names.changes("visits", "visit"))) == changes
    assert worker.terminate() == 0
