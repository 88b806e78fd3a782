"""Prints the messages of a topic, each as one line of JSON."""

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NoReturn

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from runtime.command import print_json
from topics import json, patches, releases, snapshot
from topics.codec import UnknownSchema
from topics.content_types import format_of
from topics.envelope import InvalidMessage
from topics.fetch_limits import UnreadBatch
from topics.kafka import close_consumer, ended_tasks
from topics.schema_registry import RegistryUnavailable, SchemaRegistry
from topics.settings import KafkaSettings, SchemaRegistrySettings
from topics.supervision import run_together

CHECK_SECONDS = 5.0
"""Interval of the checks that the consumer still reads."""


async def follow(
    kafka: KafkaSettings,
    schema_registry: SchemaRegistrySettings,
    topic: str,
    *,
    from_beginning: bool,
    since: datetime | None,
) -> None:
    """Print messages until cancelled: those that arrive from now on, of the time `since` or later, or all. An outage of
    the broker does not end this. Raises KafkaError."""
    patches.apply()
    consumer = AIOKafkaConsumer(
        topic,
        **kafka.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest" if from_beginning else "latest",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        if since is not None:
            for partition, offset in (await snapshot.offsets_at(consumer, consumer.assignment(), since)).items():
                consumer.seek(partition, offset)
        async with opened_values(schema_registry) as values:
            await run_together({"messages": _print(values, consumer), "check": _check(consumer)})
    finally:
        await close_consumer(consumer)


async def print_all(
    kafka: KafkaSettings, schema_registry: SchemaRegistrySettings, topic: str, *, since: datetime | None
) -> None:
    """Print the messages that the topic has now, or those of the time `since` or later. Raises KafkaError."""
    patches.apply()
    async with opened_values(schema_registry) as values:
        await _print(values, snapshot.records(kafka, topic, since))


@asynccontextmanager
async def opened_values(schema_registry: SchemaRegistrySettings) -> AsyncIterator["Values"]:
    """Values with a client of the company's registry, if there is one."""
    registry = SchemaRegistry(schema_registry) if schema_registry.url else None
    try:
        yield Values(registry)
    finally:
        if registry is not None:
            await registry.close()


async def _print(values: "Values", records: AsyncIterable[Any]) -> None:
    async for record in records:
        print_json(await printable(values, record))
        sys.stdout.flush()


async def _check(consumer: AIOKafkaConsumer) -> NoReturn:
    """Raises KafkaError when the consumer has stopped reading."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if ended := ended_tasks(consumer):
            raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")


async def printable(values: "Values", record: Any) -> dict[str, Any]:
    """A record with its decoded value, as it is printed. `json.write` accepts it, whatever others wrote."""
    headers = {name: None if value is None else value.decode(errors="replace") for name, value in record.headers}
    return {
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode(errors="replace") if record.key else None,
        "headers": headers,
        "value": json.printable(await values.read(headers.get("content-type"), record.value)),
    }


def _text(value: bytes) -> dict[str, str]:
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {}


class Values:
    """Decodes values with the schemas of this release, of earlier ones, and of the company's registry."""

    def __init__(self, registry: SchemaRegistry | None) -> None:
        self._registry = registry
        self._wire = Wire(CATALOGUE)
        for released in releases.released():
            self._wire.codec.add(released.id, released.schema)

    async def read(self, content_type: str | None, value: bytes | None) -> Any:
        if value is None:
            return None
        if isinstance(value, UnreadBatch):
            return {"unreadable": str(value.reason)}
        try:
            return await self._read(format_of(content_type, value), value)
        except (InvalidMessage, RegistryUnavailable, ValueError) as error:
            return {"unreadable": str(error), "bytes": len(value), **_text(value)}

    async def _read(self, content_type: str, value: bytes) -> Any:
        try:
            return self._wire.read(content_type, value)
        except UnknownSchema as unknown:
            schema = await self._registry.schema(unknown.id) if self._registry else None
            if schema is None:
                raise
            try:
                self._wire.codec.add(unknown.id, schema)
            except ValueError as error:
                raise InvalidMessage("wrong_schema", str(error)) from error
            return self._wire.read(content_type, value)
