"""Fetched records with header names that are not UTF-8."""

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import gzip_encode
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from tests.support.misnamed import ATTRIBUTES, HEADER_BYTES, LENGTH, NAME, misname, with_checksum
from topics import lenient


def _batch(base_offset: int, *, compressed: bool, misnamed: tuple[int, ...]) -> bytes:
    """A batch of four records. The records with the indexes in `misnamed` have a header name that is not UTF-8."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 2**16)
    for index in range(4):
        name = NAME if index in misnamed else "right-name"
        builder.append(
            index, 1, b"key", f"not {name}".encode(), [(name, b"x"), ("ce_id", b"%d" % (base_offset + index))]
        )  # fmt: skip
    batch = bytearray(misname(bytes(builder.build())))
    if compressed:
        batch[HEADER_BYTES:] = gzip_encode(bytes(batch[HEADER_BYTES:]))
        batch[ATTRIBUTES + 1] |= 1
    struct.pack_into(">q", batch, 0, base_offset)
    struct.pack_into(">i", batch, LENGTH, len(batch) - LENGTH - 4)
    return with_checksum(batch)


@pytest.mark.parametrize("compressed", [False, True])
def test_records_with_a_header_name_that_is_not_utf8_are_delivered(compressed: bool) -> None:
    lenient.install()
    batches = ((10, ()), (14, (1, 3)), (18, ()))
    data = b"".join(_batch(offset, compressed=compressed, misnamed=misnamed) for offset, misnamed in batches)
    fetched = fetcher.PartitionRecords(TopicPartition("t", 0), fetcher.MemoryRecords(data), [], 10, None, None, True, 0)
    records = list(fetched)
    misnamed_records = [record for record in records if record.offset in (15, 17)]
    assert [record.offset for record in records] == list(range(10, 22))
    assert [dict(record.headers)["ce_id"] for record in records] == [b"%d" % offset for offset in range(10, 22)]
    assert [record.value for record in misnamed_records] == [f"not {NAME}".encode()] * 2
    assert {record.headers[0][0] for record in misnamed_records} == {"wrong-��!!"}
    assert fetched.next_fetch_offset == 22
