"""Each of the 143 operations behaves as the contract documents it, over HTTP and over Kafka."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import product
from typing import Any
from uuid import uuid4

import httpx
import jsonschema_rs
import pytest
from pydantic import BaseModel

from agents.catalogue import CATALOGUE
from edge import openapi
from schemas.shapes import shape_of
from schemas.types import LONG_TEXT_LIMIT
from tests.support.answers import parse_time
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.scene import BODY_NAMES, FACTS, REFERENCES, Fact, Parts, Scene, adds_to, listings, send
from tests.support.stack import Stack, plain
from topics import json

OPERATIONS = sorted(FACTS)
WITH_BODY = [name for name in OPERATIONS if FACTS[name]["body"]]
WITH_PATH_PARAMS = [name for name in OPERATIONS if FACTS[name]["path_params"]]
DOCUMENT = openapi.describe(CATALOGUE)


@cache
def _validator(operation: str, status: int) -> Any:
    """A validator of the JSON body of a response; None if the response has no body."""
    declared = CATALOGUE.by_name[operation]
    response = DOCUMENT["paths"][declared.path][declared.method.lower()]["responses"][str(status)]
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response.get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return None
    # The document lets replies gain members. Here they have none, because this is the version that it describes.
    schemas = {
        name: {**schema, "additionalProperties": False} if "properties" in schema else schema
        for name, schema in DOCUMENT["components"]["schemas"].items()
    }
    components = {"schemas": schemas}
    return jsonschema_rs.Draft202012Validator({**schema, "components": components}, validate_formats=True)


def _assert_conforms(operation: str, status: int, body: Any) -> None:
    """The body has exactly the members of the OpenAPI document, with their types. The contract test compares the
    document with the contract."""
    validator = _validator(operation, status)
    if validator is None:
        assert body is None
    else:
        assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)] == []


def _errors(body: Any) -> set[tuple[str | None, str]]:
    """The field and the code of each error."""
    return {(entry["field"], entry["code"]) for entry in body["errors"]}


@dataclass
class Caller:
    """Sends requests over HTTP or, with `by_message`, over Kafka, where it reads the result from its topic."""

    client: httpx.AsyncClient = field(repr=False)
    stack: Stack = field(repr=False)
    by_message: bool
    sent: Counter[str] = field(default_factory=Counter, repr=False)
    """How often each request id was sent."""

    async def call(self, operation: str, parts: Parts, key: str | None = None) -> tuple[int, Any]:
        key = key or str(uuid4())
        if self.by_message:
            self.sent[key] += 1
            await self.stack.send(operation, parts, request_id=key)
            result = (await self.stack.result(operation, key, nth=self.sent[key])).value
            return result["status"], result["body"]
        answer = await send(self.client, CATALOGUE.by_name[operation], parts, **{"Idempotency-Key": key})
        return answer.status_code, json.read(answer.content) if answer.content else None


@pytest.fixture(params=[False, True], ids=["http", "message"])
def caller(request: pytest.FixtureRequest, client: httpx.AsyncClient, stack: Stack) -> Caller:
    return Caller(client, stack, by_message=request.param)


@pytest.fixture
def callers(client: httpx.AsyncClient, stack: Stack) -> list[Caller]:
    """One caller for HTTP and one for Kafka, for requests that change nothing and can be sent twice."""
    return [Caller(client, stack, by_message=by_message) for by_message in (False, True)]


@pytest.fixture
def scene(client: httpx.AsyncClient) -> Scene:
    return Scene(client)


# Accepted requests


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_documented_example_succeeds_and_a_repeated_request_gets_the_same_answer(
    caller: Caller, scene: Scene, operation: str
) -> None:
    parts, key = await scene.parts(operation, example=True), str(uuid4())
    status, body = await caller.call(operation, parts, key)
    assert status == FACTS[operation]["status"], body
    _assert_conforms(operation, status, body)
    if CATALOGUE.by_name[operation].is_query:
        return
    assert await caller.call(operation, parts, key) == (status, body)


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_optional_fields_may_be_left_out(caller: Caller, scene: Scene, operation: str) -> None:
    parts = await scene.parts(operation, example=True)
    required = {fact["name"] for fact in FACTS[operation]["body"] if fact["required"]}
    if operation == "visits.create":
        required.add("barcode")
    parts["body"] = _mapped(parts["body"], lambda item: {name: item[name] for name in item.keys() & required})
    status, body = await caller.call(operation, parts)
    assert status == FACTS[operation]["status"], body
    _assert_conforms(operation, status, body)


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_nullable_fields_may_be_null(caller: Caller, scene: Scene, operation: str) -> None:
    parts = await scene.parts(operation, example=True)
    nullable = {fact["name"] for fact in FACTS[operation]["body"] if fact.get("nullable")}
    parts["body"] = _mapped(parts["body"], lambda item: {**item, **dict.fromkeys(item.keys() & nullable)})
    status, body = await caller.call(operation, parts)
    assert status == FACTS[operation]["status"], body
    _assert_conforms(operation, status, body)


def _mapped(body: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Apply `change` to a body, or to each item if the body is an array."""
    if isinstance(body, list):
        return [change(item) for item in body]
    return change(body)


# Refused requests

OTHER_TYPES: dict[str, tuple[Any, ...]] = {
    "string": (True, [], {}),
    "integer": ("5", 1.5, True, []),
    "number": ("1.5", True, []),
    "boolean": (1, "true", []),
    "array": ("x", {}, 1),
    "any": (),
}


@dataclass(frozen=True)
class Mutant:
    """A request with one mistake, and the field that the answer must name."""

    mistake: str
    field: str
    parts: Parts


def _mutants(operation: str) -> Iterator[Mutant]:
    fact = FACTS[operation]
    base = _well_formed(fact)
    path, query = base["path"], base["query"]
    yield Mutant("an unknown parameter", "colour", {**base, "query": {**query, "colour": "red"}})
    for param in fact["query"]:
        name = param["name"]
        for mistake, value in _wrong_parameters(param):
            yield Mutant(mistake, name, {**base, "query": {**query, name: value}})
        if param["required"]:
            yield Mutant("a missing parameter", name, {**base, "query": _without(query, name)})
    for param in fact["path_params"]:
        name = param["name"]
        for mistake, value in _wrong_parameters(param):
            yield Mutant(mistake, name, {**base, "path": {**path, name: value}})
    if fact["body"]:
        for mistake, field_path, body in _wrong_bodies(fact["body"], base["body"]):
            if not (operation in FAILS_BY_ENTRY and mistake == "a NUL"):
                yield Mutant(mistake, field_path, {**base, "body": body})


FAILS_BY_ENTRY = {"operationSessions.addSegments", "operationSessions.addStores"}
"""Operations that accept a body whose entries have a NUL, and list these entries under `failed`."""


def _without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def _well_formed(fact: Fact) -> Parts:
    """A request without mistakes, which may name records that do not exist."""
    path = {param["name"]: _valid_value(param) for param in fact["path_params"]}
    query = {param["name"]: _valid_value(param) for param in fact["query"] if param["required"]}
    if fact["operation"] == "visits.list":
        query["barcode"] = "b"
    parts = {"path": path, "query": query}
    if fact["body"]:
        parts["body"] = _with_valid_codes(fact["request_example"])
    return parts


def _valid_value(param: Fact) -> Any:
    by_name = {"pcCode": "FR-SC-123", "localeCode": "fr-FR", "timezone": "Europe/Paris"}
    if isinstance(param.get("enum"), list):
        return param["enum"][0]
    if param["type"] in ("integer", "number"):
        return 1
    return by_name.get(param["name"], ABSENT_VISITOR_ID)


def _with_valid_codes(example: Any) -> Any:
    """The example with valid pcCodes. The contract has the placeholder "string", which does not match the pattern."""
    if isinstance(example, list):
        return [_with_valid_codes(item) for item in example]
    if not isinstance(example, dict):
        return example
    return {
        name: "FR-SC-123" if BODY_NAMES.get(name, name) == "pcCode" and value == "string" else value
        for name, value in example.items()
    }


def _wrong_parameters(field: Fact) -> Iterator[tuple[str, Any]]:
    if field["type"] == "string":
        yield "a NUL", "a\0b"
        yield "a text too long", "x" * 1_001
    if field["type"] in ("integer", "number"):
        yield "a text for a number", "x"
        yield "more than 64 bits", 2**63
    if field["type"] == "boolean":
        yield "a text for a boolean", "yes"
    yield from _beyond(field)


def _beyond(field: Fact) -> Iterator[tuple[str, Any]]:
    if "minimum" in field:
        yield "less than the minimum", field["minimum"] - 1
    if "maximum" in field:
        yield "more than the maximum", field["maximum"] + 1
    if "enum" in field:
        yield "none of the values", "narnia"
    if "pattern" in field:
        yield "against the pattern", "not it"
    if field.get("format") in ("date-time", "uuid"):
        yield f"no {field['format']}", "yesterday"


def _wrong_bodies(facts: list[Fact], body: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Bodies with one mistake: the mistake, the path of the field, and the body. The mistakes include those in the
    records of a list."""
    if isinstance(body, list):
        for mistake, field_path, item in _wrong_bodies(facts, body[0], f"{path}[0]"):
            yield mistake, field_path, [item]
        return
    prefix = f"{path}." if path else ""
    yield "an unknown field", f"{prefix}colour", {**body, "colour": "red"}
    for fact in facts:
        name = fact["name"]
        if fact["required"]:
            yield "a missing field", f"{prefix}{name}", _without(body, name)
        for mistake, value in _wrong_values(fact):
            yield mistake, f"{prefix}{name}", {**body, name: value}
        items = fact.get("items", {})
        if "fields" in items and body.get(name):
            for mistake, field_path, records in _wrong_bodies(items["fields"], body[name][:1], f"{prefix}{name}"):
                yield mistake, field_path, {**body, name: records}
        elif items:
            for value in OTHER_TYPES[items["type"]]:
                yield "an item of another type", f"{prefix}{name}[0]", {**body, name: [value]}


def _wrong_values(field: Fact) -> Iterator[tuple[str, Any]]:
    if not field.get("nullable"):
        yield "null", None
    for value in OTHER_TYPES[field["type"]]:
        yield f"a {type(value).__name__} for a {field['type']}", value
    if field["type"] == "string":
        yield "a NUL", "a\0b"
        yield "a text too long", "x" * (LONG_TEXT_LIMIT + 1)
    if field["type"] in ("integer", "number"):
        yield "a number too large", 2**63 if field["type"] == "integer" else 1e30
    yield from _beyond(field)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_mistake_is_a_400_that_names_its_field_over_http(client: httpx.AsyncClient, operation: str) -> None:
    mutants = list(_mutants(operation))
    assert mutants
    calls = [send(client, CATALOGUE.by_name[operation], mutant.parts) for mutant in mutants]
    for mutant, answer in zip(mutants, await asyncio.gather(*calls), strict=True):
        assert answer.status_code == 400, (mutant, answer.text)
        assert mutant.field in {field for field, _ in _errors(answer.json())}, (mutant, answer.text)
        _assert_conforms(operation, 400, answer.json())


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_mistake_is_a_400_that_names_its_field_over_kafka(stack: Stack, operation: str) -> None:
    mutants = list(_mutants(operation))
    request_ids = await asyncio.gather(*(stack.send(operation, mutant.parts) for mutant in mutants))
    for request_id, mutant in zip(request_ids, mutants, strict=True):
        result = (await stack.result(operation, request_id)).value
        assert result["status"] == 400, (mutant, result)
        assert mutant.field in {field for field, _ in _errors(result["body"])}, (mutant, result)


# Parents and references


def _absent_id(param: Fact) -> Any:
    """A value that no record has; None if every valid value names a record."""
    by_name = {"visitorId": ABSENT_VISITOR_ID, "pcCode": "FR-NO-ONE", "guid": "nothing", "externalId": "nothing"}
    if param["name"] in by_name:
        return by_name[param["name"]]
    if param["type"] in ("integer", "number"):
        return 2**62
    return None


def _with_path_param(parts: Parts, name: str, value: Any) -> Parts:
    """The parts with another value in the path, and in the body if it has the same field."""
    changed = {**parts, "path": {**parts["path"], name: value}}
    body = parts.get("body")
    if isinstance(body, dict) and name in body:
        changed["body"] = {**body, name: value}
    return changed


@pytest.mark.parametrize("operation", WITH_PATH_PARAMS)
async def test_a_path_to_a_record_that_does_not_exist_is_404(
    callers: list[Caller], scene: Scene, operation: str
) -> None:
    parts = await scene.parts(operation)
    for param, caller in product(FACTS[operation]["path_params"], callers):
        absent_id = _absent_id(param)
        if absent_id is None:
            continue
        status, body = await caller.call(operation, _with_path_param(parts, param["name"], absent_id))
        assert status == 404, (param["name"], caller, body)
        assert _errors(body).pop()[1].endswith("_not_found")


CHILDREN = [
    name
    for name in OPERATIONS
    if len(FACTS[name]["path_params"]) > 1 and name not in ("legalTextLocales.create", "externalIds.resolve")
]
"""Operations on a record that has a parent in its path."""


@pytest.mark.parametrize("operation", CHILDREN)
async def test_a_child_is_found_only_under_its_own_parent(
    client: httpx.AsyncClient, caller: Caller, scene: Scene, operation: str
) -> None:
    parts, parent = await scene.parts(operation), FACTS[operation]["path_params"][0]["name"]
    other_parent = await Scene(client).value_of(parent)
    status, body = await caller.call(operation, _with_path_param(parts, parent, other_parent))
    assert status == 404, body
    status, body = await caller.call(operation, parts)
    assert status == FACTS[operation]["status"], body


REFERRING = [
    (name, field["name"])
    for name in WITH_BODY
    for field in FACTS[name]["body"]
    if BODY_NAMES.get(field["name"], field["name"]) in REFERENCES
    and not (name == "centers.create" or (name.startswith("visits.") and field["name"] != "pcCode"))
    and (name, field["name"]) != ("checkins.createByBarcode", "barcode")  # 404 by its own rule, as for visits
    and field["name"] not in {param["name"] for param in FACTS[name]["path_params"]}
    and name != "visitors.eraseByAnalyticsId"  # here the field is a filter
]
"""Fields of bodies that must name an existing record."""


@pytest.mark.parametrize(("operation", "field"), REFERRING)
async def test_a_reference_to_a_record_that_does_not_exist_is_a_400_that_names_the_field(
    callers: list[Caller], scene: Scene, operation: str, field: str
) -> None:
    parts = await scene.parts(operation)
    name = BODY_NAMES.get(field, field)
    absent_id = {"visitorId": ABSENT_VISITOR_ID, "pcCode": "FR-NO-ONE"}.get(name, 2**62)
    prefix = "[0]." if isinstance(parts["body"], list) else ""
    parts["body"] = _mapped(parts["body"], lambda item: {**item, field: absent_id})
    for caller in callers:
        status, body = await caller.call(operation, parts)
        assert (status, {name for name, _ in _errors(body)}) == (400, {f"{prefix}{field}"}), (caller, body)


# Lists

NOT_COMPARED = {
    *(("visitors.list", name) for name in ("query", "queryBy", "isSmartparker")),
    *((name, "includeDeleted") for name in ("creditCards.list", "vehicles.list")),
    *((name, field) for name in ("visitorChallenges.list", "rankings.list") for field in ("pcCode", "type")),
    *(("rankings.list", f"registerDate{end}") for end in ("Since", "Until")),
    *(("parkingHistories.summary", name) for name in ("timezone", "parkingId", "accessDevice", "pcCode")),
    *(("legalTexts.list", name) for name in ("latest", "locale")),
    *(("visits.list", name) for name in ("barcode", "visitorId", "licensePlate", "pcCode")),
    *(("externalIds.batch", name) for name in ("visitorId", "externalType", "pcCode")),
    ("optins.list", "latest"),
    ("consents.required", "newCenter"),
    ("externalIds.list", "pcCode"),
    ("visitors.details", "visitorId"),
}
"""Filters that do not compare a field of the reply. Each has a test in the file of its resource."""

COMPARED_FIELD = {
    "createdSince": "creationDate", "updatedSince": "updateDate", "legalType": "type",
    "checkedInSince": "creationDate", "checkedInUntil": "creationDate",
    "registerDateSince": "registeredDate", "registerDateUntil": "registeredDate",
    ("parkingHistories.list", "startDate"): "parkingSessionStart",
    ("parkingHistories.list", "endDate"): "parkingSessionStart",
}  # fmt: skip
"""The field of the reply that a filter compares, if the two names differ."""

AT_LEAST = ("Since", "Gte", "startDate")
LESS_THAN = ("Until", "Lt")
AT_MOST = ("endDate", "visitDateUntil")
"""Endings of the names of filters, by the comparison. `AT_MOST` has whole names and comes first."""


def _comparison(operation: str, name: str) -> tuple[str, Callable[[Any, Any], bool]]:
    """The field of the reply that a filter compares, and a function of the row's value and the filter's value."""
    stem = re.sub("(Since|Until|Gte|Lt)$", "", name)
    field = COMPARED_FIELD.get((operation, name)) or COMPARED_FIELD.get(name) or stem
    if name in AT_MOST:
        return field, lambda actual, value: actual is not None and parse_time(actual) <= parse_time(value)
    if name.endswith(AT_LEAST):
        return field, lambda actual, value: actual is not None and parse_time(actual) >= parse_time(value)
    if name.endswith(LESS_THAN):
        return field, lambda actual, value: actual is not None and parse_time(actual) < parse_time(value)
    return field, lambda actual, value: actual == value


@dataclass
class Lister:
    """Reads a list over HTTP, and compares the answers with those over Kafka."""

    stack: Stack
    client: httpx.AsyncClient
    operation: str
    parts: Parts
    answers: list[tuple[Parts, int, Any]] = field(default_factory=list)
    """The parts, status and body of each request over HTTP."""

    async def page(self, **query: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The rows and the links of one page."""
        parts = {**self.parts, "query": {**self.parts.get("query", {}), **query}}
        answer = await send(self.client, CATALOGUE.by_name[self.operation], parts)
        assert answer.status_code == 200, (query, answer.text)
        body = answer.json()
        if "fields" not in query:
            _assert_conforms(self.operation, 200, body)
        self.answers.append((parts, 200, body))
        if isinstance(body, list):
            return body, {}
        return body["data"], body["metadata"]["_links"]

    async def rows(self, **query: Any) -> list[dict[str, Any]]:
        """The rows of all pages."""
        rows, links = await self.page(**query)
        while "next" in links:
            answer = await self.client.get(links["next"])
            assert answer.status_code == 200, answer.text
            rows = rows + answer.json()["data"]
            links = answer.json()["metadata"]["_links"]
        return rows

    async def refused(self, code: str, **query: Any) -> None:
        parts = {**self.parts, "query": {**self.parts.get("query", {}), **query}}
        answer = await send(self.client, CATALOGUE.by_name[self.operation], parts)
        assert (answer.status_code, _errors(answer.json())) == (400, {(next(iter(query)), code)})
        self.answers.append((parts, 400, answer.json()))

    async def assert_same_over_kafka(self) -> None:
        """Send every request over Kafka as well: the results have the same status and body."""
        answers = {await self.stack.send(self.operation, answer[0]): answer for answer in self.answers}
        for request_id, (parts, status, body) in answers.items():
            result = plain((await self.stack.result(self.operation, request_id)).value)
            assert result == plain({"status": status, "body": body}), parts


@pytest.mark.parametrize("operation", listings())
async def test_a_list_has_pages_sorting_filters_and_selected_fields_over_http_and_kafka(
    stack: Stack, client: httpx.AsyncClient, scene: Scene, operation: str
) -> None:
    adding = adds_to(operation)
    for _ in range(3 if adding else 0):
        await scene.add_row(str(adding), operation)
    lister = Lister(stack, client, operation, await scene.parts(operation))
    params = {fact["name"]: fact for fact in FACTS[operation]["query"]}
    rows = await lister.rows(**_largest_page(operation))
    assert rows
    if "limit" in params:
        await _assert_pages(lister, rows)
    if "sort" in params:
        await _assert_sorting(lister, rows)
    if "fields" in params:
        await _assert_fields(lister, rows)
    for name in params.keys() - PAGING:
        if (operation, name) not in NOT_COMPARED:
            await _assert_filter(lister, rows, params[name])
    await lister.assert_same_over_kafka()


PAGING = {"offset", "limit", "sort", "fields"}


def _largest_page(operation: str) -> dict[str, int]:
    """The query for the largest page of a list; empty if the list has no pages."""
    has_limit = any(fact["name"] == "limit" for fact in FACTS[operation]["query"])
    return {"limit": 500} if has_limit else {}


async def _assert_pages(lister: Lister, rows: list[dict[str, Any]]) -> None:
    first_rows: list[dict[str, Any]] = []
    for offset in (0, 2, 4):
        page, links = await lister.page(limit=2, **({"offset": offset} if offset else {}))
        first_rows += page
        if links:
            assert ("next" in links, "prev" in links) == (len(rows) > offset + 2, offset > 0)
    assert first_rows == rows[:6]
    if not links:
        return
    end = len(rows)
    past, links = await lister.page(offset=end, limit=2)
    assert (past, "next" in links, "prev" in links) == ([], False, True)
    last, links = await lister.page(limit=1, **({"offset": end - 1} if end > 1 else {}))
    assert (last, "next" in links) == (rows[-1:], False)


async def _assert_sorting(lister: Lister, rows: list[dict[str, Any]]) -> None:
    fits_one_page = len(rows) <= 50
    limit = 50 if fits_one_page else 10
    scalars = _scalar_types(lister.operation)
    sorts = CATALOGUE.by_name[lister.operation].sorts

    async def assert_sorted_by(name: str) -> None:
        (ascending, _), (descending, _) = await asyncio.gather(
            lister.page(sort=name, limit=limit), lister.page(sort=f"-{name}", limit=limit)
        )
        for page, reverse in ((ascending, False), (descending, True)):
            values = [row[name] for row in page if row[name] is not None]
            if scalars[name] is datetime:
                values = [parse_time(value) for value in values]
            if scalars[name] is not str:  # the collation of the database orders texts
                assert values == sorted(values, reverse=reverse), name
        if fits_one_page:
            assert sorted(map(repr, ascending)) == sorted(map(repr, descending)) == sorted(map(repr, rows))

    refused = [lister.refused("unknown_sort_field", sort=name) for name in ("colour", *(scalars.keys() - sorts))]
    await asyncio.gather(*refused, *(assert_sorted_by(name) for name in scalars.keys() & sorts))


def _scalar_types(operation: str) -> dict[str, type]:
    """The types of the reply's fields that are neither lists nor records."""
    item = CATALOGUE.by_name[operation].item
    assert item is not None
    shapes = {str(info.serialization_alias): shape_of(info.annotation) for info in item.model_fields.values()}
    return {
        name: shape.base
        for name, shape in shapes.items()
        if shape.base not in (list, dict) and not issubclass(shape.base, BaseModel)
    }


async def _assert_fields(lister: Lister, rows: list[dict[str, Any]]) -> None:
    all_names = list(rows[0])

    async def assert_selected(*names: str) -> None:
        page, _ = await lister.page(fields=",".join(names), limit=3)
        assert page == [{name: row[name] for name in names} for row in rows[:3]]

    refused = lister.refused("unknown_reply_field", fields="colour")
    await asyncio.gather(refused, assert_selected(*all_names), *(assert_selected(name) for name in all_names))


async def _assert_filter(lister: Lister, rows: list[dict[str, Any]], fact: Fact) -> None:
    name = fact["name"]
    field_name, matches = _comparison(lister.operation, name)
    if field_name not in rows[0]:
        raise AssertionError(f"{lister.operation}: which field does {name} compare?")
    values = {json.write(row[field_name]): row[field_name] for row in rows[-3:] if row[field_name] is not None}
    values |= {json.write(value): value for value in _rare_values(fact)}
    limit = _largest_page(lister.operation)
    lists = await asyncio.gather(*(lister.rows(**{name: value}, **limit) for value in values.values()))
    for value, filtered in zip(values.values(), lists, strict=True):
        assert filtered == [row for row in rows if matches(row[field_name], value)], (name, value)


def _rare_values(fact: Fact) -> Iterator[Any]:
    """Valid values of a filter that few rows or no rows have."""
    if fact.get("format") == "date-time" or fact["name"].endswith(("Since", "Until", "Gte", "Lt")):
        yield from ("2001-01-01T00:00:00Z", "2200-01-01T00:00:00Z")
    elif isinstance(fact.get("enum"), list):
        yield from fact["enum"]
    elif "enum" in fact:
        yield "ZW"
    elif fact["type"] == "boolean":
        yield from (True, False)
    elif fact["type"] == "integer":
        yield 2**62
    elif fact["name"].endswith("Code") and fact["name"] != "localeCode":
        yield "FR-NO-ONE"
