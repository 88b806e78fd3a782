"""Topics that are missing or forbidden: only what belongs to them waits, and the log names them."""

import json
import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.support import data
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
HEALTHY = names.changes("optins", "legalText")
SECONDS = 4
"""In which a change of a healthy topic is published, and a result of a healthy family."""


@pytest.fixture(scope="module")
def kafka_and_postgres(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAndPostgres]:
    with own_servers(choice, tmp_path_factory.mktemp("servers"), AUTHORIZER) as servers:
        yield servers


def _acl(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission
    )


def _forbid_writing(stack: Stack, *topics: str) -> None:
    denied = [_acl(topic, AclOperation.WRITE, AclPermissionType.DENY) for topic in topics]
    allowed = [_acl(topic, AclOperation.ALL, AclPermissionType.ALLOW) for topic in topics]
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
    started_at = time.monotonic()
    before = sum((await stack.ends(HEALTHY)).values())
    body = {"type": "terms", "releaseDate": f"{2000 + number}-01-01T00:00:00Z"}
    await stack.result("legalTexts.create", await stack.send("legalTexts.create", {"body": body}, partition=0))

    async def published() -> bool:
        return sum((await stack.ends(HEALTHY)).values()) > before

    await eventually("a change of the healthy topic", published)
    return time.monotonic() - started_at


def _errors(worker: Process) -> set[str]:
    lines = (json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{"))
    return {line["error"] for line in lines if line["event"] == "retrying"}


async def test_topics_that_are_missing_or_forbidden_delay_no_others_and_are_named(own_stack: Stack) -> None:
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    await own_stack.delete_topics(MISSING)
    _forbid_writing(own_stack, FORBIDDEN, FORBIDDEN_RESULTS)
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
    _allow_everything(own_stack)
    command = await own_stack.command("topics")
    assert f"created {MISSING}\n" in command.stdout
    assert "visitor republish --restart visitor\n" in command.stdout
    await own_stack.result("challenges.create", challenge)
    for topic in (MISSING, FORBIDDEN):
        await own_stack.await_record(topic, lambda record: record.value is not None)
    await eventually("a ready worker", worker.ready)
    assert worker.terminate() == 0
