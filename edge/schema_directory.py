"""The stored Avro schemas by their ids and by the subjects of Confluent's naming strategies."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import fastavro

REFRESH_SECONDS = 1.0
"""How old the copy of the stored schemas may be. A lookup of an id that is in the copy needs no refresh, because the
schema of an id never changes."""

Schema = Any
ReadAfter = Callable[[int], Awaitable[list[dict[str, Any]]]]
"""Returns the next stored schemas after a position."""


class StoredSchema(NamedTuple):
    """A schema; `text` is its JSON."""

    id: int
    record_name: str
    text: str


class Version(NamedTuple):
    """A schema as a version of a subject. The versions of a subject count from 1."""

    subject: str
    number: int
    schema: StoredSchema


class SchemaDirectory:
    """A copy of the stored schemas, which are only ever added. A subject is one of

    - `<topic>-<full name of the record>` (Confluent's TopicRecordNameStrategy),
    - `<full name of the record>` (RecordNameStrategy),
    - `<topic>-value` (TopicNameStrategy). If a topic has records of several names, this subject has no versions, since
      they would not be versions of one schema, but a schema can be looked up under it.
    """

    def __init__(self, topic_of_record: Mapping[str, str], read_after: ReadAfter) -> None:
        self._topic_of_record = topic_of_record
        self._read_after = read_after
        self._by_id: dict[int, StoredSchema] = {}
        self._by_subject: dict[str, list[StoredSchema]] = defaultdict(list)
        self._position = 0
        self._read_at = -REFRESH_SECONDS
        self._reading: asyncio.Task[None] | None = None

    async def schema(self, schema_id: int) -> StoredSchema | None:
        if schema_id not in self._by_id:
            await self._refresh()
        return self._by_id.get(schema_id)

    async def subjects(self) -> list[str]:
        await self._refresh()
        return sorted(filter(self._has_one_record, self._by_subject))

    async def versions(self, subject: str) -> list[Version]:
        """The versions of a subject, the oldest first; none if the subject does not exist."""
        await self._refresh()
        return self._versions(subject) if self._has_one_record(subject) else []

    async def versions_of(self, schema_id: int) -> list[Version]:
        """The versions of all subjects that have this schema."""
        subjects = await self.subjects()
        return [each for subject in subjects for each in self._versions(subject) if each.schema.id == schema_id]

    async def version_of(self, subject: str, text: str) -> Version | None:
        """The newest version of the subject whose schema means the same as `text`: properties that Avro does not
        define, documentation and the order of the properties are ignored. Raises ValueError if `text` is no schema."""
        schema = normalize(text)
        await self._refresh()
        return next((each for each in reversed(self._versions(subject)) if normalize(each.schema.text) == schema), None)

    def _versions(self, subject: str) -> list[Version]:
        schemas = self._by_subject.get(subject, [])
        return [Version(subject, number, schema) for number, schema in enumerate(schemas, 1)]

    def _has_one_record(self, subject: str) -> bool:
        return len({schema.record_name for schema in self._by_subject.get(subject, [])}) == 1

    async def _refresh(self) -> None:
        """Read the schemas that are new. Calls that arrive meanwhile share the result: if each tried again after a
        failure, the last of 100 calls would wait for 100 timeouts. The first call may be cancelled."""
        if time.monotonic() - self._read_at < REFRESH_SECONDS:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        while page := await self._read_after(self._position):
            for row in page:
                self._add(StoredSchema(row["id"], row["recordName"], row["text"]))
            self._position = page[-1]["position"]
        self._read_at = time.monotonic()

    def _add(self, schema: StoredSchema) -> None:
        self._by_id[schema.id] = schema
        self._by_subject[schema.record_name].append(schema)
        topic = self._topic_of_record.get(schema.record_name.rpartition(".")[2])
        if topic is not None:
            self._by_subject[f"{topic}-{schema.record_name}"].append(schema)
            self._by_subject[f"{topic}-value"].append(schema)


_PROPERTIES = frozenset(
    ("type", "name", "fields", "items", "values", "symbols", "size", "default", "logicalType", "precision", "scale")
)


def normalize(text: str) -> Schema:
    """A schema in a form that is equal for schemas with the same meaning. Raises ValueError."""
    try:
        # Replaces names by full names. `_write_hint` is false, so that the schema stays plain data.
        return _plain(fastavro.parse_schema(json.loads(text), _write_hint=False))
    except Exception as error:  # Depending on the schema, fastavro raises KeyError, TypeError, OverflowError …
        raise ValueError(f"not an Avro schema: {error}") from error


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.keys() == {"type"} and isinstance(schema["type"], str):
        return schema["type"]
    return {
        name: value if name == "default" else _plain(value) for name, value in schema.items() if name in _PROPERTIES
    }
