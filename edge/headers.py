"""The headers that operations take, and those that they answer with."""

from typing import Any

KEY = "Idempotency-Key"
KEY_LIMIT = 128
KEY_PATTERN = "^[!-~]([ -~]*[!-~])?$"
"""Printable ASCII; blanks around a header's value are not part of it."""

BY_STATUS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}
"""Those of every answer with this status, whoever gives it."""

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
    "WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}},
}


def refer(*names: str) -> dict[str, Any]:
    """Headers of an answer, as references to what is said of them in one place."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
