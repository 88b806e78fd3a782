"""The headers that operations take, and those that they answer with."""

from collections.abc import Mapping
from typing import Any

from edge import codings
from schemas.faults import Fault, UnsupportedContentCoding

KEY = "Idempotency-Key"
KEY_LIMIT = 128
KEY_PATTERN = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII; blanks around a header's value are not part of it."""

BY_STATUS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
"""Those of every answer with this status, whoever gives it."""

_BY_FAULT: Mapping[type[Fault], Mapping[str, str]] = {UnsupportedContentCoding: {"Accept-Encoding": codings.GZIP}}
"""Those of one kind of fault only, though others have its status."""

_KEY_SCHEMA = {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT, "pattern": KEY_PATTERN}

PARAMETERS: dict[str, Any] = {
    "IdempotencyKey": {
        "name": KEY,
        "in": "header",
        "description": "A repeated call with the same key and content gets the first one's answer.",
        "schema": _KEY_SCHEMA,
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`: 202 at once with the request id, without waiting for the answer.",
        "schema": {"type": "string"},
    },
}
"""What every write takes, in words of OpenAPI."""

ANSWERED: dict[str, Any] = {
    KEY: {
        "description": "The key of this write, given or made; repeat the call with it to get its answer again.",
        "required": True,
        "schema": _KEY_SCHEMA,
    },
    "Preference-Applied": {"required": True, "schema": {"const": "respond-async"}},
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "Accept-Encoding": {
        "description": "The content coding to use; only where that of the body is what is wrong.",
        "schema": {"const": codings.GZIP},
    },
    "WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}},
}


def of(fault: Fault) -> Mapping[str, str]:
    """What the answer with this fault has beside the headers of its status."""
    return _BY_FAULT.get(type(fault), {})


def names_of(fault: type[Fault]) -> list[str]:
    """The headers that an answer with a fault of this kind can have."""
    special = [name for kind, found in _BY_FAULT.items() if issubclass(kind, fault) for name in found]
    return [*BY_STATUS.get(fault.status, ()), *special]


def refer(*names: str) -> dict[str, Any]:
    """Headers of an answer, as references to what is said of them in one place."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
