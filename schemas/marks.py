"""Marks on a field's type that pydantic has no word for."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class NotNull:
    """May be left out (and is then null in storage and replies), but null itself is refused in a request."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_refuse_null, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        if handler.mode == "serialization":
            return described
        options = [option for option in described.get("anyOf", []) if option != {"type": "null"}]
        return options[0] if len(options) == 1 else described


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null_refused", "This field may be left out, but it may not be null.")
    return value


@dataclass(frozen=True)
class Whole:
    """An integer between two limits, both included. A decimal without a fraction (2020.0) is accepted as an integer."""

    ge: int
    le: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # The limits belong to the inner schema: pydantic omits limits around a validator from the JSON schema.
        integer = core_schema.int_schema(strict=True, ge=self.ge, le=self.le)
        return core_schema.no_info_before_validator_function(_without_fraction, integer)


_BEYOND = Decimal(2**64)


def _without_fraction(value: Any) -> Any:
    if not isinstance(value, Decimal) or value != value.to_integral_value():
        return value
    # Limit the value first: the integer 1E999999999 does not fit into memory.
    return int(max(-_BEYOND, min(value, _BEYOND)))


class MessageOnly:
    """A field that a message may carry and an HTTP call may not."""
