"""Patches of aiokafka. A process applies them once, before it creates a client.

- **Header names that are not UTF-8.** aiokafka 0.14.0 raises on such a record each time the records are fetched, so one
  record would keep every consumer from the rest of its partition for good. With the patch, invalid bytes in a header
  name are read as U+FFFD, and the record is delivered like any other.
- **Long fetches.** aiokafka sends one fetch at a time to a broker, for all partitions whose records the application has
  read. The others wait until it is answered. With the patch, such a fetch is short, so that `fetch_max_wait_ms` may be
  long and an idle consumer rarely wakes up.
- **Closing a consumer while the broker is away.** `Fetcher.close` of aiokafka 0.14.0 raises the CancelledError of a
  fetch that waits for its next attempt. The consumer's `stop` ends there and leaves its connections open. With the
  patch, it cancels such fetches and goes on.
- **Topics that brokers create by themselves.** Each request of aiokafka 0.14.0 for metadata lets a broker create the
  topics that it names, where `auto.create.topics.enable` is true. A reply topic that its owner has deleted would come
  back. With the patch, brokers create nothing.
- **Batches that expand without a limit.** aiokafka 0.14.0 decompresses a batch as a whole, whatever it expands to. With
  the patch, a batch that exceeds `topics.decompression.LIMIT` is skipped, and one record with an `UnreadBatch` as its
  value is delivered at its last offset.
- **Asking for metadata without a pause.** Several loops of aiokafka 0.14.0 ask for metadata until a broker answers and
  each partition has a leader. If brokers are down, the process has no file descriptors, or a topic was deleted or may
  not be described, they ask thousands of times per second, and log each time. With the patch, a request for metadata
  without such an answer ends after `retry_backoff_ms`.
- **Reasons of failed connections.** aiokafka 0.14.0 logs why it cannot connect, and raises "Unable to bootstrap". With
  the patch, it raises the reason and the setting to correct, and does not log the reason as well.
- **Commits that the coordinator cannot tell.** aiokafka 0.14.0 does not look at the error of a whole answer with
  committed offsets, for example while a broker that has just become the coordinator still loads them. It takes the
  partitions for such without a commit, and reads them from their start. With the patch, it asks again.
- **Commits for topics that were deleted.** aiokafka 0.14.0 repeats such a commit until the topic exists again. Until
  then, it commits nothing for other partitions, and then it commits an offset of the deleted topic for the new one.
  With the patch, it asks for metadata, and leaves out partitions that do not exist.
- **Writes to a connection that has just closed.** uvloop raises RuntimeError for them, which asyncio's own event loop
  does not, and aiokafka 0.14.0 does not expect it: the task that asks for metadata ended, for example, when a broker
  was killed. With the patch, it is a KafkaConnectionError.

`tests/unit/test_patches.py` fails once aiokafka no longer needs them.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial, partialmethod
from importlib.metadata import version
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition, client, conn
from aiokafka.admin import client as admin_client
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer import fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NoError,
    NotCoordinatorForGroupError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record import default_records
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

from topics import decompression
from topics.connection_errors import explained
from topics.decompression import NotDecompressed, UnreadBatch

SHORT_FETCH_MS = 100
"""The longest wait of a fetch that leaves out an assigned partition."""

PATCHED = {"aiokafka": "0.14.0"}
"""The version of each library that the patches were written for."""


class WrongVersion(Exception):
    """A patched library has another version than the one that the patches were written for."""


def require_versions(versions: dict[str, str]) -> None:
    """Raises WrongVersion unless these libraries have exactly these versions."""
    for library, patched in versions.items():
        if (installed := version(library)) != patched:
            raise WrongVersion(
                f"{library} {installed} is installed, but the patches of it are for {patched}. Install the locked"
                " requirements, or review the patches and their tests for the new version."
            )


def apply() -> None:
    """For all clients of this process. Safe to call again. Raises WrongVersion."""
    require_versions(PATCHED)
    fetcher.MemoryRecords = _Records
    fetcher.PartitionRecords = _PartitionRecords
    fetcher.Fetcher.close = _close_fetcher
    fetcher.Fetcher._get_actions_per_node = _fetch_shortly_if_partitions_wait
    for module in (client, admin_client):
        module.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)
    client.create_conn = _create_conn
    client.log.addFilter(_is_new)
    client.AIOKafkaClient.bootstrap = _bootstrap
    client.AIOKafkaClient._metadata_update = _metadata_update
    for name, send in _SENDS.items():
        setattr(conn.AIOKafkaConnection, name, partialmethod(_write, send))
    GroupCoordinator._send_req = _send_to_coordinator
    GroupCoordinator._do_commit_offsets = _commit_offsets
    # The classes in C and those in Python, which `_LenientBatch` uses.
    for module in (sys.modules[DefaultRecordBatch.__module__], default_records):
        for codec in (decompression.gzip, decompression.snappy, decompression.lz4, decompression.zstd):
            setattr(module, f"{codec.__name__}_decode", codec)


class _Records:
    """The fetched batches of a partition. `batch` is the current one. `again` reads them a second time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._batches: Any = MemoryRecords(data)
        self.batch: Any = None
        self.size_in_bytes, self.has_next = self._batches.size_in_bytes, self._batches.has_next

    def next_batch(self) -> Any:
        self.batch = self._batches.next_batch()
        return self.batch

    def again(self, offset: int) -> "_LenientRecords":
        """The batches from the one with this offset on, read leniently."""
        return _LenientRecords(self._data, offset)


class _LenientRecords:
    def __init__(self, data: bytes, offset: int) -> None:
        self._slices: Any = _MemoryRecordsPy(data)
        self.has_next = self._slices.has_next
        while self.has_next() and _LenientBatch(self._slices._next_slice).next_offset <= offset:
            self._slices.next_batch()

    def next_batch(self) -> "_LenientBatch":
        self.batch = _LenientBatch(self._slices._next_slice)
        self._slices.next_batch()
        return self.batch


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _LenientBytes(self._buffer)


class _LenientBytes(bytearray):
    """Bytes whose slices decode without errors. A batch decodes nothing but the names of headers."""

    def __getitem__(self, index: Any) -> Any:
        item = super().__getitem__(index)
        return _LenientBytes(item) if isinstance(index, slice) else item

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        while True:
            try:
                yield from super()._unpack_records()
                return
            except UnicodeDecodeError:
                self._records: Any = self._records.again(self.next_fetch_offset)
            except NotDecompressed:
                yield self._unread(self._records.batch)

    def _unread(self, batch: Any) -> ConsumerRecord:
        """The record that stands for a batch."""
        last = batch.next_offset - 1
        value = UnreadBatch.of(max(batch.base_offset, self.next_fetch_offset), last)
        self.next_fetch_offset = batch.next_offset
        return ConsumerRecord(
            self._tp.topic, self._tp.partition, last, batch.max_timestamp, batch.timestamp_type, None, value, None, -1,
            0, (),
        )  # fmt: skip


_get_actions_per_node = fetcher.Fetcher._get_actions_per_node
"""aiokafka's own method, before the patch."""


def _fetch_shortly_if_partitions_wait(consumer_fetcher: Any, assignment: Any) -> Any:
    longest = consumer_fetcher._fetch_max_wait_ms
    if consumer_fetcher._records or any(assignment.state_value(partition).paused for partition in assignment.tps):
        consumer_fetcher._fetch_max_wait_ms = min(longest, SHORT_FETCH_MS)
    try:
        return _get_actions_per_node(consumer_fetcher, assignment)
    finally:
        consumer_fetcher._fetch_max_wait_ms = longest


async def _close_fetcher(consumer_fetcher: Any) -> None:
    consumer_fetcher._closed = True
    tasks = (consumer_fetcher._fetch_task, *consumer_fetcher._pending_tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for waiter in consumer_fetcher._fetch_waiters:
        consumer_fetcher._notify(waiter)


_metadata_update_of_aiokafka = client.AIOKafkaClient._metadata_update


async def _metadata_update(self: client.AIOKafkaClient, cluster_metadata: Any, topics: Any) -> bool:
    updated: bool = await _metadata_update_of_aiokafka(self, cluster_metadata, topics)
    if not updated or not all(_is_available(cluster_metadata, topic) for topic in topics):
        await asyncio.sleep(self._retry_backoff)
    return updated


def _is_available(cluster: ClusterMetadata, topic: str) -> bool:
    """True if the topic is known, and all its partitions have leaders."""
    partitions = cluster.partitions_for_topic(topic)
    return partitions is not None and partitions == cluster.available_partitions_for_topic(topic)


_send_to_coordinator_of_aiokafka = GroupCoordinator._send_req


async def _send_to_coordinator(self: GroupCoordinator, request: Any) -> Any:
    response = await _send_to_coordinator_of_aiokafka(self, request)
    if not isinstance(request, OffsetFetchRequest) or (error := for_code(response.error_code)) is NoError:
        return response
    if error in (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
        self.coordinator_dead()
    raise error(self.group_id)


_commit_offsets_of_aiokafka = GroupCoordinator._do_commit_offsets


async def _commit_offsets(self: GroupCoordinator, assignment: Any, offsets: Any) -> None:
    existing = {tp: offset for tp, offset in offsets.items() if _exists(self._client.cluster, tp)}
    try:
        await _commit_offsets_of_aiokafka(self, assignment, existing)
    except UnknownTopicOrPartitionError:
        await self._client.force_metadata_update()
        raise  # aiokafka tries again.


def _exists(cluster: ClusterMetadata, tp: TopicPartition) -> bool:
    return tp.partition in (cluster.partitions_for_topic(tp.topic) or ())


_create_conn_of_aiokafka, _bootstrap_of_aiokafka = client.create_conn, client.AIOKafkaClient.bootstrap
_failure: ContextVar[Exception | None] = ContextVar("failure", default=None)
"""Why the last connection of this task failed, if a setting may be the cause."""


async def _create_conn(host: str, port: int, **options: Any) -> Any:
    try:
        return await _create_conn_of_aiokafka(host, port, **options)
    except (OSError, KafkaError, TimeoutError) as error:
        failure = explained(error, f"{host}:{port}", options.get("security_protocol", "PLAINTEXT"))
        _failure.set(failure)
        if failure is None:
            raise
        raise failure from error


async def _bootstrap(self: client.AIOKafkaClient) -> None:
    _failure.set(None)
    try:
        await _bootstrap_of_aiokafka(self)
    except KafkaConnectionError as error:
        failure = _failure.get()
        if failure is None:
            raise
        raise failure from error


_SENDS = {name: getattr(conn.AIOKafkaConnection, name) for name in ("send", "_send_sasl_token")}
"""aiokafka's own methods that write to a connection."""


def _write(self: conn.AIOKafkaConnection, send: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return send(self, *args, **options)
    except KafkaError:  # It is a RuntimeError, too.
        raise
    except RuntimeError as error:
        self.close(reason=conn.CloseReason.CONNECTION_BROKEN, exc=error)
        raise KafkaConnectionError(f"Connection at {self._host}:{self._port} broken: {error}") from error


def _is_new(record: logging.LogRecord) -> bool:
    """False for what aiokafka logs about a connection whose failure `_bootstrap` raises."""
    return _failure.get() is None or not str(record.msg).startswith("Unable connect to")
