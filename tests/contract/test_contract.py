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


def _with(part: str) -> list[Operation]:
    return [operation for operation in _present() if getattr(operation, part) is not None]


def _taking(parameter: str) -> list[Operation]:
    facts = {name for name, fact in FACTS.items() if parameter in {field["name"] for field in fact["query"]}}
    return [operation for operation in _present() if operation.name in facts]


def _described(operation: Operation) -> Any:
    return DOCUMENT["paths"][operation.path][operation.method.lower()]


def _resolved(described: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to; anything else as it is."""
    if "$ref" not in described:
        return described
    _, _, kind, name = described["$ref"].split("/")
    found: dict[str, Any] = DOCUMENT["components"][kind][name]
    return found


def _parameters(operation: Operation, place: str) -> dict[str, Any]:
    found = [_resolved(parameter) for parameter in _described(operation)["parameters"]]
    return {parameter["name"]: parameter for parameter in found if parameter["in"] == place}


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
    found = _parameters(operation, place)
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
    content = translate.Content(json.dumps(example).encode(), "application/json")
    parts = translate.parts_of(operation, places, b"", content)
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


def test_the_document_is_openapi_3_1_and_refers_to_what_it_has() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert "Idempotency-Key" in DOCUMENT["info"]["description"]
    for reference in set(re.findall(r'"#/components/[^"]+"', json.dumps(DOCUMENT))):
        assert _resolved({"$ref": json.loads(reference)})


def test_no_schema_is_without_use() -> None:
    used = set(re.findall(r"#/components/schemas/([\w.-]+)", json.dumps(DOCUMENT)))
    assert used == set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize("family", CATALOGUE.families)
def test_the_rules_of_a_family_are_said_of_its_tag(family: str) -> None:
    tag = next(tag for tag in DOCUMENT["tags"] if tag["name"] == family)
    assert len(tag["description"].splitlines()) > 2


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
def test_a_description_speaks_to_callers(operation: Operation) -> None:
    assert "Raises" not in _described(operation).get("description", "")


def test_the_description_is_what_the_handler_says() -> None:
    assert _described(CATALOGUE.by_name["visitors.count"])["description"].startswith("Reads all that it counts")
    assert "description" not in _described(CATALOGUE.by_name["centers.list"])


def _record_of(operation: Operation) -> dict[str, Any]:
    """The schema of the record that a reply holds."""
    schema = _described(operation)["responses"][str(operation.status)]["content"]["application/json"]["schema"]
    schema = _resolved(schema)
    data = _resolved(schema.get("properties", {}).get("data", schema))
    return _resolved(data.get("items", data))


@pytest.mark.parametrize("operation", _with("item"), ids=lambda operation: operation.name)
def test_a_reply_has_all_members_unless_fields_are_asked_for(operation: Operation) -> None:
    record = _record_of(operation)
    if operation.name == "parkingPartners.map":
        assert "additionalProperties" in record
    elif "fields" in _parameters(operation, "query"):
        assert "required" not in record
        assert record["additionalProperties"] is False
    else:
        assert record["required"] == list(record["properties"])


@pytest.mark.parametrize("operation", _taking("fields"), ids=lambda operation: operation.name)
def test_fields_says_what_it_takes(operation: Operation) -> None:
    parameter = _parameters(operation, "query")["fields"]
    names = list(_record_of(operation)["properties"])
    for text in ("", *names, ",".join(names), f" {names[0]} , {names[-1]} "):
        assert re.search(parameter["schema"]["pattern"], text)
    for text in ("colour", f"-{names[0]}", f"{names[0]},", f"{names[0]}{names[0]}"):
        assert not re.search(parameter["schema"]["pattern"], text)
    assert all(f"`{name}`" in parameter["description"] for name in names)


@pytest.mark.parametrize("operation", _taking("sort"), ids=lambda operation: operation.name)
def test_sort_says_what_it_takes(operation: Operation) -> None:
    parameter = _parameters(operation, "query")["sort"]
    names = re.findall("`([A-Za-z0-9]+)`", parameter["description"])
    assert names == list(operation.sorts)
    for text in ("", *names, *(f"-{name}" for name in names), ", -".join(names)):
        assert re.search(parameter["schema"]["pattern"], text)
    for text in ("colour", f"{names[0]}-", f"{names[0]},", f"- {names[0]}", f"{names[0]} {names[0]}"):
        assert not re.search(parameter["schema"]["pattern"], text)


def _answers(operation: Operation) -> dict[int, dict[str, Any]]:
    return {int(status): _resolved(found) for status, found in _described(operation)["responses"].items()}


@pytest.mark.parametrize("operation", _present(), ids=lambda operation: operation.name)
def test_what_can_be_answered_is_said(operation: Operation) -> None:
    answers = _answers(operation)
    assert answers.keys() >= {operation.status, 400, 401, 403, 413, 429, 500, 503, 504}
    assert (202 in answers, 422 in answers) == (not operation.is_query, not operation.is_query)
    assert (415 in answers) == (FACTS[operation.name]["body"] != [])
    assert answers[401]["headers"].keys() == {"WWW-Authenticate"}
    assert {status for status, found in answers.items() if "Retry-After" in found.get("headers", ())} == {429, 503}
    for status, found in answers.items():
        if status < 300:
            assert ("Idempotency-Key" in found.get("headers", ())) == (not operation.is_query)
        else:
            assert found["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Errors"}


def test_a_visitor_may_be_erased_before_a_write_is_repeated() -> None:
    for name in ("visitors.create", "visitors.createPartial", "visitors.flagContacts"):
        assert 404 in _answers(CATALOGUE.by_name[name])


def test_what_is_taken_in_is_answered_with_its_id() -> None:
    schema = _answers(CATALOGUE.by_name["centers.create"])[202]["content"]["application/json"]["schema"]
    assert _resolved(_resolved(schema)["properties"]["data"])["required"] == ["requestId"]


@pytest.mark.parametrize(
    ("key", "taken"), [("a", True), ("a b", True), ("", False), (" a", False), ("a\tb", False), ("é", False)]
)
def test_an_idempotency_key_is_printable_ascii(key: str, taken: bool) -> None:
    schema = DOCUMENT["components"]["parameters"]["IdempotencyKey"]["schema"]
    assert (schema["minLength"], schema["maxLength"]) == (1, 128)
    assert bool(re.search(schema["pattern"], key)) == taken


def test_a_body_says_what_it_takes() -> None:
    visit = DOCUMENT["components"]["schemas"]["VisitNew"]
    assert visit["anyOf"] == [{"required": [name]} for name in ("visitorId", "barcode", "licensePlate")]
    assert "visitDate" not in json.dumps(visit)
    locale = DOCUMENT["components"]["schemas"]["VisitorLocaleNew"]["properties"]["localeCode"]
    assert re.search(locale["pattern"], "en_us")
    assert not re.search(locale["pattern"], "french")
    amount, _ = _options(DOCUMENT["components"]["schemas"]["HistoryNew"]["properties"]["refundedAmount"])
    assert amount["exclusiveMaximum"] == -amount["exclusiveMinimum"] == 10**20


def test_time_zones_and_countries_are_listed_once() -> None:
    text = json.dumps(DOCUMENT)
    assert (text.count('"Europe/Paris"'), text.count('"ZW"')) == (1, 1)
    summary = _parameters(CATALOGUE.by_name["parkingHistories.summary"], "query")["timezone"]
    assert "Europe/Paris" in _resolved(summary["schema"])["enum"]
