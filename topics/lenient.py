"""Reading on where a header's name is not UTF-8.

aiokafka 0.14.0 raises there, again each time the records are fetched: one such record would keep every consumer from
the rest of its partition for good. Here such a name is read with U+FFFD for what is wrong in it, and its record like
any other.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy


def install() -> None:
    """For all consumers of this process."""
    fetcher.MemoryRecords = _Records
    fetcher.PartitionRecords = _PartitionRecords


class _Records:
    """What was fetched of a partition, which can be read once more by `again`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        batches: Any = MemoryRecords(data)
        self.size_in_bytes, self.has_next, self.next_batch = batches.size_in_bytes, batches.has_next, batches.next_batch

    def again(self, offset: int) -> "_LenientRecords":
        """Leniently, from the batch with this offset on."""
        return _LenientRecords(self._data, offset)


class _LenientRecords:
    def __init__(self, data: bytes, offset: int) -> None:
        self._slices: Any = _MemoryRecordsPy(data)
        self.has_next = self._slices.has_next
        while self.has_next() and _LenientBatch(self._slices._next_slice).next_offset <= offset:
            self._slices.next_batch()

    def next_batch(self) -> "_LenientBatch":
        batch = _LenientBatch(self._slices._next_slice)
        self._slices.next_batch()
        return batch


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _LenientBytes(self._buffer)


class _LenientBytes(bytearray):
    """Bytes whose parts decode whatever they hold; the batch decodes nothing but the names of headers."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _LenientBytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except UnicodeDecodeError:
            self._records: Any = self._records.again(self.next_fetch_offset)
            yield from super()._unpack_records()
