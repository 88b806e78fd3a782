"""Reading a topic as a person: every message a line of JSON."""

import sys
from typing import Any

from aiokafka import AIOKafkaConsumer

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from topics import json
from topics.envelope import AVRO, InvalidMessage
from topics.kafka import KafkaSettings


async def follow(kafka: KafkaSettings, topic: str, *, from_beginning: bool) -> None:
    """Prints until it is cancelled."""
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
        async for record in consumer:
            sys.stdout.write(json.write(_line(wire, record)).decode() + "\n")
            sys.stdout.flush()
    finally:
        await consumer.stop()


def _line(wire: Wire, record: Any) -> dict[str, Any]:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return {
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode(errors="replace") if record.key else None,
        "id": headers.get("ce_id"),
        "type": headers.get("ce_type"),
        "value": _value(wire, headers.get("content-type", AVRO), record.value),
    }


def _value(wire: Wire, content_type: str, value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return wire.read(content_type, value)
    except InvalidMessage as error:
        return {"unreadable": str(error), "bytes": len(value)}
