"""An old backup of the database is restored: the steps of docs/deploy.md apply the requests since then again."""

import asyncio
import os
import random
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agents.catalogue import CATALOGUE
from runtime import overview
from runtime.overview import KafkaOverview
from runtime.settings import Settings
from tests.support import data, kafka_tools, pages
from tests.support.load import Person, Population, populate, send_all, visit
from tests.support.oracle import Sent, outbox_empty
from tests.support.outbox import publisher_locked
from tests.support.stack import TOPIC_SETTINGS, Process, Stack, eventually
from topics import names

VISITOR_CHANGES = names.changes("visitors", "visitor")
BACKUP = "backup"
VISITS = 20
RNG = random.Random(5)


@asynccontextmanager
async def _administration(stack: Stack) -> AsyncIterator[AsyncConnection]:
    """A connection to another database of the server, without a transaction. Nothing else of the test is connected."""
    await stack.engine.dispose()
    engine = create_async_engine(
        make_url(stack.servers.database).set(database="template1"), isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as conn:
        yield conn
    await engine.dispose()


async def _copy_database(stack: Stack, source: str, target: str) -> None:
    """What `pg_dump` and `pg_restore` do: `target` gets the tables of `source` as they are now."""
    async with _administration(stack) as conn:
        await conn.execute(sa.text(f'drop database if exists "{target}" with (force)'))
        await conn.execute(sa.text(f'create database "{target}" template "{source}"'))


async def _start_worker(stack: Stack) -> Process:
    worker = stack.worker()
    await eventually("a ready worker", worker.ready)
    return worker


async def _stop(worker: Process) -> None:
    assert await asyncio.to_thread(worker.terminate) == 0


async def _erase(stack: Stack, visitor_id: str) -> None:
    statement = "select external_id from external_ids where visitor_id = :id and external_type = 'analytics'"
    analytics_id = (await stack.rows(statement, id=visitor_id))[0].external_id
    request = await stack.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics_id}]})
    assert (await stack.result("visitors.eraseByAnalyticsId", request)).value["status"] == 200


async def _move(stack: Stack, person: Person, city: str) -> str:
    """Change the address of a visitor, and return the id of the request."""
    parts = {"path": {"visitorId": person.visitor_id}, "body": {"addressCity": city}}
    request_id = await stack.send("visitors.update", parts)
    assert (await stack.result("visitors.update", request_id)).value["status"] == 204
    return request_id


async def _last_changes(stack: Stack, topic: str) -> dict[str, Any]:
    return {str(record.key): record.value for record in await stack.read(topic)}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of the docs: `visitor`, and Kafka's tools."""
    folder = tmp_path_factory.mktemp("programs")
    pages.install_visitor(folder)
    kafka_tools.install(folder)
    return folder


async def test_after_a_restore_the_steps_of_the_docs_apply_the_requests_since_the_backup_again(
    own_stack: Stack, programs: Path
) -> None:
    database = str(make_url(own_stack.servers.database).database)
    worker = await _start_worker(own_stack)
    population = await populate(own_stack, Sent(), 3)
    kept, erased, other = population.people
    early_visit = visit(RNG, Population(population.pc_code, [other]))
    await send_all(own_stack, Sent(), RNG, [early_visit])
    await own_stack.result("visits.create", early_visit.request_id)
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))
    async with publisher_locked(own_stack, VISITOR_CHANGES):
        await _move(own_stack, kept, "A")
        await _stop(worker)
    assert not await outbox_empty(own_stack), "the backup has a change that is not published"
    backup_time = datetime.now(UTC)
    await _copy_database(own_stack, database, BACKUP)

    worker = await _start_worker(own_stack)
    new_visitor = data.visitor(population.pc_code)
    created = await own_stack.send("visitors.create", {"body": new_visitor})
    old_id = (await own_stack.result("visitors.create", created)).value["body"]["data"]["visitorId"]
    updated = await _move(own_stack, kept, "B")
    visits = [visit(RNG, Population(population.pc_code, [kept])) for _ in range(VISITS)]
    await send_all(own_stack, Sent(), RNG, visits)
    await eventually("all visits", lambda: _has_visits(own_stack, kept.visitor_id))
    await _erase(own_stack, erased.visitor_id)
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))
    await _stop(worker)
    seen = (await _last_changes(own_stack, VISITOR_CHANGES))[kept.visitor_id]["revision"]

    await _copy_database(own_stack, BACKUP, database)
    assert not await _has_visits(own_stack, kept.visitor_id)
    steps = _steps()
    await _follow(own_stack, programs, steps.pop(1))

    an_hour_before = f"{backup_time - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000"
    step, replaced = re.subn(r"2026-\S+", an_hour_before, steps.pop(2))
    assert replaced == 1
    await _follow(own_stack, programs, step)
    committed = await own_stack.committed(names.requests("visits"))
    assert set(committed.values()) == {0}, "an hour before the backup, there were no requests"

    printed = await _follow(own_stack, programs, steps.pop(3))
    created_topics = set(re.findall(r"^created (\S+)$", printed, re.MULTILINE))
    assert created_topics == {topic.name for topic in CATALOGUE.change_topics}

    assert "Start the workers" in steps.pop(4)
    await _start_worker(own_stack)
    await eventually("no lag", lambda: _has_no_lag(own_stack))
    new_id = (await own_stack.result("visitors.create", created, nth=2)).value["body"]["data"]["visitorId"]
    assert (await own_stack.result("visitors.update", updated, nth=2)).value["status"] == 204
    assert await _has_visits(own_stack, kept.visitor_id)
    assert await own_stack.rows("select 1 from visitors where visitor_id = :id", id=erased.visitor_id) == []

    await _follow(own_stack, programs, steps.pop(5))
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))

    assert "Start the edges" in steps.pop(6)
    assert steps == {}
    edge, url = own_stack.edge()
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=f"{url}/visitors") as client:
        assert (await client.get(old_id)).status_code == 404, "the docs say that ids change"
        assert (await client.get(new_id)).json()["data"]["email"] == new_visitor["email"]
        assert (await client.get(kept.visitor_id)).json()["data"]["addressCity"] == "B"

    twice = await own_stack.rows("select request_id from inbox group by request_id having count(*) > 1")
    assert twice == []
    await _equals_last_changes(own_stack, VISITOR_CHANGES, "select visitor_id, revision from visitors")
    await _equals_last_changes(own_stack, names.changes("visits", "visit"), "select visit_id, revision from visits")
    await _move(own_stack, kept, "C")
    await eventually("an empty outbox", lambda: outbox_empty(own_stack))
    assert (await _last_changes(own_stack, VISITOR_CHANGES))[kept.visitor_id]["revision"] == seen + 1


def _steps() -> dict[int, str]:
    """The steps after a restore of docs/deploy.md, by number."""
    page = (pages.ROOT / "docs" / "deploy.md").read_text()
    _, _, section = page.partition("**After a restore of an older backup**")
    section = section.partition("\n## ")[0]
    parts = re.split(r"^(\d+)\. ", section, flags=re.MULTILINE)[1:]
    return {int(number): text for number, text in zip(parts[::2], parts[1::2], strict=True)}


async def _follow(stack: Stack, programs: Path, step: str) -> str:
    """Run the commands of a step as an operator does, east of Greenwich. Returns their output."""
    _, _, script = step.partition("```console\n")
    settings = {"PATH": f"{programs}:{os.environ['PATH']}", "TZ": "Asia/Tokyo", **TOPIC_SETTINGS}
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-e", "-c", script.partition("```")[0]], env=stack.environment(**settings),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert script, "the step has no commands"
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def _has_no_lag(stack: Stack) -> bool:
    async with overview.source(Settings(kafka=stack.kafka, database=stack.database)) as source:
        kafka = (await source.read()).kafka
    return isinstance(kafka, KafkaOverview) and sum(group.messages for group in kafka.groups) == 0


async def _equals_last_changes(stack: Stack, topic: str, query: str) -> None:
    """A consumer that reads the topic from the beginning gets the rows: pairs of an id and a revision."""
    changes = await _last_changes(stack, topic)
    revisions = {key: value["revision"] for key, value in changes.items() if value is not None}
    assert revisions == {str(key): revision for key, revision in await stack.rows(query)}


async def _has_visits(stack: Stack, visitor_id: str) -> bool:
    rows = await stack.rows("select count(*) as visits from visits where visitor_id = :id", id=visitor_id)
    count: int = rows[0].visits
    assert count <= VISITS, "a visit was applied twice"
    return count == VISITS
