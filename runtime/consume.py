"""Prints the messages of a topic, each as one line of JSON."""

import asyncio
import sys
from typing import Any, NoReturn

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from topics import json, patches
from topics.content_types import format_of
from topics.envelope import InvalidMessage
from topics.kafka import KafkaSettings, close_consumer, ended_tasks
from topics.supervision import run_together

CHECK_SECONDS = 5.0
"""Interval of the checks that the consumer still reads."""


async def follow(kafka: KafkaSettings, topic: str, *, from_beginning: bool) -> None:
    """Print messages until cancelled. An outage of the broker does not end this. Raises KafkaError."""
    patches.apply()
    wire = Wire(CATALOGUE)
    consumer = AIOKafkaConsumer(
        topic,
        **kafka.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest" if from_beginning else "latest",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        await run_together({"messages": _print(wire, consumer), "check": _check(consumer)})
    finally:
        await close_consumer(consumer)


async def _print(wire: Wire, consumer: AIOKafkaConsumer) -> None:
    async for record in consumer:
        sys.stdout.write(json.write(_line(wire, record)).decode() + "\n")
        sys.stdout.flush()


async def _check(consumer: AIOKafkaConsumer) -> NoReturn:
    """Raises KafkaError when the consumer has stopped reading."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if ended := ended_tasks(consumer):
            raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")


def _line(wire: Wire, record: Any) -> dict[str, Any]:
    headers = {name: None if value is None else value.decode(errors="replace") for name, value in record.headers}
    return {
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode(errors="replace") if record.key else None,
        "headers": headers,
        "value": _value(wire, headers.get("content-type"), record.value),
    }


def _value(wire: Wire, content_type: str | None, value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return wire.read(format_of(content_type, value), value)
    except InvalidMessage as error:
        return {"unreadable": str(error), "bytes": len(value)}
