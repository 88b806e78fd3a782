"""OpenAPI 3.1 of all operations, from the catalogue."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from agents.catalogue import Catalogue, Operation
from edge import headers, responses
from edge.translate import message_only, needs_body
from schemas.faults import Errors
from topics.envelope import JSON

REF = "#/components/schemas/{model}"
Document = dict[str, Any]

LONG_ENUM = 100
"""Values; a longer enumeration is a component of its own."""

_ABOUT = Path(__file__).with_name("about.md").read_text()
"""The rules that hold for all operations, as the introduction of /docs."""


@dataclass
class _Components:
    """The models of all operations as JSON schemas; `schemas` become components."""

    models: Mapping[Any, Document]
    schemas: Document

    def request(self, model: type[BaseModel]) -> Document:
        return self.models[model, "validation"]

    def reply(self, model: Any) -> Document:
        return self.models[model, "serialization"]

    def resolved(self, reference: Document) -> Document:
        found: Document = self.schemas[_name(reference)]
        return found


def describe(catalogue: Catalogue) -> Document:
    models, definitions = models_json_schema(list(dict.fromkeys(_models(catalogue))), ref_template=REF)
    known = _Components(models, definitions["$defs"])
    paths: dict[str, Document] = {}
    for operation in catalogue.operations:
        _narrow(operation, known)
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(catalogue, operation, known)
    shared: Document = {}
    described = _tidy({"paths": paths, "responses": responses.shared(known.reply(Errors))}, shared)
    schemas = _tidy(known.schemas, shared) | shared
    return {
        "openapi": "3.1.0",
        "info": {"title": "Visitor service", "version": "1", "description": _ABOUT},
        "paths": described["paths"],
        "components": {
            "schemas": _used(schemas, described),
            "parameters": headers.PARAMETERS,
            "responses": described["responses"],
            "headers": headers.ANSWERED,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
        "security": [{}, {"key": []}],
        "tags": [{"name": family, "description": catalogue.rules_of(family)} for family in catalogue.families],
    }


def _models(catalogue: Catalogue) -> Iterator[tuple[Any, JsonSchemaMode]]:
    yield Errors, "serialization"
    yield responses.ACCEPTED, "serialization"
    for operation in catalogue.operations:
        for model in operation.request.parts().values():
            yield model, "validation"
        if operation.reply is not None:
            yield operation.item, "serialization"
            yield operation.reply, "serialization"


def _narrow(operation: Operation, known: _Components) -> None:
    """Make the schema of a body what is taken over HTTP, where the model cannot say it."""
    body = operation.request.parts().get("body")
    if body is None:
        return
    schema = known.resolved(known.request(body))
    hidden = message_only(operation)
    if hidden:
        schema.pop("description", None)  # it is about them
        for name in hidden:
            schema["properties"].pop(name, None)
    if operation.at_least_one:
        schema["anyOf"] = [{"required": [name]} for name in operation.at_least_one]


def _operation(catalogue: Catalogue, operation: Operation, known: _Components) -> Document:
    found: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [catalogue.family_of[operation.name]],
        "parameters": list(_parameters(operation, known)),
        "responses": responses.of(operation, _reply(operation, known), known.reply(responses.ACCEPTED)),
    }
    if operation.description:
        found["description"] = operation.description
    body = operation.request.parts().get("body")
    if body is not None:
        found["requestBody"] = {"required": needs_body(body), "content": {JSON: {"schema": known.request(body)}}}
    return found


def _parameters(operation: Operation, known: _Components) -> Iterator[Document]:
    parts = operation.request.parts()
    for place in ("path", "query"):
        if place in parts:
            schema = known.resolved(known.request(parts[place]))
            required = schema.get("required", ())
            for name, described in schema.get("properties", {}).items():
                found = _without_null(described) | _names_of(operation, name)
                text = {"description": found.pop("description")} if "description" in found else {}
                yield {"name": name, "in": place, "required": name in required, **text, "schema": found}
    if not operation.is_query:
        yield from ({"$ref": f"#/components/parameters/{name}"} for name in headers.PARAMETERS)


def _without_null(schema: Document) -> Document:
    """A parameter is left out, never null."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    found: Document = options[0] | rest
    return found


def _names_of(operation: Operation, parameter: str) -> Document:
    """What `fields` and `sort` may name."""
    if parameter == "fields":
        names = _members(operation)
        return {"description": f"Comma list of the fields to answer: {_listed(names)}.", "pattern": _list_of(names)}
    if parameter == "sort" and operation.sorts:
        what = "Comma list of fields to sort by, `-` before one for descending"
        return {"description": f"{what}: {_listed(operation.sorts)}.", "pattern": _list_of(operation.sorts, "-?")}
    return {}


def _members(operation: Operation) -> list[str]:
    assert operation.item is not None
    return [str(field.serialization_alias) for field in operation.item.model_fields.values()]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _list_of(names: Iterable[str], sign: str = "") -> str:
    one = f" *{sign}({'|'.join(names)}) *"
    return f"^({one}(,{one})*)?$"


def _reply(operation: Operation, known: _Components) -> Document | None:
    """The schema of the reply. Where `fields` is taken its record may have some of the members only."""
    if operation.reply is None:
        return None
    query = operation.request.parts().get("query")
    if query is None or "fields" not in query.model_fields:
        return known.reply(operation.reply)
    whole = known.reply(operation.item)
    selection = {name: value for name, value in known.resolved(whole).items() if name != "required"}
    selection["description"] = "All members, or with `fields` those that it names."
    known.schemas[f"{_name(whole)}Selection"] = selection
    found: Document = _replaced(
        known.resolved(known.reply(operation.reply)), whole, {"$ref": f"{whole['$ref']}Selection"}
    )
    return found


def _replaced(value: Any, old: Any, new: Any) -> Any:
    if value == old:
        return new
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return {name: _replaced(item, old, new) for name, item in value.items()} if isinstance(value, dict) else value


def _name(reference: Document) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _tidy(value: Any, shared: Document) -> Any:
    """Without pydantic's titles, and without the null that stands for "left out" in Python only. Long enumerations move
    to `shared`, by the titles that the vocabulary gives them."""
    if isinstance(value, list):
        return [_tidy(item, shared) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value.get("enum", ())) > LONG_ENUM:
        shared[value["title"]] = {"type": value["type"], "enum": value["enum"]}
        value = {name: item for name, item in value.items() if name not in ("type", "enum")}
        value["$ref"] = REF.format(model=value["title"])
    noise = {name for name in ("title", "default") if name in value and (name == "default") == (value[name] is None)}
    return {name: _tidy(item, shared) for name, item in value.items() if name not in noise or isinstance(item, dict)}


def _used(schemas: Document, by: Document) -> Document:
    """The schemas that something refers to; those of paths and queries were written out as parameters."""
    found: Document = {}
    left = set(_references(by))
    while left:
        name = left.pop()
        found[name] = schemas[name]
        left |= set(_references(schemas[name])) - found.keys()
    return {name: schemas[name] for name in schemas if name in found}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        if str(value.get("$ref")).startswith(REF.format(model="")):
            yield _name(value)
        for item in value.values():
            yield from _references(item)
