"""Patches of libraries: what they change, and that the libraries still need them.

A test of the second kind fails after an upgrade that makes its patch superfluous. Delete the patch then."""

import asyncio
import inspect
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import faust
import pytest
from aiokafka import OffsetAndMetadata, TopicPartition, client, conn
from aiokafka import codec as codecs
from aiokafka.admin import client as admin_client
from aiokafka.codec import gzip_encode
from aiokafka.consumer import fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.errors import (
    CommitFailedError,
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitResponse_v2, OffsetFetchResponse_v3
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v4, MetadataResponse_v1
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.tables.recovery import Recovery
from faust.transport import consumer as faust_consumer
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka
from faust.types import TP
from mode import Service
from mode.threads import ServiceThread

from agents.engine import faust_patches
from tests.support import bombs
from tests.support.odd_batches import ATTRIBUTES, HEADER_BYTES, LENGTH, NAME, misname, with_checksum
from topics import fetch_limits, patches
from topics.supervision import TaskEnded

BOMB_CODECS = ["gzip", "snappy", "lz4", "zstd"]
XERIAL = codecs.snappy_encode(b"")
"""The header of snappy-java's framing."""


def _batch(base_offset: int, *, compressed: bool, odd_batches: tuple[int, ...]) -> bytes:
    """A batch of four records. The records with the indexes in `odd_batches` have a header name that is not UTF-8."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 2**16)
    for index in range(4):
        name = NAME if index in odd_batches else "right-name"
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


def test_aiokafka_still_logs_why_a_connection_fails_and_raises_something_else() -> None:
    source = inspect.getsource(patches._bootstrap_of_aiokafka)
    assert "log.error('Unable connect to" in source
    assert 'raise KafkaConnectionError(f"Unable to bootstrap from' in source


@pytest.mark.parametrize("compressed", [False, True])
def test_records_with_a_header_name_that_is_not_utf8_are_delivered(compressed: bool) -> None:
    patches.apply()
    batches = ((10, ()), (14, (1, 3)), (18, ()))
    data = b"".join(_batch(offset, compressed=compressed, odd_batches=odd_batches) for offset, odd_batches in batches)
    fetched = fetcher.PartitionRecords(TopicPartition("t", 0), fetcher.MemoryRecords(data), [], 10, None, None, True, 0)
    records = list(fetched)
    misnamed_records = [record for record in records if record.offset in (15, 17)]
    assert [record.offset for record in records] == list(range(10, 22))
    assert [dict(record.headers)["ce_id"] for record in records] == [b"%d" % offset for offset in range(10, 22)]
    assert [record.value for record in misnamed_records] == [f"not {NAME}".encode()] * 2
    assert {record.headers[0][0] for record in misnamed_records} == {"wrong-��!!"}
    assert fetched.next_fetch_offset == 22


def test_aiokafka_still_fails_on_a_header_name_that_is_not_utf8() -> None:
    batches = MemoryRecords(_batch(10, compressed=False, odd_batches=(1,)))
    with pytest.raises(UnicodeDecodeError):
        list(batches.next_batch())


class _FetcherOfABrokerThatIsAway(fetcher.Fetcher):  # type: ignore[misc]
    """Has one fetch that waits for its next attempt."""

    def __init__(self) -> None:
        self._closed = False
        self._fetch_task = asyncio.ensure_future(asyncio.sleep(60))
        self._pending_tasks = {asyncio.ensure_future(asyncio.sleep(60))}
        self._fetch_waiters = {asyncio.get_running_loop().create_future()}


async def test_a_consumer_closes_while_the_broker_is_away() -> None:
    away = _FetcherOfABrokerThatIsAway()
    await asyncio.sleep(0)
    await patches._close_fetcher(away)
    assert away._fetch_task.cancelled()
    assert all(task.cancelled() for task in away._pending_tasks)
    assert all(waiter.done() for waiter in away._fetch_waiters)


def test_aiokafka_still_raises_the_cancellation_of_a_fetch_from_close() -> None:
    close = inspect.getsource(fetcher.Fetcher).partition("async def close(")[2].partition("def ")[0]
    assert "x.cancel()\n            await x" in close


@pytest.mark.parametrize(
    ("paused", "unread", "wait"), [(False, False, 500), (True, False, 100), (False, True, 100)]
)  # fmt: skip
def test_a_fetch_that_leaves_out_a_partition_is_short(paused: bool, unread: bool, wait: int) -> None:
    left_out, other = TopicPartition("t", 0), TopicPartition("t", 1)
    states = {partition: Mock(paused=False, has_valid_position=True, position=7) for partition in (left_out, other)}
    states[left_out].paused = paused
    assignment = Mock(tps=list(states), state_value=states.get)
    consumer_fetcher = Mock(
        _records={left_out: Mock(calculate_backoff=lambda: 0)} if unread else {}, _in_flight=set(),
        _select_read_replica=lambda _: 1, _fetch_max_wait_ms=500, _fetcher_timeout=1.0,
    )  # fmt: skip
    requests, *_ = patches._fetch_shortly_if_partitions_wait(consumer_fetcher, assignment)
    assert [request._max_wait_ms for _, request in requests] == [wait]
    assert consumer_fetcher._fetch_max_wait_ms == 500


def test_aiokafka_still_sends_one_fetch_at_a_time_to_a_broker() -> None:
    assert "elif node_id in self._in_flight:" in inspect.getsource(fetcher.Fetcher)


def test_aiokafka_still_lets_brokers_create_topics() -> None:
    assert MetadataRequest(["t"]).build(MetadataRequest_v4).allow_auto_topic_creation
    patches.apply()
    for module in (client, admin_client):
        assert not module.MetadataRequest(["t"]).build(MetadataRequest_v4).allow_auto_topic_creation


_BROKER = [(1, "localhost", 9092, None)]
_METADATA = {
    "no broker": None,
    "no topic": MetadataResponse_v1(_BROKER, 1, []),
    "a forbidden topic": MetadataResponse_v1(_BROKER, 1, [(29, "t", False, [])]),
    "no leader": MetadataResponse_v1(_BROKER, 1, [(0, "t", False, [(5, 0, -1, [1], [1]), (0, 1, 1, [1], [1])])]),
    "all": MetadataResponse_v1(_BROKER, 1, [(0, "t", False, [(0, 0, 1, [1], [1])])]),
}
"""What answers a request for metadata, or None if the connection is refused."""


_PAUSE = 0.1
"""The default of aiokafka's `retry_backoff_ms`, in seconds."""


async def _seconds_for_metadata(monkeypatch: pytest.MonkeyPatch, answer: Any, requests: int) -> float:
    """How long a loop takes that asks for the metadata of a topic."""

    async def connection(*_: Any) -> Any:
        return answer and Mock(send=AsyncMock(return_value=answer))

    kafka_client = client.AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    monkeypatch.setattr(kafka_client, "_get_conn", connection)
    monkeypatch.setattr(kafka_client.cluster, "brokers", lambda: [Mock(nodeId=1)])
    kafka_client._topics = {"t"}
    kafka_client._sync_task = asyncio.create_task(kafka_client._md_synchronizer())
    started_at = time.monotonic()
    for _ in range(requests):
        assert await kafka_client.force_metadata_update() == (answer is not None)
    seconds = time.monotonic() - started_at
    await kafka_client.close()
    return seconds


@pytest.mark.parametrize("answer", ["no broker", "no topic", "a forbidden topic", "no leader"])
async def test_a_client_pauses_between_requests_for_metadata_until_they_are_complete(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(client.AIOKafkaClient, "_metadata_update", patches._metadata_update)
    assert await _seconds_for_metadata(monkeypatch, _METADATA[answer], 3) > 3 * _PAUSE
    assert await _seconds_for_metadata(monkeypatch, _METADATA["all"], 30) < 30 * _PAUSE


@pytest.mark.parametrize("answer", _METADATA)
async def test_aiokafka_still_asks_for_metadata_without_a_pause(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(client.AIOKafkaClient, "_metadata_update", patches._metadata_update_of_aiokafka)
    assert await _seconds_for_metadata(monkeypatch, _METADATA[answer], 30) < 30 * _PAUSE


def test_another_version_of_a_patched_library_is_refused() -> None:
    with pytest.raises(patches.WrongVersion, match="aiokafka"):
        patches.require_versions({"aiokafka": "0.13.0"})


async def test_mode_still_misses_the_end_of_a_task_that_was_cancelled_by_mistake() -> None:
    async def cancelled_by_mistake() -> None:
        raise asyncio.CancelledError

    service = Service()
    await faust_patches._execute_task(service, cancelled_by_mistake())
    assert not service.crashed
    await faust_patches._execute_noticed(service, cancelled_by_mistake())
    assert isinstance(service.crash_reason, TaskEnded)


def test_faust_still_suppresses_the_cancellation_of_its_fetcher() -> None:
    assert "except asyncio.CancelledError" in inspect.getsource(Fetcher._fetcher.fun)


def test_faust_still_has_no_setting_for_the_isolation_level_and_the_consumer_timeout() -> None:
    settings = {name for name in vars(faust.Settings) if "isolation" in name or "consumer_timeout" in name}
    assert settings == set()


async def test_faust_still_makes_four_tasks_to_hand_a_message_over(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(awaitable: Any, *, loop: Any = None) -> Any:
        made.append(awaitable)
        return ensure_future(awaitable, loop=loop)

    ensure_future = asyncio.ensure_future
    monkeypatch.setattr(asyncio, "ensure_future", counted)
    await Service().wait_first(asyncio.sleep(0), asyncio.Event().wait())
    assert len(made) == 4


def test_faust_still_takes_the_generation_of_kafka_for_that_of_an_assignment() -> None:
    source = inspect.getsource(aiokafka.ConsumerRebalanceListener)
    assert "self._thread.app.consumer_generation_id = generation" in source
    assert "consumer_generation_id" not in source.partition("def on_partitions_revoked")[2].partition("def ")[0]


class _Broker:
    """What a consumer needs of its client. `committed` are the offsets that the broker has."""

    def __init__(self, *committed: int | None, topics: Iterable[str] = ("t",)) -> None:
        partitions = {TP(topic, number): offset for topic in topics for number, offset in enumerate(committed)}
        self.committed = partitions
        self.commit: Any = AsyncMock()
        states = {partition: SimpleNamespace(_position=7) for partition in partitions}
        assignment = SimpleNamespace(tps=states.keys(), state_value=states.get)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
        self.sought: list[tuple[TP, int]] = []

    async def seek_to_committed(self) -> dict[TP, int | None]:
        return self.committed

    def seek(self, partition: TP, offset: int) -> None:
        self.sought.append((partition, offset))


def _consumer(broker: _Broker) -> Any:
    """A consumer to which partitions are assigned and which Faust has resumed."""
    consumer = faust_patches._Consumer.__new__(faust_patches._Consumer)
    consumer._restarted, consumer._forbidden, consumer._is_revoked = {}, {}, False
    consumer.app = SimpleNamespace(consumer_generation_id=1)
    consumer._committed_offset = {}
    consumer._read_offset = defaultdict(lambda: None)
    consumer._acked, consumer._acked_index = defaultdict(list), defaultdict(set)
    consumer._thread = SimpleNamespace(
        _consumer=broker, seek_to_committed=broker.seek_to_committed, assignment=broker.committed.keys
    )
    return consumer


async def test_what_was_read_before_faust_resumes_is_not_of_the_generation_that_follows() -> None:
    """Faust clears the queues of the agents when it resumes."""
    consumer, partition = _consumer(_Broker(5)), TP("t", 0)
    await consumer._begin_generation()
    before = consumer.generation_of(partition)
    assert before != faust_patches.UNASSIGNED
    for event in ("can_resume_flow", "suspend_flow"):
        setattr(consumer, event, asyncio.Event())
    consumer.resume_flow()
    assert consumer.generation_of(partition) == faust_patches.UNASSIGNED
    await consumer._begin_generation()
    assert consumer.generation_of(partition) not in (before, faust_patches.UNASSIGNED)


async def test_a_generation_does_not_begin_if_partitions_are_revoked_while_it_is_sought() -> None:
    broker = _Broker(5)
    consumer = _consumer(broker)

    async def revoked() -> dict[TP, int | None]:
        consumer.end_generation()
        return broker.committed

    consumer._thread.seek_to_committed = revoked
    await consumer._begin_generation()
    assert consumer.generation_of(TP("t", 0)) == faust_patches.UNASSIGNED


async def test_a_partition_without_a_commit_is_read_from_its_start_although_a_commit_was_refused() -> None:
    broker = _Broker(5, None)
    consumer = _consumer(broker)
    consumer._committed_offset[TP("t", 1)] = 200
    await consumer._begin_generation()
    assert broker.sought == [(TP("t", 1), 0)]
    assert consumer._committed_offset == {TP("t", 0): 5}


async def test_what_was_read_before_offsets_begin_again_is_not_acknowledged() -> None:
    """Other messages have these offsets now."""
    consumer, restarted, other = _consumer(_Broker(5, 5)), TP("t", 0), TP("t", 1)
    await consumer._begin_generation()
    before = consumer._to_message(restarted, _record(6)).generation_id
    assert consumer._to_message(other, _record(6)).generation_id == before
    consumer._read_offset[restarted] = 6
    message = consumer._to_message(restarted, _record(0))
    assert message.generation_id == consumer.generation_of(restarted) != before
    assert consumer.generation_of(other) == before


def _record(offset: int) -> Any:
    return Mock(offset=offset, timestamp=0, headers=(), key=b"", value=b"", serialized_key_size=0)


def test_faust_still_clears_queues_after_it_has_sought() -> None:
    source = inspect.getsource(Recovery._resume_streams)
    assert source.index("perform_seek()") < source.index("flow_control.resume()")


async def test_the_offset_of_a_topic_that_may_not_be_read_is_committed_later() -> None:
    broker = _Broker(5, 5, topics=("t", "forbidden"))
    consumer = _consumer(broker)
    await consumer._begin_generation()
    allowed, forbidden = TP("t", 0), TP("forbidden", 0)
    broker.commit.side_effect = TopicAuthorizationFailedError({"forbidden"})
    assert await consumer._commit_offsets({allowed: 8, forbidden: 9})
    assert consumer._committed_offset == {allowed: 8, TP("t", 1): 5, forbidden: 5, TP("forbidden", 1): 5}
    assert consumer.forbidden == ["topic forbidden"]
    assert consumer._new_offset(forbidden) == 9
    assert consumer._new_offset(allowed) is None


@pytest.mark.parametrize("refused", [True, False])
async def test_an_offset_that_is_committed_during_a_rebalance_is_not_remembered(refused: bool) -> None:
    broker = _Broker(5)
    consumer = _consumer(broker)
    await consumer._begin_generation()

    async def commit(_: object) -> None:
        consumer.end_generation()
        if refused:
            raise CommitFailedError

    broker.commit = commit
    assert not await consumer._commit_offsets({TP("t", 0): 8})
    assert consumer._committed_offset == {TP("t", 0): 5}


@pytest.mark.parametrize("failure", [None, CommitFailedError(), GroupCoordinatorNotAvailableError()])
async def test_what_is_acknowledged_is_committed_before_partitions_are_revoked(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    broker = _Broker(5)
    consumer, partition = _consumer(broker), TP("t", 0)
    await consumer._begin_generation()
    consumer._acked[partition].append(7)
    broker.commit.side_effect = failure
    committed: list[Any] = []

    async def revoke(_: object) -> None:
        committed.extend(broker.commit.await_args_list)

    listener = faust_patches._RebalanceListener(Mock(consumer=consumer))
    monkeypatch.setattr(aiokafka.ConsumerRebalanceListener, "on_partitions_revoked", lambda _, revoked: revoke(revoked))
    await listener.on_partitions_revoked({partition})
    assert committed == [call({partition: OffsetAndMetadata(8, "")})]
    assert consumer.generation_of(partition) == faust_patches.UNASSIGNED


def test_faust_still_forgets_what_is_acknowledged_when_a_rebalance_begins() -> None:
    source = inspect.getsource(faust_consumer.Consumer.on_partitions_revoked)
    assert "self._acked.pop(tp, None)" in source
    assert "commit(" not in source


async def test_faust_still_remembers_a_refused_commit_and_ends_if_a_topic_is_forbidden() -> None:
    assert "except Exception as exc" in inspect.getsource(aiokafka.AIOKafkaConsumerThread._commit)
    source = inspect.getsource(aiokafka.Consumer._commit_offsets)
    assert "        self._committed_offset.update(committable_offsets)" in source.partition("if did_commit:")[2]


@pytest.mark.parametrize("code", [14, 15, 16])
async def test_an_error_for_all_committed_offsets_is_raised(code: int) -> None:
    """A coordinator that still loads its offsets answers so."""
    patches.apply()
    coordinator = _coordinator(code)
    with pytest.raises(for_code(code)) as error_info:
        await coordinator._do_fetch_commit_offsets([TopicPartition("t", 0)])
    assert error_info.value.retriable
    assert (coordinator.coordinator_id is None) == (code in (15, 16))


async def test_aiokafka_still_takes_such_an_error_for_partitions_without_a_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GroupCoordinator, "_send_req", patches._send_to_coordinator_of_aiokafka)
    assert await _coordinator(14)._do_fetch_commit_offsets([TopicPartition("t", 0)]) == {}


def _coordinator(code: int) -> Any:
    return _coordinator_of(Mock(send=AsyncMock(return_value=OffsetFetchResponse_v3(0, [], code))))


def _coordinator_of(kafka_client: Any) -> Any:
    coordinator = GroupCoordinator.__new__(GroupCoordinator)
    coordinator.group_id, coordinator.coordinator_id = "group", 1
    coordinator.generation, coordinator.member_id, coordinator._retry_backoff_ms = 1, "member", 1
    coordinator._commit_lock = asyncio.Lock()
    coordinator._closing, coordinator._coordinator_dead_fut = asyncio.Future(), asyncio.Future()
    coordinator._client = kafka_client
    return coordinator


class _ClientWhoseTopicWasDeleted:
    """Its metadata still have the topic, which the broker does not know any more."""

    def __init__(self) -> None:
        self.cluster = Mock(partitions_for_topic={"kept": {0}, "deleted": {0}}.get)
        self.commits: list[dict[str, int]] = []

    async def send(self, _: int, request: Any, **__: Any) -> OffsetCommitResponse_v2:
        offsets = {topic: partitions[0][1] for topic, partitions in request.prepare({8: (2, 2)}).topics}
        self.commits.append(offsets)
        unknown = UnknownTopicOrPartitionError.errno
        return OffsetCommitResponse_v2([(topic, [(0, unknown * (topic == "deleted"))]) for topic in offsets])

    async def force_metadata_update(self) -> None:
        self.cluster.partitions_for_topic = {"kept": {0}}.get


async def test_an_offset_of_a_topic_that_was_deleted_is_not_committed_for_ever() -> None:
    patches.apply()
    kafka_client = _ClientWhoseTopicWasDeleted()
    offsets = {TopicPartition(topic, 0): OffsetAndMetadata(8, "") for topic in ("kept", "deleted")}
    async with asyncio.timeout(5):
        await _coordinator_of(kafka_client).commit_offsets(None, offsets)
    assert kafka_client.commits == [{"kept": 8, "deleted": 8}, {"kept": 8}]


async def test_aiokafka_still_repeats_the_commit_for_a_topic_that_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupCoordinator, "_do_commit_offsets", patches._commit_offsets_of_aiokafka)
    kafka_client = _ClientWhoseTopicWasDeleted()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await _coordinator_of(kafka_client).commit_offsets(
                None, {TopicPartition("deleted", 0): OffsetAndMetadata(8, "")}
            )
    assert len(kafka_client.commits) > 1


def test_faust_still_reads_in_a_thread() -> None:
    assert issubclass(aiokafka.AIOKafkaConsumerThread, ServiceThread)


async def test_faust_still_reads_a_position_that_aiokafka_may_not_have() -> None:
    with pytest.raises(AssertionError):
        _ = TopicPartitionState(Mock()).position
    assert "tp_state.position" in inspect.getsource(aiokafka.AIOKafkaConsumerThread.verify_event_path)


def test_faust_still_drops_messages_whose_offsets_begin_again() -> None:
    assert "offset >= r_offset" in inspect.getsource(aiokafka.Consumer._drain_messages)


def test_faust_still_commits_nothing_where_the_first_offsets_have_no_message() -> None:
    partition = TP("t", 0)
    consumer = Mock(
        _acked={partition: [5]}, _gap={partition: None}, _committed_offset={partition: 1}, _acked_index={partition: {5}}
    )
    assert aiokafka.Consumer._new_offset(consumer, partition) is None
    assert faust_patches._Consumer._new_offset(consumer, partition) == 6


@pytest.mark.parametrize("codec", BOMB_CODECS)
@pytest.mark.parametrize("odd_batches", [(), (0,)], ids=["in C", "in Python"])
def test_a_batch_that_expands_too_far_is_one_record_and_the_others_are_delivered(
    codec: str, odd_batches: tuple[int, ...]
) -> None:
    patches.apply()
    mebibytes = fetch_limits.LIMIT // 2**20 + 1
    batches = [
        _batch(10, compressed=True, odd_batches=odd_batches),
        bombs.bomb(codec, mebibytes, 14),
        _batch(15, compressed=True, odd_batches=()),
        bombs.bomb(codec, mebibytes - 2, 19),
    ]
    fetched = fetcher.PartitionRecords(
        TopicPartition("t", 0), fetcher.MemoryRecords(b"".join(batches)), [], 10, None, None, True, 0
    )
    records = list(fetched)
    assert [record.offset for record in records] == list(range(10, 20))
    unread = [record.value for record in records if isinstance(record.value, fetch_limits.UnreadBatch)]
    assert [(value.first, value.last) for value in unread] == [(14, 14)]
    assert len(records[-1].value) == (mebibytes - 2) * 2**20
    assert fetched.next_fetch_offset == 20


def test_a_batch_that_expands_too_far_is_passed_over_as_a_whole() -> None:
    patches.apply()
    batch = bytearray(bombs.bomb("zstd", 18, 10))
    struct.pack_into(">i", batch, ATTRIBUTES + 2, 4)  # It has five offsets.
    data = with_checksum(batch)
    fetched = fetcher.PartitionRecords(TopicPartition("t", 0), fetcher.MemoryRecords(data), [], 12, None, None, True, 0)
    (record,) = fetched
    assert (record.offset, record.value.first, record.value.last) == (14, 12, 14)
    assert fetched.next_fetch_offset == 15


@pytest.mark.parametrize("codec", [None, *BOMB_CODECS])
def test_a_record_with_too_many_headers_is_not_read(codec: str | None) -> None:
    """It would take 70 bytes of memory for each two bytes."""
    patches.apply()
    enough, too_many = fetch_limits.HEADERS_LIMIT, fetch_limits.LARGE_RECORD // 2
    batches = [
        bombs.headers(enough, codec, 10),
        bombs.headers(too_many, codec, 11),
        _batch(12, compressed=True, odd_batches=()),
        bombs.headers(too_many, codec, 16),
    ]
    fetched = fetcher.PartitionRecords(
        TopicPartition("t", 0), fetcher.MemoryRecords(b"".join(batches)), [], 10, None, None, True, 0
    )
    records = list(fetched)
    assert [record.offset for record in records] == list(range(10, 17))
    assert len(records[0].headers) == enough
    unread = [record.value for record in records if isinstance(record.value, fetch_limits.UnreadBatch)]
    assert [value.first for value in unread] == [11, 16]
    assert "headers" in str(unread[0].reason)


@pytest.mark.parametrize("cut", range(1, 12))
def test_headers_of_invalid_records_are_left_to_aiokafka(cut: int) -> None:
    record = bytes(fetch_limits.LARGE_RECORD * 2)
    fetch_limits.check_headers(bombs.varint(len(record)) + record)
    fetch_limits.check_headers((bombs.varint(-1) * fetch_limits.LARGE_RECORD)[:-cut])
    fetch_limits.check_headers((bombs.varint(2**40) + b"\xff" * fetch_limits.LARGE_RECORD)[:-cut])


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, XERIAL + struct.pack(">i", -4), XERIAL + struct.pack(">i", 2**30)])
@pytest.mark.parametrize("codec", BOMB_CODECS)
def test_invalid_compressed_data_is_refused(codec: str, data: bytes) -> None:
    with pytest.raises(fetch_limits.BatchNotRead):
        getattr(fetch_limits, codec)(data)


@pytest.mark.parametrize("codec", BOMB_CODECS)
def test_what_aiokafka_compresses_is_decompressed(codec: str) -> None:
    text = b"some text" * 10_000
    assert getattr(fetch_limits, codec)(getattr(codecs, f"{codec}_encode")(text)) == text


@pytest.mark.parametrize("rest", [b"\0", b"\0\0\0"])
def test_bytes_after_the_last_block_of_snappy_java_are_ignored(rest: bytes) -> None:
    assert fetch_limits.snappy(codecs.snappy_encode(b"some text") + rest) == b"some text"


def test_aiokafka_still_decompresses_without_a_limit() -> None:
    assert "cramjam.zstd.decompress(payload)" in inspect.getsource(codecs)


class _Fetched:
    """Fetched batches of partitions, delivered as aiokafka delivers them. `fetched_again` has the partitions whose
    batches were dropped."""

    def __init__(self, batches: Mapping[int, bytes]) -> None:
        self._batches = {TopicPartition("t", partition): data for partition, data in batches.items()}
        self._positions = dict.fromkeys(self._batches, 0)
        self.fetched_again: list[int] = []
        subscriptions = Mock(reassignment_in_progress=False)
        self._fetcher = Mock(_records={}, _subscriptions=subscriptions, _wait_consume_future=None)
        for tp in self._batches:
            self._fetch(tp)

    async def deliver(self, partitions: Iterable[int], max_records: int | None = None) -> dict[int, list[int]]:
        """The offsets of one delivery by partition."""
        fetch = fetcher.Fetcher.fetched_records
        wanted = [TopicPartition("t", partition) for partition in partitions]
        delivered = await fetch(self._fetcher, wanted, 0, max_records)
        for tp in self._batches.keys() - self._fetcher._records.keys():
            self.fetched_again.append(tp.partition)
            self._fetch(tp)
        return {tp.partition: [record.offset for record in records] for tp, records in delivered.items()}

    def _fetch(self, tp: TopicPartition) -> None:
        position = self._positions[tp]
        records = fetcher.PartitionRecords(
            tp, fetcher.MemoryRecords(self._batches[tp]), [], position, None, None, True, 0
        )
        state = Mock(paused=False, position=position)

        def consumed_to(offset: int) -> None:
            state.position = self._positions[tp] = offset

        state.consumed_to = consumed_to
        assignment = Mock(active=True, state_value=Mock(return_value=state))
        self._fetcher._records[tp] = fetcher.FetchResult(
            tp, assignment=assignment, partition_records=records, backoff=0
        )


async def test_a_delivery_has_a_limited_size_and_all_partitions_have_their_turn() -> None:
    patches.apply()
    megabyte = [bombs.bomb("zstd", 1, offset) for offset in range(20)]
    fetched = _Fetched({partition: b"".join(megabyte) for partition in range(4)})
    deliveries = [await fetched.deliver(range(4)) for _ in range(2 * 20)]
    assert [len(delivery) for delivery in deliveries] == [2] * len(deliveries)
    assert {len(offsets) for delivery in deliveries for offsets in delivery.values()} == {1}
    assert [sorted(delivery) for delivery in deliveries[:4]] == [[0, 1], [2, 3], [0, 1], [2, 3]]
    for partition in range(4):
        offsets = [offset for delivery in deliveries for offset in delivery.get(partition, [])]
        assert offsets == list(range(20)), partition


async def test_decompressed_batches_that_wait_are_limited() -> None:
    patches.apply()
    fetched = _Fetched(dict.fromkeys(range(4), bombs.bomb("zstd", 1, records=14)))
    for offset in range(2):
        for partition in range(4):
            assert await fetched.deliver([partition]) == {partition: [offset]}
    assert fetched.fetched_again


def test_aiokafka_still_delivers_any_number_of_bytes() -> None:
    assert "len(ret_list) >= max_records" in inspect.getsource(fetcher)


def _connection_that_uvloop_has_closed() -> conn.AIOKafkaConnection:
    connection = conn.AIOKafkaConnection("127.0.0.1", 9092, on_close=Mock())
    connection._versions = {MetadataRequest([]).API_KEY: (0, 4)}
    connection._reader, connection._read_task = Mock(), Mock()
    connection._writer = Mock(write=Mock(side_effect=RuntimeError("the handler is closed")))
    return connection


@pytest.mark.parametrize(("send", "request_"), [("send", MetadataRequest([])), ("_send_sasl_token", b"token")])
async def test_a_write_to_a_connection_that_has_just_closed_is_a_connection_error(send: str, request_: Any) -> None:
    patches.apply()
    connection = _connection_that_uvloop_has_closed()
    on_close = connection._on_close_cb
    with pytest.raises(KafkaConnectionError, match="the handler is closed"):
        getattr(connection, send)(request_)
    assert not connection.connected()
    on_close.assert_called_once_with(connection, conn.CloseReason.CONNECTION_BROKEN)


async def test_a_request_that_a_broker_does_not_know_is_still_no_connection_error() -> None:
    patches.apply()
    connection = _connection_that_uvloop_has_closed()
    connection._versions = {}
    with pytest.raises(IncompatibleBrokerVersion):
        connection.send(MetadataRequest([]))
    assert connection._on_close_cb.call_count == 0


async def test_aiokafka_still_does_not_expect_the_error_of_uvloop() -> None:
    with pytest.raises(RuntimeError):
        patches._SENDS["send"](_connection_that_uvloop_has_closed(), MetadataRequest([]))
