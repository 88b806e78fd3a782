"""Topics that are missing or forbidden: only what belongs to them waits, and the log names them."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from aiokafka import TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.support import data, metrics
from tests.support.servers import Choice, KafkaAndPostgres, own_servers
from tests.support.stack import Process, Stack, eventually
from topics import names

AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
MISSING = names.changes("visitors", "visitor")
FORBIDDEN = names.changes("centers", "center")
FORBIDDEN_RESULTS = names.results("points")
REQUESTS = names.requests("centers")
HEALTHY = names.changes("optins", "legalText")
FIRST = TopicPartition(REQUESTS, 0)
SCRAPES = 50
SECONDS = 4
"""In which a change of a healthy topic is published, and a result of a healthy family."""


@pytest.fixture(scope="module")
def kafka_and_postgres(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAndPostgres]:
    with own_servers(choice, tmp_path_factory.mktemp("servers"), AUTHORIZER) as servers:
        yield servers


def _forbid(
    stack: Stack, operation: AclOperation, *names_of_resources: str, kind: ResourceType = ResourceType.TOPIC
) -> None:
    def acl(name: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
        return AclBinding(kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission)

    denied = [acl(name, operation, AclPermissionType.DENY) for name in names_of_resources]
    allowed = [acl(name, AclOperation.ALL, AclPermissionType.ALLOW) for name in names_of_resources]
    client = AdminClient({"bootstrap.servers": stack.servers.kafka})
    for created in client.create_acls(denied + allowed).values():
        created.result(30)


def _allow_everything(stack: Stack) -> None:
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    client = AdminClient({"bootstrap.servers": stack.servers.kafka})
    for deleted in client.delete_acls([everything]).values():
        deleted.result(30)


async def _seconds_to_publish(stack: Stack, number: int) -> float:
    """From the request to its change, by the clock of the broker."""
    body = {"type": "terms", "releaseDate": f"{2000 + number}-01-01T00:00:00Z"}
    request_id = await stack.send("legalTexts.create", {"body": body}, partition=0)
    request = await stack.await_record(names.requests("optins"), lambda record: record.id == request_id)
    change = await stack.await_record(HEALTHY, lambda record: record.value["causedBy"] == request_id)
    return (change.timestamp - request.timestamp) / 1000


def _errors(worker: Process) -> set[str]:
    lines = (json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{"))
    return {line["error"] for line in lines if line["event"] == "retrying"}


async def test_topics_that_are_missing_or_forbidden_delay_no_others_and_are_named(own_stack: Stack) -> None:
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    await own_stack.delete_topics(MISSING)
    _forbid(own_stack, AclOperation.WRITE, FORBIDDEN, FORBIDDEN_RESULTS)
    center = data.center()
    await own_stack.result("centers.create", await own_stack.send("centers.create", {"body": center}, partition=0))
    visitor = {"body": data.visitor(center["pcCode"])}
    await own_stack.result("visitors.create", await own_stack.send("visitors.create", visitor, partition=0))
    challenge = await own_stack.send("challenges.create", {"body": data.challenge(center["pcCode"])}, partition=0)

    assert max([await _seconds_to_publish(own_stack, number) for number in range(8)]) < SECONDS

    async def named() -> bool:
        return {
            f"TopicUnavailable: topic {MISSING} does not exist: run `visitor topics`",
            f"TopicUnavailable: topic {FORBIDDEN}: this user needs an ACL that allows Write on it",
            f"TopicUnavailable: topic {FORBIDDEN_RESULTS}: this user needs an ACL that allows Write on it",
        } <= _errors(worker)

    await eventually("log lines that name the topics", named, 30)
    states = {MISSING: 1, FORBIDDEN: 1, HEALTHY: 0}

    async def failing() -> bool:
        scraped = await metrics.scrape(worker)
        state = {"visitor_publisher_state": "failing"}
        return states == {topic: scraped.value("visitor_publisher_state", topic=topic, **state) for topic in states}

    await eventually("two publishers that fail", failing)
    # Also while they try again.
    assert [await failing() for _ in range(SCRAPES)] == [True] * SCRAPES
    scraped = await metrics.scrape(worker)
    for topic, is_failing in states.items():
        assert (scraped.value("visitor_retries_total", part=f"{topic} publisher") > 0) == is_failing
    assert scraped.value("visitor_retries_total", part=f"{names.requests('points')}:0") > 0
    assert scraped.value("visitor_retries_total", part=f"{REQUESTS}:0") == 0
    _allow_everything(own_stack)
    command = await own_stack.command("topics")
    assert f"created {MISSING}\n" in command.stdout
    assert "visitor republish --restart visitor\n" in command.stdout
    await own_stack.result("challenges.create", challenge)
    for topic in (MISSING, FORBIDDEN):
        await own_stack.await_record(topic, lambda record: record.value is not None)
    await eventually("a ready worker", worker.ready)
    assert worker.terminate() == 0


async def _create_center(stack: Stack) -> str:
    return await stack.send("centers.create", {"body": data.center()}, partition=0)


async def test_requests_that_may_not_be_read_any_more_stop_no_others(own_stack: Stack) -> None:
    """Neither does the offset of the last one, which may not be committed. It is committed later."""
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    # A result is published up to a second before the offset of its request is committed.
    await own_stack.result("centers.create", await _create_center(own_stack))
    _forbid(own_stack, AclOperation.READ, REQUESTS)

    async def is_named() -> bool:
        return (await worker.reasons()).get("read access") == f"allow Read on: topic {REQUESTS}"

    await eventually("a worker that names the topic", is_named)
    await _seconds_to_publish(own_stack, 10)
    consumed = await own_stack.command("consume", REQUESTS, "--to-end")
    assert (consumed.returncode, "or this user may not" in consumed.stderr) == (2, True), consumed.stderr
    examined = json.loads((await own_stack.command("doctor", "--json")).stdout)["checks"]
    failed = {each["check"]: each["message"] + each["advice"] for each in examined if each["state"] == "failed"}
    assert {check for check, text in failed.items() if "visitor acls" not in text} == set(), failed
    assert {"kafka rights", "lag"} <= failed.keys()
    _allow_everything(own_stack)

    async def is_committed() -> bool:
        return (await own_stack.committed(REQUESTS)).get(FIRST) == (await own_stack.ends(REQUESTS))[FIRST]

    await eventually("the offset is committed", is_committed)
    await own_stack.result("centers.create", await _create_center(own_stack))
    await eventually("a ready worker", worker.ready)
    assert worker.terminate() == 0


async def test_a_worker_starts_without_requests_that_it_may_not_see_or_read(own_stack: Stack) -> None:
    unread = names.requests("articles")
    _forbid(own_stack, AclOperation.DESCRIBE, REQUESTS)
    _forbid(own_stack, AclOperation.READ, unread)
    worker = own_stack.worker()

    async def are_named() -> bool:
        reasons = await worker.reasons()
        missing, forbidden = reasons.get("topics"), reasons.get("read access")
        return missing == f"run `visitor topics`; missing: {REQUESTS}" and forbidden == f"allow Read on: topic {unread}"

    await eventually("a worker that names both topics", are_named)
    await _seconds_to_publish(own_stack, 11)
    _allow_everything(own_stack)
    await own_stack.result("centers.create", await _create_center(own_stack))
    await eventually("a ready worker", worker.ready)
    assert worker.terminate() == 0


async def test_an_edge_that_may_not_read_replies_says_so_and_goes_on_when_it_may(own_stack: Stack) -> None:
    worker = own_stack.worker()
    edge, url = own_stack.edge()
    for process in (worker, edge):
        await eventually("a ready process", process.ready)
    hint = f"topic {names.REPLIES}: this user needs an ACL that allows Describe and Read on it"
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def status() -> int:
            return (await client.get("/centers")).status_code

        async def is_refused() -> bool:
            return await status() == 503

        async def is_answered() -> bool:
            return await status() == 200

        for operation in (AclOperation.READ, AclOperation.DESCRIBE):
            position = len(edge.log.read_text())
            _forbid(own_stack, operation, names.REPLIES)
            await eventually("a refused call", is_refused)
            await eventually("a log line that names the topic", partial(_logs, edge, position, hint))
            seconds, lines = 2, len(edge.log.read_text().splitlines())
            await asyncio.sleep(seconds)
            assert len(edge.log.read_text().splitlines()) - lines < 30 * seconds
            _allow_everything(own_stack)
            await eventually("an answer", is_answered, 25)
    edge.kill()
    assert worker.terminate() == 0


async def _logs(process: Process, position: int, text: str) -> bool:
    """True if the process has logged a text after this position of its log."""
    return text in process.log.read_text()[position:]


async def test_a_group_that_may_not_be_read_stops_no_other(own_stack: Stack) -> None:
    """Neither in a worker that runs, nor in one that starts."""
    group = names.consumer_group("visitor-worker", "queries")
    workers = [own_stack.worker()]
    await eventually("a ready worker", workers[0].ready)
    _forbid(own_stack, AclOperation.READ, group, kind=ResourceType.GROUP)
    workers.append(own_stack.worker())

    async def all_name_it() -> bool:
        reasons = [(await worker.reasons()).get("read access") for worker in workers]
        return reasons == 2 * [f"allow Read on: group {group}"]

    await eventually("workers that name the group", all_name_it)
    waiting = await own_stack.send("centers.list", {}, partition=0)
    await own_stack.result("centers.create", await _create_center(own_stack))
    _allow_everything(own_stack)
    await own_stack.result("centers.list", waiting)
    for worker in workers:
        await eventually("a ready worker", worker.ready)
        assert worker.terminate() == 0
