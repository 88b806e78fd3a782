"""The base class of all records: camelCase on the wire, snake_case in Python; unknown fields are refused."""

from collections.abc import Collection
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, Self, Unpack, cast

from pydantic import BaseModel, ConfigDict, RootModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from schemas.marks import NotNull
from schemas.shapes import allows_none
from schemas.types import Item, Several

_set_attribute = object.__setattr__


class Model(BaseModel):
    """A record of the contract. Unknown fields are refused. Validation messages never repeat the input.

    `class VehiclePatch(VehicleFields, partial=True)` is a PATCH body: every field is optional and has no default, so
    that a field which the caller left out stays unset (see `model_fields_set`). Null is refused for a field that is not
    nullable in the base class. `required` lists fields that stay required.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        serialize_by_alias=True,
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_serialization_defaults_required=True,
    )

    partial: ClassVar[bool] = False

    def __init_subclass__(
        cls, *, partial: bool = False, required: Collection[str] = (), **kwargs: Unpack[ConfigDict]
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, partial: bool = False, required: Collection[str] = (), **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.partial = partial
        if not partial:
            return
        for name, field in cls.model_fields.items():
            if name not in required:
                _make_optional(field)
        cls.model_rebuild(force=True)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Make a record without validation. `values` has one value for each field. `model_construct`, which also
        accepts aliases and defaults, takes four times as long. All records share the set of their fields, because a set
        of its own would take a third of the memory of a record."""
        record = cls.__new__(cls)
        _set_attribute(record, "__dict__", values)
        _set_attribute(record, "__pydantic_fields_set__", _all_fields(cls))
        _set_attribute(record, "__pydantic_extra__", None)
        _set_attribute(record, "__pydantic_private__", None)
        return record

    @classmethod
    def widened(cls, row: "Model", **added_fields: Any) -> Self:
        """Make a record from the fields of `row` and `added_fields`, without validation."""
        return cast(Self, cls.model_construct(**vars(row), **added_fields))

    def sent_fields(self) -> dict[str, Any]:
        """The fields that the caller sent, by their Python names. A field that the caller set to null is None."""
        return {name: getattr(self, name) for name in self.model_fields_set}


@cache
def _all_fields(model: type[Model]) -> set[str]:
    return set(model.model_fields)


def _make_optional(field: FieldInfo) -> None:
    """Allow leaving the field out. If it is not nullable, its type becomes `Omittable[type]`, which refuses null."""
    if not allows_none(field.annotation):
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        field.annotation = annotation | None  # type: ignore[operator,assignment]
        field.metadata = [NotNull()]
    field.default = None
    field.default_factory = None


class ListOf(RootModel[Several[Item]], Generic[Item]):
    """A request body that is an array, with at most `LIST_LIMIT` entries."""

    model_config = ConfigDict(hide_input_in_errors=True)

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}List"


class MapOf(RootModel[dict[str, Item]], Generic[Item]):
    """A reply that is an object whose keys are data, for example center codes."""


class NoFields(Model):
    """The path, query or body of an operation without parameters of that kind."""
