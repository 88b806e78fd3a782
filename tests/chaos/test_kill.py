"""SIGKILL at any moment: no request is lost or applied twice, and changes stay in order."""

import asyncio
import random

from tests.support import oracle
from tests.support.callers import calling
from tests.support.load import Population, activity, populate, send_all, update, visit, with_challenge
from tests.support.oracle import Sent
from tests.support.stack import Process, Stack, eventually

KILLS = 20
SEED = 20_261_124
FAMILIES = ("visits", "visitors", "parking", "centers", "checkins", "optins", "points", "services")


async def _load(stack: Stack, sent: Sent, rng: random.Random, population: Population, ended: asyncio.Event) -> None:
    """Send 200 messages a second until `ended`. One message in fifteen is sent twice, to random partitions."""
    while not ended.is_set():
        messages = [visit(rng, population) for _ in range(30)] + [update(rng, population) for _ in range(10)]
        messages += [activity(rng, population) for _ in range(20)]
        await send_all(stack, sent, rng, messages + rng.sample(messages, 4))
        await asyncio.sleep(0.3)


async def _kill_repeatedly(stack: Stack, rng: random.Random) -> Process:
    """Kill and replace the worker at random moments, while a second one joins and leaves. Returns the last worker."""
    first = stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
    second: Process | None = None
    for kill in range(KILLS):
        await asyncio.sleep(rng.uniform(0.5, 5.0))
        first.kill()
        first = stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
        if kill % 4 == 1:
            second = stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
        if kill % 4 == 3 and second is not None:
            await asyncio.to_thread(second.terminate)
            second = None
    await eventually("a ready worker", first.ready)
    return first


async def test_a_worker_that_is_killed_20_times_loses_no_request_and_applies_none_twice(own_stack: Stack) -> None:
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it if the test fails
    rng, sent, ended = random.Random(SEED), Sent(), asyncio.Event()
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    population = await with_challenge(own_stack, sent, await populate(own_stack, sent, 10))
    async with calling(own_stack, sent, population.pc_code) as callers:
        worker.kill()
        loading = asyncio.create_task(_load(own_stack, sent, random.Random(SEED), population, ended))
        worker = await _kill_repeatedly(own_stack, rng)
        ended.set()
        await loading
        await callers.finish()
    await eventually("a result for every request", lambda: oracle.all_answered(own_stack, sent, FAMILIES), 120)
    await eventually("all changes published", lambda: oracle.outbox_empty(own_stack))
    await oracle.verify(own_stack, sent, FAMILIES)
    await callers.verify(own_stack)
    assert len(sent.operations) > 1_000
    assert worker.terminate() == 0
