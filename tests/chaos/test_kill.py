"""SIGKILL at any moment: no request is lost or applied twice, and changes stay in order."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support import oracle
from tests.support.callers import calling
from tests.support.load import Population, activity, populate, send_all, update, visit, with_challenge
from tests.support.oracle import Sent
from tests.support.stack import Process, Stack, eventually
from topics import names

pytestmark = pytest.mark.timeout(600)  # on a slow machine, the starts of the workers take minutes

KILLS = 20
IMPORTED = 30_000
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


async def test_an_import_through_kills_of_command_and_worker_applies_each_row_once(
    own_stack: Stack, tmp_path: Path
) -> None:
    """Vehicles, because no constraint of the table would refuse one that is applied twice."""
    worker = own_stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
    await eventually("a ready worker", worker.ready)
    owners = (await populate(own_stack, Sent(), 5)).people
    plates = [f"IMPORTED-{number}" for number in range(IMPORTED)]
    lines = [f"{owners[number % len(owners)].visitor_id},{plate}" for number, plate in enumerate(plates)]
    file = tmp_path / "vehicles.csv"
    file.write_text("\n".join(["visitorId,licensePlate", *lines, ""]))
    arguments = ["-m", "runtime.cli", "import", "vehicles", str(file)]

    command = own_stack.spawn("import", arguments, health_url="")
    await _await_applied(own_stack, IMPORTED // 6)
    command.kill()  # Up to 5,000 rows that it has sent are applied nevertheless.
    command = own_stack.spawn("import", arguments, health_url="")
    await _await_applied(own_stack, IMPORTED * 2 // 3)
    worker.kill()
    worker = own_stack.worker(VISITOR_WORKER_SESSION_SECONDS="1.5")
    await eventually("the end of the import", command.ended, 120)
    assert command.child.returncode == 0, command.log.read_text()
    assert f"{IMPORTED:,} rows are applied" in command.log.read_text()

    stored = await own_stack.rows(
        "select vehicle_id, license_plate, revision from vehicles where license_plate like 'IMPORTED-%'"
    )
    assert sorted(row.license_plate for row in stored) == sorted(plates)
    answers = await own_stack.rows("select status from inbox where source like 'import/%'")
    assert Counter(row.status for row in answers) == {201: IMPORTED}
    await eventually("all changes published", lambda: oracle.outbox_empty(own_stack), 120)
    # A killed publisher may have sent a change twice.
    changes = {
        (record.value["id"], record.key, record.value["revision"], record.value["after"]["licensePlate"])
        for record in await own_stack.read(names.changes("parking", "vehicle"))
    }
    imported = sorted(change[1:] for change in changes if change[3].startswith("IMPORTED-"))
    assert imported == sorted((str(row.vehicle_id), 1, row.license_plate) for row in stored)
    assert worker.terminate() == 0


async def _await_applied(stack: Stack, count: int) -> None:
    """Wait until so many rows of the file are applied, and not all of them."""

    async def applied() -> int:
        number: int = (await stack.rows("select count(*) from inbox where source like 'import/%'"))[0][0]
        return number if number >= count else 0

    assert await eventually(f"{count:,} rows are applied", applied, 120) < IMPORTED
