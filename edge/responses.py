"""What each operation can answer, in words of OpenAPI."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from agents.catalogue import Operation
from edge import headers
from schemas.faults import (
    Bug,
    Conflict,
    Fault,
    Forbidden,
    Invalid,
    KeyReused,
    NoAnswer,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from schemas.model import Model
from schemas.replies import Record
from schemas.types import Identifier
from topics.envelope import JSON

Document = dict[str, Any]


class Accepted(Model):
    """The request was taken in; its answer comes to whoever repeats the call with its key."""

    request_id: Identifier


ACCEPTED = Record[Accepted]

FAULTS: Mapping[type[Fault], str] = {
    Invalid: "InvalidMessage or invalid; each fault names the field that it is about.",
    Unauthorized: "A valid key is needed.",
    Forbidden: "The key lacks the scope. Or there are no keys, and the host is not a name of this machine itself.",
    NotFound: "What the path, a barcode or a plate names is not there, or the visitor was erased (`visitor_erased`).",
    Conflict: "The present state of the data refuses it.",
    TooLarge: "The body is too large, as it was sent or decompressed.",
    UnsupportedMediaType: "The body is not `application/json`, or it is compressed with something else than gzip.",
    KeyReused: "The Idempotency-Key came before with another content.",
    RateLimited: "Too many calls of this caller wait for their answers.",
    Bug: "A bug on our side; it was reported.",
    Unavailable: "Not possible now.",
    NoAnswer: "No answer came in time. A write may still be applied; repeat it with the same Idempotency-Key.",
}
_ANY = (Invalid, Unauthorized, Forbidden, TooLarge, RateLimited, Bug, Unavailable, NoAnswer)
_WRITES = (Conflict, KeyReused)


def shared(errors: Document) -> Document:
    """The answers that many operations can give, by the names of their faults."""
    return {fault.__name__: _fault(fault, errors) for fault in FAULTS}


def _fault(fault: type[Fault], errors: Document) -> Document:
    answered = headers.names_of(fault)
    return {
        "description": FAULTS[fault],
        **({"headers": headers.refer(*answered)} if answered else {}),
        "content": {JSON: {"schema": errors}},
    }


def of(operation: Operation, reply: Document | None, accepted: Document) -> Document:
    """All that an operation can answer, by status."""
    key = [] if operation.is_query else [headers.KEY]
    found = {fault.status: {"$ref": f"#/components/responses/{fault.__name__}"} for fault in _faults(operation)}
    found[operation.status] = _success(operation.status, reply, key)
    if operation.upserts:
        found[HTTPStatus.OK] = _success(HTTPStatus.OK, reply, key)
    if not operation.is_query:
        found[HTTPStatus.ACCEPTED] = _success(HTTPStatus.ACCEPTED, accepted, [*key, "Preference-Applied"])
    return {str(int(status)): found[status] for status in sorted(found)}


def _success(status: int, reply: Document | None, answered: Sequence[str]) -> Document:
    return {
        "description": "Taken in" if status == HTTPStatus.ACCEPTED else HTTPStatus(status).phrase,
        **({"headers": headers.refer(*answered)} if answered else {}),
        **({"content": {JSON: {"schema": reply}}} if reply else {}),
    }


def _faults(operation: Operation) -> Iterator[type[Fault]]:
    yield from _ANY
    if not operation.is_query:
        yield from _WRITES
    if "body" in operation.request.parts():
        yield UnsupportedMediaType
    if "{" in operation.path:
        yield NotFound
    yield from operation.faults
