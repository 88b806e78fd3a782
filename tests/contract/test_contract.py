"""The catalogue and /openapi.json, held against a copy of the documented contract's facts in facts.json."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agents.catalogue import CATALOGUE
from agents.operation import Operation
from edge import openapi, translate

FACTS: dict[str, Any] = {
    fact["operation"]: fact for fact in json.loads((Path(__file__).parent / "facts.json").read_text())
}
DOCUMENT = openapi.describe(CATALOGUE)
LIMITS = {"minimum": "minimum", "maximum": "maximum", "default": "default", "pattern": "pattern"}
INT64_TYPED = {"integer", "number"}


def _present() -> list[Operation]:
    return CATALOGUE.operations


def _described(operation: Operation) -> Any:
    return DOCUMENT["paths"][operation.path][operation.method.lower()]


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _options(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A field's schema without null, and whether null is allowed."""
    options = [_resolved(option) for option in schema.get("anyOf", [schema])]
    kept = [option for option in options if option.get("type") != "null"]
    assert len(kept) == 1, schema
    return {**{name: schema[name] for name in ("default",) if name in schema}, **kept[0]}, len(kept) < len(options)


def _same_field(fact: dict[str, Any], schema: dict[str, Any], *, patch: bool) -> None:
    found, nullable = _options(_resolved(schema))
    assert nullable == fact.get("nullable", False), fact["name"]
    if fact["type"] != "any":
        assert found.get("type") == fact["type"] or {found.get("type"), fact["type"]} == INT64_TYPED, fact["name"]
    if isinstance(fact.get("enum"), list):
        assert set(found.get("enum") or [found["const"]]) == set(fact["enum"]), fact["name"]
    elif "enum" in fact:
        assert {"FR", "US", "ZW"} <= set(found["enum"])
    for limit, name in LIMITS.items():
        if limit in fact and not (patch and limit == "default"):
            assert found.get(name) == fact[limit], f"{fact['name']}: {limit}"
    if "items" in fact:
        _same_items(fact["items"], _resolved(found["items"]))


def _same_items(fact: dict[str, Any], schema: dict[str, Any]) -> None:
    if "fields" not in fact:
        assert schema["type"] == fact["type"]
        return
    _same_fields(fact["fields"], schema, patch=False)


def _same_fields(facts: list[dict[str, Any]], schema: dict[str, Any], *, patch: bool) -> None:
    assert set(schema["properties"]) == {fact["name"] for fact in facts}
    assert set(schema.get("required", ())) == {fact["name"] for fact in facts if fact["required"]}
    for fact in facts:
        _same_field(fact, schema["properties"][fact["name"]], patch=patch)


def test_all_143_operations_are_there() -> None:
    assert len(FACTS) == 143
    assert CATALOGUE.by_name.keys() == FACTS.keys()


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
def test_name_method_path_and_status_are_those_of_the_contract(operation: Operation) -> None:
    fact = FACTS[operation.name]
    assert CATALOGUE.family_of[operation.name] == fact["family"]
    assert (operation.method, operation.path, operation.status) == (fact["method"], fact["path"], fact["status"])
    assert _described(operation)["operationId"] == operation.name


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
@pytest.mark.parametrize("place", ["path", "query"])
def test_parameters_are_those_of_the_contract(operation: Operation, place: str) -> None:
    facts = FACTS[operation.name]["path_params" if place == "path" else "query"]
    found = {item["name"]: item for item in _described(operation)["parameters"] if item["in"] == place}
    assert set(found) == {fact["name"] for fact in facts}
    for fact in facts:
        assert found[fact["name"]]["required"] == fact["required"]
        schema = _resolved(found[fact["name"]]["schema"])
        if fact["name"].endswith(("Since", "Until")):  # documented as plain strings in places; times all the same
            assert schema.get("format") == "date-time" or operation.name == "articles.list"  # there a day will do
        # A parameter is left out, never null.
        _same_field({**fact, "nullable": False}, schema, patch=False)


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
def test_the_body_is_that_of_the_contract(operation: Operation) -> None:
    facts = FACTS[operation.name]["body"]
    body = _described(operation).get("requestBody")
    assert (body is None) == (facts == [])
    if body is not None:
        schema = _resolved(body["content"]["application/json"]["schema"])
        if FACTS[operation.name].get("body_is_array"):
            assert schema["type"] == "array"
            schema = _resolved(schema["items"])
        assert schema["additionalProperties"] is False
        _same_fields(facts, schema, patch=operation.method == "PATCH")


def _usable(example: Any) -> Any:
    """The example with a pcCode for its word for "some text", which has not the key's pattern."""
    if isinstance(example, list):
        return [_usable(item) for item in example]
    codes = {name for name in ("pcCode", "preferredCenter") if example.get(name) == "string"}
    return {**example, **dict.fromkeys(codes, "FR-SC-123")}


def _example_of(parameter: dict[str, Any]) -> str:
    """Some text that a path parameter takes."""
    named = {"pcCode": "FR-SC-123", "localeCode": "fr-FR"}
    if parameter["name"] in named:
        return named[parameter["name"]]
    if "enum" in parameter:
        return str(parameter["enum"][0])
    return "1" if parameter["type"] in INT64_TYPED else "e45934e1-5fd4-4651-b7bc-50c977a3b8c5"


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
def test_the_documented_example_is_accepted(operation: Operation) -> None:
    example = FACTS[operation.name]["request_example"]
    if example is None:
        assert FACTS[operation.name]["body"] == []
        return
    example = _usable(example)
    places = {fact["name"]: _example_of(fact) for fact in FACTS[operation.name]["path_params"]}
    parts = translate.parts_of(operation, places, b"", "application/json", json.dumps(example).encode())
    assert _members(parts["body"]) == _members(example)


def _members(value: Any) -> Any:
    """The member names of a reply, down to the records of a list."""
    if isinstance(value, list):
        return [_members(value[0])] if value else []
    if isinstance(value, dict):
        return {name: _members(item) for name, item in value.items() if name != "metadata"}
    return None


def _schema_members(schema: dict[str, Any]) -> Any:
    found, _ = _options(_resolved(schema)) if "anyOf" in schema else (_resolved(schema), False)
    if found.get("type") == "array":
        items = _schema_members(found["items"])
        return [items]
    if isinstance(found.get("additionalProperties"), dict):
        return {"…": _schema_members(found["additionalProperties"])}
    if "properties" in found:
        return {name: _schema_members(item) for name, item in found["properties"].items() if name != "metadata"}
    return None


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
def test_the_reply_has_exactly_the_documented_members(operation: Operation) -> None:
    example = FACTS[operation.name]["response_example"]
    response = _described(operation)["responses"][str(operation.status)]
    if example is None:
        assert "content" not in response
        return
    if operation.name == "parkingPartners.map":
        example = {"data": {"…": {"…": ["…"]}}}  # documented as property1 and property2 of each map
    if operation.name == "operationSessions.list":
        example = {name: value for name, value in example.items() if name != "required"}  # a slip of the example
    assert _schema_members(response["content"]["application/json"]["schema"]) == _members(example)


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"]
    text = json.dumps(DOCUMENT)
    named = set(re.findall(r"#/components/schemas/([\w.-]+)", text))
    assert named <= set(DOCUMENT["components"]["schemas"])
