"""The rows of a file, and why some of them are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.faults import Fault
from topics import json


class UnusableFile(Exception):
    """The file cannot be imported, or no further row of it. The message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row by the JSON names of its fields. `line` is that of its first character, from 1."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not applied, with the status and the errors that the HTTP API would answer. `fields` is None if the
    row cannot be read."""

    line: int
    status: int
    errors: Sequence[Any]
    fields: dict[str, Any] | None

    @classmethod
    def by(cls, fault: Fault, line: int, fields: dict[str, Any] | None = None) -> "Refusal":
        return cls(line, fault.status, [entry.model_dump() for entry in fault.entries], fields)


def as_json(refusal: Refusal) -> bytes:
    """A line of the report. `row` can be corrected and imported as a line of JSON lines."""
    report = {"line": refusal.line, "status": refusal.status, "errors": refusal.errors, "row": refusal.fields}
    return json.write(json.printable(report)) + b"\n"
