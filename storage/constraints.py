"""Maps violated constraints to faults, by the names of the constraints."""

from collections.abc import Callable, Container, Mapping
from typing import Protocol

from pydantic.alias_generators import to_camel, to_snake
from sqlalchemy.exc import DBAPIError

from schemas.faults import Conflict, Fault, Invalid, NotFound


class Parent(Protocol):
    """The table that a foreign key refers to."""

    resource: str

    def not_found(self) -> NotFound: ...


_CONFLICTS: dict[str, Callable[[], Conflict]] = {}
"""The fault of a unique constraint or index, by the name of the constraint."""

_FOREIGN_KEYS: dict[str, tuple[str, Parent]] = {}
"""The field that holds a foreign key and the table that it refers to, by the name of the constraint."""


def register(table: str, conflicts: Mapping[str, Callable[[], Conflict]], parents: Mapping[str, Parent]) -> None:
    """Register the constraints of a table: `conflicts` by the name of the constraint, `parents` by the column of the
    foreign key."""
    _CONFLICTS.update(conflicts)
    for column, parent in parents.items():
        _FOREIGN_KEYS[f"{table}_{column}_fkey"] = (to_camel(column), parent)


_VISITOR_FIELD = "visitorId"

_PROGRAM_LIMIT_EXCEEDED = "54000"
"""The SQLSTATE for a value that is too large. A request can cause it with an index entry of more than 2,700 bytes."""


def fault_of(error: DBAPIError, in_path: Container[str]) -> Fault | None:
    """The fault for a violated constraint; None if the violation is a bug. `in_path` are the fields in the request's
    path.

    A missing parent becomes NotFound if the path identifies the parent, and Invalid with the field if the body does. A
    missing visitor always becomes NotFound: the request may have identified the visitor by a barcode or a plate, and
    the visitor was erased after the look-up. Deleting a row to which others refer becomes Conflict.
    """
    cause = error.orig.__cause__ if error.orig else None
    if getattr(cause, "sqlstate", None) == _PROGRAM_LIMIT_EXCEEDED:
        return Invalid("too_long", "A text that is indexed is too long. Use at most 2,600 bytes.")
    constraint = getattr(cause, "constraint_name", None) or ""
    if constraint in _CONFLICTS:
        return _CONFLICTS[constraint]()
    if constraint not in _FOREIGN_KEYS:
        return None
    field, parent = _FOREIGN_KEYS[constraint]
    if str(error.statement).startswith("DELETE"):
        message = f"This {parent.resource} is still in use. Delete what refers to it first."
        return Conflict(f"{to_snake(parent.resource)}_in_use", message)
    not_found = parent.not_found()
    if field in in_path or field == _VISITOR_FIELD:
        return not_found
    return Invalid(not_found.code, f"There is no such {parent.resource}.", field=field)
