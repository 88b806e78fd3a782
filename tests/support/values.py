"""Hypothesis strategies for values that the models accept, from the types of their fields."""

from collections.abc import Iterator
from datetime import timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from schemas.shapes import shape_of
from schemas.types import AMOUNT_DECIMALS, INT64

TEXTS: tuple[Any, ...] = (
    *("Zora", "é", "e\u0301", "İẞ", "\U0001f600", "\u202eabc\u2028", "\x01\x7f", "\uffff\U0010ffff", " ", '"\\/'),
    *("x" * 1_000, "O\u2019Brien", "\u3042" * 400, "4111111111111111", "clear", "null", "{}"),
    *(12, Decimal("1.50"), Decimal("1E+400"), Decimal(2**70)),
    *("FR", "fr-FR", "zh_hans_cn", "es-419", "FR-SC-123", "Europe/Paris", "UTC", "GÖ-XY 101", "123456", "1234"),
    *("a@example.com", "rene\u0301@b\u00fccher.de", "a..b@docomo.ne.jp", "x" * 64 + "@example.com"),
    *("2019-08-24T14:15:22Z", "1990-05-17", "https://example.com/a.jpg?t=1647725122227"),
)  # fmt: skip
"""Examples of each type that is a text, and numbers, which are accepted as texts."""

ANY_TEXT = "any, at all?"
"""A text that only types without a format accept."""


def of_model(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Values of the model in the form in which JSON is read: numbers with a fraction are Decimal, times are texts."""
    if issubclass(model, RootModel):
        return of_field(model.model_fields["root"])
    required, optional = {}, {}
    for name, field in model.model_fields.items():
        fields = required if field.is_required() else optional
        fields[field.alias or name] = of_field(field)
    return st.fixed_dictionaries(required, optional=optional)


def of_field(field: FieldInfo) -> st.SearchStrategy[Any]:
    if not field.metadata:
        return _of(field.annotation)
    return _of(Annotated[field.annotation, *field.metadata])


def _of(annotation: Any) -> st.SearchStrategy[Any]:
    values = _not_null(annotation)
    return st.none() | values if _accepts(annotation, None) else values


def _not_null(annotation: Any) -> st.SearchStrategy[Any]:
    base = shape_of(annotation).base
    if issubclass(base, BaseModel):
        return of_model(base)
    if base is list:
        item = next(_arguments(annotation, list))
        return st.lists(_of(item), max_size=3)
    if base is dict:
        _, item = _arguments(annotation, dict)
        return st.dictionaries(st.text(max_size=5), _of(item), max_size=2)
    return _scalar(annotation)


def _arguments(annotation: Any, origin: Any) -> Iterator[Any]:
    """The arguments of the first `origin[…]` in an annotation."""
    if get_origin(annotation) is origin:
        yield from get_args(annotation)
        return
    for inner in get_args(annotation):
        yield from _arguments(inner, origin)


def _accepts(annotation: Any, value: Any) -> bool:
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


@cache
def _scalar(annotation: Any) -> st.SearchStrategy[Any]:
    base = shape_of(annotation).base
    options = list(_arguments(annotation, Literal))
    if options:
        return st.sampled_from(options)
    if base is str:
        return _texts(annotation)
    if base is int:
        schema = next(schema for schema in _schemas(annotation) if schema.get("format") == "int64")
        numbers = st.integers(schema.get("minimum", -INT64 - 1), schema.get("maximum", INT64))
        return numbers | numbers.map(lambda number: Decimal(f"{number}.0"))
    if base is Decimal:
        integers, fractions = st.integers(-(10**20) + 1, 10**20 - 1), st.integers(0, 10**9 - 1)
        return st.builds(_decimal, integers, fractions, st.integers(0, 12))
    if base is bool:
        return st.booleans()
    if base is UUID:
        return st.uuids().map(str)
    return _timestamps().filter(lambda text: _accepts(annotation, text))


def _schemas(annotation: Any) -> Iterator[dict[str, Any]]:
    """The JSON schema of an annotation and those of its alternatives."""
    schema = _adapter(annotation).json_schema()
    yield schema
    yield from schema.get("anyOf", ())


def _texts(annotation: Any) -> st.SearchStrategy[Any]:
    examples = st.sampled_from([text for text in TEXTS if _accepts(annotation, text)])
    if not _accepts(annotation, ANY_TEXT):
        return examples
    return examples | st.text(max_size=20).filter(lambda text: _accepts(annotation, text))


def _decimal(integer: int, fraction: int, zeros: int) -> Decimal:
    return Decimal(f"{integer}.{fraction:0{AMOUNT_DECIMALS}}{'0' * zeros}")


def _timestamps() -> st.SearchStrategy[str]:
    offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    return st.datetimes(timezones=offsets).map(lambda time: time.isoformat())
