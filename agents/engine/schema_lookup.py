"""Stores the schemas of this release and looks up those of others, so that every release can read every message."""

import asyncio
import json
import time
from collections.abc import Collection, Iterator

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.wire import Wire
from storage import schema_store
from topics import releases
from topics.avro import Schema, full_name, schema_id, schema_text
from topics.schema_registry import FULL_TRANSITIVE, SchemaRegistry

log = structlog.get_logger(__name__)

ABSENT_SECONDS = 5.0
"""How long an id counts as unknown after a lookup did not find it. Another worker may add its schema at any time."""
REGISTRATIONS = 8
"""How many schemas are registered at once."""


class SchemaLookup:
    """The schemas in the database, and in the company's registry if there is one. They are added to the codec of
    `wire`."""

    def __init__(self, wire: Wire, database: AsyncEngine, registry: SchemaRegistry | None) -> None:
        self._wire = wire
        self._database = database
        self._registry = registry
        self._absent_until: dict[int, float] = {}

    async def store(self) -> None:
        """Store the schemas of this release and of all earlier ones. Raises ValueError if another schema has an id of
        one of them."""
        async with self._database.begin() as conn:
            await schema_store.add(conn, list(self._entries()))

    def _entries(self) -> Iterator[schema_store.Entry]:
        for released in releases.released():
            yield _entry(released.id, released.schema)
        for _, schema in self._wire.topics_and_schemas():
            yield _entry(schema_id(schema), schema)

    async def register(self) -> None:
        """Register the schemas of this release in the company's registry, and use the ids that it assigns. Raises
        RegistryUnavailable."""
        if self._registry is None:
            return
        registry, slots = self._registry, asyncio.Semaphore(REGISTRATIONS)

        async def register(topic: str, schema: Schema, is_change: bool) -> None:
            subject = f"{topic}-{full_name(schema)}"
            async with slots:
                self._wire.codec.assign(schema_id(schema), await registry.register(subject, schema))
                if is_change:
                    await registry.require_compatibility(subject, FULL_TRANSITIVE)

        changes = {schema_id(schema) for schema in self._wire.changes.values()}
        await asyncio.gather(
            *(
                register(topic, schema, schema_id(schema) in changes)
                for topic, schema in self._wire.topics_and_schemas()
            )
        )

    async def add_to_codec(self, ids: Collection[int]) -> bool:
        """Look up schemas by the ids in values. Returns True if it found at least one. Raises RegistryUnavailable, and
        the transient errors of the database."""
        now = time.monotonic()
        self._absent_until = {each: until for each, until in self._absent_until.items() if until > now}
        missing = [each for each in ids if each not in self._absent_until]
        schemas = await self._look_up(missing) if missing else {}
        for each in missing:
            if each not in schemas or not self._add(each, schemas[each]):
                self._absent_until[each] = now + ABSENT_SECONDS
        return bool(schemas)

    def _add(self, id_in_values: int, schema: Schema) -> bool:
        try:
            self._wire.codec.add(id_in_values, schema)
        except ValueError as error:
            log.warning("schema_unusable", schema_id=id_in_values, reason=str(error))
            return False
        return True

    async def _look_up(self, ids: Collection[int]) -> dict[int, Schema]:
        async with self._database.connect() as conn:
            stored = await schema_store.find(conn, ids)
        schemas = {entry.id: json.loads(entry.schema) for entry in stored.values()}
        if self._registry is not None:
            for each in ids:
                if each not in schemas and (schema := await self._registry.schema(each)) is not None:
                    schemas[each] = schema
        return schemas


def _entry(id_in_values: int, schema: Schema) -> schema_store.Entry:
    return schema_store.Entry(id_in_values, full_name(schema), schema_text(schema))
