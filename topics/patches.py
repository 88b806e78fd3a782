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
  the patch, a batch that exceeds a limit of `topics.fetch_limits` is skipped, and one record with an `UnreadBatch` as
  its value is delivered at its last offset.
- **Fetches that expand without a limit.** aiokafka 0.14.0 limits the number of records that it delivers at once, but
  not their size, and keeps the batches that it has decompressed. A fetch can have hundreds of batches of which each
  expands to megabytes. With the patch, a delivery ends after `DELIVERED_BYTES`, with at most `PARTITION_BYTES` of each
  partition. Of the batches that were delivered in part, `DECOMPRESSED_BYTES` are kept.
- **Connecting without a limit of its own.** aiokafka 0.14.0 gives a connection as much time as a request, 20 to 40
  seconds. If a broker accepts a connection and does not answer, the client tries no other broker during this time. With
  the patch, a connection has `CONNECT_SECONDS`.
- **Starting with one broker after the other.** aiokafka 0.14.0 tries the second bootstrap address when the first one
  has failed. With the patch, it tries each further address after `NEXT_ADDRESS_SECONDS` and uses the first that
  answers, so that one broker that hangs does not delay a process that starts.
- **Asking for metadata without a pause.** Several loops of aiokafka 0.14.0 ask for metadata until a broker answers and
  each partition has a leader. If brokers are down, the process has no file descriptors, or a topic was deleted or may
  not be described, they ask thousands of times per second, and log each time. With the patch, a request for metadata
  without such an answer ends after `retry_backoff_ms`.
- **Reasons of failed connections.** aiokafka 0.14.0 logs why it cannot connect, and raises "Unable to bootstrap". With
  the patch, it raises the reason and the setting to correct.
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
import struct
import sys
from asyncio.staggered import staggered_race
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
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
from aiokafka.record.default_records import DefaultRecordBase, DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

from topics import fetch_limits
from topics.connection_errors import ConnectionRefused, explained
from topics.fetch_limits import BatchNotRead, UnreadBatch, bytes_of

SHORT_FETCH_MS = 100
"""The longest wait of a fetch that leaves out an assigned partition."""

DELIVERED_BYTES = 2 * 2**20
"""Bytes of records after which a delivery of several records ends. Its last record may exceed them."""

PARTITION_BYTES = 512 * 2**10
"""The same for the records of one partition in a delivery."""

RECORD_BYTES = 500
"""The memory of a record without its key, value and headers."""

DECOMPRESSED_BYTES = 16 * 2**20
"""Bytes of decompressed batches that a consumer keeps for its next deliveries."""

CONNECT_SECONDS = 6.0
"""Time for a connection with its handshakes."""

NEXT_ADDRESS_SECONDS = 0.5
"""After this time, a client that starts also tries the next bootstrap address."""

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
    fetcher.FetchResult.check_assignment = _check_assignment
    fetcher.FetchResult.getall = _get_all
    fetcher.Fetcher.fetched_records = _fetched_records
    fetcher.Fetcher.close = _close_fetcher
    fetcher.Fetcher._get_actions_per_node = _fetch_shortly_if_partitions_wait
    for module in (client, admin_client):
        module.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)
    client.create_conn = _create_conn
    client.AIOKafkaClient.bootstrap = _bootstrap
    client.AIOKafkaClient._metadata_update = _metadata_update
    for name, send in _SENDS.items():
        setattr(conn.AIOKafkaConnection, name, partialmethod(_write, send))
    GroupCoordinator._send_req = _send_to_coordinator
    GroupCoordinator._do_commit_offsets = _commit_offsets
    # The classes in C and those in Python, which `_LenientBatch` uses.
    for module in (sys.modules[DefaultRecordBatch.__module__], default_records):
        for codec in (fetch_limits.gzip, fetch_limits.snappy, fetch_limits.lz4, fetch_limits.zstd):
            setattr(module, f"{codec.__name__}_decode", codec)


_LENGTH_OFFSET, _LENGTH = 8, struct.Struct(">i")
"""The length of a batch follows its first offset."""


class _Records:
    """The fetched batches of a partition. `batch` is the current one. `again` reads them a second time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._batches: Any = MemoryRecords(data)
        self.batch: Any = None
        self.size_in_bytes, self.has_next = self._batches.size_in_bytes, self._batches.has_next

    def next_batch(self) -> Any:
        """Raises BatchNotRead for an uncompressed batch. The next call returns the batch after it."""
        self.batch = self._batches.next_batch()
        start = self._position
        (length,) = _LENGTH.unpack_from(self._data, start + _LENGTH_OFFSET)
        self._position += _LENGTH_OFFSET + _LENGTH.size + length
        if length > fetch_limits.LARGE_RECORD and not self.batch.compression_type:
            batch = memoryview(self._data)[start : self._position]
            fetch_limits.check_headers(batch[DefaultRecordBase.HEADER_STRUCT.size :])
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
    decompressed = 0
    """Bytes of the batch that was delivered in part."""

    def _unpack_records(self) -> Iterator[Any]:
        while True:
            try:
                yield from super()._unpack_records()
                return
            except UnicodeDecodeError:
                self._records: Any = self._records.again(self.next_fetch_offset)
            except BatchNotRead:
                yield self._unread(self._records.batch)

    def close(self) -> None:
        """Release the current batch at once. The object and its iterator refer to each other, so Python would keep
        both for a while."""
        self._records_iterator.close()

    def _unread(self, batch: Any) -> ConsumerRecord:
        """The record that stands for a batch."""
        last = batch.next_offset - 1
        value = UnreadBatch.of(max(batch.base_offset, self.next_fetch_offset), last)
        self.next_fetch_offset = batch.next_offset
        return ConsumerRecord(
            self._tp.topic, self._tp.partition, last, batch.max_timestamp, batch.timestamp_type, None, value, None, -1,
            0, (),
        )  # fmt: skip


@dataclass
class _Delivery:
    """How many bytes the current delivery of a task may still have. It has at least one record."""

    allowed: int = DELIVERED_BYTES


_delivery: ContextVar[_Delivery] = ContextVar("delivery")
_fetched_records_of_aiokafka = fetcher.Fetcher.fetched_records


async def _fetched_records(self: fetcher.Fetcher, partitions: Any, timeout: float = 0, max_records: Any = None) -> Any:
    _drop_decompressed(self)
    _delivery.set(_Delivery())
    delivered = await _fetched_records_of_aiokafka(self, partitions, timeout, max_records)
    for tp in delivered.keys() & self._records.keys():
        self._records[tp] = self._records.pop(tp)  # The others come first in the next delivery.
    return delivered


def _drop_decompressed(self: fetcher.Fetcher) -> None:
    """Keep no more than `DECOMPRESSED_BYTES` of batches that were delivered in part. The others are fetched again."""
    size = 0
    for tp, result in list(self._records.items()):
        records = getattr(result, "_partition_records", None)
        size += records.decompressed if records is not None else 0
        if size > DECOMPRESSED_BYTES and records is not None and records.decompressed:
            records.close()
            del self._records[tp]
            self._notify(self._wait_consume_future)


_check_assignment_of_aiokafka = fetcher.FetchResult.check_assignment


def _check_assignment(self: fetcher.FetchResult, tp: TopicPartition) -> bool:
    records = self._partition_records
    is_assigned: bool = _check_assignment_of_aiokafka(self, tp)
    if not is_assigned and records is not None:
        records.close()
    return is_assigned


def _get_all(self: fetcher.FetchResult, max_records: int | None = None) -> list[Any]:
    """The next records of a partition. Like aiokafka's own method, but with a limit of bytes."""
    delivery = _delivery.get()
    if delivery.allowed <= 0 or not self.check_assignment(self._topic_partition) or not self.has_more():
        return []
    fetch_limits.last_size.set(0)
    least = max(0, delivery.allowed - PARTITION_BYTES)
    records: list[Any] = []
    for record in self._partition_records:
        records.append(record)
        delivery.allowed -= RECORD_BYTES + bytes_of(record.key, record.value, record.headers)
        if delivery.allowed <= least or len(records) == max_records:
            break
    else:
        self._update_position()
        self._partition_records = None
        return records
    self._update_position()
    self._partition_records.decompressed = fetch_limits.last_size.get() or self._partition_records.decompressed
    return records


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


async def _create_conn(host: str, port: int, **options: Any) -> Any:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await _create_conn_of_aiokafka(host, port, **options)
    except (OSError, KafkaError, TimeoutError) as error:
        failure = explained(error, f"{host}:{port}", options.get("security_protocol", "PLAINTEXT"))
        if failure is None:
            raise
        raise failure from error


async def _bootstrap(self: client.AIOKafkaClient) -> None:
    """Like aiokafka's, but with a race of the addresses."""
    hosts = self.hosts
    attempts = [partial(_request_metadata, self, host, port) for host, port, _ in hosts]
    winner, _, errors = await staggered_race(attempts, NEXT_ADDRESS_SECONDS)
    failures = sorted((error for error in errors if isinstance(error, Exception)), key=_rank)
    if winner is None and _rank(failures[0]) < _NO_ANSWER:
        raise failures[0]
    for (host, port, _), error in zip(hosts, errors, strict=False):  # Some addresses may not have had their turn.
        if isinstance(error, Exception):
            client.log.error('Unable connect to "%s:%s": %s', host, port, error)
    if winner is None:
        raise KafkaConnectionError(f"Unable to bootstrap from {hosts}")
    connection, metadata = winner
    self.cluster.update_metadata(metadata)
    if self.cluster.brokers():
        connection.close()
    else:
        self._conns["bootstrap", client.ConnectionGroup.DEFAULT] = connection
    if self._sync_task is None:
        self._sync_task = client.create_task(self._md_synchronizer())


async def _request_metadata(self: client.AIOKafkaClient, host: str, port: int) -> tuple[Any, Any]:
    """A new connection, and the metadata of the brokers. Raises OSError, KafkaError, TimeoutError."""
    options = {name: getattr(self, f"_{name}") for name in _CONNECTION_OPTIONS}
    connection = await _create_conn(host, port, max_idle_ms=self._connections_max_idle_ms, **options)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return connection, await connection.send(MetadataRequest([], allow_auto_topic_creation=False))
    except BaseException:
        connection.close()
        raise


_CONNECTION_OPTIONS = (
    "client_id",
    "request_timeout_ms",
    "ssl_context",
    "security_protocol",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    "sasl_oauth_token_provider",
)


def _rank(error: Exception) -> int:
    """How helpful an error is: a bug first, then what a setting causes, then errors of Kafka, then silence."""
    if isinstance(error, ConnectionRefused):
        return 1
    if isinstance(error, KafkaError):
        return 2
    return _NO_ANSWER if isinstance(error, OSError) else 0  # TimeoutError is an OSError.


_NO_ANSWER = 3


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
