"""Schemas of other releases and systems: the company's registry and the messages that wait for it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import HttpUrl

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from topics import avro
from topics.codec import Codec
from topics.schema_registry import RegistryUnavailable, SchemaRegistry
from topics.settings import SchemaRegistrySettings

WIRE = Wire(CATALOGUE)
SCHEMA = WIRE.requests["visits.create"]
ID = avro.schema_id(SCHEMA)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[httpx.Request], Any]], SchemaRegistry]:
    """Makes a client of a registry that answers each request with the response of a function."""
    create = httpx.AsyncClient

    def client_of(answer: Callable[[httpx.Request], Any]) -> SchemaRegistry:
        def client(**arguments: Any) -> httpx.AsyncClient:
            return create(**arguments | {"transport": httpx.MockTransport(answer)})

        monkeypatch.setattr("topics.schema_registry.httpx.AsyncClient", client)
        return SchemaRegistry(SchemaRegistrySettings(url=HttpUrl("http://registry.example/apis/ccompat/v7")))

    return client_of


@pytest.mark.parametrize(
    "text",
    [
        "null", "[]", '"text"', "{}", "<html>", "[" * 100_000, '{"schema": null}', '{"schema": {"type": "record"}}',
        '{"schema": "{"}',
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
async def test_an_odd_answer_about_a_schema_is_a_failure_that_names_the_request(registry: Any, text: str) -> None:
    client = registry(lambda _: httpx.Response(200, text=text))
    with pytest.raises(RegistryUnavailable, match="GET schemas/ids/7: "):
        await client.schema(7)


@pytest.mark.parametrize(
    "text",
    ["null", "[]", *(f'{{"id": {number}}}' for number in ("null", '"x"', "[]", "Infinity", "-1", 2**31)), "{}"],
)
async def test_an_odd_answer_to_a_registration_is_a_failure_that_names_the_request(registry: Any, text: str) -> None:
    client = registry(lambda _: httpx.Response(200, text=text))
    with pytest.raises(RegistryUnavailable, match="POST subjects/a%2Fb/versions: "):
        await client.register("a/b", SCHEMA)


@pytest.mark.parametrize(
    "schema", ['"string"', '["null"]', '{"type": "array", "items": ' * 2_000 + '"int"' + "}" * 2_000]
)
async def test_a_schema_of_the_registry_that_no_request_can_have_is_none(registry: Any, schema: str) -> None:
    client = registry(lambda _: httpx.Response(200, json={"schema": schema}))
    assert await client.schema(7) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "record", "name": ["a", "."], "namespace": "a", "fields": []},
        {"type": "record", "name": "A", "fields": None},
    ],
)
def test_a_schema_that_cannot_be_read_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="the schema with the id 7 is invalid"):
        Codec([]).add(7, schema)


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    nested: Any = "int"
    for _ in range(2_000):
        nested = avro.array_of(nested)
    with pytest.raises(ValueError, match="the schema with the id 7 is invalid"):
        Codec([]).add(7, {"type": "record", "name": "A", "fields": [{"name": "a", "type": nested}]})
