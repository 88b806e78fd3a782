"""OpenAPI 3.1 of all operations, from the catalogue."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from agents.catalogue import Catalogue, Operation
from edge.translate import message_only
from schemas.faults import Errors

REF = "#/components/schemas/{model}"
Document = dict[str, Any]
_Models = Mapping[Any, Mapping[str, Any]]

_ANY = (400, 401, 403, 429, 500, 503, 504)
_WRITES = (409, 413, 415, 422)


def describe(catalogue: Catalogue) -> Document:
    models, definitions = models_json_schema(list(dict.fromkeys(_models(catalogue))), ref_template=REF)
    schemas = definitions.get("$defs", {})
    for operation in catalogue.operations:
        _hide_message_only(operation, models, schemas)
    paths: dict[str, Document] = {}
    for operation in catalogue.operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            catalogue, operation, models, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Visitor service",
            "version": "1",
            "description": "Visitors of shopping centers. Each call is also a message; see the README.",
        },
        "paths": _tidy(paths),
        "components": {
            "schemas": _tidy(schemas),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
        "security": [{}, {"key": []}],
        "tags": [{"name": family} for family in catalogue.families],
    }


def _tidy(value: Any) -> Any:
    """Without pydantic's titles, and without the null that stands for "left out" in Python only."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    noise = {name for name in ("title", "default") if name in value and (name == "default") == (value[name] is None)}
    return {name: _tidy(item) for name, item in value.items() if name not in noise or isinstance(item, dict)}


def _models(catalogue: Catalogue) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    yield Errors, "serialization"
    for operation in catalogue.operations:
        for model in operation.request.parts().values():
            yield model, "validation"
        if operation.reply is not None:
            yield operation.reply, "serialization"


def _hide_message_only(operation: Operation, models: _Models, schemas: Document) -> None:
    hidden = message_only(operation)
    if not hidden:
        return
    schema = _resolved(models[operation.request.parts()["body"], "validation"], schemas)
    for name in hidden:
        schema["properties"].pop(name, None)


def _resolved(reference: Mapping[str, Any], schemas: Document) -> Document:
    found: Document = schemas[reference["$ref"].rpartition("/")[2]]
    return found


def _operation(catalogue: Catalogue, operation: Operation, models: _Models, schemas: Document) -> Document:
    parts = operation.request.parts()
    found: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [catalogue.family_of[operation.name]],
        "parameters": list(_parameters(operation, parts, models, schemas)),
        "responses": _responses(operation, models),
    }
    if "body" in parts:
        schema = models[parts["body"], "validation"]
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def _parameters(
    operation: Operation, parts: Mapping[str, type[BaseModel]], models: _Models, schemas: Document
) -> Iterator[Document]:
    for place in ("path", "query"):
        if place not in parts:
            continue
        schema = _resolved(models[parts[place], "validation"], schemas)
        for name, described in schema.get("properties", {}).items():
            yield {
                "name": name,
                "in": place,
                "required": name in schema.get("required", ()),
                "schema": _without_null(described),
            }
    if not operation.is_query:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": 128},
            "description": "A repeated call with the same key and body gets the first one's answer.",
        }
        yield {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "`respond-async`: 202 at once with the request id, without waiting for the answer.",
        }


def _without_null(schema: Document) -> Document:
    """A parameter is left out, never null."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    found: Document = options[0] | rest
    return found


def _responses(operation: Operation, models: _Models) -> Document:
    described: Document = {"description": HTTPStatus(operation.status).phrase}
    if operation.reply is not None:
        described["content"] = {"application/json": {"schema": models[operation.reply, "serialization"]}}
    found = {str(operation.status): described}
    if operation.upserts:
        found["200"] = described | {"description": HTTPStatus.OK.phrase}
    faults = [*_ANY, *(() if operation.is_query else _WRITES), *((404,) if _may_miss(operation) else ())]
    errors = models[Errors, "serialization"]
    for status in sorted(faults):
        found[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": errors}},
        }
    if operation.name == "visits.list":
        found["409"] = found["400"] | {"description": "visitorId, barcode and licensePlate name different visitors"}
    if not operation.is_query:
        found["202"] = {"description": "Accepted, with `Prefer: respond-async`"}
    return found


def _may_miss(operation: Operation) -> bool:
    """Where something outside the body has to be there, or a barcode or plate names a visitor."""
    return "{" in operation.path or operation.path in ("/visits", "/checkins")
