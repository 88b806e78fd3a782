"""The OpenAPI 3.1 document of all operations in the catalogue."""

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
"""Values of an enumeration; a longer one becomes a component."""

_ABOUT = Path(__file__).with_name("about.md").read_text()
"""The rules of all operations, which introduce /docs."""


@dataclass
class _Components:
    """The JSON schemas of all models. `models` are by model and mode and mostly refer to `schemas`, which become the
    components of the document."""

    models: Mapping[Any, Document]
    schemas: Document

    def request(self, model: type[BaseModel]) -> Document:
        return self.models[model, "validation"]

    def reply(self, model: Any) -> Document:
        return self.models[model, "serialization"]

    def resolve(self, reference: Document) -> Document:
        schema: Document = self.schemas[_name(reference)]
        return schema


def describe(catalogue: Catalogue) -> Document:
    """The OpenAPI document as a dict."""
    models, definitions = models_json_schema(list(dict.fromkeys(_models(catalogue))), ref_template=REF)
    components = _Components(models, definitions["$defs"])
    paths: dict[str, Document] = {}
    for operation in catalogue.operations:
        _narrow(operation, components)
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(catalogue, operation, components)
    fault_responses = responses.describe_faults(components.reply(Errors))
    long_enums: Document = {}
    parts = _tidy({"paths": paths, "responses": fault_responses}, long_enums)
    schemas = _tidy(components.schemas, long_enums) | long_enums
    return {
        "openapi": "3.1.0",
        "info": {"title": "Visitor service", "version": "1", "description": _ABOUT},
        "paths": parts["paths"],
        "components": {
            "schemas": _used_schemas(schemas, parts),
            "parameters": headers.PARAMETERS,
            "responses": parts["responses"],
            "headers": headers.RESPONSES,
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


def _narrow(operation: Operation, components: _Components) -> None:
    """Change the schema of the body to what the edge accepts, where this differs from the model."""
    body = operation.request.parts().get("body")
    if body is None:
        return
    schema = components.resolve(components.request(body))
    hidden_fields = message_only(operation)
    if hidden_fields:
        schema.pop("description", None)  # it explains the hidden fields
        for name in hidden_fields:
            schema["properties"].pop(name, None)
    if operation.at_least_one:
        schema["anyOf"] = [{"required": [name]} for name in operation.at_least_one]


def _operation(catalogue: Catalogue, operation: Operation, components: _Components) -> Document:
    description: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [catalogue.family_of[operation.name]],
        "parameters": list(_parameters(operation, components)),
        "responses": responses.describe(operation, _reply(operation, components), components.reply(responses.ACCEPTED)),
    }
    if operation.description:
        description["description"] = operation.description
    body = operation.request.parts().get("body")
    if body is not None:
        content = {JSON: {"schema": components.request(body)}}
        description["requestBody"] = {"required": needs_body(body), "content": content}
    return description


def _parameters(operation: Operation, components: _Components) -> Iterator[Document]:
    models = operation.request.parts()
    for location in ("path", "query"):
        if location not in models:
            continue
        part = components.resolve(components.request(models[location]))
        for name, field in part.get("properties", {}).items():
            schema = _without_null(field) | _fields_or_sort(operation, name)
            parameter = {"name": name, "in": location, "required": name in part.get("required", ())}
            if "description" in schema:
                parameter["description"] = schema.pop("description")
            yield parameter | {"schema": schema}
    if not operation.is_query:
        for name in headers.PARAMETERS:
            yield {"$ref": f"#/components/parameters/{name}"}


def _without_null(schema: Document) -> Document:
    """The schema of a parameter, which a caller can omit but not set to null."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    option: Document = options[0]
    return option | {name: value for name, value in schema.items() if name not in ("anyOf", "default")}


def _fields_or_sort(operation: Operation, parameter: str) -> Document:
    """The description and the pattern of the parameters `fields` and `sort`, which name fields of the reply."""
    if parameter == "fields":
        names = _reply_fields(operation)
        description = f"Comma-separated list of the fields to return: {_enumerate(names)}."
        return {"description": description, "pattern": _list_pattern(names)}
    if parameter == "sort" and operation.sorts:
        description = "Comma-separated list of the fields to sort by. `-` before a field sorts it descending"
        return {
            "description": f"{description}: {_enumerate(operation.sorts)}.",
            "pattern": _list_pattern(operation.sorts, "-?"),
        }
    return {}


def _reply_fields(operation: Operation) -> list[str]:
    assert operation.item is not None
    return [str(field.serialization_alias) for field in operation.item.model_fields.values()]


def _enumerate(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _list_pattern(names: Iterable[str], prefix: str = "") -> str:
    """A regular expression for a comma-separated list of these names, which may be empty."""
    entry = f" *{prefix}({'|'.join(names)}) *"
    return f"^({entry}(,{entry})*)?$"


def _reply(operation: Operation, components: _Components) -> Document | None:
    """The schema of the reply. If the operation has the parameter `fields`, its records may omit fields."""
    if operation.reply is None:
        return None
    query = operation.request.parts().get("query")
    if query is None or "fields" not in query.model_fields:
        return components.reply(operation.reply)
    item = components.reply(operation.item)
    selection = {name: value for name, value in components.resolve(item).items() if name != "required"}
    selection["description"] = "All fields, or those that the parameter `fields` names."
    components.schemas[f"{_name(item)}Selection"] = selection
    reply: Document = _replace(
        components.resolve(components.reply(operation.reply)), item, {"$ref": f"{item['$ref']}Selection"}
    )
    return reply


def _replace(value: Any, old: Document, new: Document) -> Any:
    """A copy of a JSON value with each occurrence of `old` replaced by `new`."""
    if value == old:
        return new
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    if isinstance(value, dict):
        return {name: _replace(item, old, new) for name, item in value.items()}
    return value


def _name(reference: Document) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _tidy(value: Any, long_enums: Document) -> Any:
    """A copy without pydantic's titles and without the default null, which means an omitted field in Python only. Long
    enumerations move to `long_enums`, by the titles that `schemas.types` gives them."""
    if isinstance(value, list):
        return [_tidy(item, long_enums) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value.get("enum", ())) > LONG_ENUM:
        long_enums[value["title"]] = {"type": value["type"], "enum": value["enum"]}
        value = {name: item for name, item in value.items() if name not in ("type", "enum")}
        value["$ref"] = REF.format(model=value["title"])
    return {name: _tidy(item, long_enums) for name, item in value.items() if not _is_noise(name, item)}


def _is_noise(name: str, item: Any) -> bool:
    """True for a title and for a default null. A dict is never noise: it is the schema of a field with this name."""
    if isinstance(item, dict):
        return False
    return (name == "title" and item is not None) or (name == "default" and item is None)


def _used_schemas(schemas: Document, document: Document) -> Document:
    """The schemas that `document` refers to, directly or through others. The models of paths and queries are not among
    them, because the document lists their fields as parameters."""
    used: set[str] = set()
    unvisited = set(_references(document))
    while unvisited:
        name = unvisited.pop()
        used.add(name)
        unvisited |= set(_references(schemas[name])) - used
    return {name: schema for name, schema in schemas.items() if name in used}


def _references(value: Any) -> Iterator[str]:
    """The names of the schemas that a JSON value refers to."""
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        if str(value.get("$ref")).startswith(REF.format(model="")):
            yield _name(value)
        for item in value.values():
            yield from _references(item)
