"""The vocabulary of the contract: every field of every operation has one of these types.

JSON types are strict ("5" is no integer, 1 is no boolean) with two exceptions. A number for a string field is taken as
its text, because the documentation's own examples do so; decoders therefore return numbers with a fraction as
`Decimal`, which keeps the text (11.10 stays "11.10"). A number without a fraction is an integer, as in JSON Schema
(2020.0 is 2020).
"""

import re
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Annotated, Any, TypeVar
from uuid import UUID
from zoneinfo import available_timezones

import pycountry
from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from schemas import locales
from schemas.cards import holds_card_number
from schemas.emails import is_address
from schemas.marks import NotNull, Whole
from schemas.plates import plate_key

TEXT_LIMIT = 1_000
"""Characters. The documentation gives no limits; a text without any would let one row fill a page of the log."""

LONG_TEXT_LIMIT = 200_000
"""Characters of a document."""

LIST_LIMIT = 500
"""Entries of a list in a body, as many as a page may have; more would make one request hold up all others."""

INT64 = 2**63 - 1

AMOUNT_DIGITS, AMOUNT_DECIMALS = 29, 9
"""The most digits of an exact number, in total and after the point (the scale of the Avro schema)."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LAST_DECIMAL = Decimal(1).scaleb(-AMOUNT_DECIMALS)
_FIRST_YEAR, _LAST_YEAR = 2, 9998
_TIMEZONES = available_timezones() - {"localtime", "Factory"}
_COUNTRIES = frozenset(country.alpha_2 for country in pycountry.countries)


def _storable(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul_refused", "A text may not hold the NUL character.")
    return value


def _clean(value: str) -> str:
    """Storable, and without a payment card number."""
    if holds_card_number(value):
        raise PydanticCustomError("card_number_refused", "A card number is never accepted here.")
    return _storable(value)


def _country(value: str) -> str:
    if value not in _COUNTRIES:
        raise PydanticCustomError("not_allowed", "Input should be a country code of ISO 3166-1 alpha-2.")
    return value


def _email(value: str) -> str:
    # Not pydantic's, which takes "Name <address>" and blanks around it.
    if not is_address(value):
        raise PydanticCustomError("wrong_format", "Input should be an email address.")
    return value


def _plate(value: str) -> str:
    if not plate_key(value):
        raise PydanticCustomError("wrong_format", "Input should be a licence plate with at least one letter or digit.")
    return value


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not _RFC3339.fullmatch(value):
        raise PydanticCustomError("wrong_format", "Input should be a time of RFC 3339 with an offset.")
    try:
        return datetime.fromisoformat(value.upper())
    except ValueError:
        raise PydanticCustomError("wrong_format", "Input should be a time that exists, with an offset.") from None


def _day_or_instant(value: Any) -> Any:
    return _instant(f"{value}T00:00:00Z" if isinstance(value, str) and _DAY.fullmatch(value) else value)


def _in_utc(value: datetime) -> datetime:
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=UTC)
    # The first and the last moment that Python knows mean infinity to the database's driver, and a time zone may lead
    # beyond them.
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        message = f"Input should be a time between the years {_FIRST_YEAR} and {_LAST_YEAR}."
        raise PydanticCustomError("out_of_range", message)
    return moment


def uuid_of(text: str) -> UUID | None:
    """The UUID that a text is in its usual form (RFC 9562, section 4); None where it is none."""
    return UUID(text) if _UUID.fullmatch(text) else None


def _uuid(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = uuid_of(value)
    if found is None:
        raise PydanticCustomError("wrong_format", "Input should be a UUID.")
    return found


def _as_decimal(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return value


def _within_scale(value: Decimal) -> Decimal:
    """The same number without zeros that exceed the scale of the Avro schema; `0E999999999` becomes 0."""
    exponent = value.as_tuple().exponent
    if value.is_zero() and exponent not in range(-AMOUNT_DECIMALS, 1):
        return Decimal(0)
    if value.is_zero() or int(exponent) >= -AMOUNT_DECIMALS:
        return value
    return value.quantize(_LAST_DECIMAL, context=Context(prec=AMOUNT_DIGITS))


def _locale(value: str) -> str:
    known = locales.known(value)
    if known is None:
        raise PydanticCustomError("unknown_locale", "Input should be a locale of /locales, for example fr-FR.")
    return known


def _timezone(value: str) -> str:
    if value not in _TIMEZONES:
        raise PydanticCustomError("unknown_timezone", "Input should be a time zone of the IANA database.")
    return value


_NO_NUL: Any = {"pattern": r"^[^\x00]*$"}
"""What JSON Schema can say of `_storable`."""

_TextBase = Annotated[str, Field(max_length=TEXT_LIMIT, coerce_numbers_to_str=True, json_schema_extra=_NO_NUL)]

Identifier = Annotated[_TextBase, AfterValidator(_storable)]
"""A text that another system gave (barcode, token, externalId …): any digits, so no look for card numbers."""

Phone = Identifier
"""Not checked for card numbers: phone numbers with 13 digits may look like one."""

Url = Identifier
"""Not checked for card numbers: URLs contain timestamps and ids."""

Text = Annotated[_TextBase, AfterValidator(_clean)]
Plate = Annotated[
    Text,
    AfterValidator(_plate),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": TEXT_LIMIT,
            "pattern": r"^[^\x00]*[\p{L}\p{N}][^\x00]*$",
            "examples": ["GÖ-XY 101"],
            "description": "Plates are compared by their letters and digits, regardless of case and encoding.",
        }
    ),
]
"""The licence plate of a vehicle. Fields that only search for a plate are Text: any text may be searched for."""

LongText = Annotated[
    str,
    Field(max_length=LONG_TEXT_LIMIT, coerce_numbers_to_str=True, json_schema_extra=_NO_NUL),
    AfterValidator(_clean),
]
"""A document, for example a legal text."""

Flag = Annotated[bool, Strict()]
Int64 = Annotated[int, Whole(ge=-INT64 - 1, le=INT64)]
"""For narrower limits than 64 bits, `Annotated[int, Whole(ge=1, le=31)]`."""

Uuid = Annotated[UUID, Strict(), BeforeValidator(_uuid)]
Instant = Annotated[
    datetime,
    Strict(),
    Field(examples=["2026-11-24T08:30:00Z"]),
    BeforeValidator(_instant),
    AfterValidator(_in_utc),
]
"""A moment: RFC 3339 with an offset on the wire, UTC in Python, kept to the microsecond."""

DayOrInstant = Annotated[
    datetime,
    Strict(),
    BeforeValidator(_day_or_instant),
    AfterValidator(_in_utc),
    WithJsonSchema(
        {
            "type": "string",
            "oneOf": [{"format": "date-time"}, {"format": "date"}],
            "examples": ["1990-05-17"],
            "description": "A time of RFC 3339, or a date, whose start in UTC is meant.",
        }
    ),
]
Email = Annotated[
    Text,
    AfterValidator(_email),
    WithJsonSchema(
        {
            "type": "string",
            "format": "email",
            "maxLength": TEXT_LIMIT,
            "examples": ["camille.martin@example.com"],
            "description": "An address as in RFC 6531, without quotes. Addresses at docomo.ne.jp and ezweb.ne.jp may"
            " have consecutive dots, and a dot at the start or end of the local part.",
        }
    ),
]
CountryCode = Annotated[
    str,
    Strict(),
    AfterValidator(_country),
    WithJsonSchema({"type": "string", "title": "CountryCode", "enum": sorted(_COUNTRIES)}),
]
Amount = Annotated[
    Decimal,
    Strict(),
    Field(max_digits=AMOUNT_DIGITS, decimal_places=AMOUNT_DECIMALS, allow_inf_nan=False),
    BeforeValidator(_as_decimal),
    AfterValidator(_within_scale),
    WithJsonSchema(
        {
            "type": "number",
            "exclusiveMinimum": -1e20,
            "exclusiveMaximum": 1e20,
            "description": "An exact number with at most 9 digits after the point, not counting trailing zeros.",
        }
    ),
]
"""An exact number, on the wire a JSON number; up to 20 digits before the point and 9 after it."""

LocaleCode = Annotated[
    str,
    Strict(),
    AfterValidator(_locale),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": locales.PATTERN,
            "examples": ["fr-FR", "zh-Hant-TW"],
            "description": "A locale of /locales, in any case, with - or _, and with its usual script or without it;"
            " answered as fr-FR and zh-TW.",
        }
    ),
]
"""`en_us`, `EN-us`, `en-Latn-US` and `en-US` are one locale, kept as the last."""

Timezone = Annotated[
    str,
    Strict(),
    AfterValidator(_timezone),
    WithJsonSchema({"type": "string", "title": "Timezone", "enum": sorted(_TIMEZONES)}),
]
PcCode = Annotated[
    str,
    Strict(),
    Field(max_length=100, pattern=r"^[A-Z]{2}-[A-Z0-9]+-[A-Z0-9]+$", examples=["FR-SC-123"]),
    AfterValidator(_clean),
]
"""The key of a center, for example FR-SC-123."""

Item = TypeVar("Item")
Several = Annotated[list[Item], Field(max_length=LIST_LIMIT)]

Value = TypeVar("Value")
Omittable = Annotated[Value | None, NotNull()]
"""`Omittable[Text]`: may be left out, but is not null in a request. `Text | None` may be both."""
