"""Whatever the models accept can be written, as a request, as a result and as a change, in JSON and in Avro, and is the
same when it is read."""

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
ANSWERING = [operation for operation in CATALOGUE.operations if operation.item is not None]
FEW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("operation", CATALOGUE.operations, ids=lambda operation: operation.name)
@FEW
@given(drawn=st.data())
def test_a_request_is_the_same_once_it_was_written(operation: Operation, drawn: st.DataObject) -> None:
    models = operation.request.parts()
    parts = {part: drawn.draw(values.of_model(model)) for part, model in models.items()}
    try:
        request = operation.request.model_validate(parts)
    except ValidationError:
        return  # What a model refuses as a whole: a visit without any identification.
    in_avro = {part: _as_in_avro(getattr(request, part)) for part in models}
    for content_type, written in ((JSON, parts), (AVRO, in_avro)):
        value = WIRE.write_request(operation, content_type, written)
        assert operation.request.model_validate(WIRE.read_request(operation, content_type, value)) == request


def _as_in_avro(value: Any) -> Any:
    """Null is what was left out, and what a PATCH sets to null is named."""
    if isinstance(value, RootModel):
        return _as_in_avro(value.root)
    if isinstance(value, list):
        return [_as_in_avro(item) for item in value]
    if not isinstance(value, BaseModel):
        return value
    model = type(value)
    sent = {str(model.model_fields[name].serialization_alias): getattr(value, name) for name in value.model_fields_set}
    found = {name: _as_in_avro(item) for name, item in sent.items() if item is not None}
    cleared = [name for name, item in sent.items() if item is None]
    return found | ({CLEAR: cleared} if getattr(model, "partial", False) else {})


@pytest.mark.parametrize("operation", ANSWERING, ids=lambda operation: operation.name)
@FEW
@given(drawn=st.data())
def test_an_answer_is_the_same_in_json_and_in_avro(operation: Operation, drawn: st.DataObject) -> None:
    assert operation.item is not None
    row = operation.dump(drawn.draw(values.of_model(operation.item).map(operation.item.model_validate)))
    answer = Answer(operation.status, _body(operation, row))
    for content_type in (JSON, AVRO):
        found = WIRE.read(content_type, WIRE.write_result(operation, content_type, answer))
        assert _plain(found) == _plain({"status": answer.status, "body": answer.body})


def _body(operation: Operation, row: Any) -> Any:
    match operation.shape:
        case "object":
            return row
        case "array":
            return [row]
    return {"data": [row] if operation.shape == "page" else row, "metadata": {"version": 1, "_links": {}}}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@FEW
@given(drawn=st.data())
def test_a_change_holds_the_row_exactly(table: Table[Any], drawn: st.DataObject) -> None:
    row = drawn.draw(values.of_model(table.row).map(table.row.model_validate))
    change = EntityChange(table.family, table.resource, "1", 1, "created", None, row)
    written = WIRE.write_change(change, occurred_at=datetime.now(UTC), caused_by="a request")
    assert _plain(WIRE.read(AVRO, written)["after"]) == _plain(row.model_dump())


def _plain(value: Any) -> Any:
    """With times and UUIDs as texts. Decimals with more or fewer zeros at their end are equal."""
    return json.read(json.write(value))
