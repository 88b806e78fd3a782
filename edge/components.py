"""The schemas of the models, as components of the OpenAPI document."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from agents.catalogue import Catalogue
from schemas import docstrings
from schemas.descriptions import COMMON
from schemas.faults import Errors
from schemas.types import NOTE

Document = dict[str, Any]

REF = "#/components/schemas/{model}"
_TYPE_NAME = re.compile("[A-Z][a-z]+([A-Z][a-z]+)+")
"""The title of an enumeration that becomes a component, for example CountryCode. The titles that pydantic makes of the
names of fields have spaces."""
_NULL = {"type": "null"}


class _Generator(GenerateJsonSchema):
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Add the descriptions of the fields. Replies may gain fields in later versions, so only requests refuse
        additional properties."""
        json_schema = super().model_schema(schema)
        model = schema["cls"]
        for name, field in model.model_fields.items():
            description = docstrings.of_field(model, name)
            if description and "properties" in json_schema:
                json_schema["properties"][field.serialization_alias]["description"] = description
        if self.mode == "serialization" and json_schema.get("additionalProperties") is False:
            del json_schema["additionalProperties"]
        return json_schema

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        """An enumeration also for a single value, since several generators ignore `const`."""
        json_schema = super().literal_schema(schema)
        if "const" in json_schema:
            json_schema["enum"] = [json_schema.pop("const")]
        return json_schema


class Components:
    """The schemas of the bodies of requests and replies. `schemas` has them by name."""

    def __init__(self, catalogue: Catalogue) -> None:
        models, definitions = models_json_schema(
            list(dict.fromkeys(_bodies(catalogue))), ref_template=REF, schema_generator=_Generator
        )
        self._names = {key: _name(key, schema) for key, schema in definitions["$defs"].items()}
        self.schemas: Document = {}
        for key, schema in definitions["$defs"].items():
            name = self._names[key]
            if name in self.schemas:
                raise ValueError(f"two models have the name {name}; give one of them another title")
            self.schemas[name] = self._tidy(schema)
        self._models = {model: self._tidy(schema) for model, schema in models.items()}

    def request(self, model: type[BaseModel]) -> Document:
        """The schema of a request body."""
        return self._inlined(self._models[model, "validation"])

    def reply(self, model: Any) -> Document:
        """The schema of a reply."""
        return self._inlined(self._models[model, "serialization"])

    def parameters(self, model: type[BaseModel]) -> Document:
        """The schema of a path or a query: an object with one property for each parameter."""
        schema = model.model_json_schema(mode="validation", ref_template=REF, schema_generator=_Generator)
        parameters: Document = self._tidy(schema)
        return parameters

    def resolve(self, schema: Document) -> Document:
        """The component that a `$ref` names. A schema without `$ref` is returned unchanged."""
        if "$ref" not in schema:
            return schema
        component: Document = self.schemas[str(schema["$ref"]).rpartition("/")[2]]
        return component

    def _inlined(self, schema: Document) -> Document:
        """An array itself instead of a reference to it, because some generators make no type of such a component."""
        component = self.resolve(schema)
        return component if component.get("type") == "array" else schema

    def _tidy(self, value: Any) -> Any:
        """A copy for generators and readers: short names, `type: [string, null]` instead of `anyOf`, descriptions, and
        neither pydantic's titles nor the default null, which means an omitted field in Python only. Some enumerations
        become components."""
        if isinstance(value, list):
            return [self._tidy(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            name = str(value["$ref"]).rpartition("/")[2]
            value = value | {"$ref": REF.format(model=self._names.get(name, name))}
        if "enum" in value and _TYPE_NAME.fullmatch(value.get("title", "")):
            self.schemas[value["title"]] = {"type": value["type"], "enum": value["enum"]}
            value = {name: item for name, item in value.items() if name not in ("type", "enum")}
            value["$ref"] = REF.format(model=value["title"])
        tidy = {name: self._tidy(item) for name, item in value.items() if not _is_noise(name, item)}
        tidy = _with_null_as_type(tidy)
        if isinstance(tidy.get("properties"), dict):
            tidy["properties"] = {name: _described(name, schema) for name, schema in tidy["properties"].items()}
        return tidy


def _bodies(catalogue: Catalogue) -> Iterator[tuple[Any, JsonSchemaMode]]:
    yield Errors, "serialization"
    for operation in catalogue.operations:
        body = operation.request.parts().get("body")
        if body is not None:
            yield body, "validation"
        if operation.reply is not None:
            yield operation.reply, "serialization"


def _name(key: str, schema: Document) -> str:
    """The name of a component: the name of its model, which pydantic gives as its title. Of a model that occurs in
    requests and in replies, the latter has a name of its own."""
    title: str = schema["title"]
    return f"{title}Output" if key.endswith("-Output") else title


def _is_noise(name: str, item: Any) -> bool:
    """True for a title and for a default null. A dict is never noise: it is the schema of a field with this name."""
    if isinstance(item, dict):
        return False
    return (name == "title" and item is not None) or (name == "default" and item is None)


def without_null(schema: Document) -> Document:
    """The schema of a parameter, which a caller can omit but not set to null."""
    if isinstance(schema.get("type"), list):
        schema = schema | {"type": next(name for name in schema["type"] if name != "null")}
    options: list[Document] = [option for option in schema.get("anyOf", ()) if option != _NULL]
    if len(options) == 1:
        return options[0] | {name: value for name, value in schema.items() if name != "anyOf"}
    return schema


def _with_null_as_type(schema: Document) -> Document:
    """`type: [string, null]` instead of `anyOf` a string or null, except for references and enumerations, of which
    generators would make several types."""
    options = schema.get("anyOf", [])
    if len(options) != 2 or options[1] != _NULL or options[0].keys() & {"$ref", "enum"}:
        return schema
    merged: Document = options[0] | {name: value for name, value in schema.items() if name != "anyOf"}
    merged["type"] = [options[0]["type"], "null"]
    return merged


def _described(name: str, schema: Document) -> Document:
    """A property with its description: its own or the common one of its name, and the note of its type."""
    note = schema.get(NOTE)
    sentences = [schema.get("description") or COMMON.get(name), note]
    description = " ".join(sentence for sentence in sentences if sentence)
    described = {key: value for key, value in schema.items() if key != NOTE}
    return described | {"description": description} if description else described


def used(schemas: Document, document: Document) -> Document:
    """The schemas that `document` refers to, directly or through others."""
    names: set[str] = set()
    unvisited = set(_references(document))
    while unvisited:
        name = unvisited.pop()
        names.add(name)
        unvisited |= set(_references(schemas[name])) - names
    return {name: schema for name, schema in sorted(schemas.items()) if name in names}


def _references(value: Any) -> Iterator[str]:
    """The names of the schemas that a JSON value refers to."""
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        reference = str(value.get("$ref"))
        if reference.startswith(REF.format(model="")):
            yield reference.rpartition("/")[2]
        for item in value.values():
            yield from _references(item)
