"""Record batches that clients in other languages can send and aiokafka cannot: with a header name that is not UTF-8,
or with bytes after the compressed records."""

import struct

from aiokafka.record.util import calc_crc32c

NAME = "wrong-name"
"""The header name that `misname` replaces."""
_NOT_UTF8 = b"wrong-\xff\xfe!!"
HEADER_BYTES = 61
ATTRIBUTES, CRC, LENGTH = 21, 17, 8
"""Offsets in bytes in the header of a record batch of version 2 (Kafka documentation, Message Format)."""
_NAME_LENGTH = bytes([len(NAME) * 2])
"""The zigzag varint of the length, which precedes a header name. The test's keys and values have other lengths."""


def misname(batch: bytes) -> bytes:
    """Replace the header name `NAME` of an uncompressed batch by bytes that are not UTF-8, and update the checksum."""
    renamed = batch.replace(_NAME_LENGTH + NAME.encode(), _NAME_LENGTH + _NOT_UTF8)
    return with_checksum(bytearray(renamed))


def with_bytes_at_the_end(batch: bytes, rest: bytes) -> bytes:
    longer = bytearray(batch + rest)
    struct.pack_into(">i", longer, LENGTH, len(longer) - LENGTH - 4)
    return with_checksum(longer)


def with_checksum(batch: bytearray) -> bytes:
    struct.pack_into(">I", batch, CRC, calc_crc32c(bytes(batch[ATTRIBUTES:])))
    return bytes(batch)
