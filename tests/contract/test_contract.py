"""The catalogue and /openapi.json agree with the documented contract, of which facts.json is a copy."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from agents.catalogue import CATALOGUE
from agents.operation import Operation
from edge import components, openapi, translate
from schemas.descriptions import COMMON

FACTS: dict[str, Any] = {
    fact["operation"]: fact for fact in json.loads((Path(__file__).parent / "facts.json").read_text())
}
DOCUMENT = openapi.describe(CATALOGUE)
LIMITS = ("minimum", "maximum", "default", "pattern")
INT64_TYPES = {"integer", "number"}


OPERATIONS = CATALOGUE.operations


def _with_query_param(name: str) -> list[Operation]:
    return [
        operation
        for operation in OPERATIONS
        if name in {field["name"] for field in FACTS.get(operation.name, {}).get("query", ())}
    ]


def _described(operation: Operation) -> Any:
    return DOCUMENT["paths"][operation.path][operation.method.lower()]


def _resolved(described: dict[str, Any]) -> dict[str, Any]:
    """The component that a `$ref` names; a schema without a `$ref` is returned unchanged."""
    if "$ref" not in described:
        return described
    _, _, kind, name = described["$ref"].split("/")
    component: dict[str, Any] = DOCUMENT["components"][kind][name]
    return component


def _parameters(operation: Operation, location: str) -> dict[str, Any]:
    parameters = [_resolved(parameter) for parameter in _described(operation)["parameters"]]
    return {parameter["name"]: parameter for parameter in parameters if parameter["in"] == location}


def _without_null(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A field's schema without null, and whether null is allowed."""
    if isinstance(schema.get("type"), list):
        return components.without_null(schema), True
    options = [_resolved(option) for option in schema.get("anyOf", [schema])]
    not_null = [option for option in options if option.get("type") != "null"]
    assert len(not_null) == 1, schema
    default = {"default": schema["default"]} if "default" in schema else {}
    return {**default, **not_null[0]}, len(not_null) < len(options)


def _assert_same_field(fact: dict[str, Any], schema: dict[str, Any], *, patch: bool) -> None:
    actual, nullable = _without_null(_resolved(schema))
    assert nullable == fact.get("nullable", False), fact["name"]
    if fact["type"] != "any":
        assert actual.get("type") == fact["type"] or {actual.get("type"), fact["type"]} == INT64_TYPES, fact["name"]
    if isinstance(fact.get("enum"), list):
        assert set(actual["enum"]) == set(fact["enum"]), fact["name"]
    elif "enum" in fact:
        assert {"FR", "US", "ZW"} <= set(actual["enum"])
    if actual.get("type") == "integer" or fact.get("format") == "int64":
        assert actual["format"] == "int64", fact["name"]
    for limit in LIMITS:
        if limit in fact and not (patch and limit == "default"):
            assert actual.get(limit) == fact[limit], f"{fact['name']}: {limit}"
    if "items" in fact:
        _assert_same_items(fact["items"], _resolved(actual["items"]))


def _assert_same_items(fact: dict[str, Any], schema: dict[str, Any]) -> None:
    if "fields" not in fact:
        assert schema["type"] == fact["type"]
        return
    _assert_same_fields(fact["fields"], schema, patch=False)


def _assert_same_fields(facts: list[dict[str, Any]], schema: dict[str, Any], *, patch: bool) -> None:
    assert set(schema["properties"]) == {fact["name"] for fact in facts}
    assert set(schema.get("required", ())) == {fact["name"] for fact in facts if fact["required"]}
    for fact in facts:
        _assert_same_field(fact, schema["properties"][fact["name"]], patch=patch)


def test_the_catalogue_has_all_143_operations() -> None:
    assert len(FACTS) == 143
    assert {operation.name for operation in CATALOGUE.operations} == FACTS.keys()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_name_family_method_path_and_status_agree_with_the_contract(operation: Operation) -> None:
    fact = FACTS[operation.name]
    assert CATALOGUE.family_of[operation.name] == fact["family"]
    assert (operation.method, operation.path, operation.status) == (fact["method"], fact["path"], fact["status"])
    assert _described(operation)["operationId"] == operation.name


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("location", ["path", "query"])
def test_parameters_agree_with_the_contract(operation: Operation, location: str) -> None:
    facts = FACTS[operation.name]["path_params" if location == "path" else "query"]
    parameters = _parameters(operation, location)
    assert set(parameters) == {fact["name"] for fact in facts}
    for fact in facts:
        parameter = parameters[fact["name"]]
        assert parameter["required"] == fact["required"]
        schema = _resolved(parameter["schema"])
        # The contract documents some of these as plain strings. `articles.list` also takes a date without a time.
        if fact["name"].endswith(("Since", "Until")):
            assert schema.get("format") == "date-time" or operation.name == "articles.list"
        # A parameter may be left out, but is never null.
        _assert_same_field({**fact, "nullable": False}, schema, patch=False)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_body_agrees_with_the_contract(operation: Operation) -> None:
    facts = FACTS[operation.name]["body"]
    body = _described(operation).get("requestBody")
    assert (body is None) == (facts == [])
    if body is not None:
        schema = _resolved(body["content"]["application/json"]["schema"])
        if FACTS[operation.name].get("body_is_array"):
            assert schema["type"] == "array"
            schema = _resolved(schema["items"])
        assert schema["additionalProperties"] is False
        _assert_same_fields(facts, schema, patch=operation.method == "PATCH")


def _with_valid_codes(example: Any) -> Any:
    """The example with valid pcCodes. The contract has the placeholder "string", which does not match the pattern."""
    if isinstance(example, list):
        return [_with_valid_codes(item) for item in example]
    codes = {name for name in ("pcCode", "preferredCenter") if example.get(name) == "string"}
    return {**example, **dict.fromkeys(codes, "FR-SC-123")}


def _valid_value(parameter: dict[str, Any]) -> str:
    """A valid value of a path parameter."""
    by_name = {"pcCode": "FR-SC-123", "localeCode": "fr-FR"}
    if parameter["name"] in by_name:
        return by_name[parameter["name"]]
    if "enum" in parameter:
        return str(parameter["enum"][0])
    if parameter["type"] in INT64_TYPES:
        return "1"
    return "e45934e1-5fd4-4651-b7bc-50c977a3b8c5"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_documented_example_is_accepted(operation: Operation) -> None:
    example = FACTS[operation.name]["request_example"]
    if example is None:
        assert FACTS[operation.name]["body"] == []
        return
    example = _with_valid_codes(example)
    path_params = {fact["name"]: _valid_value(fact) for fact in FACTS[operation.name]["path_params"]}
    content = translate.Content(json.dumps(example).encode(), "application/json")
    parts = translate.parts_of(operation, path_params, b"", content)
    assert _members(parts["body"]) == _members(example)


def _members(value: Any) -> Any:
    """The names of the members of a reply, including those of nested records. A list has the members of its first
    item."""
    if isinstance(value, list):
        return [_members(value[0])] if value else []
    if isinstance(value, dict):
        return {name: _members(item) for name, item in value.items() if name != "metadata"}
    return None


def _schema_members(schema: dict[str, Any]) -> Any:
    """The same for the schema of a reply. A map has the member `…` for each of its keys."""
    schema = _without_null(_resolved(schema))[0]
    if schema.get("type") == "array":
        return [_schema_members(schema["items"])]
    if isinstance(schema.get("additionalProperties"), dict):
        return {"…": _schema_members(schema["additionalProperties"])}
    if "properties" in schema:
        return {name: _schema_members(item) for name, item in schema["properties"].items() if name != "metadata"}
    return None


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_reply_has_exactly_the_documented_members(operation: Operation) -> None:
    example = FACTS[operation.name]["response_example"]
    response = _described(operation)["responses"][str(operation.status)]
    if example is None:
        assert "content" not in response
        return
    if operation.name == "parkingPartners.map":
        example = {"data": {"…": {"…": ["…"]}}}  # the contract documents the keys as property1 and property2
    if operation.name == "operationSessions.list":
        example = {name: value for name, value in example.items() if name != "required"}  # a mistake in the contract
    assert _schema_members(response["content"]["application/json"]["schema"]) == _members(example)


def test_the_document_is_openapi_3_1_and_every_reference_has_a_target() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert "Idempotency-Key" in DOCUMENT["info"]["description"]
    for reference in set(re.findall(r'"#/components/[^"]+"', json.dumps(DOCUMENT))):
        assert _resolved({"$ref": json.loads(reference)})


def test_every_schema_is_used() -> None:
    used = set(re.findall(r"#/components/schemas/([\w.-]+)", json.dumps(DOCUMENT)))
    assert used == set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize("family", CATALOGUE.families)
def test_the_tag_of_a_family_describes_its_rules(family: str) -> None:
    tag = next(tag for tag in DOCUMENT["tags"] if tag["name"] == family)
    assert len(tag["description"].splitlines()) > 2


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_no_description_names_an_exception(operation: Operation) -> None:
    assert "Raises" not in _described(operation).get("description", "")


def test_the_description_of_an_operation_is_the_docstring_of_its_handler() -> None:
    assert _described(CATALOGUE.by_name["visitors.count"])["description"].startswith("Count the matching visitors")
    assert "description" not in _described(CATALOGUE.by_name["centers.list"])


def _record_of(operation: Operation) -> dict[str, Any]:
    """The schema of the record in a reply, or of the records in a list."""
    schema = _described(operation)["responses"][str(operation.status)]["content"]["application/json"]["schema"]
    schema = _resolved(schema)
    data = _resolved(schema.get("properties", {}).get("data", schema))
    return _resolved(data.get("items", data))


WITH_REPLY = [operation for operation in OPERATIONS if operation.item is not None]


@pytest.mark.parametrize("operation", WITH_REPLY, ids=lambda operation: operation.name)
def test_every_member_of_a_reply_is_required(operation: Operation) -> None:
    record = _record_of(operation)
    if operation.name == "parkingPartners.map":
        assert "additionalProperties" in record
    else:
        assert record["required"] == list(record["properties"])


def _schemas_within(value: Any) -> Iterator[dict[str, Any]]:
    """All schemas in a JSON value, with those that it refers to."""
    if isinstance(value, list):
        for item in value:
            yield from _schemas_within(item)
    elif isinstance(value, dict):
        if value.get("$ref", "").startswith("#/components/schemas/"):
            yield from _schemas_within(_resolved(value))
        yield value
        for item in value.values():
            yield from _schemas_within(item)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_replies_may_gain_fields_and_requests_are_closed(operation: Operation) -> None:
    described = _described(operation)
    for schema in _schemas_within(described["responses"]):
        assert schema.get("additionalProperties") is not False
    for schema in _schemas_within(described.get("requestBody")):
        if "properties" in schema:
            assert schema["additionalProperties"] is False


def test_every_field_and_every_parameter_has_a_description() -> None:
    described = {
        f"{name}.{field}": schema.get("description")
        for name, component in DOCUMENT["components"]["schemas"].items()
        for field, schema in component.get("properties", {}).items()
    }
    for operation in OPERATIONS:
        for parameter in _described(operation)["parameters"]:
            resolved = _resolved(parameter)
            described[f"{operation.name} {resolved['name']}"] = resolved.get("description")
    described |= {name: header.get("description") for name, header in DOCUMENT["components"]["headers"].items()}
    assert [name for name, description in described.items() if not description] == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_valid_examples(operation: Operation) -> None:
    described = _described(operation)
    for parameter in described["parameters"]:
        if parameter.get("required"):
            assert "example" in parameter
    contents = [described.get("requestBody", {}), described["responses"][str(operation.status)]]
    for content in (body["content"]["application/json"] for body in contents if "content" in body):
        validator = jsonschema_rs.Draft202012Validator(
            {**content["schema"], "components": DOCUMENT["components"]}, validate_formats=True
        )
        assert [str(error) for error in validator.iter_errors(content["example"])] == []


def test_the_ids_of_the_sample_data_are_in_the_examples() -> None:
    sample = {"visitorId": "11111111-2222-4333-8444-555555555555", "deleted": {"bookmarkId": 4711}}
    paths = openapi.describe(CATALOGUE, sample=sample)["paths"]
    visit = paths["/visits/{visitType}"]["post"]
    assert visit["requestBody"]["content"]["application/json"]["example"]["visitorId"] == sample["visitorId"]
    bookmark = paths["/visitors/{visitorId}/bookmarks/{bookmarkId}"]
    assert [parameter["example"] for parameter in bookmark["delete"]["parameters"][:2]] == [sample["visitorId"], 4711]
    assert bookmark["get"]["parameters"][1]["example"] != 4711


def test_a_common_description_is_used() -> None:
    text = json.dumps(DOCUMENT)
    assert [name for name, description in COMMON.items() if json.dumps(description)[1:-1] not in text] == []


def test_schemas_have_the_names_of_their_records() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert {"Visitor", "VisitorReply", "VisitorListReply", "LegalText", "LegalTextReply", "Service"} <= schemas.keys()
    assert all(re.fullmatch("[A-Z][A-Za-z]+", name) for name in schemas)


def test_no_text_is_generated_from_a_pattern_that_only_excludes_characters() -> None:
    patterns = {schema["pattern"] for schema in _schemas_within(DOCUMENT["paths"]) if "pattern" in schema}
    assert not any("x00" in pattern for pattern in patterns)
    assert "const" not in json.dumps(DOCUMENT)


@pytest.mark.parametrize("operation", _with_query_param("fields"), ids=lambda operation: operation.name)
def test_the_parameter_fields_lists_its_values(operation: Operation) -> None:
    parameter = _parameters(operation, "query")["fields"]
    names = list(_record_of(operation)["properties"])
    assert "pattern" not in parameter["schema"]
    assert all(f"`{name}`" in parameter["description"] for name in names)


@pytest.mark.parametrize("operation", _with_query_param("sort"), ids=lambda operation: operation.name)
def test_the_parameter_sort_lists_its_values(operation: Operation) -> None:
    parameter = _parameters(operation, "query")["sort"]
    names = re.findall("`([A-Za-z0-9]+)`", parameter["description"])
    assert names == list(operation.sorts)
    assert "pattern" not in parameter["schema"]


def _responses(operation: Operation) -> dict[int, dict[str, Any]]:
    """The responses of an operation by status."""
    return {int(status): _resolved(response) for status, response in _described(operation)["responses"].items()}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_possible_status_is_documented(operation: Operation) -> None:
    responses = _responses(operation)
    assert responses.keys() >= {operation.status, 400, 401, 403, 413, 429, 500, 503, 504}
    assert (422 in responses) == (not operation.is_query)
    assert 202 not in responses  # it is described with the header Prefer
    assert (415 in responses) == (FACTS[operation.name]["body"] != [])
    assert responses[401]["headers"].keys() == {"WWW-Authenticate"}
    with_retry = {status for status, response in responses.items() if "Retry-After" in response.get("headers", ())}
    assert with_retry == {429, 503}
    for status, response in responses.items():
        if status < 300:
            assert ("Idempotency-Key" in response.get("headers", ())) == (not operation.is_query)
        else:
            assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Errors"}


def test_a_repeated_write_may_answer_404_because_its_visitor_was_erased() -> None:
    for name in ("visitors.create", "visitors.createPartial", "visitors.flagContacts"):
        assert 404 in _responses(CATALOGUE.by_name[name])


def test_the_header_prefer_describes_the_answer_202() -> None:
    description = DOCUMENT["components"]["parameters"]["Prefer"]["description"]
    assert "202" in description
    assert "requestId" in description


def test_calls_need_a_key_if_keys_are_configured() -> None:
    assert DOCUMENT["security"] == []
    assert "securitySchemes" not in DOCUMENT["components"]
    with_keys = openapi.describe(CATALOGUE, with_keys=True)
    assert with_keys["security"] == [{"key": []}]
    assert with_keys["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert with_keys["paths"]["/visitors/details"]["get"]["security"] == [{"key": ["parking:read", "visitors:read"]}]
    assert with_keys["paths"]["/visitors/erase"]["post"]["security"] == [{"key": ["visitors:erase"]}]


@pytest.mark.parametrize(
    ("key", "valid"), [("a", True), ("a b", True), ("", False), (" a", False), ("a\tb", False), ("é", False)]
)
def test_an_idempotency_key_is_printable_ascii(key: str, valid: bool) -> None:
    schema = DOCUMENT["components"]["parameters"]["IdempotencyKey"]["schema"]
    assert (schema["minLength"], schema["maxLength"]) == (1, 128)
    assert bool(re.search(schema["pattern"], key)) == valid


def test_the_schema_of_a_body_has_the_rules_for_its_fields() -> None:
    visit = DOCUMENT["components"]["schemas"]["VisitNew"]
    assert visit["required"] == ["pcCode"]
    assert "at least one of `visitorId`, `barcode` and `licensePlate`" in visit["description"]
    assert "visitDate" not in json.dumps(visit)
    locale = DOCUMENT["components"]["schemas"]["VisitorLocaleNew"]["properties"]["localeCode"]
    assert re.search(locale["pattern"], "en_us")
    assert not re.search(locale["pattern"], "french")
    amount, _ = _without_null(DOCUMENT["components"]["schemas"]["HistoryNew"]["properties"]["refundedAmount"])
    assert amount["exclusiveMaximum"] == -amount["exclusiveMinimum"] == 10**20


def test_countries_are_listed_once() -> None:
    assert json.dumps(DOCUMENT).count('"ZW"') == 1


def test_a_time_zone_is_a_string_with_an_example() -> None:
    summary = _parameters(CATALOGUE.by_name["parkingHistories.summary"], "query")["timezone"]
    assert summary["schema"] == {"type": "string", "examples": ["Europe/Paris"]}
