"""Records with headers whose names are not UTF-8, as they come from the broker."""

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import gzip_encode
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from tests.support.misnamed import ATTRIBUTES, HEADER_BYTES, LENGTH, NAME, misname, with_checksum
from topics import lenient


def _batch(base: int, *, compressed: bool, wrong: tuple[int, ...]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 2**16)
    for number in range(4):
        name = NAME if number in wrong else "right-name"
        builder.append(
            number, 1, b"key", f"not {name}".encode(), [(name, b"x"), ("ce_id", b"%d" % (base + number))]
        )  # fmt: skip
    found = bytearray(misname(bytes(builder.build())))
    if compressed:
        found[HEADER_BYTES:] = gzip_encode(bytes(found[HEADER_BYTES:]))
        found[ATTRIBUTES + 1] |= 1
    struct.pack_into(">q", found, 0, base)
    struct.pack_into(">i", found, LENGTH, len(found) - LENGTH - 4)
    return with_checksum(found)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_name_that_is_not_utf8_keeps_no_record_back(compressed: bool) -> None:
    lenient.install()
    data = b"".join(
        _batch(base, compressed=compressed, wrong=wrong) for base, wrong in ((10, ()), (14, (1, 3)), (18, ()))
    )
    records = fetcher.PartitionRecords(TopicPartition("t", 0), fetcher.MemoryRecords(data), [], 10, None, None, True, 0)
    found = list(records)
    assert [record.offset for record in found] == list(range(10, 22))
    assert [dict(record.headers)["ce_id"] for record in found] == [b"%d" % number for number in range(10, 22)]
    assert [record.value for record in found if record.offset in (15, 17)] == [f"not {NAME}".encode()] * 2
    assert {record.headers[0][0] for record in found if record.offset in (15, 17)} == {"wrong-��!!"}
    assert records.next_fetch_offset == 22
