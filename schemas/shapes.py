"""The plain type of a field without its annotations. Columns and Avro schemas are derived from it."""

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Shape:
    """`base` is a plain type: str, int, bool, datetime, UUID, Decimal, list, dict or a model. `items` is the shape of
    the entries of a list or of the values of a dict."""

    base: type
    nullable: bool = False
    items: "Shape | None" = None


def allows_none(annotation: Any) -> bool:
    """True if a field of this type may be null."""
    return shape_of(annotation).nullable


def shape_of(annotation: Any) -> Shape:
    """The shape of a type that `schemas.types` allows. Raises TypeError for other types."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shape_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _nullable_shape(get_args(annotation))
    if origin is Literal:
        return Shape(type(get_args(annotation)[0]))
    if origin is list:
        return Shape(list, items=shape_of(get_args(annotation)[0]))
    if origin is dict:
        return Shape(dict, items=shape_of(get_args(annotation)[1]))
    if isinstance(annotation, type):
        return Shape(annotation)
    raise TypeError(f"use a type of schemas.types instead of {annotation!r}")


def _nullable_shape(union: tuple[Any, ...]) -> Shape:
    types = [member for member in union if member is not NoneType]
    if len(types) != 1 or len(types) == len(union):
        raise TypeError(f"the type of a field is one type or a union of one type and None, not {union!r}")
    shape = shape_of(types[0])
    return Shape(shape.base, nullable=True, items=shape.items)
