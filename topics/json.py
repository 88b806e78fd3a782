"""JSON as this service reads and writes it."""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

import orjson

from topics.envelope import InvalidMessage


def read(value: bytes) -> Any:
    """Decode JSON (RFC 8259), keeping the text of numbers with a fraction as Decimal. Raises InvalidMessage."""
    try:
        return _DECODER.decode(value.decode())
    except UnicodeDecodeError:
        raise InvalidMessage("not_utf8", "The value is not UTF-8.") from None
    except (ValueError, RecursionError, ArithmeticError):
        raise InvalidMessage("not_json", "The value is not JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _integer(text: str) -> int | Decimal:
    """Beyond 64 bits as Decimal, which can be written again: in a text field it is taken as its text."""
    number = int(text)
    return number if -(2**63) <= number < 2**63 else Decimal(text)


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_int=_integer, parse_constant=_refuse_constant)


def write(value: Any) -> bytes:
    """Times in UTC with Z, decimals as exact numbers."""
    return orjson.dumps(value, default=exact, option=orjson.OPT_UTC_Z)


_RESULT = re.compile(rb'\{"status":(\d{3}),"body":(.*)\}', re.DOTALL)


def write_result(status: int, body: Any) -> bytes:
    return write({"status": status, "body": body})


def split_result(value: bytes) -> tuple[int, bytes]:
    """The status of a result that `write_result` made, and its body as it was written, which whoever passes it on need
    not read. Raises ValueError for anything else."""
    found = _RESULT.fullmatch(value)
    if found is None:
        raise ValueError("this is no result")
    return int(found[1]), found[2]


def exact(value: Any) -> orjson.Fragment | str:
    """What orjson does not know by itself: exact decimals, and the driver's own class of UUIDs."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)
