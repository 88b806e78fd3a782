"""The fingerprint of a request: the same for the same content, whatever its encoding and the release that reads it."""

from decimal import Decimal
from typing import Any

import pytest

from agents.catalogue import CATALOGUE
from agents.engine.decode import fingerprint
from topics import json

VISIT = {"path": {"visitType": "entry"}, "body": {"barcode": "4711", "licensePlate": "AB 31.40", "pcCode": "FR-SC-1"}}


def _reward(balance: Any) -> dict[str, Any]:
    return {
        "path": {"visitorId": "8a707051-8433-4690-8e11-57bf6b0446e1"},
        "body": {
            "startDate": "2026-01-01T00:00:00Z", "balance": balance, "outsideOptin": False, "threshold": 100,
            "pcCode": "FR-SC-1",
        },
    }  # fmt: skip


def _fingerprint(operation: str, parts: dict[str, Any], **options: Any) -> str:
    declared = CATALOGUE.by_name[operation]
    return fingerprint(declared, declared.request.model_validate(parts), **options).hex()


@pytest.mark.parametrize(
    ("operation", "parts", "stored"),
    [
        ("visits.create", VISIT, "baf4b08ce3bf47976d386c511beb54e7"),
        ("rewards.create", _reward(Decimal("31.4")), "738ef03fc8d1459a3e08fd426006d102"),
        ("rewards.create", _reward(100), "30b3554ba4eeba03d85f1f7c08a6d466"),
    ],
)
def test_the_fingerprints_that_earlier_releases_stored_stay_valid(
    operation: str, parts: dict[str, Any], stored: str
) -> None:
    """Inboxes have these fingerprints. If they changed, a repeated request would get 422 after an upgrade."""
    assert _fingerprint(operation, parts) == stored


def test_the_fingerprint_of_a_condition_stays_valid() -> None:
    assert _fingerprint("visits.create", VISIT, if_match=[1]) == "490ae683baadd33fc3bec25762cd2358"
    assert _fingerprint("rewards.create", _reward(Decimal("31.4")), if_match=[1]) == "8efa0b123b3e70685675feb45ef3aae7"


@pytest.mark.parametrize(
    "spellings",
    [
        ["31.4", "31.40", "31.400000000", "314E-1", "31.4000000000000"],
        ["100", "100.0", "1E2", "1e+2", "100.000000000"],
        ["0", "0.0", "-0.0", "0E5", "0E-7"],
        ["-0.000000001", "-1E-9", "-0.00000000100"],
        ["12345678901234567890.123456789"],
        ["12345678901234567890.123456788"],
        ["99999999999999999999", "99999999999999999999.000000000"],
    ],
)
def test_equal_amounts_have_one_fingerprint_and_different_amounts_have_different_ones(spellings: list[str]) -> None:
    as_json = [json.read(json.write(_reward("@")).replace(b'"@"', spelling.encode())) for spelling in spellings]
    fingerprints = {_fingerprint("rewards.create", parts) for parts in as_json}
    fingerprints |= {_fingerprint("rewards.create", _reward(Decimal(spelling))) for spelling in spellings}
    assert len(fingerprints) == 1
    for other in ("1", "-31.4", "314", "10", "1000", "0.000000001", "12345678901234567890.123456787"):
        assert _fingerprint("rewards.create", _reward(Decimal(other))) not in fingerprints


def test_a_text_is_not_an_amount() -> None:
    other = {**VISIT, "body": {**VISIT["body"], "licensePlate": "AB 31.4"}}
    assert _fingerprint("visits.create", other) != _fingerprint("visits.create", VISIT)
