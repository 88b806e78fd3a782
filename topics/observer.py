"""Reads the state of topics and consumer groups, without joining a group."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code

from topics import snapshot
from topics.kafka import close_admin, close_consumer, ended_tasks, missing_topics
from topics.settings import KafkaSettings

FETCH_BYTES = 64 * 1024
"""Bytes per partition and fetch. A larger batch is delivered nevertheless, alone (Kafka's documentation,
max.partition.fetch.bytes)."""
POLL_MILLISECONDS = 100
READ_SECONDS = 2.0
"""Limit for reading records. What is not read within it is left out."""


@dataclass(frozen=True)
class Member:
    """A consumer of a group. `client_id` is the one it has chosen, `host` its address as the broker sees it."""

    client_id: str
    host: str
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True)
class Group:
    """A consumer group. `state` is Kafka's, for example Stable, PreparingRebalance, Empty or Dead (there is no such
    group). `committed` has the next offset to read, of the partitions for which the group has committed one."""

    name: str
    state: str
    members: tuple[Member, ...]
    committed: Mapping[TopicPartition, int]


class Reading(NamedTuple):
    """Records, oldest first. `unread` are the partitions that could not be read completely within `READ_SECONDS`, for
    example because they have no leader."""

    records: list[Any]
    unread: Sequence[TopicPartition]


@asynccontextmanager
async def observing(settings: KafkaSettings) -> AsyncIterator["Observer"]:
    """A started observer. Raises KafkaError."""
    observer = Observer(settings)
    try:
        await observer.start()
        yield observer
    finally:
        await observer.stop()


class Observer:
    """Call `start` first and `stop` last. If a method raises, `stop` this observer and use another one. The methods
    raise KafkaError, and have no timeout of their own."""

    def __init__(self, settings: KafkaSettings) -> None:
        arguments = settings.client()
        self._admin = AIOKafkaAdminClient(**arguments)
        self._offsets = AIOKafkaConsumer(**arguments, enable_auto_commit=False)
        # Another client, because an assignment limits the topics of which a client refreshes the metadata.
        self._reader = AIOKafkaConsumer(
            **arguments,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        self._reading = asyncio.Lock()

    async def start(self) -> None:
        await self._admin.start()
        await self._offsets.start()
        await self._reader.start()

    async def stop(self) -> None:
        await asyncio.gather(
            close_admin(self._admin),
            close_consumer(self._offsets),
            close_consumer(self._reader),
            return_exceptions=True,
        )

    async def group(self, name: str) -> Group:
        ((described, *_),) = [response.groups for response in await self._admin.describe_consumer_groups([name])]
        code, _, state, _, _, members, *_ = described
        if code:
            raise for_code(code)(f"the consumer group {name} cannot be described")
        committed = await self._admin.list_consumer_group_offsets(name)
        return Group(
            name,
            state,
            tuple(_member(*member) for member in members),
            {partition: offset.offset for partition, offset in committed.items() if offset.offset >= 0},
        )

    async def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """The partitions of those topics that exist and that the user may describe."""
        cluster = self._offsets._client.cluster
        unknown = [topic for topic in topics if cluster.partitions_for_topic(topic) is None]
        if unknown:
            await missing_topics(self._offsets._client, unknown)
        return [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(cluster.partitions_for_topic(topic) or ())
        ]

    async def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of the next record of each partition."""
        offsets: dict[TopicPartition, int] = await self._offsets.end_offsets(partitions)
        return offsets

    async def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of the oldest record of each partition."""
        offsets: dict[TopicPartition, int] = await self._offsets.beginning_offsets(partitions)
        return offsets

    async def offsets_at(self, partitions: Sequence[TopicPartition], time: datetime) -> dict[TopicPartition, int]:
        """The first offset of each partition that was written at this time or later. Partitions without one are left
        out."""
        return await snapshot.offsets_at(self._offsets, partitions, time)

    async def oldest(
        self, offsets: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, Any | None]:
        """The first record of each partition from these offsets on, None if there is none before `ends`: transaction
        markers take offsets, too. A partition that cannot be read within `READ_SECONDS` is left out."""
        records, read = await self._read(offsets, ends, 1)
        return {partition: next(iter(records[partition]), None) for partition in read}

    async def records(
        self, offsets: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], count: int
    ) -> "Reading":
        """The first `count` records of each partition from these offsets on and before `ends`."""
        by_partition, read = await self._read(offsets, ends, count)
        records = (record for of_partition in by_partition.values() for record in of_partition)
        ordered = sorted(records, key=lambda record: (record.timestamp, record.partition, record.offset))
        return Reading(ordered, sorted(offsets.keys() - read))

    async def _read(
        self, offsets: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], count: int
    ) -> tuple[dict[TopicPartition, list[Any]], set[TopicPartition]]:
        """The records, and the partitions that were read completely."""
        records: dict[TopicPartition, list[Any]] = defaultdict(list)
        unread = set(offsets)
        if not unread:
            return records, unread
        async with self._reading:
            if ended := ended_tasks(self._reader):
                raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")
            self._reader.assign(list(offsets))
            for partition, offset in offsets.items():
                self._reader.seek(partition, offset)
            try:
                async with asyncio.timeout(READ_SECONDS):
                    while unread:
                        polled = await self._reader.getmany(
                            *unread, timeout_ms=POLL_MILLISECONDS, max_records=count * len(unread)
                        )
                        for partition, batch in polled.items():
                            before_end = [record for record in batch if record.offset < ends[partition]]
                            records[partition].extend(before_end[: count - len(records[partition])])
                        unread = {
                            each
                            for each in unread
                            if len(records[each]) < count and await self._reader.position(each) < ends[each]
                        }
            except TimeoutError:
                pass
            finally:
                # Not `unsubscribe`, which may end the fetcher of aiokafka 0.14.0.
                self._reader.assign([])
        return records, offsets.keys() - unread


def _member(_id: str, client_id: str, host: str, _metadata: bytes, assignment: bytes) -> Member:
    # Without an assignment, the group is rebalancing.
    partitions = ConsumerProtocolMemberAssignment.decode(assignment).partitions() if assignment else []
    return Member(client_id, host.removeprefix("/"), tuple(sorted(partitions)))
