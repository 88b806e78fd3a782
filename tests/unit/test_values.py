"""All values that the models accept can be encoded and decoded without a difference: as requests, results and changes,
in JSON and in Avro."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel, ValidationError

from agents.answers import Answer
from agents.catalogue import CATALOGUE
from agents.operation import Operation
from agents.wire import Wire
from storage.table import TABLES, Table
from storage.tx import EntityChange
from tests.support import values
from topics import json
from topics.avro import CLEAR
from topics.envelope import AVRO, JSON

WIRE = Wire(CATALOGUE)
OPERATIONS_WITH_REPLY = [operation for operation in CATALOGUE.operations if operation.item is not None]
FEW_EXAMPLES = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("operation", CATALOGUE.operations, ids=lambda operation: operation.name)
@FEW_EXAMPLES
@given(data=st.data())
def test_a_request_is_read_back_unchanged(operation: Operation, data: st.DataObject) -> None:
    models = operation.request.parts()
    parts = {part: data.draw(values.of_model(model)) for part, model in models.items()}
    try:
        request = operation.request.model_validate(parts)
    except ValidationError:
        return  # Some models refuse combinations of fields, for example a visit without any identification.
    avro_parts = {part: _avro_value(getattr(request, part)) for part in models}
    for content_type, written in ((JSON, parts), (AVRO, avro_parts)):
        value = WIRE.write_request(operation, content_type, written)
        assert operation.request.model_validate(WIRE.read_request(operation, content_type, value)) == request


def _avro_value(value: Any) -> Any:
    """The Avro form of a part: null means that a field was left out, and `clear` names the fields that a PATCH sets to
    null."""
    if isinstance(value, RootModel):
        return _avro_value(value.root)
    if isinstance(value, list):
        return [_avro_value(item) for item in value]
    if not isinstance(value, BaseModel):
        return value
    model = type(value)
    sent = {str(model.model_fields[name].serialization_alias): getattr(value, name) for name in value.model_fields_set}
    record = {name: _avro_value(item) for name, item in sent.items() if item is not None}
    if getattr(model, "partial", False):
        record[CLEAR] = [name for name, item in sent.items() if item is None]
    return record


@pytest.mark.parametrize("operation", OPERATIONS_WITH_REPLY, ids=lambda operation: operation.name)
@FEW_EXAMPLES
@given(data=st.data())
def test_an_answer_is_the_same_in_json_and_in_avro(operation: Operation, data: st.DataObject) -> None:
    assert operation.item is not None
    row = operation.to_reply_data(data.draw(values.of_model(operation.item).map(operation.item.model_validate)))
    answer = Answer(operation.status, _body(operation, row))
    for content_type in (JSON, AVRO):
        result = WIRE.read(content_type, WIRE.write_result(operation, content_type, answer))
        assert _plain(result) == _plain({"status": answer.status, "body": answer.body})


def _body(operation: Operation, row: Any) -> Any:
    match operation.shape:
        case "object":
            return row
        case "array":
            return [row]
    return {"data": [row] if operation.shape == "page" else row, "metadata": {"version": 1, "_links": {}}}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@FEW_EXAMPLES
@given(data=st.data())
def test_a_change_contains_the_row_exactly(table: Table[Any], data: st.DataObject) -> None:
    row = data.draw(values.of_model(table.row).map(table.row.model_validate))
    change = EntityChange(table.family, table.resource, table.are_events, "1", 1, "created", None, row)
    written = WIRE.write_change(change, occurred_at=datetime.now(UTC), caused_by="a request")
    assert _plain(WIRE.read(AVRO, written)["after"]) == _plain(row.model_dump())


def _plain(value: Any) -> Any:
    """The value with times and UUIDs as texts. Decimals that differ in trailing zeros only are equal."""
    return json.read(json.write(value))
