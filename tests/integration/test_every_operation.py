"""Each of the 143 operations, over HTTP and as a message, by what the documented contract says of it."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from tests.support.data import NOBODY
from tests.support.scene import BODY_NAMES, FACTS, REFERENCES, Fact, Parts, Scene, adds_to, listings, send
from tests.support.stack import Stack, plain
from topics import json

OPERATIONS = sorted(FACTS)
WITH_BODY = [name for name in OPERATIONS if FACTS[name]["body"]]
WITH_PLACES = [name for name in OPERATIONS if FACTS[name]["path_params"]]
DOCUMENT = openapi.describe(CATALOGUE)


@cache
def _validator(operation: str, status: int) -> Any:
    found = CATALOGUE.by_name[operation]
    response = DOCUMENT["paths"][found.path][found.method.lower()]["responses"][str(status)]
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response.get("content", {}).get("application/json", {}).get("schema")
    # Records of which `fields` may ask for some members only; here all of them are answered.
    whole = {
        name: {**described, "required": list(described["properties"])}
        for name, described in DOCUMENT["components"]["schemas"].items()
        if name.endswith("Selection")
    }
    components = {"schemas": {**DOCUMENT["components"]["schemas"], **whole}}
    return schema and jsonschema_rs.Draft202012Validator({**schema, "components": components}, validate_formats=True)


def _conforms(operation: str, status: int, body: Any) -> None:
    """The reply has exactly the documented members with the documented types (no others are in the schemas, which the
    contract test holds against the documentation)."""
    validator = _validator(operation, status)
    if validator is None:
        assert body is None
    else:
        assert [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(body)] == []


def _told(body: Any) -> set[tuple[str | None, str]]:
    return {(entry["field"], entry["code"]) for entry in body["errors"]}


@dataclass
class Caller:
    """Either way of asking: a call of the API, or a message whose result is read from its topic."""

    client: httpx.AsyncClient = field(repr=False)
    stack: Stack = field(repr=False)
    by_message: bool
    times: Counter[str] = field(default_factory=Counter, repr=False)

    async def ask(self, operation: str, parts: Parts, key: str | None = None) -> tuple[int, Any]:
        key = key or str(uuid4())
        if self.by_message:
            self.times[key] += 1
            await self.stack.send(operation, parts, request_id=key)
            found = (await self.stack.result(operation, key, nth=self.times[key])).value
            return found["status"], found["body"]
        answer = await send(self.client, CATALOGUE.by_name[operation], parts, **{"Idempotency-Key": key})
        return answer.status_code, json.read(answer.content) if answer.content else None


@pytest.fixture(params=[False, True], ids=["http", "message"])
def caller(request: pytest.FixtureRequest, client: httpx.AsyncClient, stack: Stack) -> Caller:
    return Caller(client, stack, by_message=request.param)


@pytest.fixture
def callers(client: httpx.AsyncClient, stack: Stack) -> list[Caller]:
    """Both ways, for what changes nothing and may be asked twice of the same scene."""
    return [Caller(client, stack, by_message=by_message) for by_message in (False, True)]


@pytest.fixture
def scene(client: httpx.AsyncClient) -> Scene:
    return Scene(client)


# What is accepted


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_documented_example_succeeds_and_its_repeat_is_answered_the_same(
    caller: Caller, scene: Scene, operation: str
) -> None:
    parts, key = await scene.parts(operation, example=True), str(uuid4())
    status, body = await caller.ask(operation, parts, key)
    assert status == FACTS[operation]["status"], body
    _conforms(operation, status, body)
    if CATALOGUE.by_name[operation].is_query:
        return
    assert await caller.ask(operation, parts, key) == (status, body)


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_what_is_not_required_may_be_left_out(caller: Caller, scene: Scene, operation: str) -> None:
    parts = await scene.parts(operation, example=True)
    required = {fact["name"] for fact in FACTS[operation]["body"] if fact["required"]}
    if operation == "visits.create":
        required.add("barcode")
    parts["body"] = _mapped(parts["body"], lambda item: {name: item[name] for name in item.keys() & required})
    status, body = await caller.ask(operation, parts)
    assert status == FACTS[operation]["status"], body
    _conforms(operation, status, body)


@pytest.mark.parametrize("operation", WITH_BODY)
async def test_what_is_nullable_may_be_null(caller: Caller, scene: Scene, operation: str) -> None:
    parts = await scene.parts(operation, example=True)
    nullable = {fact["name"] for fact in FACTS[operation]["body"] if fact.get("nullable")}
    parts["body"] = _mapped(parts["body"], lambda item: {**item, **dict.fromkeys(item.keys() & nullable)})
    status, body = await caller.ask(operation, parts)
    assert status == FACTS[operation]["status"], body
    _conforms(operation, status, body)


def _mapped(body: Any, change: Any) -> Any:
    return [change(item) for item in body] if isinstance(body, list) else change(body)


# What is refused

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
    """A request with one thing wrong, and the field that the answer has to name."""

    what: str
    field: str
    parts: Parts


def _mutants(operation: str) -> Iterator[Mutant]:
    fact = FACTS[operation]
    base = _syntactic(fact)
    yield Mutant("an unknown parameter", "colour", {**base, "query": {**base.get("query", {}), "colour": "red"}})
    for asked in fact["query"]:
        for what, value in _wrong_parameters(asked):
            yield Mutant(what, asked["name"], {**base, "query": {**base.get("query", {}), asked["name"]: value}})
        if asked["required"]:
            rest = {name: value for name, value in base["query"].items() if name != asked["name"]}
            yield Mutant("a missing parameter", asked["name"], {**base, "query": rest})
    for place in fact["path_params"]:
        for what, value in _wrong_parameters(place):
            yield Mutant(what, place["name"], {**base, "path": {**base["path"], place["name"]: value}})
    if fact["body"]:
        for what, path, body in _wrong_bodies(fact["body"], base["body"]):
            if not (operation in EACH_BY_ITSELF and what == "a NUL"):
                yield Mutant(what, path, {**base, "body": body})


EACH_BY_ITSELF = {"operationSessions.addSegments", "operationSessions.addStores"}
"""Their entries fail by themselves for what a text holds."""


def _syntactic(fact: Fact) -> Parts:
    """A request that has nothing wrong in itself."""
    path = {place["name"]: _plausible(place) for place in fact["path_params"]}
    query = {field["name"]: _plausible(field) for field in fact["query"] if field["required"]}
    if fact["operation"] == "visits.list":
        query["barcode"] = "b"
    return {"path": path, "query": query, **({"body": _codes(fact["request_example"])} if fact["body"] else {})}


def _plausible(field: Fact) -> Any:
    named = {"pcCode": "FR-SC-123", "localeCode": "fr-FR", "timezone": "Europe/Paris"}
    if isinstance(field.get("enum"), list):
        return field["enum"][0]
    if field["type"] in ("integer", "number"):
        return 1
    return named.get(field["name"], NOBODY)


def _codes(example: Any) -> Any:
    """The example with a pcCode for its word for "some text"."""
    if isinstance(example, list):
        return [_codes(item) for item in example]
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
    """(what is wrong, the field's path, the body) for all that can be wrong in a body or in a record of a list."""
    if isinstance(body, list):
        for what, where, item in _wrong_bodies(facts, body[0], f"{path}[0]"):
            yield what, where, [item]
        return
    dot = f"{path}." if path else ""
    yield "an unknown field", f"{dot}colour", {**body, "colour": "red"}
    for fact in facts:
        name = fact["name"]
        if fact["required"]:
            yield "a missing field", f"{dot}{name}", {key: value for key, value in body.items() if key != name}
        for what, value in _wrong_values(fact):
            yield what, f"{dot}{name}", {**body, name: value}
        items = fact.get("items", {})
        if "fields" in items and body.get(name):
            for what, where, wrong in _wrong_bodies(items["fields"], body[name][:1], f"{dot}{name}"):
                yield what, where, {**body, name: wrong}
        elif items:
            for value in OTHER_TYPES[items["type"]]:
                yield "an item of another type", f"{dot}{name}[0]", {**body, name: [value]}


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
async def test_each_thing_wrong_is_a_400_that_names_its_field_over_http(
    client: httpx.AsyncClient, operation: str
) -> None:
    mutants = list(_mutants(operation))
    assert mutants
    calls = [send(client, CATALOGUE.by_name[operation], mutant.parts) for mutant in mutants]
    for mutant, answer in zip(mutants, await asyncio.gather(*calls), strict=True):
        assert answer.status_code == 400, (mutant, answer.text)
        assert mutant.field in {field for field, _ in _told(answer.json())}, (mutant, answer.text)
        _conforms(operation, 400, answer.json())


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_each_thing_wrong_is_a_400_that_names_its_field_as_a_message(stack: Stack, operation: str) -> None:
    mutants = list(_mutants(operation))
    sent = await asyncio.gather(*(stack.send(operation, mutant.parts) for mutant in mutants))
    for request_id, mutant in zip(sent, mutants, strict=True):
        found = (await stack.result(operation, request_id)).value
        assert found["status"] == 400, (mutant, found)
        assert mutant.field in {field for field, _ in _told(found["body"])}, (mutant, found)


# Parents and references


def _absent(place: Fact) -> Any:
    """What names nothing; None where anything documented names something."""
    named = {"visitorId": NOBODY, "pcCode": "FR-NO-ONE", "guid": "nothing", "externalId": "nothing"}
    if place["name"] in named:
        return named[place["name"]]
    return 2**62 if place["type"] in ("integer", "number") else None


def _with_place(parts: Parts, name: str, value: Any) -> Parts:
    """With another value in the path, and in the body where that has it too."""
    body = parts.get("body")
    both = {"body": {**body, name: value}} if isinstance(body, dict) and name in body else {}
    return {**parts, "path": {**parts["path"], name: value}, **both}


@pytest.mark.parametrize("operation", WITH_PLACES)
async def test_a_missing_one_in_the_path_is_404(callers: list[Caller], scene: Scene, operation: str) -> None:
    parts = await scene.parts(operation)
    for place, caller in product(FACTS[operation]["path_params"], callers):
        absent = _absent(place)
        if absent is None:
            continue
        status, body = await caller.ask(operation, _with_place(parts, place["name"], absent))
        assert status == 404, (place["name"], caller, body)
        assert _told(body).pop()[1].endswith("_not_found")


CHILDREN = [
    name
    for name in OPERATIONS
    if len(FACTS[name]["path_params"]) > 1 and name not in ("legalTextLocales.create", "externalIds.resolve")
]
"""Operations on something that is found only under its own parent."""


@pytest.mark.parametrize("operation", CHILDREN)
async def test_a_child_is_found_only_under_its_own_parent(
    client: httpx.AsyncClient, caller: Caller, scene: Scene, operation: str
) -> None:
    parts, parent = await scene.parts(operation), FACTS[operation]["path_params"][0]["name"]
    other = await Scene(client).need(parent)
    status, body = await caller.ask(operation, _with_place(parts, parent, other))
    assert status == 404, body
    status, body = await caller.ask(operation, parts)
    assert status == FACTS[operation]["status"], body


REFERRING = [
    (name, field["name"])
    for name in WITH_BODY
    for field in FACTS[name]["body"]
    if BODY_NAMES.get(field["name"], field["name"]) in REFERENCES
    and not (name == "centers.create" or (name.startswith("visits.") and field["name"] != "pcCode"))
    and (name, field["name"]) != ("checkins.createByBarcode", "barcode")  # 404 by its own rule, as for visits
    and field["name"] not in {place["name"] for place in FACTS[name]["path_params"]}
    and name != "visitors.eraseByAnalyticsId"  # there it narrows, and names nothing
]
"""Fields of bodies that name something that has to be there."""


@pytest.mark.parametrize(("operation", "field"), REFERRING)
async def test_an_absent_reference_of_a_body_is_a_400_that_names_it(
    callers: list[Caller], scene: Scene, operation: str, field: str
) -> None:
    parts = await scene.parts(operation)
    name = BODY_NAMES.get(field, field)
    absent = {"visitorId": NOBODY, "pcCode": "FR-NO-ONE"}.get(name, 2**62)
    prefix = "[0]." if isinstance(parts["body"], list) else ""
    parts["body"] = _mapped(parts["body"], lambda item: {**item, field: absent})
    for caller in callers:
        status, body = await caller.ask(operation, parts)
        assert (status, {found for found, _ in _told(body)}) == (400, {f"{prefix}{field}"}), (caller, body)


# Lists

NO_COMPARISON = {
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
"""Filters that do not compare a field of the reply; each has a test of its own beside its rule."""

FILTERED = {
    "createdSince": "creationDate", "updatedSince": "updateDate", "legalType": "type",
    "checkedInSince": "creationDate", "checkedInUntil": "creationDate",
    "registerDateSince": "registeredDate", "registerDateUntil": "registeredDate",
    ("parkingHistories.list", "startDate"): "parkingSessionStart",
    ("parkingHistories.list", "endDate"): "parkingSessionStart",
}  # fmt: skip
"""The reply's field that a filter compares, where its name does not tell."""

FROM, BEFORE_, UP_TO = ["Since", "Gte", "startDate"], ["Until", "Lt"], ["endDate", "visitDateUntil"]


def _keeps(operation: str, name: str) -> tuple[str, Callable[[Any, Any], bool]]:
    """The field that a filter compares with its value, and how."""
    bare = re.sub("(Since|Until|Gte|Lt)$", "", name)
    field = FILTERED.get((operation, name)) or FILTERED.get(name) or bare
    if name in UP_TO:
        return field, lambda found, value: found is not None and found <= value
    if name.endswith(tuple(FROM)):
        return field, lambda found, value: found is not None and found >= value
    if name.endswith(tuple(BEFORE_)):
        return field, lambda found, value: found is not None and found < value
    return field, lambda found, value: found == value


@dataclass
class Lister:
    """Reads a list over HTTP, and holds what a message answers against it."""

    stack: Stack
    client: httpx.AsyncClient
    operation: str
    parts: Parts
    asked: list[tuple[Parts, int, Any]] = field(default_factory=list)

    async def page(self, **query: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The rows and the links."""
        parts = {**self.parts, "query": {**self.parts.get("query", {}), **query}}
        answer = await send(self.client, CATALOGUE.by_name[self.operation], parts)
        assert answer.status_code == 200, (query, answer.text)
        body = answer.json()
        if "fields" not in query:
            _conforms(self.operation, 200, body)
        self.asked.append((parts, 200, body))
        return (body, {}) if isinstance(body, list) else (body["data"], body["metadata"]["_links"])

    async def rows(self, **query: Any) -> list[dict[str, Any]]:
        """All rows, page by page."""
        found, links = await self.page(**query)
        while "next" in links:
            answer = await self.client.get(links["next"])
            assert answer.status_code == 200, answer.text
            found, links = found + answer.json()["data"], answer.json()["metadata"]["_links"]
        return found

    async def refused(self, code: str, **query: Any) -> None:
        parts = {**self.parts, "query": {**self.parts.get("query", {}), **query}}
        answer = await send(self.client, CATALOGUE.by_name[self.operation], parts)
        assert (answer.status_code, _told(answer.json())) == (400, {(next(iter(query)), code)})
        self.asked.append((parts, 400, answer.json()))

    async def as_messages(self) -> None:
        """Everything that was asked, asked again by messages: the same answers."""
        sent = {await self.stack.send(self.operation, asked[0]): asked for asked in self.asked}
        for request_id, (parts, status, body) in sent.items():
            found = plain((await self.stack.result(self.operation, request_id)).value)
            assert found == plain({"status": status, "body": body}), parts


@pytest.mark.parametrize("operation", listings())
async def test_a_list_is_paged_sorted_filtered_and_cut_to_fields_both_ways(
    stack: Stack, client: httpx.AsyncClient, scene: Scene, operation: str
) -> None:
    adding = adds_to(operation)
    for _ in range(3 if adding else 0):
        await scene.again(str(adding), operation)
    lister = Lister(stack, client, operation, await scene.parts(operation))
    takes = {fact["name"]: fact for fact in FACTS[operation]["query"]}
    rows = await lister.rows(**({"limit": 500} if "limit" in takes else {}))
    assert rows
    if "limit" in takes:
        await _is_paged(lister, rows)
    if "sort" in takes:
        await _is_sorted(lister, rows)
    if "fields" in takes:
        await _is_cut(lister, rows)
    for name in takes.keys() - PAGING:
        if (operation, name) not in NO_COMPARISON:
            await _is_filtered(lister, rows, takes[name])
    await lister.as_messages()


PAGING = {"offset", "limit", "sort", "fields"}


async def _is_paged(lister: Lister, rows: list[dict[str, Any]]) -> None:
    seen: list[dict[str, Any]] = []
    for offset in (0, 2, 4):
        found, links = await lister.page(limit=2, **({"offset": offset} if offset else {}))
        seen += found
        if links:
            assert ("next" in links, "prev" in links) == (len(rows) > offset + 2, offset > 0)
    assert seen == rows[:6]
    if not links:
        return
    end = len(rows)
    past, links = await lister.page(offset=end, limit=2)
    assert (past, "next" in links, "prev" in links) == ([], False, True)
    last, links = await lister.page(limit=1, **({"offset": end - 1} if end > 1 else {}))
    assert (last, "next" in links) == (rows[-1:], False)


async def _is_sorted(lister: Lister, rows: list[dict[str, Any]]) -> None:
    whole = len(rows) <= 50
    limit = 50 if whole else 10
    scalars = _scalars(lister.operation)
    sorts = CATALOGUE.by_name[lister.operation].sorts

    async def is_sorted_by(name: str) -> None:
        (up, _), (down, _) = await asyncio.gather(*(lister.page(sort=sort, limit=limit) for sort in (name, f"-{name}")))
        for found, descending in ((up, False), (down, True)):
            values = [row[name] for row in found if row[name] is not None]
            if scalars[name] is not str:  # the order of texts is the database's
                assert values == sorted(values, reverse=descending), name
        if whole:
            assert sorted(map(repr, up)) == sorted(map(repr, down)) == sorted(map(repr, rows))

    refused = [lister.refused("unknown_sort_field", sort=name) for name in ("colour", *(scalars.keys() - sorts))]
    await asyncio.gather(*refused, *(is_sorted_by(name) for name in scalars.keys() & sorts))


def _scalars(operation: str) -> dict[str, type]:
    item = CATALOGUE.by_name[operation].item
    assert item is not None
    shapes = {str(info.serialization_alias): shape_of(info.annotation) for info in item.model_fields.values()}
    return {
        name: shape.base
        for name, shape in shapes.items()
        if shape.base not in (list, dict) and not issubclass(shape.base, BaseModel)
    }


async def _is_cut(lister: Lister, rows: list[dict[str, Any]]) -> None:
    every = list(rows[0])

    async def is_cut_to(*names: str) -> None:
        found, _ = await lister.page(fields=",".join(names), limit=3)
        assert found == [{name: row[name] for name in names} for row in rows[:3]]

    refused = lister.refused("unknown_reply_field", fields="colour")
    await asyncio.gather(refused, is_cut_to(*every), *(is_cut_to(name) for name in every))


async def _is_filtered(lister: Lister, rows: list[dict[str, Any]], fact: Fact) -> None:
    name = fact["name"]
    field_name, keeps = _keeps(lister.operation, name)
    if field_name not in rows[0]:
        raise AssertionError(f"{lister.operation}: which field does {name} compare?")
    values = {json.write(row[field_name]): row[field_name] for row in rows[-3:] if row[field_name] is not None}
    values |= {json.write(value): value for value in _others(fact, rows, field_name)}
    limit = {"limit": 500} if any(taken["name"] == "limit" for taken in FACTS[lister.operation]["query"]) else {}
    every = await asyncio.gather(*(lister.rows(**{name: value}, **limit) for value in values.values()))
    for value, found in zip(values.values(), every, strict=True):
        assert found == [row for row in rows if keeps(row[field_name], value)], (name, value)


def _others(fact: Fact, rows: list[dict[str, Any]], field_name: str) -> Iterator[Any]:
    """Values that few or none have."""
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
