"""The least size of a record never exceeds that of its JSON, so that no reply is refused that would be small enough."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from schemas.model import Model
from schemas.shapes import Shape, shape_of
from storage import allowance, table
from storage.allowance import Allowance, LoadsTooMuch, least_size, least_size_of
from tests.support.data import ABSENT_VISITOR_ID
from topics import json

MODELS = {each.row.__name__: each.row for each in table._ALL}
_SMALLEST = {
    str: "", int: 0, bool: True, Decimal: Decimal(0), UUID: UUID(ABSENT_VISITOR_ID),
    datetime: datetime(2026, 1, 1, tzinfo=UTC),
}  # fmt: skip


def _smallest(shape: Shape, text: str, *, null: bool) -> Any:
    if null and shape.nullable:
        return None
    if shape.base is list:
        assert shape.items is not None
        return [_smallest(shape.items, text, null=null)] if text else []
    if issubclass(shape.base, Model):
        return _record(shape.base, text, null=null)
    return text if shape.base is str else _SMALLEST[shape.base]


def _record(model: type[Model], text: str, *, null: bool) -> Model:
    fields = model.model_fields.items()
    return model.from_values({name: _smallest(shape_of(info.annotation), text, null=null) for name, info in fields})


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("text", ["", "x", "é" * 10, '"' * 10])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_at_most_that_of_the_json_and_not_far_below(model: str, text: str, null: bool) -> None:
    record = _record(MODELS[model], text, null=null)
    size = len(json.write(record.model_dump(warnings=False)))
    assert size * 0.4 < least_size(record) <= size


def test_a_read_that_loads_more_than_it_may_is_stopped() -> None:
    loaded = Allowance(10)
    loaded.take(10)
    with pytest.raises(LoadsTooMuch):
        loaded.take(1)


def test_the_least_size_of_a_model_is_that_of_a_record_without_texts() -> None:
    model = MODELS["ChallengeHistory"]
    assert least_size_of(model) == least_size(_record(model, "", null=True))
    assert allowance.content_size(_record(model, "xyz", null=True)) == len("xyz") * 2
