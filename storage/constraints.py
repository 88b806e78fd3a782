"""The faults that violated constraints mean, by the names of the constraints."""

from collections.abc import Callable, Container, Mapping
from typing import Protocol

from pydantic.alias_generators import to_camel, to_snake
from sqlalchemy.exc import DBAPIError

from schemas.faults import Conflict, Fault, Invalid, NotFound


class Parent(Protocol):
    """The table that a foreign key refers to."""

    resource: str

    def missing(self) -> NotFound: ...


_CONFLICTS: dict[str, Callable[[], Conflict]] = {}
"""By the name of a unique constraint or index."""

_REFERENCES: dict[str, tuple[str, Parent]] = {}
"""By the name of a foreign key: the field that holds it, and the table that it refers to."""


def register(table: str, conflicts: Mapping[str, Callable[[], Conflict]], parents: Mapping[str, Parent]) -> None:
    """Remember the constraints of a table. `conflicts` is by the constraint's name, `parents` by the column."""
    _CONFLICTS.update(conflicts)
    for column, parent in parents.items():
        _REFERENCES[f"{table}_{column}_fkey"] = (to_camel(column), parent)


_WHOSE = "visitorId"
"""The field of whom a row is about."""

_BEYOND_LIMITS = "54000"
"""program_limit_exceeded: what a request can exceed is the size of an index's entry, about 2,700 bytes."""


def fault_of(error: DBAPIError, in_path: Container[str]) -> Fault | None:
    """What breaking a constraint means to the caller; None where it is a bug. A missing parent is not found where the
    path names it, and an invalid field where the body does. A missing visitor is not found in any case: a request may
    name it by a barcode or plate, and it was erased since."""
    cause = error.orig.__cause__ if error.orig else None
    if getattr(cause, "sqlstate", None) == _BEYOND_LIMITS:
        return Invalid("too_long", "A text by which this is found holds too many bytes; about 2,600 are possible.")
    name = getattr(cause, "constraint_name", None) or ""
    if name in _CONFLICTS:
        return _CONFLICTS[name]()
    if name not in _REFERENCES:
        return None
    field, parent = _REFERENCES[name]
    if str(error.statement).startswith("DELETE"):
        return Conflict(f"{to_snake(parent.resource)}_in_use", f"Others still refer to this {parent.resource}.")
    missing = parent.missing()
    if field in in_path or field == _WHOSE:
        return missing
    return Invalid(missing.code, f"There is no such {parent.resource}.", field=field)
