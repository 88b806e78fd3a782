"""What a field is underneath its annotations, for those who derive something from it: columns and Avro schemas."""

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Shape:
    """`base` is a plain type (str, int, bool, datetime, UUID, Decimal, list or a model); `items` what a list holds."""

    base: type
    nullable: bool = False
    items: "Shape | None" = None


def allows_none(annotation: Any) -> bool:
    return shape_of(annotation).nullable


def shape_of(annotation: Any) -> Shape:
    """The shape of an annotation of the vocabulary; raises TypeError for one that is not of it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shape_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _optional(get_args(annotation))
    if origin is Literal:
        return Shape(type(get_args(annotation)[0]))
    if origin is list:
        return Shape(list, items=shape_of(get_args(annotation)[0]))
    if origin is dict:
        return Shape(dict, items=shape_of(get_args(annotation)[1]))
    if isinstance(annotation, type):
        return Shape(annotation)
    raise TypeError(f"{annotation!r} is no type of the vocabulary in schemas.types")


def _optional(options: tuple[Any, ...]) -> Shape:
    others = [option for option in options if option is not NoneType]
    if len(others) != 1 or len(others) == len(options):
        raise TypeError(f"a field is one type or that type and null, not {options!r}")
    inner = shape_of(others[0])
    return Shape(inner.base, nullable=True, items=inner.items)
