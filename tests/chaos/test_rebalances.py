"""Rebalances that follow each other at once: no request is lost, and no worker ends."""

import asyncio
import random
import time

from tests.support import oracle
from tests.support.load import populate, send_all, update, visit
from tests.support.oracle import Sent
from tests.support.stack import Stack, eventually

FAMILIES = ("visits", "visitors", "parking", "centers")
SECONDS = 15
ASSIGNMENTS = 20
LONGEST_SECONDS = 120
"""A busy machine needs longer for the assignments."""


async def test_members_that_join_again_at_once_lose_no_request(own_stack: Stack) -> None:
    """A member that joins again at once gets the same generation from Kafka."""
    sent, rng = Sent(), random.Random(1)
    first = own_stack.worker()
    await eventually("a ready worker", first.ready)
    population = await populate(own_stack, sent, 10)
    assert first.terminate() == 0
    workers = [own_stack.worker("tests.support.rejoining") for _ in range(2)]

    def assignments() -> int:
        return sum(worker.log.read_text().count('"assigned"') for worker in workers)

    started_at = time.monotonic()
    while (seconds := time.monotonic() - started_at) < SECONDS or assignments() < ASSIGNMENTS:
        assert seconds < LONGEST_SECONDS, "there were hardly any rebalances"
        await send_all(own_stack, sent, rng, [*(visit(rng, population) for _ in range(10)), update(rng, population)])
        await asyncio.sleep(0.05)
    assert [worker.child.poll() for worker in workers] == [None, None]
    for worker in workers:
        worker.kill()
    last = own_stack.worker()
    await eventually("a result for every request", lambda: oracle.all_answered(own_stack, sent, FAMILIES), 60)
    await eventually("all changes published", lambda: oracle.outbox_empty(own_stack))
    await oracle.verify(own_stack, sent, FAMILIES)
    assert last.terminate() == 0
