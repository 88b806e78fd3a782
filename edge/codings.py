"""Content codings of a request's body (RFC 9110, section 8.4). The only supported coding is gzip."""

import zlib

from schemas.faults import Invalid, TooLarge, UnsupportedContentCoding
from topics import names

GZIP = "gzip"
_GZIP_NAMES = (GZIP, "x-gzip")
"""Two names of the same coding (RFC 9110, section 8.4.1.3)."""


def decode(body: bytes, codings: str) -> bytes:
    """Decompress a body. `codings` are the values of all `Content-Encoding` headers, joined by commas. Raises
    UnsupportedContentCoding; Invalid if the body is not gzip although `codings` says so; and TooLarge as soon as the
    decompressed body exceeds the limit, so that the rest is not decompressed into memory."""
    names_sent = [coding.strip().lower() for coding in codings.split(",")]
    applied = [coding for coding in names_sent if coding not in ("", "identity")]
    if not applied:
        return body
    if len(applied) > 1 or applied[0] not in _GZIP_NAMES:
        raise UnsupportedContentCoding(
            "unsupported_content_coding", f"Send the body uncompressed, or compressed once with {GZIP}."
        )
    return _decompress(body)


def _decompress(body: bytes) -> bytes:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = stream.decompress(body, names.VALUE_LIMIT + 1)
    except zlib.error:
        raise _not_gzip() from None
    if len(content) > names.VALUE_LIMIT:
        raise TooLarge("body_too_large", f"A decompressed body may have at most {names.VALUE_LIMIT} bytes.")
    if not stream.eof or stream.unused_data:
        raise _not_gzip()
    return content


def _not_gzip() -> Invalid:
    return Invalid("not_gzip", "The Content-Encoding is gzip, so the body must be one complete gzip stream.")
