"""The base of everything that travels: camelCase on the wire, snake_case in Python, nothing unknown accepted."""

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Generic, Self, Unpack, cast

from pydantic import BaseModel, ConfigDict, RootModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from schemas.marks import NotNull
from schemas.shapes import allows_none
from schemas.types import Item, Several

_set = object.__setattr__


class Model(BaseModel):
    """A record of the contract. Unknown fields are refused; messages about faults never repeat the input.

    `class VehiclePatch(VehicleFields, partial=True)` makes every field optional and drops the defaults: what is left
    out stays unset (see `model_fields_set`), and null is refused for fields that were not nullable. `required` names
    fields that stay required all the same.
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
        """A record with these values, one for each field, which are right already. What `model_construct` does for any
        values takes four times as long."""
        found = cls.__new__(cls)
        _set(found, "__dict__", values)
        _set(found, "__pydantic_fields_set__", set(values))
        _set(found, "__pydantic_extra__", None)
        _set(found, "__pydantic_private__", None)
        return found

    @classmethod
    def widened(cls, row: "Model", **more: Any) -> Self:
        """A record with all of `row` and `more`; nothing is validated."""
        return cast(Self, cls.model_construct(**vars(row), **more))

    def sent_fields(self) -> dict[str, Any]:
        """The fields that the caller sent, by their Python names, with the caller's nulls."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _make_optional(field: FieldInfo) -> None:
    if not allows_none(field.annotation):
        whole = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        field.annotation = whole | None  # type: ignore[operator,assignment]
        field.metadata = [NotNull()]
    field.default = None
    field.default_factory = None


class ListOf(RootModel[Several[Item]], Generic[Item]):
    """A body that is an array."""

    model_config = ConfigDict(hide_input_in_errors=True)


class MapOf(RootModel[dict[str, Item]], Generic[Item]):
    """A reply whose keys are data."""


class NoFields(Model):
    """The path, query or body of an operation that has none."""
