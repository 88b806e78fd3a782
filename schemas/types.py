"""The field types of the contract: every field of every operation has one of these types.

JSON types are strict ("5" is not an integer, 1 is not a boolean), with two exceptions:

- A text field accepts a number and stores its text, because the documentation's own examples send numbers. The
  decoders pass numbers with a fraction as `Decimal`, which keeps the text (11.10 stays "11.10").
- An integer field accepts a number whose fraction is zero, as JSON Schema does (2020.0 is 2020).
"""

import re
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Annotated, Any, TypeVar
from uuid import UUID
from zoneinfo import available_timezones

import pycountry
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SerializationInfo, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from schemas import locales
from schemas.cards import holds_card_number
from schemas.emails import is_address
from schemas.marks import NotNull, Whole
from schemas.plates import plate_key

TEXT_LIMIT = 1_000
"""Characters of a text. The documentation gives no limit; without one, a single row could fill a page of the log."""

LONG_TEXT_LIMIT = 200_000
"""Characters of a document."""

LIST_LIMIT = 500
"""Entries of a list in a body; the same as the limit of a page. A longer list would delay all other requests."""

INT64 = 2**63 - 1

NOTE = "note"
"""The key of a sentence about a type in its JSON schema. OpenAPI appends it to the description of each field."""

AMOUNT_DIGITS, AMOUNT_DECIMALS = 29, 9
"""Digits of an `Amount`: all digits, and the digits after the point. The Avro schema holds exactly these decimals."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SMALLEST_AMOUNT = Decimal(1).scaleb(-AMOUNT_DECIMALS)
_FIRST_YEAR, _LAST_YEAR = 2, 9998
_TIMEZONES = available_timezones() - {"localtime", "Factory"}
_COUNTRIES = frozenset(country.alpha_2 for country in pycountry.countries)


def _refuse_nul(value: str) -> str:
    """PostgreSQL cannot store the NUL character."""
    if "\x00" in value:
        raise PydanticCustomError("nul_refused", "Input should not contain the NUL character.")
    return value


def refuse_card_number(value: str) -> None:
    if holds_card_number(value):
        raise PydanticCustomError("card_number_refused", "Input should not contain a payment card number.")


def _refuse_card_number_and_nul(value: str) -> str:
    refuse_card_number(value)
    return _refuse_nul(value)


def _check_country(value: str) -> str:
    if value not in _COUNTRIES:
        raise PydanticCustomError("not_allowed", "Input should be an ISO 3166-1 alpha-2 country code.")
    return value


def _check_email(value: str) -> str:
    # Pydantic's EmailStr is too lenient: it accepts "Name <address>" and surrounding blanks.
    if not is_address(value):
        raise PydanticCustomError("wrong_format", "Input should be an email address.")
    return value


def _check_plate(value: str) -> str:
    if not plate_key(value):
        raise PydanticCustomError("wrong_format", "Input should be a licence plate with at least one letter or digit.")
    return value


def _parse_instant(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not _RFC3339.fullmatch(value):
        raise PydanticCustomError("wrong_format", "Input should be an RFC 3339 time with an offset.")
    try:
        return datetime.fromisoformat(value.upper())
    except ValueError:
        raise PydanticCustomError("wrong_format", "Input should be an existing time with a valid offset.") from None


def _parse_day_or_instant(value: Any) -> Any:
    if isinstance(value, str) and _DAY.fullmatch(value):
        return _parse_instant(f"{value}T00:00:00Z")
    return _parse_instant(value)


def _to_utc(value: datetime) -> datetime:
    """Convert to UTC and check the year. Times near `datetime.min` and `datetime.max` are refused: asyncpg stores these
    two as infinity, and a conversion to another time zone can overflow."""
    try:
        instant = value.astimezone(UTC)
    except OverflowError:
        instant = datetime.max.replace(tzinfo=UTC)
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        message = f"Input should be a time between the years {_FIRST_YEAR} and {_LAST_YEAR}."
        raise PydanticCustomError("out_of_range", message)
    return instant


def uuid_of(text: str) -> UUID | None:
    """Parse the text form of a UUID (RFC 9562, section 4); None if `text` has another form."""
    return UUID(text) if _UUID.fullmatch(text) else None


def _parse_uuid(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    uuid = uuid_of(value)
    if uuid is None:
        raise PydanticCustomError("wrong_format", "Input should be a UUID.")
    return uuid


def _integer_to_decimal(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return value


def _limit_scale(value: Decimal) -> Decimal:
    """Drop zeros that the Avro schema cannot hold, and exponents that would fill the memory (`0E999999999` is 0). The
    value of the number stays the same."""
    exponent = value.as_tuple().exponent
    if value.is_zero() and exponent not in range(-AMOUNT_DECIMALS, 1):
        return Decimal(0)
    if value.is_zero() or int(exponent) >= -AMOUNT_DECIMALS:
        return value
    return value.quantize(_SMALLEST_AMOUNT, context=Context(prec=AMOUNT_DIGITS))


PLAIN_AMOUNTS = "plain amounts"
"""The context of a serialization to JSON in which equal amounts have the same text: without an exponent, and without
zeros at the end of the fraction."""


def _amount_text(value: Decimal, info: SerializationInfo) -> str:
    if info.context != PLAIN_AMOUNTS:
        return str(value)
    if value.is_zero():
        return "0"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _canonical_locale(value: str) -> str:
    code = locales.canonical(value)
    if code is None:
        raise PydanticCustomError("unknown_locale", "Input should be a locale of /locales, for example fr-FR.")
    return code


def _check_timezone(value: str) -> str:
    if value not in _TIMEZONES:
        raise PydanticCustomError("unknown_timezone", "Input should be a time zone of the IANA database.")
    return value


_TextBase = Annotated[str, Field(max_length=TEXT_LIMIT, coerce_numbers_to_str=True)]

Identifier = Annotated[_TextBase, AfterValidator(_refuse_nul)]
"""A text that another system assigned, for example a barcode, a token or an externalId. It may contain any digits and
is not checked for card numbers."""

Phone = Identifier
"""Not checked for card numbers: one in ten phone numbers of 13 digits has a valid check digit."""

Url = Identifier
"""Not checked for card numbers: URLs contain other long numbers, for example a time in milliseconds."""

Text = Annotated[_TextBase, AfterValidator(_refuse_card_number_and_nul)]
"""A text that people wrote. A card number in it is refused."""

Plate = Annotated[
    Text,
    AfterValidator(_check_plate),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": TEXT_LIMIT,
            "examples": ["GÖ-XY 101"],
            NOTE: "It has at least one letter or digit. Plates are compared by their letters and digits: case,"
            " separators, the script of digits and the Unicode normal form make no difference.",
        }
    ),
]
"""The licence plate of a stored vehicle. A query that searches for a plate has a `Text`, which allows any text."""

LongText = Annotated[
    str,
    Field(max_length=LONG_TEXT_LIMIT, coerce_numbers_to_str=True),
    AfterValidator(_refuse_card_number_and_nul),
]
"""A document, for example a legal text."""

Flag = Annotated[bool, Strict()]
Int64 = Annotated[int, Whole(ge=-INT64 - 1, le=INT64)]
"""A signed 64-bit integer. For narrower limits, use `Annotated[int, Whole(ge=1, le=31)]`."""

Uuid = Annotated[UUID, Strict(), BeforeValidator(_parse_uuid)]
Instant = Annotated[
    datetime,
    Strict(),
    Field(examples=["2026-11-24T08:30:00Z"]),
    BeforeValidator(_parse_instant),
    AfterValidator(_to_utc),
]
"""A point in time: RFC 3339 with an offset on the wire, UTC in Python, stored to the microsecond."""

DayOrInstant = Annotated[
    datetime,
    Strict(),
    BeforeValidator(_parse_day_or_instant),
    AfterValidator(_to_utc),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["1990-05-17"],
            NOTE: "An RFC 3339 time or a date. A date means midnight UTC at its start.",
        }
    ),
]
Email = Annotated[
    Text,
    AfterValidator(_check_email),
    WithJsonSchema(
        {
            "type": "string",
            "format": "email",
            "maxLength": TEXT_LIMIT,
            "examples": ["camille.martin@example.com"],
            NOTE: "An RFC 6531 address without quotes. Addresses at docomo.ne.jp and ezweb.ne.jp may have dots anywhere"
            " before the @.",
        }
    ),
]
CountryCode = Annotated[
    str,
    Strict(),
    AfterValidator(_check_country),
    WithJsonSchema({"type": "string", "title": "CountryCode", "enum": sorted(_COUNTRIES)}),
]
Amount = Annotated[
    Decimal,
    Strict(),
    Field(max_digits=AMOUNT_DIGITS, decimal_places=AMOUNT_DECIMALS, allow_inf_nan=False),
    BeforeValidator(_integer_to_decimal),
    AfterValidator(_limit_scale),
    PlainSerializer(_amount_text, when_used="json"),
    WithJsonSchema(
        {
            "type": "number",
            "format": "double",
            "exclusiveMinimum": -1e20,
            "exclusiveMaximum": 1e20,
            NOTE: "An exact number with at most 9 digits after the point. Trailing zeros do not count.",
        }
    ),
]
"""An exact number with up to 20 digits before the point and 9 after it. On the wire, it is a JSON number."""

LocaleCode = Annotated[
    str,
    Strict(),
    AfterValidator(_canonical_locale),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": locales.PATTERN,
            "examples": ["fr-FR", "zh-Hant-TW"],
            NOTE: "A locale of /locales. Requests may use any case, - or _, and may name the locale's usual script."
            " Answers use the form fr-FR.",
        }
    ),
]
"""`en_us`, `EN-us`, `en-Latn-US` and `en-US` are the same locale, stored as `en-US`."""

Timezone = Annotated[
    str,
    Strict(),
    AfterValidator(_check_timezone),
    WithJsonSchema({"type": "string", "examples": ["Europe/Paris"], NOTE: "A time zone of the IANA database."}),
]
PcCode = Annotated[
    str,
    Strict(),
    Field(max_length=100, pattern=r"^[A-Z]{2}-[A-Z0-9]+-[A-Z0-9]+$", examples=["FR-SC-123"]),
    AfterValidator(_refuse_card_number_and_nul),
]
"""The key of a center, for example FR-SC-123."""

Item = TypeVar("Item")
Several = Annotated[list[Item], Field(max_length=LIST_LIMIT)]
"""A list of a request body, with at most `LIST_LIMIT` entries."""

Value = TypeVar("Value")
Omittable = Annotated[Value | None, NotNull()]
"""`Omittable[Text]` may be left out of a request but may not be null. `Text | None` may be null."""
