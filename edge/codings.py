"""Content codings of a request's body (RFC 9110, 8.4): gzip, and none."""

import zlib

from schemas.faults import Invalid, TooLarge, UnsupportedContentCoding
from topics import names

GZIP = "gzip"
_GZIPS = (GZIP, "x-gzip")
"""Which are the same (RFC 9110, 8.4.1.3)."""


def decoded(body: bytes, codings: str) -> bytes:
    """The body without its codings, which are the values of all `Content-Encoding` headers, joined by commas. Raises
    UnsupportedContentCoding, Invalid where the body is not what they say, and TooLarge before more than the limit is in
    memory."""
    named = [coding.strip().lower() for coding in codings.split(",")]
    applied = [coding for coding in named if coding not in ("", "identity")]
    if not applied:
        return body
    if len(applied) > 1 or applied[0] not in _GZIPS:
        raise UnsupportedContentCoding(
            "unsupported_content_coding", f"The body is sent as it is, or compressed once with {GZIP}."
        )
    return _unzipped(body)


def _unzipped(body: bytes) -> bytes:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        found = stream.decompress(body, names.VALUE_LIMIT + 1)
    except zlib.error:
        raise _not_gzip() from None
    if len(found) > names.VALUE_LIMIT:
        raise TooLarge("body_too_large", f"A body holds at most {names.VALUE_LIMIT} bytes when it is decompressed.")
    if not stream.eof or stream.unused_data:
        raise _not_gzip()
    return found


def _not_gzip() -> Invalid:
    return Invalid("not_gzip", "The body is not one whole gzip stream, though its Content-Encoding says so.")
