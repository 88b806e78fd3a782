"""How faults are told: all at once, with JSON paths, and never what was sent."""

import pytest
from pydantic import ValidationError

from agents.catalogue import CATALOGUE
from schemas.faults import ENTRY_LIMIT, from_validation, json_path

SECRET = "very-private-value"


def test_all_faults_of_a_body_are_told_at_once_with_their_paths() -> None:
    body = {"email": SECRET, "gender": SECRET, "optins": [{"optinType": SECRET, "isActive": SECRET}], "odd": SECRET}
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visitors.create"].request.model_validate({"body": body})
    fault = from_validation(refused.value)
    told = {(entry.field, entry.code) for entry in fault.entries}
    assert told >= {
        ("email", "wrong_format"),
        ("gender", "not_allowed"),
        ("firstName", "required"),
        ("optins[0].optinType", "not_allowed"),
        ("optins[0].isActive", "wrong_type"),
        ("optins[0].optinChannel", "required"),
        ("odd", "unknown_field"),
    }
    assert {entry.type for entry in fault.entries} == {"validation"}
    assert SECRET not in str(fault.body())


def test_many_faults_are_told_in_a_bounded_answer() -> None:
    body = {"pcCode": "FR-A-1", "daysOfUse": ["x"] * 10_000}
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["services.create"].request.model_validate({"body": body})
    entries = from_validation(refused.value).entries
    assert len(entries) == ENTRY_LIMIT + 1
    assert (entries[-1].code, entries[-1].field) == ("too_many_faults", None)


@pytest.mark.parametrize(("body", "told"), [([{}] * 501, (None, "too_long")), ({}, (None, "wrong_type"))])
def test_a_list_for_a_body_has_a_limit(body: object, told: object) -> None:
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visitors.eraseByAnalyticsId"].request.model_validate({"body": body})
    entries = from_validation(refused.value).entries
    assert told in [(entry.field, entry.code) for entry in entries]


def test_an_unknown_part_of_a_message_is_named() -> None:
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["centers.list"].request.model_validate({"headers": {}})
    assert [(entry.field, entry.code) for entry in from_validation(refused.value).entries] == [
        ("headers", "unknown_field")
    ]


def test_json_path() -> None:
    assert json_path(("optins", 0, "optinType")) == "optins[0].optinType"
    assert json_path(()) is None
