"""The header `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/)."""

import re

_VALID = re.compile(
    rb"(?P<version>(?!ff)[0-9a-f]{2})"
    rb"-(?P<known>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})"
    rb"(?P<later>-.*)?",
    re.DOTALL,
)


def read_traceparent(value: bytes) -> str | None:
    """The header to pass on, of 55 characters in version 00, or None where the value is invalid: the trace begins again
    then, as if there were no header. What a later version adds at the end is left out."""
    found = _VALID.fullmatch(value)
    if found is None or (found["version"] == b"00" and found["later"] is not None):
        return None
    return f"00-{found['known'].decode()}"
