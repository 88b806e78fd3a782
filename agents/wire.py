"""The JSON and Avro encoding of the messages of each operation and of the changes of each table."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agents.answers import Answer
from agents.operation import Catalogue, Operation, pascal_case
from schemas.changes import Change
from schemas.faults import Errors, Invalid
from schemas.replies import Metadata
from storage.table import Table
from storage.tx import EntityChange
from topics import avro, json, names, releases
from topics.avro import Schema
from topics.codec import Codec
from topics.envelope import JSON, InvalidMessage


@dataclass(frozen=True)
class _SchemaIds:
    request: int
    result: int
    branch: str | None
    """The name of the reply's record in the union of the result's body. None for an array or an empty reply, which need
    no name."""


class Wire:
    """Decodes requests and encodes results and changes. A process creates one instance, at start."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.requests = {
            op.name: avro.request_schema(pascal_case(op.name), catalogue.family_of[op.name], op.request.parts())
            for op in catalogue.by_name.values()
        }
        self.results = {op.name: _result_schema(op) for op in catalogue.by_name.values()}
        self.changes = {table.resource: _change_schema(table) for table in catalogue.tables}
        self.codec = Codec([*self.requests.values(), *self.results.values(), *self.changes.values()])
        self._ids = {
            op.name: _SchemaIds(
                avro.schema_id(self.requests[op.name]), avro.schema_id(self.results[op.name]), _branch(op)
            )
            for op in catalogue.by_name.values()
        }
        self._row_names = {table.resource: f"{avro.NAMESPACE}.{table.row.__name__}" for table in catalogue.tables}
        self.change_ids = {resource: avro.schema_id(schema) for resource, schema in self.changes.items()}

    def topics_and_schemas(self) -> Iterator[tuple[str, Schema]]:
        """The schemas of all messages, each with the topic of its values."""
        for schemas in (self.requests, self.results, self.changes):
            for schema in schemas.values():
                yield self._catalogue.topic_of_record[schema["name"]], schema

    def write_schemas(self, folder: Path) -> None:
        """Write the schemas of all messages as files, in the layout that `topics.releases` describes."""
        schemas = {"requests": self.requests, "results": self.results, "changes": self.changes}
        ids = {name: {"request": ids.request, "result": ids.result} for name, ids in self._ids.items()}
        releases.write(folder, schemas, {**ids, "changes": self.change_ids})

    def read_request(self, operation: Operation, content_type: str, value: Any) -> dict[str, Any]:
        """The parts of a request as plain JSON data, also if the value is Avro. `value` is bytes, or JSON that was
        decoded with its envelope. Raises InvalidMessage."""
        if content_type == JSON:
            parsed = json.read(value) if isinstance(value, bytes) else value
            if not isinstance(parsed, dict):
                raise InvalidMessage("not_an_object", "The value is not a JSON object.")
            return parsed
        record = self.codec.read(value, reader=self._ids[operation.name].request)
        parts = operation.request.parts()
        return {
            part: avro.absent_as_left_out(parts[part], value) for part, value in record.items() if value is not None
        }

    def write_request(self, operation: Operation, content_type: str, parts: dict[str, Any]) -> bytes:
        if content_type == JSON:
            return json.write(parts)
        return self.codec.write(self._ids[operation.name].request, parts)

    def write_result(self, operation: Operation, content_type: str, answer: Answer) -> bytes:
        if content_type == JSON:
            return json.write_result(answer.status, answer.body)
        ids = self._ids[operation.name]
        body = answer.body
        if isinstance(body, dict) and answer.status >= 400:
            body = (f"{avro.NAMESPACE}.{Errors.__name__}", body)
        elif body is not None and ids.branch is not None:
            body = (ids.branch, body)
        return self.codec.write(ids.result, {"status": answer.status, "body": body})

    def bounded_result(self, operation: Operation, content_type: str, answer: Answer) -> bytes:
        """Like write_result. Raises Invalid if the result is larger than `names.REPLY_LIMIT`."""
        result = self.write_result(operation, content_type, answer)
        if len(result) > names.REPLY_LIMIT:
            raise too_large(operation)
        return result

    def native(self, operation: Operation, status: int, body: Any) -> Any:
        """A reply that was decoded from JSON, with its times, UUIDs and decimals converted to Python types."""
        if operation.item is None or status >= 400 or body is None:
            return body
        match operation.shape:
            case "object":
                return avro.native(operation.item, body)
            case "record":
                return body | {"data": avro.native(operation.item, body["data"])}
        return body

    def write_change(self, change: EntityChange, *, occurred_at: datetime, caused_by: str) -> bytes:
        """The fields are those of schemas.changes.Change."""
        record = {
            "resource": change.resource,
            "id": change.id,
            "revision": change.revision,
            "action": change.action,
            # As text: fastavro matches a text to the union faster than a UUID.
            "visitorId": change.visitor_id and str(change.visitor_id),
            "occurredAt": occurred_at,
            "causedBy": caused_by,
            # The record's name selects the branch of the union. Without it, fastavro would validate the whole record.
            "after": None if change.after is None else (self._row_names[change.resource], change.after.model_dump()),
        }
        return self.codec.write(self.change_ids[change.resource], record)

    def read(self, content_type: str, value: bytes) -> Any:
        """Decode a value of any schema that the codec knows, as it was written. Raises InvalidMessage."""
        return json.read(value) if content_type == JSON else self.codec.read(value)


def too_large(operation: Operation) -> Invalid:
    """The fault of a reply that is larger than `names.REPLY_LIMIT`."""
    if "limit" in operation.request.model_fields["query"].annotation.model_fields:  # type: ignore[union-attr]
        return Invalid("reply_too_large", "The reply is too large. Send a smaller limit.", field="limit")
    return Invalid("reply_too_large", f"The reply is larger than {names.REPLY_LIMIT >> 20} MiB.")


def _change_schema(table: Table[Any]) -> Schema:
    schema: Schema = avro.record_of(Change[table.row])  # type: ignore[name-defined]
    return schema


def _branch(operation: Operation) -> str | None:
    match operation.shape:
        case "empty" | "array":
            return None
        case "object":
            assert operation.item is not None
            namespace = avro.SELECTION if operation.is_query else avro.NAMESPACE
            return f"{namespace}.{operation.item.__name__}"
    return f"{avro.NAMESPACE}.{pascal_case(operation.name)}Reply"


def _result_schema(operation: Operation) -> Schema:
    defined: set[str] = set()
    return avro.result_schema(pascal_case(operation.name), _body_schema(operation, defined), Errors, defined)


def _body_schema(operation: Operation, defined: set[str]) -> Any:
    """The schema of a reply. A name in `defined` is referred to, not defined again; new names are added."""
    item = operation.item
    if item is None:
        return None
    sparse = frozenset([item]) if operation.is_query else frozenset()
    record = avro.record_of(item, sparse=sparse, defined=defined)
    match operation.shape:
        case "object":
            return record
        case "array":
            return avro.array_of(record)
    metadata = avro.record_of(Metadata, defined=defined)
    data = avro.array_of(record) if operation.shape == "page" else record
    fields = [{"name": "data", "type": data}, {"name": "metadata", "type": metadata}]
    return {
        "type": "record", "name": f"{pascal_case(operation.name)}Reply", "namespace": avro.NAMESPACE, "fields": fields,
    }  # fmt: skip
