"""A worker whose broker no longer has what the worker reads next."""

import asyncio
import random
import signal

from aiokafka import TopicPartition

from tests.support.load import Population, populate, visit
from tests.support.oracle import Sent
from tests.support.servers import KafkaAndPostgres
from tests.support.stack import PARTITIONS, Stack, eventually
from topics import names

TOPIC = names.requests("visits")
FROZEN_SECONDS = 5.0
LIVELOCK_SECONDS = 2.5
"""How often Faust looks at the position of each partition."""


async def test_a_worker_goes_on_after_unread_requests_were_deleted_while_it_was_frozen(own_stack: Stack) -> None:
    rng, sent = random.Random(9), Sent()
    worker = own_stack.worker("tests.support.slow")
    await eventually("a ready worker", worker.ready)
    population = await populate(own_stack, sent, 1)
    for partition in range(PARTITIONS):
        await own_stack.result("visits.create", await _ask(own_stack, rng, population, partition))

    worker.child.send_signal(signal.SIGSTOP)
    await asyncio.sleep(FROZEN_SECONDS / 2)  # until the broker has answered the fetch that was on its way
    for partition in range(PARTITIONS):
        for _ in range(partition + 2):
            await _ask(own_stack, rng, population, partition)
    await own_stack.delete_records(TOPIC)
    await asyncio.sleep(FROZEN_SECONDS / 2)
    worker.child.send_signal(signal.SIGCONT)

    for partition in range(PARTITIONS):
        await own_stack.result("visits.create", await _ask(own_stack, rng, population, partition))
    await asyncio.sleep(LIVELOCK_SECONDS)
    assert await worker.ready()

    async def committed() -> bool:
        return await own_stack.committed(TOPIC) == await own_stack.ends(TOPIC)

    await eventually("what was answered is committed in every partition", committed, 15)
    assert worker.terminate() == 0


async def test_requests_are_taken_in_after_a_broker_has_lost_those_before(
    kafka_and_postgres: KafkaAndPostgres, own_stack: Stack
) -> None:
    """Offsets begin again below what was read and committed, as after an unclean election of a leader."""
    kafka, _ = kafka_and_postgres
    partition = TopicPartition(TOPIC, 0)
    rng, sent = random.Random(9), Sent()
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    population = await populate(own_stack, sent, 1)
    for _ in range(3):
        await own_stack.result("visits.create", await _ask(own_stack, rng, population, 0))

    async def committed() -> bool:
        return (await own_stack.committed(TOPIC)).get(partition) == (await own_stack.ends(TOPIC))[partition]

    await eventually("all is committed", committed)
    await asyncio.to_thread(kafka.delete_log, partition)
    await asyncio.to_thread(kafka.kill)
    await asyncio.to_thread(kafka.start)

    for _ in range(2):
        await own_stack.result("visits.create", await _ask(own_stack, rng, population, 0))
    assert (await own_stack.ends(TOPIC))[partition] == 2
    await eventually("what was answered is committed", committed, 15)
    assert worker.terminate() == 0


async def _ask(stack: Stack, rng: random.Random, population: Population, partition: int) -> str:
    message = visit(rng, population)
    return await stack.send(message.operation, message.parts, partition=partition)
