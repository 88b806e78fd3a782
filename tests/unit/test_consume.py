"""Records are printed whatever others have written."""

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runtime.console.letters import outline
from runtime.console.request_trace import Traces
from runtime.consume import Values, printable
from topics import json
from topics.schema_registry import SchemaRegistry

NO_READERS: Any = None
DEEP = b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"


class _Registry:
    """A company's registry with one schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    async def schema(self, _: int) -> dict[str, Any]:
        return self._schema


def _record(value: bytes | None, **fields: Any) -> Any:
    return SimpleNamespace(partition=0, offset=1, key=b"k", headers=[], value=value, timestamp=0, **fields)


async def _printed(value: bytes, schema: dict[str, Any] | None = None) -> Any:
    registry = None if schema is None else cast(SchemaRegistry, _Registry(schema))
    return json.read(json.write(await printable(Values(registry), _record(value))))["value"]


def _avro(content: bytes) -> bytes:
    return struct.pack(">bI", 0, 77) + content


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (rb'{"name": "\ud83d!"}', {"name": r"\ud83d!"}),
        (rb'{"\ud83d": 1, "n": 1.50}', {r"\ud83d": 1, "n": json.read(b"1.50")}),
    ],
)
async def test_half_a_surrogate_pair_is_printed_as_its_escape(value: bytes, printed: Any) -> None:
    assert await _printed(value) == printed


async def test_what_is_nested_too_deeply_is_cut_off() -> None:
    printed = await _printed(DEEP)
    assert str(printed).startswith("{'a': [[[[")
    assert "…" in str(printed)


async def test_bytes_of_a_schema_of_the_company_are_printed_in_base64() -> None:
    schema = {"type": "record", "name": "x.Blob", "fields": [{"name": "a", "type": "bytes"}]}
    assert await _printed(_avro(b"\x04\xff\x00"), schema) == {"a": "/wA="}


async def test_a_value_with_a_schema_that_is_no_record_is_unreadable() -> None:
    printed = await _printed(_avro(b"\x00"), {"type": "map", "values": "string"})
    assert "77" in printed["unreadable"]
    assert printed["bytes"] == 6


async def test_the_console_outlines_what_is_nested_too_deeply() -> None:
    content = await printable(Values(None), _record(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"))
    assert json.write(outline(content["value"])).startswith(b'{"a":[[[')


async def test_a_tombstone_belongs_to_no_request() -> None:
    headers = [("ce_id", b"optin-17-3"), ("ce_type", b"visitor.optin.deleted")]
    tombstone = _record(None, topic="visitor.optins.changes.optin")
    tombstone.headers = headers
    assert await Traces(NO_READERS, NO_READERS, Values(None))._match(tombstone, "17") is None
