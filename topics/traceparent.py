"""The header `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/#traceparent-header)."""

import re

_VALID = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]*)?")
_LONGEST = 1_000
"""Bytes. Versions after 00 may append fields, without a limit in the specification."""


def is_valid(value: bytes) -> bool:
    """Whether a trace can be continued with this value; a receiver ignores any other one."""
    match = _VALID.fullmatch(value) if len(value) <= _LONGEST else None
    return match is not None and (match["more"] is None or not value.startswith(b"00"))
