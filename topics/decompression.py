"""Decompresses record batches, up to a limit.

A batch of some kilobytes can expand to a gigabyte. aiokafka 0.14.0 decompresses it as a whole, so it would end
every consumer that reads it, again at each start. The functions here write into a buffer of a fixed size, whose memory
the system provides only as it is filled. `topics.patches` puts them into aiokafka.
"""

import mmap
import struct
from collections.abc import Callable

import cramjam
from aiokafka.codec import _detect_xerial_stream

from topics import names
from topics.envelope import InvalidMessage

LIMIT = names.LARGEST_RECORD + 2**20
"""Bytes of a decompressed batch: any record that a topic accepts without compression, and its framing."""

_XERIAL_HEADER = 16
_BLOCK_LENGTH = struct.Struct(">i")


class NotDecompressed(Exception):
    """A batch is larger than `LIMIT` when it is decompressed, or its compressed data is invalid. Brokers refuse invalid
    data, so it is nearly always the first."""


class UnreadBatch(bytes):
    """The value of the record that stands for a batch that was not decompressed. It is empty. No sender can write a
    value of this type. `first` and `last` are the offsets of the batch."""

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
        message = f"Offset {which}: decompressed, the batch of records exceeds {LIMIT} bytes, or it is invalid."
        return InvalidMessage("batch_too_large", message)


def gzip(data: bytes) -> bytes:
    return _into_buffer(cramjam.gzip.decompress_into, data)


def lz4(data: bytes) -> bytes:
    return _into_buffer(cramjam.lz4.decompress_into, data)


def zstd(data: bytes) -> bytes:
    return _into_buffer(cramjam.zstd.decompress_into, data)


def snappy(data: bytes) -> bytes:
    """Raw snappy, or blocks of it in the framing of the Java library snappy-java."""
    blocks = _xerial_blocks(data) if _detect_xerial_stream(data) else [data]
    try:
        # Raw snappy begins with its decompressed length.
        if sum(map(cramjam.snappy.decompress_raw_len, blocks)) > LIMIT:
            raise NotDecompressed
        return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)
    except cramjam.DecompressionError as error:
        raise NotDecompressed from error


def _xerial_blocks(data: bytes) -> list[bytes]:
    blocks, position = [], _XERIAL_HEADER
    # snappy-java, by which brokers check a batch, ends there too: fewer bytes cannot be the length of a block.
    while position + _BLOCK_LENGTH.size <= len(data):
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position += _BLOCK_LENGTH.size
        if length <= 0:
            raise NotDecompressed
        blocks.append(data[position : position + length])
        position += length
    return blocks


def _into_buffer(decompress_into: Callable[[bytes, mmap.mmap], int], data: bytes) -> bytes:
    with mmap.mmap(-1, LIMIT) as buffer:
        try:
            length = decompress_into(data, buffer)
        except cramjam.DecompressionError as error:
            raise NotDecompressed from error
        return buffer[:length]
