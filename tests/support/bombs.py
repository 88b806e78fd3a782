"""Record batches of a few kilobytes that expand to hundreds of megabytes."""

import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import cramjam
from aiokafka.codec import snappy_encode
from aiokafka.record.util import encode_varint

from tests.support.odd_batches import ATTRIBUTES, HEADER_BYTES, LENGTH, with_checksum

CHUNK = bytes(2**20)
XERIAL_HEADER = 16
"""Bytes of the header of snappy-java's framing."""
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""The number of each codec in the attributes of a batch."""


def bomb(codec: str, mebibytes: int, base_offset: int = 0) -> bytes:
    """A batch of one record, whose value has this many mebibytes."""
    length = mebibytes * len(CHUNK)
    record = _varint(0) + _varint(0) + _varint(0) + _varint(-1) + _varint(length)
    parts = [_varint(len(record) + length + 1) + record, *[CHUNK] * mebibytes, _varint(0)]
    return _batch(CODECS[codec], _COMPRESS[codec](parts), 1, base_offset)


def crowd(count: int, base_offset: int = 0) -> bytes:
    """A batch of many records, none of which has a key, a value or headers."""
    records = (_varint(0) + _varint(0) + _varint(number) + _varint(-1) * 2 + _varint(0) for number in range(count))
    parts = [b"".join(_varint(len(record)) + record for record in records)]
    return _batch(CODECS["zstd"], _zstd(parts), count, base_offset)


def _batch(codec: int, data: bytes, count: int, base_offset: int) -> bytes:
    batch = bytearray(HEADER_BYTES) + data
    struct.pack_into(">qiib", batch, 0, base_offset, len(batch) - LENGTH - 4, 0, 2)
    # Attributes, last offset delta, two timestamps, producer id, epoch and sequence, number of records.
    struct.pack_into(">hiqqqhii", batch, ATTRIBUTES, codec, count - 1, 0, 0, -1, -1, -1, count)
    return with_checksum(batch)


def _varint(number: int) -> bytes:
    buffer = bytearray()
    encode_varint(number, buffer.append)
    return bytes(buffer)


def _gzip(parts: Iterable[bytes]) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    return b"".join(map(compressor.compress, parts)) + compressor.flush()


def _snappy(parts: Iterable[bytes]) -> bytes:
    """The blocks of all parts after one header."""
    framed = [snappy_encode(part) for part in parts]
    return framed[0] + b"".join(blocks[XERIAL_HEADER:] for blocks in framed[1:])


def _with(compressor: Any, parts: Iterable[bytes]) -> bytes:
    for part in parts:
        compressor.compress(part)
    return bytes(compressor.finish())


def _lz4(parts: Iterable[bytes]) -> bytes:
    return _with(cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False), parts)


def _zstd(parts: Iterable[bytes]) -> bytes:
    return _with(cramjam.zstd.Compressor(level=19), parts)


_COMPRESS: dict[str, Callable[[Iterable[bytes]], bytes]] = {
    "gzip": _gzip,
    "snappy": _snappy,
    "lz4": _lz4,
    "zstd": _zstd,
}
