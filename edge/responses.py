"""The responses of each operation, as OpenAPI."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from agents.catalogue import Catalogue, Operation
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
    PreconditionFailed,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from topics.envelope import JSON

Document = dict[str, Any]

FAULTS: Mapping[type[Fault], str] = {
    Invalid: "The request cannot be decoded or is invalid. Each error names its field.",
    Unauthorized: "A valid API key or token is required.",
    Forbidden: "The caller lacks a scope, or is restricted to other centers. Without keys: the Host header must"
    " name the loopback interface.",
    NotFound: "No record has this path, barcode or plate, or its visitor was erased (`visitor_erased`).",
    Conflict: "The request conflicts with the stored data.",
    PreconditionFailed: "The record does not have the ETag that If-Match requires. It was not changed.",
    TooLarge: "The body is too large, as sent or after decompression.",
    UnsupportedMediaType: "The body is not `application/json`, or has a content coding other than gzip.",
    KeyReused: "The Idempotency-Key was used before with other content.",
    RateLimited: "The caller has too many calls in flight, too many per second, or too many bytes at the edge.",
    Bug: "The service failed unexpectedly and reported the error.",
    Unavailable: "The service cannot answer now. Try again later.",
    NoAnswer: "No answer came in time. A write may still be applied. Repeat it with the same Idempotency-Key.",
}
_FAULTS_OF_ALL = (Invalid, Unauthorized, Forbidden, TooLarge, RateLimited, Bug, Unavailable, NoAnswer)
_FAULTS_OF_WRITES = (Conflict, KeyReused)


def describe_faults(errors: Document) -> Document:
    """The response of each fault by its class name. Operations refer to these. `errors` is the schema of the body."""
    return {fault.__name__: _response(FAULTS[fault], {"schema": errors}, headers.names_for(fault)) for fault in FAULTS}


def describe(catalogue: Catalogue, operation: Operation, reply: Document | None) -> Document:
    """All responses of an operation, by status. `reply` is the content of the body. 202 is described with the header
    `Prefer` only: as a response of each write, it would be a part of the types of all generated clients."""
    faults = list(_faults(operation))
    if catalogue.takes_if_match(operation):
        faults.append(PreconditionFailed)
    responses = {fault.status: {"$ref": f"#/components/responses/{fault.__name__}"} for fault in faults}
    for status in [operation.status, *([HTTPStatus.OK] if operation.upserts else [])]:
        header_names = list(_headers(catalogue, operation, status))
        responses[status] = _response(HTTPStatus(status).phrase, reply, header_names)
    return {str(int(status)): responses[status] for status in sorted(responses)}


def _headers(catalogue: Catalogue, operation: Operation, status: int) -> Iterator[str]:
    """The names of the headers of a success."""
    if not operation.is_query:
        yield headers.IDEMPOTENCY_KEY
    if status == HTTPStatus.CREATED and operation.name in catalogue.reader_of:
        yield "Location"
    if operation.name in catalogue.table_of and operation.method != "DELETE":
        yield "ETag"
    if operation.is_query and operation.shape in ("page", "array"):
        yield "Link"


def _response(description: str, content: Document | None, header_names: Sequence[str]) -> Document:
    response: Document = {"description": description}
    if header_names:
        response["headers"] = headers.references(*header_names)
    if content:
        response["content"] = {JSON: content}
    return response


def _faults(operation: Operation) -> Iterator[type[Fault]]:
    yield from _FAULTS_OF_ALL
    if not operation.is_query:
        yield from _FAULTS_OF_WRITES
    if "body" in operation.request.parts():
        yield UnsupportedMediaType
    if "{" in operation.path:
        yield NotFound
    yield from operation.faults
