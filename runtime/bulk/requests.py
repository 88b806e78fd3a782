"""Turns rows into the requests that create the resource."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from agents.catalogue import CATALOGUE
from agents.operation import Operation
from runtime.bulk import Importable
from runtime.bulk.rows import Refusal, Row
from schemas.faults import Invalid, from_validation
from schemas.shapes import shape_of
from topics import json, names
from topics.envelope import JSON, RequestHeaders
from topics.kafka import Outgoing

_CREATES = {
    Importable.visitors: "visitors.create",
    Importable.vehicles: "vehicles.create",
    Importable.optins: "optins.create",
}


class Creation:
    """The operation that creates a resource, and the fields of a row: those of its path and its body. Fields that only
    its reply has are ignored, so that an import accepts what an export writes."""

    def __init__(self, resource: Importable) -> None:
        self.operation: Operation = CATALOGUE.by_name[_CREATES[resource]]
        self.family = CATALOGUE.family_of[self.operation.name]
        parts = self.operation.request.parts()
        self._path = _types(parts["path"]) if "path" in parts else {}
        self._body = _types(parts["body"])
        assert self.operation.item is not None
        self.types: Mapping[str, type] = self._path | self._body | _types(self.operation.item)
        """The plain types of all fields that a row may have, by their JSON names."""
        self._ignored = self.types.keys() - self._path.keys() - self._body.keys()
        self._lists = [name for name, field_type in self._body.items() if field_type is list]

    def parts_of(self, row: Row) -> dict[str, Any] | Refusal:
        """The parts of the request that creates the row, or why the service would refuse it. A list that the row leaves
        out is empty."""
        if row.fields.get("deletionDate") is not None:
            # An export has deleted records, too. As new ones, they would identify visitors again.
            deleted = Invalid("deleted", "The record is deleted. Leave the row out.", field="deletionDate")
            return Refusal.by(deleted, row.line, row.fields)
        path = {name: value for name, value in row.fields.items() if name in self._path}
        body = {
            name: value for name, value in row.fields.items() if name not in self._path and name not in self._ignored
        }
        parts = {"path": path, "body": {name: [] for name in self._lists} | body}
        try:
            self.operation.request.model_validate(parts)
        except ValidationError as error:
            return Refusal.by(from_validation(error), row.line, row.fields)
        return parts

    def message(self, request_id: str, source: str, parts: dict[str, Any]) -> Outgoing:
        """The request message. Rows with the same record key are applied in the order of the file."""
        headers = RequestHeaders(request_id, self.operation.name, source, JSON).encode()
        key = (self.operation.record_key(parts) or request_id).encode()
        return Outgoing(names.requests(self.family), json.write(parts), key, headers, partition_key=key)


def _types(model: type[BaseModel]) -> dict[str, type]:
    return {str(field.serialization_alias): shape_of(field.annotation).base for field in model.model_fields.values()}
