"""How much a read may load, so that answers which would be too large are refused before they fill the memory."""

from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from schemas.model import Model
from schemas.shapes import Shape, shape_of


class LoadsTooMuch(Exception):
    """A read would load more than it may."""


class Allowance:
    """The bytes that the records which a read loads may have at least, as JSON."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, size: int) -> None:
        """Raises LoadsTooMuch."""
        self._left -= size
        if self._left < 0:
            raise LoadsTooMuch


COMPACT = 0.75
"""The JSON of a reply has at least this share of the bytes that PostgreSQL's JSON has, which has spaces."""

_LEAST_SIZES: dict[type, int] = {
    str: len('""'),
    int: len("0"),
    bool: len("true"),
    Decimal: len("0"),
    UUID: len('"00000000-0000-0000-0000-000000000000"'),
    datetime: len('"2026-01-01T00:00:00Z"'),
    list: len("[]"),
}


def least_size(record: Model) -> int:
    """A number of bytes that the JSON of a record does not fall below."""
    return least_size_of(type(record)) + content_size(record)


def content_size(record: Model) -> int:
    """The part of `least_size` that differs between the records of a model: that of its texts and lists."""
    size = 0
    for value in vars(record).values():
        if type(value) is str:
            size += len(value)
        elif type(value) is list:
            size += sum(map(_size_of_item, value))
    return size


def _size_of_item(item: Any) -> int:
    if isinstance(item, Model):
        return least_size(item)
    return len(item) if type(item) is str else 1


@cache
def least_size_of(model: type[Model]) -> int:
    """The bytes of the smallest record of a model as JSON. Each field takes its name and a short value."""
    fields = model.model_fields.values()
    return (
        len("{}")
        - len(",")
        + sum(len(f'"{field.serialization_alias}":,') + _least_value(shape_of(field.annotation)) for field in fields)
    )


def _least_value(shape: Shape) -> int:
    least = _LEAST_SIZES.get(shape.base, len("{}"))
    return min(least, len("null")) if shape.nullable else least
