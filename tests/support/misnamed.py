"""Record batches with a header whose name is not UTF-8, as clients in other languages can send them."""

import struct

from aiokafka.record.util import calc_crc32c

NAME = "wrong-name"
"""What such a header is called until `misname` has seen it."""
_WRONG = b"wrong-\xff\xfe!!"
HEADER_BYTES = 61
ATTRIBUTES, CRC, LENGTH = 21, 17, 8
"""Where these stand in the header of a batch of version 2 (Kafka's documentation, Message Format)."""
_NAME_LENGTH = bytes([len(NAME) * 2])
"""As a varint, which stands before a header's name; before a key or value of the test stands another."""


def misname(batch: bytes) -> bytes:
    """An uncompressed batch with the other name and its checksum."""
    found = batch.replace(_NAME_LENGTH + NAME.encode(), _NAME_LENGTH + _WRONG)
    return with_checksum(bytearray(found))


def with_checksum(batch: bytearray) -> bytes:
    struct.pack_into(">I", batch, CRC, calc_crc32c(bytes(batch[ATTRIBUTES:])))
    return bytes(batch)
