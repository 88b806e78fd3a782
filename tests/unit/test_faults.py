"""How faults are told: all at once, with JSON paths, and never what was sent."""

import pytest
from pydantic import ValidationError

from agents.catalogue import CATALOGUE
from schemas.faults import from_validation, json_path

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


def test_json_path() -> None:
    assert json_path(("optins", 0, "optinType")) == "optins[0].optinType"
    assert json_path(()) is None
