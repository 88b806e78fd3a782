"""`visitor republish` while requests are applied: consumers end with the state of the tables."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.catalogue import CATALOGUE
from storage.table import TABLES, Table
from tests.support.load import Population, activity, populate, send_all, update, with_challenge
from tests.support.oracle import Sent, outbox_empty
from tests.support.stack import PARTITIONS, Process, Record, Stack, eventually, plain
from topics import names

FAMILIES = ("visitors", "centers", "checkins", "optins", "points", "parking", "profile")
QUICK = {"VISITOR_WORKER_SESSION_SECONDS": "1.5"}


def _topic(table: Table[Any]) -> str:
    return names.changes(table.family, table.resource)


async def _republication(stack: Stack, resource: str) -> Any:
    rows = await stack.rows("select * from republications where resource = :resource", resource=resource)
    return rows[0] if rows else None


def _verify_order(records: Sequence[Record]) -> None:
    """No state of an entity is followed by an older one, and after a deletion only the deletion is repeated."""
    revisions: dict[str, int] = {}
    deleted: set[str] = set()
    for record in records:
        key = str(record.key)
        if record.value is None:
            assert key in deleted, f"{record.topic} {key}: a tombstone without a deletion"
            continue
        revision, action = record.value["revision"], record.value["action"]
        assert revision >= revisions.get(key, 0), f"{record.topic} {key}: {action} {revision} after {revisions[key]}"
        assert key not in deleted or action == "deleted", f"{record.topic} {key}: {action} after its deletion"
        revisions[key] = revision
        if action == "deleted":
            deleted.add(key)


async def _verify_last_records(stack: Stack, table: Table[Any], records: Sequence[Record]) -> None:
    """The last record of each key equals the row; keys without a row end with a tombstone."""
    last_values = {str(record.key): record.value for record in records}
    rows = {str(getattr(row, table.key)): row for row in await stack.rows(f"select * from {table.name}")}
    assert {key for key, value in last_values.items() if value is not None} == rows.keys()
    for key, row in rows.items():
        assert last_values[key]["revision"] == row.revision, f"{table.resource} {key}"
        for name, info in table.row.model_fields.items():
            if not isinstance(getattr(row, name), list):
                alias = str(info.serialization_alias)
                assert plain(last_values[key]["after"][alias]) == plain(getattr(row, name)), f"{key}: {alias}"


async def _erase(stack: Stack, visitor_id: str) -> None:
    analytics = "select external_id from external_ids where visitor_id = :id and external_type = 'analytics'"
    analytics_id = (await stack.rows(analytics, id=visitor_id))[0].external_id
    request = await stack.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics_id}]})
    assert (await stack.result("visitors.eraseByAnalyticsId", request)).value["status"] == 200


async def _add_and_delete_interests(stack: Stack, population: Population) -> None:
    for person in population.people[:5]:
        path = {"visitorId": person.visitor_id}
        request = await stack.send("interests.create", {"path": path, "body": {"externalId": "1", "label": "x"}})
        interest = (await stack.result("interests.create", request)).value["body"]["data"]
        request = await stack.send("interests.delete", {"path": path | {"interestId": interest["interestId"]}})
        assert (await stack.result("interests.delete", request)).value["status"] == 204


async def _load(stack: Stack, population: Population) -> None:
    """Update the population until cancelled."""
    rng = random.Random(7)
    while True:
        messages = [update(rng, population) for _ in range(10)] + [activity(rng, population) for _ in range(10)]
        await send_all(stack, Sent(), rng, messages)
        await asyncio.sleep(0.5)


def _start_republishing(stack: Stack, *arguments: str) -> Process:
    return stack.spawn("republish", ["-m", "runtime.cli", "republish", *arguments], "")


async def test_a_republication_under_load_that_is_killed_and_resumed_ends_with_the_state_of_the_tables(
    own_stack: Stack,
) -> None:
    workers = [own_stack.worker(**QUICK), own_stack.worker(**QUICK)]
    for worker in workers:
        await eventually("a ready worker", worker.ready)
    population = await with_challenge(own_stack, Sent(), await populate(own_stack, Sent(), 16))
    await _add_and_delete_interests(own_stack, population)
    erased_before, erased_while = population.people[-2:]
    await _erase(own_stack, erased_before.visitor_id)
    others = Population(population.pc_code, population.people[:-2], population.service_id, population.participants)

    load = asyncio.create_task(_load(own_stack, others))
    resources = ("visitor", "vehicle", "interest", "optin", "visitorChallenge")
    killed = _start_republishing(own_stack, *resources, "--rate", "4")

    async def is_half_done() -> bool:
        republication = await _republication(own_stack, "visitor")
        return republication is not None and 3 <= republication.published_rows < 13

    await eventually("a half-done republication", is_half_done)
    killed.kill()
    await _erase(own_stack, erased_while.visitor_id)
    interrupted = await _republication(own_stack, "visitor")
    assert interrupted.finished_at is None

    resumed = await own_stack.command("republish", *resources, "--rate", "50")
    assert resumed.returncode == 0, resumed.stderr
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    finished = await _republication(own_stack, "visitor")
    assert finished.started_at == interrupted.started_at
    assert f"visitor: {finished.published_rows} rows, {finished.published_deletions} deletions" in resumed.stdout
    assert finished.published_rows == 15 - (interrupted.last_key < erased_while.visitor_id)
    assert (await _republication(own_stack, "interest")).published_deletions == 5

    async def load_applied() -> bool:
        return await _all_answered(own_stack) and await outbox_empty(own_stack)

    await eventually("all requests applied and all changes published", load_applied, 120)
    for table in (table for table in TABLES if table.resource in resources):
        records = await own_stack.read(_topic(table))
        _verify_order(records)
        await _verify_last_records(own_stack, table, records)
        assert any(record.value and record.value["action"] == "republished" for record in records) or not (
            await own_stack.rows(f"select 1 from {table.name}")
        )
    assert [worker.terminate() for worker in workers] == [0, 0]


async def _all_answered(stack: Stack) -> bool:
    """True if every request has a result. It has several if it was delivered again after a short session."""
    answered = {record.id for record in await stack.read(*map(names.results, FAMILIES))}
    return {record.id for record in await stack.read(*map(names.requests, FAMILIES))} <= answered


async def _recreate(stack: Stack, topic: str) -> None:
    """Delete a topic and create it, and return when the broker has dropped its records."""
    spec = next(spec for spec in CATALOGUE.topics(stack.kafka) if spec.name == topic)
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.servers.kafka)
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def created() -> bool:
            new = NewTopic(topic, PARTITIONS, spec.replication, topic_configs=spec.config)
            answer = await admin.create_topics([new])
            return bool(answer.topic_errors[0][1] == 0)

        await eventually(f"a new topic {topic}", created)
    finally:
        await admin.close()

    async def empty() -> bool:
        return await stack.count(topic) == 0

    await eventually(f"an empty topic {topic}", empty)


async def test_a_topic_that_was_deleted_and_created_again_is_filled(own_stack: Stack) -> None:
    worker = own_stack.worker(**QUICK)
    await eventually("a ready worker", worker.ready)
    await populate(own_stack, Sent(), 3)
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    table = next(table for table in TABLES if table.resource == "vehicle")
    await _recreate(own_stack, _topic(table))

    done = await own_stack.command("republish", "vehicle", "--restart")
    assert done.returncode == 0, done.stderr

    async def filled() -> bool:
        rows = await own_stack.rows("select count(*) from vehicles")
        last_values = {record.key: record.value for record in await own_stack.read(_topic(table))}
        live = [key for key, value in last_values.items() if value is not None]
        return len(live) == rows[0][0] and await outbox_empty(own_stack)

    await eventually("a filled topic", filled)
    records = await own_stack.read(_topic(table))
    _verify_order(records)
    await _verify_last_records(own_stack, table, records)
    assert {record.value["action"] for record in records if record.value} <= {"republished", "deleted"}
    assert worker.terminate() == 0


async def test_an_unknown_resource_is_refused(own_stack: Stack) -> None:
    done = await own_stack.command("republish", "cars")
    assert done.returncode == 2
    assert "cars is not a resource. The resources are: article, " in done.stderr
