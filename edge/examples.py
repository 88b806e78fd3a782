"""The examples of the OpenAPI document. examples.json has those of the requests, and a value for each field of a reply.

`{visitorId}` in a request stands for a value. `visitor dev` writes the ids of the sample data to a file, which replace
the values of examples.json, so that "Try it out" in /docs works.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.catalogue import Operation
from edge.components import Components, Document, without_null

DELETED = "deleted"
"""The key of the values in the examples of DELETE. They name other records, so that the examples of all operations
succeed in any order."""

_PLACEHOLDER = re.compile(r"{(\w+)}")
_BY_FORMAT = {"date-time": "2026-11-24T08:30:00Z", "uuid": "e45934e1-5fd4-4651-b7bc-50c977a3b8c5"}
_BY_TYPE: Mapping[str, Any] = {"boolean": True, "object": {}}
_FILE: Mapping[str, Any] = json.loads(Path(__file__).with_name("examples.json").read_text())


def read_sample(path: Path | None) -> str:
    """The ids of the sample data, as JSON; an empty object if there is none."""
    return path.read_text() if path is not None and path.exists() else "{}"


class Examples:
    """`sample` has the ids of existing records by parameter, and those for DELETE under `deleted`."""

    def __init__(self, sample: Mapping[str, Any]) -> None:
        self._values = _FILE["values"] | {name: value for name, value in sample.items() if name != DELETED}
        self._deleted = self._values | sample.get(DELETED, {})

    def parameter(self, operation: Operation, location: str, name: str, *, required: bool) -> Any:
        """None for a parameter that the example of the call leaves out."""
        written_values = _FILE["requests"].get(operation.name, {}).get(location, {})
        if name in written_values:
            return self._filled(written_values[name])
        values = self._deleted if operation.method == "DELETE" else self._values
        return values[name] if required else None

    def body(self, operation: Operation) -> Any:
        return self._filled(_FILE["requests"][operation.name]["body"])

    def reply(self, operation: Operation, schema: Document, schemas: Components) -> Any:
        """An example that has all fields of the schema."""
        reply = self._of_schema(schema, schemas)
        if operation.shape == "page":
            reply["metadata"]["_links"] = {"self": operation.path, "first": operation.path}
        return reply

    def _filled(self, value: Any) -> Any:
        """A copy of an example with the values that its placeholders stand for."""
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if isinstance(value, dict):
            return {name: self._filled(item) for name, item in value.items()}
        placeholder = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
        return self._values[placeholder[1]] if placeholder else value

    def _of_schema(self, schema: Document, schemas: Components, owner: str = "", field: str = "") -> Any:
        """`owner` is the name of the component that has the field with this schema."""
        schema = without_null(schema)
        component = str(schema.get("$ref", "")).rpartition("/")[2]
        schema = schemas.resolve(schema)
        for name in (f"{owner}.{field}", field, component):
            if name in self._values and _fits(self._values[name], schema):
                return self._values[name]
        if "properties" in schema:
            owner = component or owner
            return {name: self._of_schema(item, schemas, owner, name) for name, item in schema["properties"].items()}
        if schema["type"] == "array":
            return [self._of_schema(schema["items"], schemas, owner, field)]
        if "enum" in schema:
            return schema["enum"][0]
        if schema.get("format") in _BY_FORMAT:
            return _BY_FORMAT[schema["format"]]
        if schema["type"] in _BY_TYPE:
            return _BY_TYPE[schema["type"]]
        raise ValueError(f"add a value for {field} or {owner}.{field} to examples.json")


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def _fits(value: Any, schema: Document) -> bool:
    """Fields of one name may have several types."""
    if "enum" in schema:
        return value in schema["enum"]
    if schema.get("format") == "date-time":
        return False
    return isinstance(value, _TYPES[schema.get("type", "object")])
