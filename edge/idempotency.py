"""The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header)."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

from edge.headers import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_LIMIT, IDEMPOTENCY_KEY_PATTERN
from schemas.faults import Invalid


class IdempotencyKey(NamedTuple):
    """The key of a write. `header` is the value of the response's header: as the caller sent it."""

    value: str
    header: str


_KEY = re.compile(IDEMPOTENCY_KEY_PATTERN)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""A string of RFC 8941, section 3.3.3, which the draft requires."""


def read(lines: Sequence[str]) -> IdempotencyKey:
    """The caller's idempotency key, or a new one if the caller sent none. `"k"` and `k` are the same key. Raises
    Invalid."""
    if not lines:
        generated = str(uuid4())
        return IdempotencyKey(generated, generated)
    value = _unquoted(lines[0])
    if len(lines) > 1 or value is None or len(value) > IDEMPOTENCY_KEY_LIMIT or not _KEY.fullmatch(value):
        message = f"Send one {IDEMPOTENCY_KEY} of 1 to {IDEMPOTENCY_KEY_LIMIT} printable ASCII characters."
        raise Invalid("wrong_idempotency_key", message, field=IDEMPOTENCY_KEY)
    return IdempotencyKey(value, lines[0])


def _unquoted(text: str) -> str | None:
    """None if the text begins like a quoted string and is none."""
    if not text.startswith('"'):
        return text
    match = _QUOTED.fullmatch(text)
    return None if match is None else re.sub(r"\\(.)", r"\1", match[1])
