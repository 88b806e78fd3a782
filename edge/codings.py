"""Content codings of bodies (RFC 9110, section 8.4). The only supported coding is gzip."""

import gzip
import re
import zlib

from schemas.faults import Invalid, TooLarge, UnsupportedContentCoding
from topics import names

GZIP = "gzip"
_GZIP_NAMES = (GZIP, "x-gzip")
"""Two names of the same coding (RFC 9110, section 8.4.1.3)."""

COMPRESSED_BYTES = 1_400
"""The smallest response body that is compressed. A smaller one fits in one packet, compressed or not."""
LEVEL = 1
"""Compresses JSON nearly as well as higher levels in a fraction of their time."""
_ACCEPTED = re.compile(r"\s*(gzip|x-gzip|\*)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?", re.IGNORECASE)


def is_worth_compressing(body: bytes, accept_encoding: str) -> bool:
    """True if the body is large enough and the header `Accept-Encoding` of the call allows gzip."""
    return len(body) >= COMPRESSED_BYTES and accepts_gzip(accept_encoding)


def accepts_gzip(accept_encoding: str) -> bool:
    """`gzip` goes before `*`; a weight of 0 means "not acceptable" (RFC 9110, section 12.5.3)."""
    accepted: dict[str, bool] = {}
    for element in accept_encoding.split(","):
        match = _ACCEPTED.fullmatch(element)
        if match is not None:
            name = GZIP if match[1].lower() in _GZIP_NAMES else match[1]
            accepted[name] = (match[2] or "1").strip("0.") != ""
    return accepted.get(GZIP, accepted.get("*", False))


def compress(body: bytes) -> bytes:
    return gzip.compress(body, LEVEL, mtime=0)


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
