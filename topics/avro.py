"""Avro schemas from the models, and Confluent's wire format: a zero byte, a 4-byte schema id, the Avro bytes.

Avro has no absent fields, so in Avro null means "left out". A PATCH body therefore has one more field, `clear`: the
names of the fields to set to null.
"""

import io
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form
from pydantic import BaseModel, RootModel

from schemas.model import Model
from schemas.shapes import Shape, shape_of
from topics.envelope import InvalidMessage

CLEAR = "clear"
NAMESPACE = "visitor"
_HEADER = struct.Struct(">bI")
_PLAIN: dict[type, Any] = {
    str: "string",
    int: "long",
    bool: "boolean",
    datetime: {"type": "long", "logicalType": "timestamp-micros"},
    UUID: {"type": "string", "logicalType": "uuid"},
    Decimal: {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9},
}
Schema = dict[str, Any]


def record_of(model: type[BaseModel], *, sparse: frozenset[type] = frozenset(), known: set[str] | None = None) -> Any:
    """The Avro record of a model, or its name where `known` has it already. Fields of the models in `sparse` are all
    nullable, for replies of which the caller selects some fields."""
    known = set() if known is None else known
    if issubclass(model, RootModel):
        return _kind(shape_of(model.model_fields["root"].annotation), sparse, known)
    full_name = f"{NAMESPACE}.{model.__name__}"
    if full_name in known:
        return full_name
    known.add(full_name)
    fields = []
    for name, field in model.model_fields.items():
        shape = shape_of(field.annotation)
        kind = _kind(shape, sparse, known)
        optional = model in sparse or shape.nullable or not field.is_required()
        fields.append(_field(field.serialization_alias or name, kind, optional))
    if issubclass(model, Model) and model.partial:
        fields.append({"name": CLEAR, "type": {"type": "array", "items": "string"}, "default": []})
    return {"type": "record", "name": model.__name__, "namespace": NAMESPACE, "fields": fields}


def array_of(items: Any) -> Schema:
    return {"type": "array", "items": items}


def _field(name: str, kind: Any, optional: bool) -> Schema:
    if optional:
        return {"name": name, "type": ["null", kind], "default": None}
    return {"name": name, "type": kind}


def _kind(shape: Shape, sparse: frozenset[type], known: set[str]) -> Any:
    if shape.base is list and shape.items:
        return array_of(_kind(shape.items, sparse, known))
    if shape.base is dict and shape.items:
        return {"type": "map", "values": _kind(shape.items, sparse, known)}
    if issubclass(shape.base, BaseModel):
        return record_of(shape.base, sparse=sparse, known=known)
    return _PLAIN[shape.base]


def request_schema(name: str, parts: Mapping[str, type[BaseModel]]) -> Schema:
    """A request: one record for each of its parts; a part that needs no field may be null."""
    known: set[str] = set()
    fields = [
        _field(part, record_of(model, known=known), not any(f.is_required() for f in model.model_fields.values()))
        for part, model in parts.items()
    ]
    return {"type": "record", "name": f"{name}Request", "namespace": NAMESPACE, "fields": fields}


def result_schema(name: str, body: Any, errors: type[BaseModel], known: set[str]) -> Schema:
    """A result: the status, and the reply or the errors or neither. `body` is the schema of the reply."""
    options = ["null", *([body] if body else []), record_of(errors, known=known)]
    fields = [{"name": "status", "type": "int"}, {"name": "body", "type": options, "default": None}]
    return {"type": "record", "name": f"{name}Result", "namespace": NAMESPACE, "fields": fields}


def schema_id(schema: Schema) -> int:
    """The id of a schema where no registry gives one: 31 bits of the SHA-256 of its canonical form."""
    digest = fingerprint(to_parsing_canonical_form(schema), "sha256")
    return int(digest[:8], 16) & 0x7FFFFFFF


class Codec:
    """Writes and reads values with the schemas that it was given; safe to share, does no I/O."""

    def __init__(self, schemas: Iterable[Schema]) -> None:
        self._parsed: dict[int, Any] = {}
        for schema in schemas:
            known = self._parsed.setdefault(schema_id(schema), fastavro.parse_schema(schema))
            if known["name"] != f"{NAMESPACE}.{schema['name']}":
                raise ValueError(f"the schemas {known['name']} and {schema['name']} have one fingerprint; rename one")

    def write(self, schema: int, value: Mapping[str, Any]) -> bytes:
        out = io.BytesIO()
        out.write(_HEADER.pack(0, schema))
        fastavro.schemaless_writer(out, self._parsed[schema], value)
        return out.getvalue()

    def read(self, value: bytes) -> tuple[int, Any]:
        """The schema id and the record. Raises InvalidMessage."""
        if len(value) < _HEADER.size or value[0] != 0:
            raise InvalidMessage(
                "not_avro", "The value is not in Confluent's wire format (zero byte, 4-byte schema id)."
            )
        _, schema = _HEADER.unpack_from(value)
        parsed = self._parsed.get(schema)
        if parsed is None:
            raise InvalidMessage("unknown_schema", f"No schema with the id {schema} is known here.")
        source = io.BytesIO(value)
        source.seek(_HEADER.size)
        try:
            record = fastavro.schemaless_reader(source, parsed, None)
        except (
            Exception
        ) as error:  # fastavro raises whatever its C code met: EOFError, IndexError, UnicodeDecodeError …
            raise InvalidMessage(
                "broken_avro", f"The value does not fit its schema ({type(error).__name__})."
            ) from error
        if source.tell() != len(value):
            raise InvalidMessage("broken_avro", "The value goes on after its record.")
        return schema, record


def absent_as_left_out(model: type[BaseModel], record: Any) -> Any:
    """An Avro record as equivalent JSON: nulls are left out, and fields that `clear` names are set to null. A required
    nullable field stays null."""
    if issubclass(model, RootModel):
        return _nested(shape_of(model.model_fields["root"].annotation), record)
    found = {}
    for name, shape in _wire_shapes(model).items():
        value = record.get(name)
        if value is not None:
            found[name] = _nested(shape, value)
        elif name in _required(model):
            found[name] = None
    return found | dict.fromkeys(record.get(CLEAR) or ())


@cache
def _wire_shapes(model: type[BaseModel]) -> dict[str, Shape]:
    return {field.serialization_alias or name: shape_of(field.annotation) for name, field in model.model_fields.items()}


@cache
def _required(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        field.serialization_alias or name for name, field in model.model_fields.items() if field.is_required()
    )


def _nested(shape: Shape, value: Any) -> Any:
    if shape.base is list and shape.items:
        return [_nested(shape.items, item) for item in value]
    if issubclass(shape.base, BaseModel):
        return absent_as_left_out(shape.base, value)
    return value


def native(model: type[BaseModel], record: Mapping[str, Any]) -> dict[str, Any]:
    """A record that was read from JSON, with times, UUIDs and decimals as Python has them."""
    return {name: _native(shape, record[name]) for name, shape in _wire_shapes(model).items() if name in record}


def _native(shape: Shape, value: Any) -> Any:
    if value is None:
        return None
    if shape.base is list and shape.items:
        return [_native(shape.items, item) for item in value]
    if issubclass(shape.base, BaseModel):
        return native(shape.base, value)
    if shape.base is datetime:
        return datetime.fromisoformat(value)
    return shape.base(value) if shape.base in (UUID, Decimal) else value
