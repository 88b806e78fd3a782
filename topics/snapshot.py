"""Reads what a topic has now."""

from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from topics.kafka import KafkaSettings, close_consumer, ended_tasks


async def records(settings: KafkaSettings, topic: str) -> AsyncIterator[Any]:
    """The records that a topic has now; those of one partition in order. Raises KafkaError."""
    consumer = AIOKafkaConsumer(
        topic,
        **settings.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while unfinished := [each for each, end in ends.items() if await consumer.position(each) < end]:
            batches = await consumer.getmany(*unfinished, timeout_ms=500)
            for partition, batch in batches.items():
                for record in batch:
                    if record.offset < ends[partition]:
                        yield record
            if ended := ended_tasks(consumer):
                raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")
    finally:
        await close_consumer(consumer)
