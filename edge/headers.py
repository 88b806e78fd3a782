"""The HTTP headers of requests and of responses, and their description in OpenAPI."""

from collections.abc import Mapping
from typing import Any

from edge import codings
from schemas.faults import Fault, UnsupportedContentCoding

CALL_ID = "x-request-id"
"""Identifies a call in logs. It is not the request id of a message, which a repeated call has again."""

IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_KEY_LIMIT = 128
IDEMPOTENCY_KEY_PATTERN = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII, without a blank at the start or the end: HTTP does not count these blanks as part of a value."""

OF_ALL_ANSWERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""The headers of every response to a call of an operation. Answers hold personal data, so that no cache may keep them.
A browser that shows an answer as a page runs and loads nothing."""

OF_SCRIPTS = (
    "Authorization", "Content-Encoding", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Prefer",
    "Traceparent", "X-Request-Id",
)  # fmt: skip
"""The request headers that scripts of allowed origins may send."""

FOR_SCRIPTS = (
    "Allow", "ETag", "Idempotency-Key", "Link", "Location", "Preference-Applied", "RateLimit",
    "RateLimit-Policy", "Retry-After", "X-Request-Id",
)  # fmt: skip
"""The response headers that scripts of allowed origins may read."""

OF_ALL_RESPONSES = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
"""The headers of every response, as in OWASP's REST Security Cheat Sheet. `nosniff` keeps browsers from taking JSON for
a page. No page may show a response in a frame."""

BY_STATUS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
"""The headers of every response with this status, whether the worker or the edge gives the answer."""

_BY_FAULT: Mapping[type[Fault], Mapping[str, str]] = {UnsupportedContentCoding: {"Accept-Encoding": codings.GZIP}}
"""The headers of one fault class, where other faults with the same status do not have them."""

_IDEMPOTENCY_KEY_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": IDEMPOTENCY_KEY_LIMIT,
    "pattern": IDEMPOTENCY_KEY_PATTERN,
}

PARAMETERS: dict[str, Any] = {
    "IdempotencyKey": {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "A repeated call with the same key and content gets the answer of the first call.",
        "schema": _IDEMPOTENCY_KEY_SCHEMA,
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "With `respond-async` the call gets 202 immediately, not its answer. The body of the 202 is"
        " `{data: {requestId: …}, metadata: …}`. A GET of the path in its header `Location` gets the answer.",
        "schema": {"type": "string"},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag of the record as you have read it. If the record was changed since, it stays as it is"
        " and the answer is 412.",
        "schema": {"type": "string"},
    },
}
"""The request headers, as OpenAPI parameters by component name."""

RESPONSES: dict[str, Any] = {
    IDEMPOTENCY_KEY: {
        "description": "The key of this write, sent or generated. Repeat the call with it to get the same answer.",
        "required": True,
        "schema": _IDEMPOTENCY_KEY_SCHEMA,
    },
    "ETag": {
        "description": "Identifies this version of the record. Send it back in `If-Match`. A repeated answer has none.",
        "schema": {"type": "string"},
    },
    "Location": {"description": "The path of the new record.", "schema": {"type": "string"}},
    "Link": {
        "description": "The paths of this page, of the first one, and of the next and the previous one if they exist.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "Accept-Encoding": {
        "description": "The supported content coding. Present only if the body has an unsupported one.",
        "schema": {"type": "string", "enum": [codings.GZIP]},
    },
    "WWW-Authenticate": {
        "description": "The scheme of the API key.",
        "required": True,
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
}
"""The response headers, as OpenAPI headers by name."""


def for_fault(fault: Fault) -> Mapping[str, str]:
    """The headers of a response with this fault, without the headers of its status."""
    return _BY_FAULT.get(type(fault), {})


def names_for(fault: type[Fault]) -> list[str]:
    """The names of the headers that a response with a fault of this class or a subclass can have."""
    header_names = list(BY_STATUS.get(fault.status, ()))
    for fault_class, headers in _BY_FAULT.items():
        if issubclass(fault_class, fault):
            header_names.extend(headers)
    return header_names


def references(*header_names: str) -> dict[str, Any]:
    """References to the descriptions in RESPONSES, which are components of the OpenAPI document."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in header_names}
