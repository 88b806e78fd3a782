"""Limits of what a consumer holds in memory of a fetch. `topics.patches` puts them into aiokafka.

A batch of some kilobytes can expand to a gigabyte. aiokafka 0.14.0 decompresses it as a whole, so it would end
every consumer that reads it, again at each start. The functions here decompress into a buffer of a fixed size, whose
memory the system provides only as it is filled.

A header takes two bytes of a record at least, and 70 bytes as Python objects. So a record with millions of headers is
not read either, nor is its batch.
"""

import mmap
import struct
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TypeVar

import cramjam
from aiokafka.codec import _detect_xerial_stream
from aiokafka.record.util import decode_varint

from topics import names
from topics.envelope import InvalidMessage

LIMIT = names.LARGEST_RECORD + 2**20
"""Bytes of a decompressed batch: any record that a topic accepts without compression, and its framing."""

KEPT_BYTES = 64 * 2**10
"""Bytes that are kept of the value of a message that is too large for a request."""
HEADER_BYTES = 150
"""The memory of a header of a record, without its name and value."""

last_size: ContextVar[int] = ContextVar("last_size", default=0)
"""Bytes of the batch that the current task has decompressed last."""

Records = TypeVar("Records", bytes, memoryview)

_XERIAL_HEADER = 16
_BLOCK_LENGTH = struct.Struct(">i")


HEADERS_LIMIT = 10_000
"""Headers of a record that is larger than `LARGE_RECORD`."""
LARGE_RECORD = 256 * 2**10
"""Bytes of a record whose headers are counted. The headers of a smaller one take 10 MB at most."""


class BatchNotRead(Exception):
    """A batch is larger than `LIMIT` when it is decompressed, or has a record with more than `HEADERS_LIMIT` headers,
    or its compressed data is invalid. Brokers refuse invalid data."""


class CutValue(bytes):
    """The first `KEPT_BYTES` of a value that is larger than a request may be. No sender can write a value of this
    type."""


def cut(value: bytes | None) -> bytes | None:
    """A value of a request. A worker would keep many megabytes that no operation reads."""
    return value if value is None or len(value) <= names.VALUE_LIMIT else CutValue(value[:KEPT_BYTES])


class UnreadBatch(bytes):
    """The value of the record that stands for a batch that was not read. It is empty. No sender can write a value of
    this type. `first` and `last` are the offsets of the batch."""

    first: int
    last: int

    @classmethod
    def of(cls, first: int, last: int) -> "UnreadBatch":
        value = cls()
        value.first, value.last = first, last
        return value

    @property
    def reason(self) -> InvalidMessage:
        """Why the records of the batch are dead letters."""
        which = f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"
        message = (
            f"Offset {which}: decompressed, the batch of records exceeds {LIMIT} bytes, or a record has more than"
            f" {HEADERS_LIMIT} headers, or the batch is invalid."
        )
        return InvalidMessage("batch_too_large", message)


def gzip(data: bytes) -> memoryview:
    return _into_buffer(cramjam.gzip.decompress_into, data)


def lz4(data: bytes) -> memoryview:
    return _into_buffer(cramjam.lz4.decompress_into, data)


def zstd(data: bytes) -> memoryview:
    return _into_buffer(cramjam.zstd.decompress_into, data)


def snappy(data: bytes) -> bytes:
    """Raw snappy, or blocks of it in the framing of the Java library snappy-java."""
    blocks = _xerial_blocks(data) if _detect_xerial_stream(data) else [data]
    try:
        # Raw snappy begins with its decompressed length.
        if sum(map(cramjam.snappy.decompress_raw_len, blocks)) > LIMIT:
            raise BatchNotRead
        records = b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)
    except cramjam.DecompressionError as error:
        raise BatchNotRead from error
    return _checked(records)


def _xerial_blocks(data: bytes) -> list[bytes]:
    blocks, position = [], _XERIAL_HEADER
    # snappy-java, by which brokers check a batch, ends there too: fewer bytes cannot be the length of a block.
    while position + _BLOCK_LENGTH.size <= len(data):
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position += _BLOCK_LENGTH.size
        if length <= 0:
            raise BatchNotRead
        blocks.append(data[position : position + length])
        position += length
    return blocks


def _into_buffer(decompress_into: Callable[[bytes, mmap.mmap], int], data: bytes) -> memoryview:
    """The system takes the memory back as soon as nothing refers to the records."""
    buffer = mmap.mmap(-1, LIMIT)
    try:
        length = decompress_into(data, buffer)
    except cramjam.DecompressionError as error:
        raise BatchNotRead from error
    return _checked(memoryview(buffer)[:length])


def _checked(records: Records) -> Records:
    check_headers(records)
    last_size.set(len(records))
    return records


def check_headers(records: bytes | memoryview) -> None:
    """Check the records of a batch before aiokafka reads them. Raises BatchNotRead if one has too many headers. Records
    that are invalid are left to aiokafka."""
    if len(records) <= LARGE_RECORD:
        return
    position = 0
    try:
        while position < len(records):
            length, position = decode_varint(records, position)
            if length < 0:
                return
            if length > LARGE_RECORD and _headers_of(records, position) > HEADERS_LIMIT:
                raise BatchNotRead
            position += length
    except (IndexError, ValueError):
        return


def _headers_of(records: bytes | memoryview, position: int) -> int:
    """The number of headers of the record whose attributes are at this position. Raises IndexError, ValueError."""
    position += 1
    for _ in ("timestamp", "offset"):
        _, position = decode_varint(records, position)
    for _ in ("key", "value"):
        length, position = decode_varint(records, position)
        position += max(0, length)
    count: int = decode_varint(records, position)[0]
    return count


def bytes_of(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> int:
    """The memory of the parts of a record."""
    size = len(key or b"") + len(value or b"")
    return size + sum(HEADER_BYTES + len(name) + len(text or b"") for name, text in headers)
