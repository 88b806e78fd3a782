"""Annotations of field types that pydantic does not provide."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class NotNull:
    """The field may be left out of a request, but null is refused. A field that was left out is null in storage and
    in replies."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_refuse_null, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        if handler.mode == "serialization":
            return json_schema
        options = [option for option in json_schema.get("anyOf", []) if option != {"type": "null"}]
        return options[0] if len(options) == 1 else json_schema


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null_refused", "This field may not be null. Leave it out instead.")
    return value


@dataclass(frozen=True)
class Whole:
    """An integer from `ge` to `le`, both included. A number whose fraction is zero is an integer too (2020.0)."""

    ge: int
    le: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # The limits are part of the inner schema, because pydantic omits limits around a validator from JSON Schema.
        integer = core_schema.int_schema(strict=True, ge=self.ge, le=self.le)
        return core_schema.no_info_before_validator_function(_whole_decimal_to_int, integer)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Without the limits of int64, which the format implies. JavaScript would round them to greater numbers."""
        json_schema = {name: limit for name, limit in handler(schema).items() if limit not in _INT64_LIMITS}
        return json_schema | {"format": "int64"}


_INT64_LIMITS = (-(2**63), 2**63 - 1)
_OUT_OF_RANGE = Decimal(2**64)


def _whole_decimal_to_int(value: Any) -> Any:
    if not isinstance(value, Decimal) or value != value.to_integral_value():
        return value
    # Clamp before the conversion, because the digits of 1E999999999 would fill the memory.
    return int(max(-_OUT_OF_RANGE, min(value, _OUT_OF_RANGE)))


class MessageOnly:
    """The field is allowed in a message and refused in an HTTP call."""
