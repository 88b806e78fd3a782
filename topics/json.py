"""Reads and writes JSON. Decimal numbers stay exact."""

import base64
import json
import re
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

import orjson

from topics.envelope import InvalidMessage


def read(value: bytes) -> Any:
    """Decode JSON (RFC 8259). A number with a fraction becomes a Decimal, which keeps its text. Raises
    InvalidMessage."""
    try:
        return _DECODER.decode(value.decode())
    except UnicodeDecodeError:
        raise InvalidMessage("not_utf8", "The value must be UTF-8.") from None
    except (ValueError, RecursionError, ArithmeticError):
        raise InvalidMessage("not_json", "The value must be JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _integer(text: str) -> int | Decimal:
    """An int if it has at most 64 bits, since orjson writes no larger ones; otherwise a Decimal. A text field accepts
    both."""
    number = int(text)
    return number if -(2**63) <= number < 2**63 else Decimal(text)


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_int=_integer, parse_constant=_refuse_constant)


def write(value: Any, *, indent: bool = False) -> bytes:
    """Encode JSON: times in UTC with Z, decimals as exact numbers. `indent`: for people."""
    option = orjson.OPT_UTC_Z | orjson.OPT_INDENT_2 if indent else orjson.OPT_UTC_Z
    return orjson.dumps(value, default=exact, option=option)


PRINTED_LEVELS = 100
"""Levels of nesting that `printable` keeps. orjson writes 254, and a caller may put the value into a document."""


def printable(value: Any, levels: int = PRINTED_LEVELS) -> Any:
    """A value that others wrote, in a form that `write` accepts: half a surrogate pair as its escape, bytes in base64,
    and … instead of what is nested too deeply."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict | list) and levels == 0:
        return "…"
    if isinstance(value, dict):
        return {printable(name): printable(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [printable(item, levels - 1) for item in value]
    return value


_RESULT = re.compile(rb'\{"status":([2-5]\d{2}),"body":(.*)\}', re.DOTALL)


def write_result(status: int, body: Any) -> bytes:
    return write({"status": status, "body": body})


def split_result(value: bytes) -> tuple[int, bytes]:
    """Split a result that `write_result` encoded into its status and the JSON of its body, without decoding the body.
    Raises ValueError if `value` is not such a result."""
    match = _RESULT.fullmatch(value)
    if match is None:
        raise ValueError("the value is not a result")
    return int(match[1]), match[2]


def exact(value: Any) -> orjson.Fragment | str:
    """Encode the types that orjson does not support: Decimal, and asyncpg's subclass of UUID."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)
