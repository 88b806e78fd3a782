"""An answer is final, and a request is identified by topic, source and id, even after SIGKILL and a redelivery.

A killed worker has committed its offsets up to one second before. To redeliver more requests, the tests set the
offsets of its consumer group back to 0.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from agents.catalogue import CATALOGUE
from tests.support import data
from tests.support.load import populate
from tests.support.oracle import Sent
from tests.support.stack import PARTITIONS, Process, Record, Stack, eventually
from topics import names
from topics.envelope import JSON, RequestHeaders

GROUP = "visitor-worker.requests"
SESSION = {"VISITOR_WORKER_SESSION_SECONDS": "1.5"}
VISITS = names.requests("visits")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    process = own_stack.worker("tests.support.buggy", **SESSION)
    await eventually("a ready worker", process.ready)
    return process


async def _kill_and_redeliver(stack: Stack, worker: Process, topics: Iterable[str]) -> None:
    """Kill the worker, and start a new one that reads these topics from their beginnings."""
    worker.kill()
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.servers.kafka, group_id=GROUP, enable_auto_commit=False)
    await consumer.start()
    consumer.assign(partitions)

    async def commit_zero() -> bool:
        try:
            await consumer.commit(dict.fromkeys(partitions, 0))
        except KafkaError:
            return False  # the killed worker is still a member of the group
        return True

    await eventually("the group's offsets are 0", commit_zero)
    await consumer.stop()
    new_worker = stack.worker("tests.support.buggy", **SESSION)
    await eventually("a ready worker", new_worker.ready)


async def _results(stack: Stack, family: str, request_id: str, count: int) -> Sequence[Record]:
    """Wait until a request id has this number of results."""

    async def enough_results() -> Sequence[Record] | None:
        records = [record for record in await stack.read(names.results(family)) if record.id == request_id]
        return records if len(records) >= count else None

    records: Sequence[Record] = await eventually(f"{count} results of {request_id}", enough_results)
    return records


async def _assert_created(stack: Stack, requests: set[tuple[str, str]], count: int) -> None:
    """Wait until each visit, by its source and request id, has this number of results, and assert that they are equal.
    A request has more of them if it was delivered again after a short session."""
    ids = {request_id for _, request_id in requests}

    async def enough_results() -> dict[tuple[str, str], list[Record]] | None:
        by_request: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in await stack.read(names.results("visits")):
            if record.id in ids:
                by_request[record.headers["ce_requestsource"], record.id].append(record)
        return by_request if all(len(by_request[request]) >= count for request in requests) else None

    results = await eventually(f"{count} results of each visit", enough_results)
    assert results.keys() == requests
    for (source, _), records in results.items():
        contents = {(record.headers["ce_source"], record.value["status"], record.raw) for record in records}
        assert contents == {(f"visitor-service/{source}", 201, records[0].raw)}


async def _participant(stack: Stack) -> dict[str, Any]:
    """The path parameters of a new participant of a challenge."""
    population = await populate(stack, Sent(), 1)
    challenge = await _create(stack, "challenges.create", {"body": data.challenge(population.pc_code)})
    path = {"visitorId": population.people[0].visitor_id}
    body = {"challengeId": challenge["challengeId"]}
    participant = await _create(stack, "visitorChallenges.create", {"path": path, "body": body})
    return path | {"visitorChallengeId": participant["visitorChallengeId"]}


async def _create(stack: Stack, operation: str, parts: dict[str, Any]) -> dict[str, Any]:
    value = (await stack.result(operation, await stack.send(operation, parts))).value
    assert value["status"] == 201, value
    entity: dict[str, Any] = value["body"]["data"]
    return entity


async def test_a_refused_request_is_not_applied_when_it_is_redelivered(own_stack: Stack, worker: Process) -> None:
    """Refused are points below zero, a visit to a center that is created later, and a request whose handler has a
    bug."""
    path = await _participant(own_stack)
    person = (await populate(own_stack, Sent(), 1)).people[0]
    center = data.center()
    visit = {"path": {"visitType": "entry"}, "body": {"barcode": person.barcode, "pcCode": center["pcCode"]}}
    requests = {
        "minus": ("visitorChallenges.addPoints", {"path": path, "body": {"points": -50}}, 400),
        "plus": ("visitorChallenges.addPoints", {"path": path, "body": {"points": 1_000}}, 204),
        "early visit": ("visits.create", visit, 400),
    }
    for request_id, (operation, parts, status) in requests.items():
        await own_stack.send(operation, parts, request_id=request_id, partition=0)
        assert (await own_stack.result(operation, request_id)).value["status"] == status
    headers = RequestHeaders("bug", "visits.fragile", "gateway/test", JSON)
    await own_stack.raw(VISITS, json.dumps({"body": {"value": 0}}).encode(), headers.encode(), partition=0)
    assert (await own_stack.result("visits.create", "bug")).value["status"] == 500
    await _create(own_stack, "centers.create", {"body": center})

    await _kill_and_redeliver(own_stack, worker, [names.requests("points"), VISITS])

    families = {"minus": "points", "plus": "points", "early visit": "visits", "bug": "visits"}
    for request_id, family in families.items():
        records = await _results(own_stack, family, request_id, 2)
        assert {record.raw for record in records} == {records[0].raw}, request_id
    rows = await own_stack.rows("select points from visitor_challenges")
    assert [row.points for row in rows] == [1_000]
    assert await own_stack.rows("select 1 from visits where pc_code = :code", code=center["pcCode"]) == []
    dead_letters = await own_stack.read(names.DEAD_LETTERS)
    assert len([record for record in dead_letters if record.headers.get("ce_id") == "bug"]) == 1


async def test_two_gateways_that_use_the_same_request_ids_lose_no_visit(own_stack: Stack, worker: Process) -> None:
    population = await populate(own_stack, Sent(), 1)
    visitor_id = population.people[0].visitor_id

    def visit(visit_type: str) -> dict[str, Any]:
        return {"path": {"visitType": visit_type}, "body": {"visitorId": visitor_id, "pcCode": population.pc_code}}

    requests = [
        ("gateway/north", "1", visit("entry")),
        ("gateway/south", "1", visit("entry")),  # the same content
        ("gateway/north", "2", visit("exit")),
        ("gateway/south", "2", visit("entry")),  # another content
        # Release 0.1.0 gave this id to a request without an id.
        ("gateway/south", f"{VISITS}:1:0", visit("entry")),
    ]
    for source, request_id, parts in requests:
        await own_stack.send("visits.create", parts, request_id=request_id, source=source, partition=1)
    identities = {(source, request_id) for source, request_id, _ in requests}
    await _assert_created(own_stack, identities, 1)

    await _kill_and_redeliver(own_stack, own_stack.processes[-1], [VISITS])
    await _assert_created(own_stack, identities, 2)
    rows = await own_stack.rows("select 1 from visits where visitor_id = :id", id=visitor_id)
    assert len(rows) == len(requests)


async def test_visits_without_an_id_are_all_stored_after_their_topic_was_deleted_and_created(
    own_stack: Stack, worker: Process
) -> None:
    population = await populate(own_stack, Sent(), 1)
    visitor_id = population.people[0].visitor_id
    own_stack.processes[-1].kill()
    for _ in range(2):
        await _recreate(own_stack, VISITS)
        parts = {"path": {"visitType": "entry"}, "body": {"visitorId": visitor_id, "pcCode": population.pc_code}}
        headers = RequestHeaders("", "visits.create", "gateway/old", JSON).encode()
        without_id = [(name, value) for name, value in headers if name != "ce_id"]
        old_count = await own_stack.count(names.results("visits"))
        for number in range(40):
            await own_stack.raw(VISITS, json.dumps(parts).encode(), without_id, partition=number % PARTITIONS)
        new_worker = own_stack.worker("tests.support.buggy", **SESSION)

        async def all_answered(old_count: int = old_count) -> bool:
            return await own_stack.count(names.results("visits")) >= old_count + 40

        await eventually("40 results", all_answered)
        new_worker.kill()
    rows = await own_stack.rows("select 1 from visits where visitor_id = :id", id=visitor_id)
    assert len(rows) == 80


async def _recreate(stack: Stack, topic: str) -> None:
    """Delete a topic and create it, so that it is empty and its offsets start at 0."""
    spec = next(spec for spec in CATALOGUE.topics(stack.kafka) if spec.name == topic)
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.servers.kafka)
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def created() -> bool:
            new = NewTopic(topic, spec.partitions, spec.replication, topic_configs=spec.config)
            answer = await admin.create_topics([new])
            return answer.topic_errors[0][1] == 0

        await eventually(f"a new {topic}", created)
    finally:
        await admin.close()

    async def empty() -> bool:
        return await stack.count(topic) == 0

    # Until the broker has dropped the old records, what is sent may be stored with them.
    await eventually(f"an empty {topic}", empty)
    # The producer's metadata is still that of the deleted topic.
    await stack.producer.client.force_metadata_update()


async def test_a_worker_does_not_start_if_kafka_keeps_requests_longer_than_the_inbox_keeps_answers(
    own_stack: Stack, worker: Process
) -> None:
    own_stack.processes[-1].kill()
    admin = AIOKafkaAdminClient(bootstrap_servers=own_stack.servers.kafka)
    await admin.start()
    week = {"retention.ms": str(7 * 86_400_000), "segment.ms": str(7 * 86_400_000), "max.compaction.lag.ms": "1000"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, VISITS, configs=week)])
    new_worker = own_stack.worker(**SESSION)

    async def logs_remedy() -> bool:
        return "visitor topics --alter" in new_worker.log.read_text()

    await eventually("a log line that says what to do", logs_remedy)
    assert not await new_worker.ready()

    command = await own_stack.command("topics", "--alter")
    assert (command.returncode, command.stdout) == (0, f"altered {VISITS}\n"), command.stderr
    await eventually("a ready worker", new_worker.ready)
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, VISITS)])
    config = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    await admin.close()
    assert config["segment.ms"] == str(86_400_000)
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert config["max.compaction.lag.ms"] == "1000", "the command has removed a setting of the operator"
