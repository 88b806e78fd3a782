"""The OpenAPI 3.1 document of all operations in the catalogue."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.catalogue import Catalogue, Operation
from edge import components, headers, responses, scopes
from edge.components import Components
from edge.examples import Examples
from edge.translate import message_only, needs_body
from schemas.faults import Errors
from topics.envelope import JSON

Document = dict[str, Any]

_ABOUT = Path(__file__).with_name("about.md").read_text()
"""The rules of all operations, which introduce /docs."""

_INFO: Document = {
    "title": "Visitor service",
    "version": "1",
    "description": _ABOUT,
    "contact": {"name": "The maintainers of the visitor service"},
    "license": {"name": "Proprietary", "identifier": "LicenseRef-Proprietary"},
}
_API_KEY = {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the issuer."}


def describe(catalogue: Catalogue, *, with_keys: bool = False, sample: Mapping[str, Any] | None = None) -> Document:
    """The OpenAPI document as a dict. With `with_keys`, every call needs an API key
    or a token, with scopes. `sample` has the ids of existing
    records for the examples, see `edge.examples`."""
    examples = Examples(sample or {})
    schemas = Components(catalogue)
    paths: dict[str, Document] = {}
    for operation in catalogue.operations:
        _hide_message_fields(operation, schemas)
        described = _operation(catalogue, operation, schemas, examples)
        if with_keys:
            family = catalogue.family_of[operation.name]
            required = scopes.required(operation.name, family, reads=operation.is_query)
            described["security"] = [{"key": sorted(required)}]
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    fault_responses = responses.describe_faults(schemas.reply(Errors))
    document = {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/", "description": "This server"}],
        "security": [{"key": []}] if with_keys else [],
        "tags": [{"name": family, "description": catalogue.rules_of(family)} for family in catalogue.families],
        "paths": paths,
    }
    parts = {
        "schemas": components.used(schemas.schemas, {"paths": paths, "responses": fault_responses}),
        "parameters": headers.PARAMETERS,
        "responses": fault_responses,
        "headers": headers.RESPONSES,
    }
    if with_keys:
        parts["securitySchemes"] = {"key": _API_KEY}
    return document | {"components": parts}


def _hide_message_fields(operation: Operation, schemas: Components) -> None:
    """Remove the fields that only a message may have from the schema of the body."""
    body = operation.request.parts().get("body")
    for name in message_only(operation):
        assert body is not None
        schemas.resolve(schemas.request(body))["properties"].pop(name, None)


def _operation(catalogue: Catalogue, operation: Operation, schemas: Components, examples: Examples) -> Document:
    description: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [catalogue.family_of[operation.name]],
        "parameters": [*_parameters(operation, schemas, examples), *_headers(catalogue, operation)],
        "responses": responses.describe(catalogue, operation, _reply(operation, schemas, examples)),
    }
    if operation.description:
        description["description"] = operation.description
    body = operation.request.parts().get("body")
    if body is not None:
        content = {"schema": schemas.request(body), "example": examples.body(operation)}
        description["requestBody"] = {"required": needs_body(body), "content": {JSON: content}}
    return description


def _reply(operation: Operation, schemas: Components, examples: Examples) -> Document | None:
    """The schema of the reply, with an example."""
    if operation.reply is None:
        return None
    schema = schemas.reply(operation.reply)
    return {"schema": schema, "example": examples.reply(operation, schema, schemas)}


def _parameters(operation: Operation, schemas: Components, examples: Examples) -> Iterator[Document]:
    models = operation.request.parts()
    for location in ("path", "query"):
        if location not in models:
            continue
        part = schemas.parameters(models[location])
        for name, field in part.get("properties", {}).items():
            schema = components.without_null(field)
            parameter: Document = {"name": name, "in": location, "required": name in part.get("required", ())}
            parameter["description"] = _describe_selection(operation, name) or schema.get("description", "")
            parameter["schema"] = {key: value for key, value in schema.items() if key != "description"}
            example = examples.parameter(operation, location, name, required=parameter["required"])
            yield parameter if example is None else parameter | {"example": example}


def _headers(catalogue: Catalogue, operation: Operation) -> Iterator[Document]:
    """References to the request headers of the operation."""
    names = [] if operation.is_query else ["IdempotencyKey", "Prefer"]
    if catalogue.takes_if_match(operation):
        names.append("IfMatch")
    for name in names:
        yield {"$ref": f"#/components/parameters/{name}"}


def _describe_selection(operation: Operation, parameter: str) -> str | None:
    """The description of the parameters `fields` and `sort`, which name fields of the reply."""
    if parameter == "fields":
        return (
            f"Comma-separated list of the fields to return: {_enumerate(_reply_fields(operation))}. The reply then has"
            " only these fields. Without this parameter, it has all fields."
        )
    if parameter == "sort" and operation.sorts:
        return (
            "Comma-separated list of the fields to sort by. `-` before a field sorts it descending:"
            f" {_enumerate(operation.sorts)}."
        )
    return None


def _reply_fields(operation: Operation) -> list[str]:
    assert operation.item is not None
    return [str(field.serialization_alias) for field in operation.item.model_fields.values()]


def _enumerate(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
