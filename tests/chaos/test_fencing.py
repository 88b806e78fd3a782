"""A publisher that has lost its topic cannot write to it, and another publisher takes over."""

import asyncio
import random
import signal
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
from topics.kafka import DeliveryError, FencedProducer, Outgoing
from topics.settings import KafkaSettings

TOPIC = names.changes("visitors", "visitor")
FAMILIES = ("visits", "visitors", "parking", "centers")
QUICK = {"VISITOR_WORKER_SESSION_SECONDS": "1.5"}


async def _started(stack: Stack) -> Process:
    worker = stack.worker(**QUICK)
    await eventually("a ready worker", worker.ready)
    return worker


async def _stopped(worker: Process) -> bool:
    return psutil.Process(worker.child.pid).status() == psutil.STATUS_STOPPED


async def _move(stack: Stack, visitor_id: str, city: str) -> str:
    parts = {"path": {"visitorId": visitor_id}, "body": {"addressCity": city}}
    return await stack.send("visitors.update", parts, key=visitor_id)


async def _moved(stack: Stack, city: str) -> Record:
    """The change to that city, once it is published."""
    return await stack.await_record(
        TOPIC, lambda record: record.value is not None and (record.value["after"] or {}).get("addressCity") == city
    )


@asynccontextmanager
async def _consumer(stack: Stack, isolation_level: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all partitions of the topic."""
    consumer = AIOKafkaConsumer(
        **stack.kafka.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation_level,
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    consumer.assign([TopicPartition(TOPIC, number) for number in range(PARTITIONS)])
    yield consumer
    await consumer.stop()


async def _written(stack: Stack, key: str) -> list[Record]:
    """All records of a key, including those of open and aborted transactions."""
    records: list[Record] = []
    async with _consumer(stack, "read_uncommitted") as consumer:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                records += [decode(record) for record in batch]
    return [record for record in records if record.key == key]


async def test_changes_of_two_workers_in_turn_are_published_in_order(own_stack: Stack) -> None:
    workers = await asyncio.gather(_started(own_stack), _started(own_stack))
    sent, rng, owners = Sent(), random.Random(5), set()
    population = await populate(own_stack, sent, 3)
    visitor_id = population.people[0].visitor_id
    async with _consumer(own_stack, "read_committed") as changes:
        for number in range(3 * PARTITIONS):
            parts = {"path": {"visitorId": visitor_id}, "body": {"addressCity": f"Turn {number}"}}
            request = await own_stack.send("visitors.update", parts, partition=number % PARTITIONS)
            sent.note(request, "visitors.update")
            await own_stack.result("visitors.update", request)
            while decode(await changes.getone()).value["causedBy"] != request:
                pass
            owners |= {
                row.owner for row in await own_stack.rows("select owner from publishers where topic = :t", t=TOPIC)
            }
    assert len(owners) == len(workers)

    for _ in range(10):
        await send_all(own_stack, sent, rng, [visit(rng, population) for _ in range(40)])
        await send_all(own_stack, sent, rng, [update(rng, population) for _ in range(40)])
    await eventually("a result for every request", lambda: oracle.all_answered(own_stack, sent, FAMILIES), 120)
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    await oracle.verify(own_stack, sent, FAMILIES)
    assert [worker.terminate() for worker in workers] == [0, 0]


async def test_a_fenced_publisher_takes_over_again_and_aborts_the_transaction_that_another_left_open(
    own_stack: Stack,
) -> None:
    worker = await _started(own_stack)
    visitor_id = (await populate(own_stack, Sent(), 1)).people[0].visitor_id
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    transactional_id = names.transactional_id(WorkerSettings().group, TOPIC)
    other = AIOKafkaProducer(bootstrap_servers=own_stack.servers.kafka, transactional_id=transactional_id)
    await other.start()
    await other.begin_transaction()
    await other.send_and_wait(TOPIC, None, key=visitor_id.encode(), partition=0)

    await _move(own_stack, visitor_id, "Fenced")
    await _moved(own_stack, "Fenced")
    with pytest.raises(ProducerFenced):
        await other.commit_transaction()
    await other.stop()
    values = [record.value for record in await own_stack.read(TOPIC) if record.key == visitor_id]
    assert None not in values
    assert "ProducerFenced" in worker.log.read_text()
    assert worker.terminate() == 0


@pytest.mark.parametrize("frozen_before", ["InitProducerIdRequest", "ProduceRequest", "EndTxnRequest"])
async def test_a_frozen_publisher_does_not_bring_an_erased_visitor_back(own_stack: Stack, frozen_before: str) -> None:
    second = await _started(own_stack)
    erased, other = (await populate(own_stack, Sent(), 2)).people
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    second.terminate()

    for number in range(3):
        await _move(own_stack, erased.visitor_id, f"{frozen_before} {number}")
    frozen = own_stack.worker("tests.support.freezing", FREEZE_BEFORE=frozen_before, FREEZE_TOPIC=TOPIC, **QUICK)
    await eventually("a worker frozen while it publishes", lambda: _stopped(frozen))

    second = await _started(own_stack)
    analytics = "select external_id from external_ids where visitor_id = :id and external_type = 'analytics'"
    analytics_id = (await own_stack.rows(analytics, id=erased.visitor_id))[0].external_id
    request = await own_stack.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics_id}]})
    assert (await own_stack.result("visitors.eraseByAnalyticsId", request)).value["status"] == 200
    key = erased.visitor_id
    tombstone = await own_stack.await_record(TOPIC, lambda record: record.key == key and record.value is None)

    frozen.child.send_signal(signal.SIGCONT)
    await eventually("ready again", frozen.ready)
    await _move(own_stack, other.visitor_id, f"{frozen_before} both")
    await _moved(own_stack, f"{frozen_before} both")
    second.terminate()
    await _move(own_stack, other.visitor_id, f"{frozen_before} alone")
    # The thawed worker has finished what it was frozen in, and publishes.
    await _moved(own_stack, f"{frozen_before} alone")

    assert (await _written(own_stack, key))[-1].position == tombstone.position
    records = [record for record in await own_stack.read(TOPIC) if record.key == other.visitor_id]
    revisions = [record.value["revision"] for record in records]
    assert revisions == sorted(revisions)
    await eventually("all changes published", lambda: outbox_empty(own_stack))
    assert frozen.terminate() == 0


GUARDED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "transactional.id.expiration.ms": "1000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "100",
}
"""The configuration of a broker that checks ACLs and forgets an unused transactional id after a second."""


@pytest.fixture
def guarded(choice: Choice, tmp_path: Path) -> Iterator[Kafka]:
    with own_kafka(choice, tmp_path, GUARDED) as kafka:
        yield kafka


ALLOW_ONLY_SOMEBODY = CreateAclsRequest(
    5, "visitor-worker.", 4, "User:somebody", "*", 4, 3  # TransactionalId, prefixed, Write, Allow
)  # fmt: skip


async def test_a_publisher_survives_a_forgotten_transactional_id_and_names_one_that_it_may_not_use(
    guarded: Kafka,
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=guarded.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    producer = FencedProducer(KafkaSettings(bootstrap=guarded.bootstrap), f"visitor-worker.{TOPIC}")
    outgoing = Outgoing(TOPIC, b"x", b"k", [], partition_key=b"k")

    async def sent() -> bool:
        try:
            await producer.take_over()
            await producer.send([outgoing])
        except DeliveryError:  # A slow broker has forgotten the id between the two.
            return False
        return True

    await eventually("a change that is sent", sent)

    async def forgotten() -> bool:
        await asyncio.sleep(1.5)  # the broker keeps it for a second after each use
        try:
            await producer.send([outgoing])
        except DeliveryError:
            return True
        return False

    await eventually("a forgotten transactional id", forgotten)
    assert not producer.usable
    await eventually("a change that is sent under the forgotten id", sent)

    await admin._client.send(admin._client.get_random_node(), ALLOW_ONLY_SOMEBODY)

    async def refused() -> str:
        try:
            await producer.take_over()
        except DeliveryError as error:
            return str(error)
        return ""

    message = await eventually("a refusal", refused)
    assert message == f"transactional id visitor-worker.{TOPIC}: this user needs an ACL that allows Write on it"
    await admin.close()
