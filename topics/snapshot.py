"""Reads what topics have now: a whole topic, a period of several topics, or one record."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from topics.kafka import close_consumer, ended_tasks
from topics.settings import KafkaSettings

FETCH_BYTES = 8 * 2**20
"""Bytes of one fetch of a period. The consumer's default of 50 MB would be in memory at once."""
RECORDS_AT_ONCE = 5
"""Records that are decompressed at once. Some kilobytes that were fetched can be a record of 17 MiB."""


async def records(
    settings: KafkaSettings, topic: str, since: datetime | None = None, offsets: Mapping[int, range] | None = None
) -> AsyncIterator[Any]:
    """The records that a topic has now, or those of this time or later, or those with these `offsets` of these
    partitions; those of one partition in order. Raises KafkaError, for example UnknownTopicOrPartitionError."""
    async with _Consumer(settings) as consumer:
        if not (partitions := await _partitions(consumer, [topic])):
            raise UnknownTopicOrPartitionError(topic)
        if offsets is not None:
            ends = await _seek_to_offsets(consumer, partitions, offsets)
        elif since is None:
            consumer.assign(partitions)
            ends = await consumer.end_offsets(list(partitions))
        else:
            ends = await _seek_to_time(consumer, partitions, since)
        async for record in _up_to(consumer, ends):
            yield record


@dataclass
class Period:
    """The records of topics between two times, at most `limit` of them. After `records` has ended, `is_complete` is
    False if there are more."""

    settings: KafkaSettings
    since: datetime
    until: datetime
    limit: int
    is_complete: bool = True

    async def records(
        self, topics: Iterable[str], partition_of: Callable[[int], int] | None = None
    ) -> AsyncIterator[Any]:
        """Those of one partition in order. A topic that does not exist has none. If `partition_of` is set, it says
        which one of how many partitions of each topic to read. Raises KafkaError."""
        count = 0
        async with _Consumer(self.settings, fetch_max_bytes=FETCH_BYTES) as consumer:
            partitions = await _partitions(consumer, topics)
            if partition_of is not None:
                counts = Counter(each.topic for each in partitions)
                partitions = {each for each in partitions if each.partition == partition_of(counts[each.topic])}
            ends = await _seek_to_time(consumer, partitions, self.since)
            async for record in _up_to(consumer, ends, until=_milliseconds(self.until)):
                if count == self.limit:
                    self.is_complete = False
                    return
                count += 1
                yield record


async def record_at(settings: KafkaSettings, topic: str, partition: int, offset: int) -> Any | None:
    """The record at a position; None if the topic does not have it, or not any more. Raises KafkaError."""
    async with _Consumer(settings) as consumer:
        partitions = await _partitions(consumer, [topic])
        ends = await _seek_to_offsets(consumer, partitions, {partition: range(offset, offset + 1)})
        async for record in _up_to(consumer, ends):
            return record
    return None


async def _seek_to_offsets(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], offsets: Mapping[int, range]
) -> dict[TopicPartition, int]:
    """Assign those partitions that have some of their `offsets`, each from the first of these. Returns the ends of what
    to read of these partitions."""
    assigned = [each for each in partitions if each.partition in offsets]
    if not assigned:
        return {}
    first, end = await consumer.beginning_offsets(assigned), await consumer.end_offsets(assigned)
    starts = {each: max(offsets[each.partition].start, first[each]) for each in assigned}
    ends = {each: min(offsets[each.partition].stop, end[each]) for each in assigned}
    filled = [each for each in assigned if starts[each] < ends[each]]
    consumer.assign(filled)
    for each in filled:
        consumer.seek(each, starts[each])
    return {each: ends[each] for each in filled}


async def _seek_to_time(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], time: datetime
) -> dict[TopicPartition, int]:
    """Assign those partitions that have records of this time or later, each from the first such record. Returns the
    ends of these partitions."""
    starts = await offsets_at(consumer, partitions, time)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(list(starts)) if starts else {}
    consumer.assign(list(starts))
    for each, offset in starts.items():
        consumer.seek(each, offset)
    return ends


async def offsets_at(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], time: datetime
) -> dict[TopicPartition, int]:
    """The first offset of this time or later, of those partitions that have one."""
    if not partitions:
        return {}
    starts = await consumer.offsets_for_times(dict.fromkeys(partitions, _milliseconds(time)))
    return {each: start.offset for each, start in starts.items() if start is not None}


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


class _Consumer:
    """A consumer without a group and without partitions.

    It is no generator, because the event loop closes at its end all generators at once that are still open, and a
    generator that is being closed cannot close another one."""

    def __init__(self, settings: KafkaSettings, **options: Any) -> None:
        self._consumer = AIOKafkaConsumer(
            **settings.client(),
            **options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    async def __aenter__(self) -> AIOKafkaConsumer:
        try:
            await self._consumer.start()
        except BaseException:
            await close_consumer(self._consumer)
            raise
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await close_consumer(self._consumer)


async def _partitions(consumer: AIOKafkaConsumer, topics: Iterable[str]) -> set[TopicPartition]:
    """The partitions of those topics that exist."""
    selected = list(topics)
    await consumer._client.set_topics(selected)
    return {
        TopicPartition(topic, number) for topic in selected for number in consumer.partitions_for_topic(topic) or ()
    }


async def _up_to(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int], until: int | None = None
) -> AsyncIterator[Any]:
    """The records of these partitions from the consumer's positions up to the offsets `ends`, and up to the time
    `until` in milliseconds. Raises KafkaError."""
    unfinished = {each for each, end in ends.items() if await consumer.position(each) < end}
    while unfinished:
        batches = await consumer.getmany(*unfinished, max_records=RECORDS_AT_ONCE, timeout_ms=500)
        for partition, batch in batches.items():
            for record in batch:
                if until is not None and record.timestamp > until:
                    unfinished.discard(partition)
                    break
                if record.offset < ends[partition]:
                    yield record
            batch.clear()  # Otherwise these records would be in memory beside the next ones.
        unfinished -= {each for each in unfinished if await consumer.position(each) >= ends[each]}
        if ended := ended_tasks(consumer):
            raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")
