"""kill -9 at any moment: nothing lost, nothing doubled, changes in order."""

import asyncio
import random

from tests.support import oracle
from tests.support.callers import calling
from tests.support.load import Population, contest, populate, send_all, update, visit, with_contests
from tests.support.oracle import Sent
from tests.support.stack import Process, Stack, eventually

KILLS = 20
SEED = 20_261_124
FAMILIES = ("visits", "visitors", "parking", "centers", "checkins", "optins", "points", "services")


async def _load(stack: Stack, sent: Sent, rng: random.Random, population: Population, ended: asyncio.Event) -> None:
    """Two hundred messages a second, until `ended`; one in ten is sent again somewhere else."""
    while not ended.is_set():
        messages = [visit(rng, population) for _ in range(30)] + [update(rng, population) for _ in range(10)]
        messages += [contest(rng, population) for _ in range(20)]
        await send_all(stack, sent, rng, messages + rng.sample(messages, 4))
        await asyncio.sleep(0.3)


async def _kill_now_and_then(stack: Stack, rng: random.Random) -> Process:
    """Kill and replace the worker at random moments, while a second one joins and leaves; the last one lives."""
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


async def test_a_worker_killed_20_times_under_load_loses_and_doubles_nothing(lonely: Stack) -> None:
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it where the test fails
    rng, sent, ended = random.Random(SEED), Sent(), asyncio.Event()
    worker = lonely.worker()
    await eventually("a ready worker", worker.ready)
    population = await with_contests(lonely, sent, await populate(lonely, sent, 10))
    async with calling(lonely, sent, population.pc_code) as callers:
        worker.kill()
        loading = asyncio.create_task(_load(lonely, sent, random.Random(SEED), population, ended))
        worker = await _kill_now_and_then(lonely, rng)
        ended.set()
        await loading
        await callers.finish()
    await eventually("a result for every request", lambda: oracle.all_answered(lonely, sent, FAMILIES), 120)
    await eventually("all changes published", lambda: oracle.outbox_empty(lonely))
    await oracle.verify(lonely, sent, FAMILIES)
    await callers.verify(lonely)
    assert len(sent.operations) > 1_000
    assert worker.terminate() == 0
