"""SIGKILL at any moment: no request is lost or applied twice, and changes stay in order."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.support import data, oracle
from tests.support.callers import calling
from tests.support.load import Population, activity, populate, send_all, update, visit, with_challenge
from tests.support.oracle import Sent
from tests.support.stack import Process, Stack, eventually
from topics import names

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


async def test_an_import_through_kills_of_worker_and_command_applies_each_row_once(
    own_stack: Stack, tmp_path: Path
) -> None:
    rng, worker = random.Random(SEED), own_stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
    await eventually("a ready worker", worker.ready)
    population = await populate(own_stack, Sent(), 1)
    rows = [data.visitor(population.pc_code) for _ in range(3_000)]
    file = tmp_path / "visitors.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "runtime.cli", "import", "visitors", str(file)]
    environment = own_stack.environment()
    for _ in range(4):
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.DEVNULL)
        await asyncio.sleep(rng.uniform(1.5, 3.0))
        worker.kill()
        worker = own_stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
        with suppress(ProcessLookupError):  # it may have ended
            process.kill()
        await process.wait()
    done = await own_stack.command("import", "visitors", str(file))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "3,000 rows are applied" in done.stderr
    stored = await own_stack.rows("select email, count(*) as times from visitors group by email")
    imported = {row["email"] for row in rows}
    assert {row.email: row.times for row in stored if row.email in imported} == dict.fromkeys(imported, 1)
    await eventually("all changes published", lambda: oracle.outbox_empty(own_stack))
    changes = [record.value for record in await own_stack.read(names.changes("visitors", "visitor"))]
    assert Counter(change["after"]["email"] for change in changes if change["after"]["email"] in imported) == (
        Counter(imported)
    )
    assert worker.terminate() == 0
