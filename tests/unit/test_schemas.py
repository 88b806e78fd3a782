"""The Avro schemas of this release, and those of earlier releases."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import fastavro
import fastavro.utils
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import make_avsc_object

import topics.codec
from agents.catalogue import CATALOGUE
from agents.engine.turns import BATCH_LIMIT
from agents.wire import Wire
from topics import avro, releases
from topics.codec import Codec, UnknownSchema
from topics.envelope import InvalidMessage
from topics.releases import ReleasedSchema

WIRE = Wire(CATALOGUE)
SCHEMAS = {"requests": WIRE.requests, "results": WIRE.results, "changes": WIRE.changes}
RELEASED = list(releases.released())


def _definitions(schema: Any) -> Iterator[tuple[str, str]]:
    """The full name and the text of each record that a schema defines. Records inside a definition are names."""
    if isinstance(schema, list):
        for option in schema:
            yield from _definitions(option)
    elif isinstance(schema, dict):
        for part in ("items", "values", "type"):
            yield from _definitions(schema.get(part))
        if schema["type"] == "record":
            for field in schema["fields"]:
                yield from _definitions(field["type"])
            yield avro.full_name(schema), json.dumps(_with_names(schema, outermost=True))


def _with_names(schema: Any, *, outermost: bool = False) -> Any:
    if isinstance(schema, list):
        return [_with_names(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "record" and not outermost:
        return avro.full_name(schema)
    return {name: _with_names(value) for name, value in schema.items()}


def test_every_full_name_has_one_definition() -> None:
    texts = defaultdict(set)
    for schemas in SCHEMAS.values():
        for schema in schemas.values():
            for name, text in _definitions(schema):
                texts[name].add(text)
    assert len(texts) > 600
    assert [name for name, definitions in texts.items() if len(definitions) > 1] == []


def test_release_0_1_0_has_the_schemas_of_all_operations_and_tables() -> None:
    counts: defaultdict[str, int] = defaultdict(int)
    for released in RELEASED:
        if released.version == "0.1.0":
            counts[released.kind] += 1
    assert counts == {"requests": 143, "results": 143, "changes": 34}


@pytest.mark.parametrize("released", RELEASED, ids=lambda each: f"{each.version}-{each.kind}-{each.name}")
def test_a_schema_is_fully_compatible_with_those_of_all_releases(released: ReleasedSchema) -> None:
    current, former = (make_avsc_object(each) for each in (SCHEMAS[released.kind][released.name], released.schema))
    for reader, writer in ((current, former), (former, current)):
        result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
        assert result.compatibility is SchemaCompatibilityType.compatible, result.messages


@pytest.mark.parametrize("released", RELEASED, ids=lambda each: f"{each.version}-{each.kind}-{each.name}")
def test_a_value_of_an_earlier_release_can_be_read(released: ReleasedSchema) -> None:
    current = SCHEMAS[released.kind][released.name]
    codec, former = Codec([current]), Codec([released.schema])
    codec.add(released.id, released.schema)
    former.assign(avro.schema_id(released.schema), released.id)
    for record in fastavro.utils.generate_many(released.schema, 5):
        value = former.write(avro.schema_id(released.schema), record)
        assert codec.read(value, reader=avro.schema_id(current)) == codec.read(value)


def _request(**change: Any) -> avro.Schema:
    """A request schema of another release: `change` replaces the attributes of the field `at`."""
    fields = [{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, **change}]
    return {"type": "record", "name": "AnyRequest", "namespace": "visitor", "fields": fields}


@pytest.mark.parametrize(
    "change",
    [
        {"type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"type": "long"},
        {"default": 0},
        {"name": "when"},
    ],
    ids=["logical type", "no logical type", "default", "name"],
)
def test_the_id_of_a_schema_depends_on_its_whole_text(change: dict[str, Any]) -> None:
    assert avro.schema_id(_request(**change)) != avro.schema_id(_request())


def test_a_time_in_milliseconds_is_converted_to_the_logical_type_of_the_reader() -> None:
    millis = _request(type={"type": "long", "logicalType": "timestamp-millis"})
    moment = avro.datetime.fromisoformat("2026-11-26T08:30:00.123+00:00")
    codec = Codec([_request()])
    codec.add(avro.schema_id(millis), millis)
    value = Codec([millis]).write(avro.schema_id(millis), {"at": moment})
    assert codec.read(value, reader=avro.schema_id(_request())) == {"at": moment}


def test_a_record_of_another_operation_is_refused() -> None:
    codec = Codec(WIRE.requests.values())
    value = codec.write(avro.schema_id(WIRE.requests["centers.get"]), {"path": {"pcCode": "FR-SC-1"}, "query": None})
    with pytest.raises(InvalidMessage) as refused:
        codec.read(value, reader=avro.schema_id(WIRE.requests["visits.create"]))
    assert refused.value.code == "wrong_schema"


def test_an_incompatible_record_is_refused() -> None:
    text = _request(type="string")
    codec = Codec([_request()])
    codec.add(avro.schema_id(text), text)
    value = Codec([text]).write(avro.schema_id(text), {"at": "yesterday"})
    with pytest.raises(InvalidMessage) as refused:
        codec.read(value, reader=avro.schema_id(_request()))
    assert refused.value.code == "wrong_schema"


def test_a_codec_keeps_the_looked_up_schemas_that_values_had_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics.codec, "KEPT", 3)
    codec = Codec([_request()])

    def code(id_in_values: int) -> str | None:
        try:
            codec.read(b"\0" + id_in_values.to_bytes(4, "big") + b"\2", reader=avro.schema_id(_request()))
        except InvalidMessage as refused:
            return refused.code
        return None

    for each in range(1, 4):
        codec.keep_while_used(each, _request(default=each))
    assert code(1) is None
    codec.keep_while_used(4, {"type": "record", "name": "crm.Order", "fields": "cannot be parsed"})
    assert [code(each) for each in range(1, 5)] == [None, "unknown_schema", None, "wrong_schema"]
    with pytest.raises(UnknownSchema):
        codec.read(b"\0\0\0\0\4")


def test_a_codec_keeps_the_schemas_of_a_whole_batch() -> None:
    assert topics.codec.KEPT >= BATCH_LIMIT


@pytest.mark.parametrize("schema", [{"type": "string"}, {"name": ["a", "."], "namespace": "a"}, {"name": 7}])
def test_a_looked_up_schema_without_a_name_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="the schema with the id 7 is invalid"):
        Codec([]).keep_while_used(7, schema)


def test_a_schema_that_is_no_record_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="7 is invalid"):
        Codec([]).add(7, {"type": "record", "name": "Broken", "fields": [{"name": "without a type"}]})
