"""The header `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/)."""

import re

_VALID = re.compile(
    rb"(?P<version>(?!ff)[0-9a-f]{2})"
    rb"-(?P<ids_and_flags>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})"
    rb"(?P<extension>-.*)?",
    re.DOTALL,
)


def read_traceparent(value: bytes) -> str | None:
    """The header to pass on, with 55 characters and version 00. None if the value is invalid; a new trace starts then,
    as without the header. Fields that later versions append are dropped."""
    match = _VALID.fullmatch(value)
    if match is None or (match["version"] == b"00" and match["extension"] is not None):
        return None
    return f"00-{match['ids_and_flags'].decode()}"
