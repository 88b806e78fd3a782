"""Stores the schemas of this release and looks up those of others, so that every release can read every message."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from typing import NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.wire import Wire
from storage import schema_store
from topics import releases
from topics.avro import LARGEST_ID, Schema, full_name, schema_id, schema_text
from topics.schema_registry import FULL_TRANSITIVE, RegistryUnavailable, SchemaRegistry, subject_of

log = structlog.get_logger(__name__)

ABSENT_SECONDS = 5.0
"""How long an id counts as unknown after a lookup did not find it. Another worker may add its schema at any time."""
REGISTRATIONS = 8
"""How many schemas are registered at once."""
LOOKUPS = 8
"""How many schemas are requested from the company's registry at once."""
LOOKUP_LIMIT = 32
"""How many schemas are requested for one batch. Each message of a batch of garbage may have another id."""
LOOKUP_SECONDS = 10.0
"""How long a batch waits for them."""


class Lookup(NamedTuple):
    """The ids whose schemas the codec has now, and those that were not looked up yet. All other ids are unknown."""

    resolved: Set[int]
    pending: Set[int]


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
            subject = subject_of(topic, schema)
            async with slots:
                self._wire.codec.assign(schema_id(schema), await registry.register(subject, schema))
                if is_change:
                    await registry.require_compatibility(subject, FULL_TRANSITIVE)

        changes = {schema_id(schema) for schema in self._wire.changes.values()}
        try:
            async with asyncio.TaskGroup() as group:  # The first failure ends the others.
                for topic, schema in self._wire.topics_and_schemas():
                    group.create_task(register(topic, schema, schema_id(schema) in changes))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def add_to_codec(self, ids: Iterable[int]) -> Lookup:
        """Look up schemas by the ids in values. If the registry has to be asked about many, it is asked about the first
        ones only; of these, at least the first one is not pending after that. Raises RegistryUnavailable, and the
        transient errors of the database."""
        now = time.monotonic()
        self._absent_until = {each: until for each, until in self._absent_until.items() if until > now}
        # A value has room for larger ids. The database and registries refuse them.
        missing = [each for each in ids if each <= LARGEST_ID and each not in self._absent_until]
        schemas = await self._look_up(missing) if missing else {}
        resolved = {each for each, schema in schemas.items() if schema is not None and self._add(each, schema)}
        self._absent_until |= dict.fromkeys(schemas.keys() - resolved, time.monotonic() + ABSENT_SECONDS)
        return Lookup(resolved, pending=set(missing) - schemas.keys())

    def _add(self, id_in_values: int, schema: Schema) -> bool:
        try:
            self._wire.codec.keep_while_used(id_in_values, schema)
        except ValueError as error:
            log.warning("schema_unusable", schema_id=id_in_values, reason=str(error))
            return False
        return True

    async def _look_up(self, ids: Sequence[int]) -> dict[int, Schema | None]:
        """The schemas by id; None for an id without a schema. Ids that were not looked up yet are left out."""
        async with self._database.connect() as conn:
            stored = await schema_store.find(conn, ids)
        schemas: dict[int, Schema | None] = {entry.id: json.loads(entry.schema) for entry in stored.values()}
        others = [each for each in ids if each not in schemas]
        if self._registry is None or not others:
            return schemas | dict.fromkeys(others)
        return schemas | await _request(self._registry, others[:LOOKUP_LIMIT])


async def _request(registry: SchemaRegistry, ids: Sequence[int]) -> dict[int, Schema | None]:
    """Request schemas from the registry, and return those that arrive in time. Raises RegistryUnavailable if the first
    one does not: its message would otherwise wait without a reason in the logs."""
    slots = asyncio.Semaphore(LOOKUPS)
    answers: dict[int, Schema | None] = {}
    failures: dict[int, RegistryUnavailable] = {}

    async def request(schema_id: int) -> None:
        async with slots:
            try:
                answers[schema_id] = await registry.schema(schema_id)
            except RegistryUnavailable as error:
                failures[schema_id] = error

    with suppress(TimeoutError):
        async with asyncio.timeout(LOOKUP_SECONDS), asyncio.TaskGroup() as group:
            for each in ids:
                group.create_task(request(each))
    first = ids[0]
    if first not in answers:
        late = RegistryUnavailable(f"schema registry: no schema {first} within {LOOKUP_SECONDS:.0f} s")
        raise failures.get(first, late)
    return answers


def _entry(id_in_values: int, schema: Schema) -> schema_store.Entry:
    return schema_store.Entry(id_in_values, full_name(schema), schema_text(schema))
