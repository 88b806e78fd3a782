"""The errors of an answer: all at once, with JSON paths, and without the input."""

import time
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from agents.catalogue import CATALOGUE
from schemas.faults import ENTRY_LIMIT, from_validation, json_path
from topics import json

SECRET = "very-private-value"


def test_an_answer_lists_all_errors_of_a_body_with_their_paths() -> None:
    body = {"email": SECRET, "gender": SECRET, "optins": [{"optinType": SECRET, "isActive": SECRET}], "odd": SECRET}
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visitors.create"].request.model_validate({"body": body})
    fault = from_validation(refused.value)
    errors = {(entry.field, entry.code) for entry in fault.entries}
    assert errors >= {
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


def test_an_answer_lists_a_limited_number_of_errors() -> None:
    body = {"pcCode": "FR-A-1", "daysOfUse": ["x"] * 10_000}
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["services.create"].request.model_validate({"body": body})
    entries = from_validation(refused.value).entries
    assert len(entries) == ENTRY_LIMIT + 1
    assert (entries[-1].code, entries[-1].field) == ("too_many_faults", None)


UNKNOWN = {f"a{number}": 1 for number in range(200)}
MANY_ERRORS = [{f"a{number}": 1 for number in range(90_000)}, {"optins": [UNKNOWN] * 500}]


@pytest.mark.parametrize("body", MANY_ERRORS, ids=["fields", "nested"])
def test_the_errors_of_a_large_body_take_no_longer_than_reading_it(body: object) -> None:
    def seconds(work: Callable[[], object]) -> float:
        started_at = time.thread_time()
        work()
        return time.thread_time() - started_at

    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visitors.create"].request.model_validate({"body": body})
    encoded = json.write(body)
    reading = min(seconds(lambda: json.read(encoded)) for _ in range(5))
    assert min(seconds(lambda: from_validation(refused.value)) for _ in range(5)) < reading
    entries = from_validation(refused.value).entries
    assert [(entry.code, entry.field) for entry in entries] == [("too_many_faults", None)]
    assert str(refused.value.error_count()) in entries[0].message


WRONG = "wrong_type"
IDENTIFICATION_REQUIRED = (None, "identification_required")


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, [("pcCode", "required"), IDENTIFICATION_REQUIRED]),
        ({"pcCode": "fr", "odd": 1}, [("odd", "unknown_field"), ("pcCode", "wrong_format"), IDENTIFICATION_REQUIRED]),
        ({"pcCode": "FR-A-1"}, [IDENTIFICATION_REQUIRED]),
        ({"pcCode": "FR-A-1", "visitDate": "now"}, [("visitDate", "wrong_format"), IDENTIFICATION_REQUIRED]),
        ({"pcCode": 1, "visitDate": 2}, [("pcCode", WRONG), ("visitDate", WRONG), IDENTIFICATION_REQUIRED]),
        ({"barcode": "b"}, [("pcCode", "required")]),
        ({"barcode": None}, [("barcode", "null_refused"), ("pcCode", "required")]),
        ({"licensePlate": "4111 1111 1111 1111", "pcCode": "FR-A-1"}, [("licensePlate", "card_number_refused")]),
        ([], [(None, WRONG)]),
    ],
)  # fmt: skip
def test_a_missing_identification_is_reported_beside_the_faults_of_other_fields(body: object, errors: object) -> None:
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visits.create"].request.model_validate({"path": {"visitType": "exit"}, "body": body})
    entries = from_validation(refused.value).entries
    assert sorted(((entry.field, entry.code) for entry in entries), key=str) == sorted(errors, key=str)
    assert "4111" not in str(refused.value)


def test_a_missing_identification_beside_thousands_of_faults_takes_no_longer() -> None:
    body = {f"a{number}": 1 for number in range(90_000)}
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visits.create"].request.model_validate({"path": {"visitType": "exit"}, "body": body})
    assert [entry.code for entry in from_validation(refused.value).entries] == ["too_many_faults"]


@pytest.mark.parametrize(("body", "error"), [([{}] * 501, (None, "too_long")), ({}, (None, "wrong_type"))])
def test_a_body_that_must_be_a_list_has_at_most_500_entries(body: object, error: object) -> None:
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["visitors.eraseByAnalyticsId"].request.model_validate({"body": body})
    entries = from_validation(refused.value).entries
    assert error in [(entry.field, entry.code) for entry in entries]


def test_an_error_about_an_unknown_part_of_a_message_names_the_part() -> None:
    with pytest.raises(ValidationError) as refused:
        CATALOGUE.by_name["centers.list"].request.model_validate({"headers": {}})
    assert [(entry.field, entry.code) for entry in from_validation(refused.value).entries] == [
        ("headers", "unknown_field")
    ]


def test_a_json_path_has_dots_before_fields_and_brackets_around_indexes() -> None:
    assert json_path(("optins", 0, "optinType")) == "optins[0].optinType"
    assert json_path(()) is None
