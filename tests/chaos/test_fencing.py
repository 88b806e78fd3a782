"""A publisher that was replaced writes no more changes, and another publisher continues."""

import asyncio
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import ProducerFenced
from aiokafka.protocol.admin import CreateAclsRequest

from runtime.settings import WorkerSettings
from tests.support import oracle
from tests.support.load import populate, send_all, update, visit
from tests.support.oracle import Sent, outbox_empty
from tests.support.servers import Choice, Kafka, own_kafka
from tests.support.stack import PARTITIONS, Process, Record, Stack, decode, eventually
from topics import names
from topics.kafka import DeliveryError, FencedProducer, KafkaSettings, Outgoing

TOPIC = names.changes("visitors")
FAMILIES = ("visits", "visitors", "parking", "centers")
QUICK = {"VISITOR_WORKER_SESSION_SECONDS": "1.5"}


async def _ready_worker(stack: Stack) -> Process:
    worker = stack.worker(**QUICK)
    await eventually("a ready worker", worker.ready)
    return worker


async def _is_frozen(worker: Process) -> bool:
    return psutil.Process(worker.child.pid).status() == psutil.STATUS_STOPPED


async def _update_city(stack: Stack, visitor_id: str, city: str) -> None:
    parts = {"path": {"visitorId": visitor_id}, "body": {"addressCity": city}}
    await stack.send("visitors.update", parts, key=visitor_id)


async def _await_change(stack: Stack, city: str) -> None:
    """Wait for the change of a visitor to this city."""

    def has_city(record: Record) -> bool:
        return record.value is not None and (record.value["after"] or {}).get("addressCity") == city

    await stack.await_record(TOPIC, has_city)


@asynccontextmanager
async def _new_changes(stack: Stack) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of the changes that are committed from now on."""
    consumer = AIOKafkaConsumer(
        **stack.kafka.client(), enable_auto_commit=False, isolation_level="read_committed", fetch_max_wait_ms=50
    )
    await consumer.start()
    partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)  # waits until the end offset is known
    yield consumer
    await consumer.stop()


async def test_two_workers_that_change_one_visitor_in_turn_publish_quickly_and_in_order(own_stack: Stack) -> None:
    workers = await asyncio.gather(_ready_worker(own_stack), _ready_worker(own_stack))
    sent, rng, seconds, owners = Sent(), random.Random(5), [], set()
    population = await populate(own_stack, sent, 3)
    visitor_id = population.people[0].visitor_id
    async with _new_changes(own_stack) as changes:
        for number in range(3 * PARTITIONS):
            parts = {"path": {"visitorId": visitor_id}, "body": {"addressCity": f"Turn {number}"}}
            request = await own_stack.send("visitors.update", parts, partition=number % PARTITIONS)
            sent.note(request, "visitors.update")
            await own_stack.result("visitors.update", request)
            began = time.monotonic()
            while decode(await changes.getone()).value["causedBy"] != request:
                pass
            seconds.append(time.monotonic() - began)
            rows = await own_stack.rows("select owner from publishers where topic = :topic", topic=TOPIC)
            owners |= {row.owner for row in rows}
    assert len(owners) == len(workers)
    assert statistics.median(seconds) < 0.5, seconds

    for _ in range(10):
        await send_all(own_stack, sent, rng, [visit(rng, population) for _ in range(40)])
        await send_all(own_stack, sent, rng, [update(rng, population) for _ in range(40)])
    await eventually("a result for every request", lambda: oracle.all_answered(own_stack, sent, FAMILIES), 120)
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    await oracle.verify(own_stack, sent, FAMILIES)
    assert [worker.terminate() for worker in workers] == [0, 0]


async def test_a_fenced_publisher_takes_over_again_and_aborts_the_open_transaction_of_the_other(
    own_stack: Stack,
) -> None:
    worker = await _ready_worker(own_stack)
    visitor_id = (await populate(own_stack, Sent(), 1)).people[0].visitor_id
    transactional_id = names.transactional_id(WorkerSettings().group, TOPIC)
    other = AIOKafkaProducer(bootstrap_servers=own_stack.servers.kafka, transactional_id=transactional_id)
    await other.start()
    await other.begin_transaction()
    await other.send_and_wait(TOPIC, None, key=f"visitor:{visitor_id}".encode(), partition=0)

    await _update_city(own_stack, visitor_id, "Fenced")
    await _await_change(own_stack, "Fenced")
    with pytest.raises(ProducerFenced):
        await other.commit_transaction()
    await other.stop()
    values = [record.value for record in await own_stack.read(TOPIC) if record.key == f"visitor:{visitor_id}"]
    assert None not in values
    assert "ProducerFenced" in worker.log.read_text()
    assert worker.terminate() == 0


@pytest.mark.parametrize("request_type", ["InitProducerIdRequest", "ProduceRequest", "EndTxnRequest"])
async def test_a_publisher_that_was_frozen_does_not_publish_an_erased_visitor(
    own_stack: Stack, request_type: str
) -> None:
    first_worker = await _ready_worker(own_stack)
    erased, other = (await populate(own_stack, Sent(), 2)).people
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    first_worker.terminate()

    for number in range(3):
        await _update_city(own_stack, erased.visitor_id, f"{request_type} {number}")
    frozen = own_stack.worker("tests.support.freezing", FREEZE_BEFORE=request_type, FREEZE_TOPIC=TOPIC, **QUICK)
    await eventually("a worker frozen while it publishes", lambda: _is_frozen(frozen))

    second_worker = await _ready_worker(own_stack)
    statement = "select external_id from external_ids where visitor_id = :id and external_type = 'analytics'"
    analytics_id = (await own_stack.rows(statement, id=erased.visitor_id))[0].external_id
    request = await own_stack.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics_id}]})
    assert (await own_stack.result("visitors.eraseByAnalyticsId", request)).value["status"] == 200
    key = f"visitor:{erased.visitor_id}"
    tombstone = await own_stack.await_record(TOPIC, lambda record: record.key == key and record.value is None)

    frozen.child.send_signal(signal.SIGCONT)
    await eventually("the frozen worker is ready again", frozen.ready)
    await _update_city(own_stack, other.visitor_id, "both")
    await _await_change(own_stack, "both")
    second_worker.terminate()
    # Now only the formerly frozen worker can publish.
    await _update_city(own_stack, other.visitor_id, "alone")
    await _await_change(own_stack, "alone")

    records = await own_stack.read(TOPIC)
    assert [record for record in records if record.key == key][-1].position == tombstone.position
    revisions = [record.value["revision"] for record in records if record.key == f"visitor:{other.visitor_id}"]
    assert revisions == sorted(revisions)
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    assert frozen.terminate() == 0


WITH_ACLS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "transactional.id.expiration.ms": "1000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "100",
}
"""Settings of a broker that checks ACLs, and that forgets a transactional id after a second."""


@pytest.fixture
def kafka_with_acls(choice: Choice, tmp_path: Path) -> Iterator[Kafka]:
    with own_kafka(choice, tmp_path, WITH_ACLS) as kafka:
        yield kafka


ALLOW_ANOTHER_USER = CreateAclsRequest(
    5, "visitor-worker.", 4, "User:somebody", "*", 4, 3  # TransactionalId, prefixed, Write, Allow
)  # fmt: skip


async def test_a_publisher_survives_an_expired_transactional_id_and_without_an_acl_its_error_names_the_id(
    kafka_with_acls: Kafka,
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_with_acls.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    producer = FencedProducer(KafkaSettings(bootstrap=kafka_with_acls.bootstrap), f"visitor-worker.{TOPIC}")
    message = Outgoing(TOPIC, b"x", b"k", [], partition_key=b"k")
    await producer.take_over()
    await producer.send([message])

    async def has_expired() -> bool:
        await asyncio.sleep(1.5)  # each send keeps the id for another second
        try:
            await producer.send([message])
        except DeliveryError:
            return True
        return False

    await eventually("an expired transactional id", has_expired)
    assert not producer.usable
    await producer.take_over()
    await producer.send([message])

    await admin._client.send(admin._client.get_random_node(), ALLOW_ANOTHER_USER)

    async def error_text() -> str:
        try:
            await producer.take_over()
        except DeliveryError as error:
            return str(error)
        return ""

    error = await eventually("an error of the broker", error_text)
    assert error == f"transactional id visitor-worker.{TOPIC}: this user needs an ACL that allows Write on it"
    await admin.close()
