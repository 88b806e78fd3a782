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


def bomb(codec: str, mebibytes: int, base_offset: int = 0, records: int = 1) -> bytes:
    """A batch of records, each with a value of this many mebibytes."""
    length = mebibytes * len(CHUNK)
    parts: list[bytes] = []
    for number in range(records):
        start = varint(0) + varint(0) + varint(number) + varint(-1) + varint(length)
        parts += [varint(len(start) + length + 1) + start, *[CHUNK] * mebibytes, varint(0)]
    return _batch(CODECS[codec], _COMPRESS[codec](parts), records, base_offset)


def crowd(count: int, base_offset: int = 0) -> bytes:
    """A batch of many records, none of which has a key, a value or headers."""
    records = (varint(0) + varint(0) + varint(number) + varint(-1) * 2 + varint(0) for number in range(count))
    parts = [b"".join(varint(len(record)) + record for record in records)]
    return _batch(CODECS["zstd"], _zstd(parts), count, base_offset)


def headers(count: int, codec: str | None, base_offset: int = 0) -> bytes:
    """A batch of one record with this many empty headers. Without a codec, it is not compressed."""
    record = varint(0) * 3 + varint(-1) + varint(1) + b"v" + varint(count) + varint(0) * 2 * count
    records = varint(len(record)) + record
    data = records if codec is None else _COMPRESS[codec]([records])
    return _batch(0 if codec is None else CODECS[codec], data, 1, base_offset)


def _batch(codec: int, data: bytes, count: int, base_offset: int) -> bytes:
    batch = bytearray(HEADER_BYTES) + data
    struct.pack_into(">qiib", batch, 0, base_offset, len(batch) - LENGTH - 4, 0, 2)
    # Attributes, last offset delta, two timestamps, producer id, epoch and sequence, number of records.
    struct.pack_into(">hiqqqhii", batch, ATTRIBUTES, codec, count - 1, 0, 0, -1, -1, -1, count)
    return with_checksum(batch)


def varint(number: int) -> bytes:
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
