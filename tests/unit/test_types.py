"""The field types of the contract: what each type accepts, refuses and returns."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from babel.core import get_global
from babel.localedata import locale_identifiers
from pydantic import TypeAdapter, ValidationError

from schemas import locales
from schemas.locale_labels import LABELS
from schemas.model import Model
from schemas.types import (
    Amount,
    CountryCode,
    Email,
    Flag,
    Identifier,
    Instant,
    Int64,
    LocaleCode,
    LongText,
    Omittable,
    PcCode,
    Phone,
    Text,
    Timezone,
    Url,
    Uuid,
)
from tools.locale_labels import labels
from topics import json


def _error_type(field_type: Any, value: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(field_type).validate_python(value)
    return str(refused.value.errors()[0]["type"])


@pytest.mark.parametrize(
    ("field_type", "value"),
    [
        (Int64, "5"),
        (Int64, True),
        (Int64, 2**63),
        (Int64, Decimal("5.5")),
        (Flag, 1),
        (Flag, "true"),
        (Text, True),
        (Text, ["a"]),
        (Text, "x" * 1_001),
        (Text, "a\x00b"),
        (Text, "\ud800"),
        (Uuid, "no-uuid"),
        (Uuid, 5),
        (CountryCode, "fr"),
        (CountryCode, "XX"),
        (PcCode, "fr-sc-1"),
        (PcCode, "FR-SC"),
        (Email, "nobody"),
        (Email, "Bob <bob@example.org>"),
        (Email, " bob@example.org"),
        (Uuid, "urn:e45934e15fd44651b7bc50c977a3b8c5"),
        (Uuid, "e45934e15fd44651b7bc50c977a3b8c5----"),
        (Uuid, "0x345678-1234-5678-1234-567812345678"),
        (Uuid, "{45934e1-5fd4-4651-b7bc-50c977a3b8c}"),
        (Instant, "2024-01-01T00:00:00"),
        (Instant, "2024-01-01"),
        (Instant, "2024-02-30T00:00:00Z"),
        (Instant, 1_700_000_000),
        (Instant, "0001-01-01T00:00:00+14:00"),
        (Instant, "0001-01-01T00:00:00Z"),
        (Instant, "9999-12-31T23:59:59.999999Z"),
        (PcCode, "FR-4111111111111111-A"),
        (Timezone, "localtime"),
        (Amount, "31.40"),
        (Amount, True),
        (Amount, 1.5),
        (Amount, Decimal("NaN")),
        (Amount, Decimal("0.1234567891")),
        (LocaleCode, "fr"),
        (LocaleCode, "fr-ZZ"),
        (LocaleCode, "français"),
        (LocaleCode, "zh-Hans-HK"),
        (LocaleCode, "zh-Hans"),
        (LocaleCode, "zh-CN-Hans"),
        (LocaleCode, "zh-CN\n"),
        (LocaleCode, "en-US-POSIX"),
        (Timezone, "Europe/Westfield"),
        (LongText, "x" * 200_001),
        (LongText, "a 4111-1111-1111-1111"),
    ],
)
def test_json_types_are_strict(field_type: Any, value: Any) -> None:
    assert _error_type(field_type, value)


@pytest.mark.parametrize(("number", "text"), [(75000, "75000"), (Decimal("11.10"), "11.10"), (-3, "-3")])
def test_a_text_field_accepts_a_number_and_stores_its_text(number: Any, text: str) -> None:
    assert TypeAdapter(Text).validate_python(number) == text


@pytest.mark.parametrize("text", ["2017-07-24t19:32:28.5z", "2017-07-24T19:32:28.500000000000Z"])
def test_a_time_may_have_small_letters_and_any_number_of_decimals(text: str) -> None:
    assert TypeAdapter(Instant).validate_python(text) == datetime(2017, 7, 24, 19, 32, 28, 500000, UTC)


def test_times_are_converted_to_utc() -> None:
    time = TypeAdapter(Instant).validate_python("2017-07-24T19:32:28.123456+02:00")
    assert time == datetime(2017, 7, 24, 17, 32, 28, 123456, UTC)
    assert time.tzinfo is UTC


def test_a_card_number_is_refused_in_texts() -> None:
    for field_type in (Text, LongText):
        assert _error_type(field_type, "card 4111 1111 1111 1111") == "card_number_refused"
    assert _error_type(Text, 4111111111111111) == "card_number_refused"


@pytest.mark.parametrize("field_type", [Identifier, Phone, Url])
def test_identifiers_phone_numbers_and_urls_may_look_like_card_numbers(field_type: Any) -> None:
    assert TypeAdapter(field_type).validate_python("4111 1111 1111 1111") == "4111 1111 1111 1111"


class _Fields(Model):
    name: Text
    color: Omittable[Text] = None
    note: Text | None = None
    is_open: Flag = True


class _Patch(_Fields, partial=True):
    pass


def test_a_field_that_may_be_left_out_may_not_be_null() -> None:
    assert _Fields.model_validate({"name": "a"}).color is None
    assert _error_type(_Fields, {"name": "a", "color": None}) == "null_refused"


def test_a_patch_has_only_the_sent_fields_and_no_defaults() -> None:
    assert _Patch.model_validate({}).sent_fields() == {}
    assert _Patch.model_validate({"note": None}).sent_fields() == {"note": None}
    assert _Fields.model_validate({"name": "a"}).is_open is True


@pytest.mark.parametrize("field", ["name", "color", "isOpen"])
def test_a_patch_refuses_null_for_fields_that_are_not_nullable(field: str) -> None:
    assert _error_type(_Patch, {field: None}) == "null_refused"


def test_unknown_fields_are_refused() -> None:
    assert _error_type(_Fields, {"name": "a", "is_open": True}) == "extra_forbidden"


@pytest.mark.parametrize("spelling", ["fr-FR", "fr_FR", "FR-fr", "fr_fr", "fr-Latn-FR", "FR_latn_fr"])
def test_all_spellings_of_a_locale_become_the_canonical_one(spelling: str) -> None:
    assert TypeAdapter(LocaleCode).validate_python(spelling) == "fr-FR"


@pytest.mark.parametrize(
    ("code", "script"),
    [
        ("zh-CN", "Hans"), ("zh-TW", "Hant"), ("zh-HK", "Hant"), ("zh-SG", "Hans"), ("sr-RS", "Cyrl"),
        ("sr-ME", "Latn"), ("no-NO", "Latn"), ("bs-BA", "Latn"), ("az-AZ", "Latn"), ("az-TR", "Latn"),
        ("uz-UZ", "Latn"), ("uz-AF", "Arab"), ("pa-IN", "Guru"), ("pa-PK", "Arab"), ("yue-HK", "Hant"),
        ("mn-MN", "Cyrl"), ("es-419", "Latn"), ("he-IL", "Hebr"),
    ],
)  # fmt: skip
def test_a_locale_may_have_its_usual_script_and_no_other(code: str, script: str) -> None:
    language, territory = code.split("-")
    for spelling in (code, f"{language}-{script}-{territory}", f"{language}_{script.lower()}_{territory.lower()}"):
        assert TypeAdapter(LocaleCode).validate_python(spelling) == code
    assert _error_type(LocaleCode, f"{language}-Tfng-{territory}") == "unknown_locale"


@pytest.mark.parametrize(("former", "code"), [("iw_IL", "he-IL"), ("in-ID", "id-ID"), ("ji-UA", "yi-UA")])
def test_a_former_language_code_is_replaced_by_the_current_one(former: str, code: str) -> None:
    assert TypeAdapter(LocaleCode).validate_python(former) == code


def test_all_cldr_locales_with_a_language_and_a_territory_are_accepted() -> None:
    likely_subtags = get_global("likely_subtags")
    for identifier in locale_identifiers():
        subtags = identifier.split("_")
        if len(subtags) == 1:
            subtags = likely_subtags.get(identifier, f"{identifier}_").split("_")
        language, territory = subtags[0], subtags[-1]
        if len(territory) == 2 or (len(territory) == 3 and territory.isdigit()):
            assert locales.canonical(f"{language}-{territory}") == f"{language}-{territory}", identifier
    assert all(locales.canonical(code) == code and re.fullmatch(locales.PATTERN, code) for code in locales.CODES)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("fr-FR", "Français"), ("zh-TW", "中文"), ("sr-RS", "Српски"), ("sr-ME", "Srpski"), ("pa-PK", "پنجابی"),
        ("ha-SD", "Hausa"), ("es-419", "Español"),
    ],
)  # fmt: skip
def test_the_label_of_a_locale_is_the_name_of_its_language_in_that_language(code: str, name: str) -> None:
    assert locales.label(code) == name


def test_labels_are_given_without_reading_the_files_of_babel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("babel.localedata.load", pytest.fail)
    assert all(locales.label(code) for code in locales.CODES)


def test_the_labels_of_all_locales_are_those_of_babel() -> None:
    assert labels() == LABELS, "run python -m tools.locale_labels"


@pytest.mark.parametrize(("sent", "stored"), [(5, "5"), (Decimal("31.40"), "31.40"), (Decimal("-0.1"), "-0.1")])
def test_an_amount_is_exact(sent: Any, stored: str) -> None:
    assert str(TypeAdapter(Amount).validate_python(sent)) == stored


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("31.4000000000", "31.400000000"), ("31.40000000000000000000000000", "31.400000000"), ("0E-10", "0"),
        (f"31.4{'0' * 100}", "31.400000000"), (f"0.{'0' * 40}", "0"), ("0E50", "0"), ("0E999999999", "0"),
        ("-0.0", "-0.0"), ("1E2", "1E+2"), ("5E-9", "5E-9"),
        ("99999999999999999999.9999999990", "99999999999999999999.999999999"),
    ],
)  # fmt: skip
def test_trailing_zeros_of_an_amount_do_not_count_as_digits(sent: str, stored: str) -> None:
    """The Avro schema has no room for ten decimals, even if they are zeros."""
    amount = TypeAdapter(Amount).validate_python(json.read(sent.encode()))
    assert (amount, str(amount)) == (Decimal(sent), stored)


@pytest.mark.parametrize(
    "sent", ["0.1234567891", "1E-10", "1E20", "100000000000000000000", "1E999999999", "1E-999999999"]
)
def test_an_amount_has_at_most_20_digits_before_the_point_and_9_after_it(sent: str) -> None:
    assert _error_type(Amount, json.read(sent.encode()))


@pytest.mark.parametrize(("sent", "stored"), [("2020.0", 2020), ("1e3", 1000), ("-5.000", -5), ("-0.0", 0), ("0E9", 0)])
def test_an_integer_may_have_a_fraction_of_zero(sent: str, stored: int) -> None:
    integer = TypeAdapter(Int64).validate_python(json.read(sent.encode()))
    assert (integer, type(integer)) == (stored, int)


@pytest.mark.parametrize("sent", ["2020.5", "1e-3", "true", '"2020.0"', "1E-999999999", "0.1"])
def test_a_number_with_a_fraction_is_not_an_integer(sent: str) -> None:
    assert _error_type(Int64, json.read(sent.encode())) == "int_type"


@pytest.mark.parametrize("sent", ["1e19", "9223372036854775808", "-9223372036854775809.0", "1E999999999"])
def test_an_integer_beyond_64_bits_is_out_of_range(sent: str) -> None:
    assert _error_type(Int64, json.read(sent.encode())) in ("less_than_equal", "greater_than_equal")


class _Shirt(Model):
    name: Text
    size: Int64
    color: Omittable[Text] = None


class _ShirtPatch(_Shirt, partial=True, required=("size",)):
    pass


def test_a_patch_may_have_required_fields() -> None:
    assert _ShirtPatch.model_validate({"size": 1}).sent_fields() == {"size": 1}
    with pytest.raises(ValidationError) as refused:
        _ShirtPatch.model_validate({"name": "a"})
    assert [error["type"] for error in refused.value.errors()] == ["missing"]
