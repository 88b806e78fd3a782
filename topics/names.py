"""The topics of the service: their names, limits and configurations."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import quote

from topics.settings import KafkaSettings

QUERIES = "visitor.queries"
REPLIES = "visitor.replies"
DEAD_LETTERS = "visitor.dead-letters"

LARGEST_RECORD = 16 * 2**20
"""Bytes of a record that a topic accepts (max.message.bytes). It is far above `VALUE_LIMIT`, so that an oversized
request reaches the worker and gets an answer."""

REPLY_LIMIT = 8 * 2**20
"""Bytes of a result's value. A read with a larger answer gets 400."""

VALUE_LIMIT = 2**20
"""Bytes of a request's value. A larger request gets 413."""

KEY_LIMIT = 4 * 2**10
"""Bytes of a request's key that its result repeats. If the key is longer, the result has the request id as its key."""

HEADERS_LIMIT = 512 * 2**10
"""Bytes of a message's headers that its dead letter repeats."""

LONGEST_SEGMENT = timedelta(days=1)
"""The limit of segment.ms. Kafka keeps a record until the newest record of its segment is older than the retention
(Kafka's documentation, log.segment.ms). Segments of a week, Kafka's default, would double the time."""

RETENTION_CHECK = timedelta(minutes=10)
"""How late a broker may delete a segment: log.retention.check.interval.ms is 5 minutes, log.segment.delete.delay.ms is
1 minute."""

EVENT_RETENTION = timedelta(days=28)
"""How long the change topic of an event resource keeps a change. The change topics of entities are compacted."""

DEAD_LETTER_RETENTION = timedelta(days=28)

ERASURE_DEADLINE = timedelta(days=30)
"""How long after an erasure a topic may contain data of the visitor (docs/erasure.md). `record_lifetime` of each
topic that deletes by time is shorter."""

COMPACTION_LAG = timedelta(days=1)
"""max.compaction.lag.ms: how soon Kafka compacts a segment after it is closed. Without it, a segment waits until half
of the log is new, which may be never."""

TOMBSTONES_KEPT = timedelta(days=7)
"""delete.retention.ms: how long Kafka keeps a tombstone after the first compaction, for consumers that were away."""


def requests(family: str) -> str:
    return f"visitor.{family}.requests"


def results(family: str) -> str:
    return f"visitor.{family}.results"


def changes(family: str, resource: str) -> str:
    return f"visitor.{family}.changes.{resource}"


def consumer_group(worker_group: str, consumer: str) -> str:
    """The consumer group of one of the two consumers of a worker, `requests` or `queries`. `worker_group` is
    VISITOR_WORKER_GROUP. Faust keeps files by this name, so it is quoted."""
    return quote(f"{worker_group}.{consumer}", safe="")


class ChangeTopic(NamedTuple):
    """The change topic of a resource. It is compacted if the resource is an entity; a topic of events deletes by
    time."""

    name: str
    compacted: bool


def record_lifetime(retention: timedelta, segment: timedelta) -> timedelta:
    """How long Kafka can deliver a record of a topic with these values of retention.ms and segment.ms."""
    return retention + segment + RETENTION_CHECK


def request_lifetime(kafka: KafkaSettings) -> timedelta:
    """How long Kafka can deliver a request on a topic that `visitor topics` created."""
    retention = timedelta(days=kafka.retention_days)
    return record_lifetime(retention, _segment_time(retention))


def _segment_time(retention: timedelta) -> timedelta:
    return min(retention, LONGEST_SEGMENT)


def transactional_id(group: str, topic: str) -> str:
    """Of the publisher of a change topic. Installations on one Kafka cluster must have different groups."""
    return f"{group}.{topic}"


@dataclass(frozen=True)
class TopicSpec:
    """A topic that the service needs. `config` has the names and values of Kafka's topic configuration."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def specs(families: Iterable[str], change_topics: Iterable[ChangeTopic], kafka: KafkaSettings) -> list[TopicSpec]:
    """All topics, configured by these settings. The brokers set the timestamps: by those of a producer whose clock is a
    year ahead, Kafka would keep its records, and those beside them, for a year longer."""
    retention = timedelta(days=kafka.retention_days)

    def topic(name: str, retention: timedelta, **overrides: str) -> TopicSpec:
        config = {
            "retention.ms": _milliseconds(retention),
            "segment.ms": _milliseconds(_segment_time(retention)),
            "cleanup.policy": "delete",
            "min.insync.replicas": str(kafka.min_insync),
            "max.message.bytes": str(LARGEST_RECORD),
            "message.timestamp.type": "LogAppendTime",
        }
        config |= {key.replace("_", "."): value for key, value in overrides.items()}
        return TopicSpec(name, kafka.partitions, kafka.replication, config)

    def topics_of(family: str) -> list[TopicSpec]:
        return [topic(requests(family), retention), topic(results(family), retention)]

    return [
        topic(QUERIES, timedelta(hours=1)),
        topic(REPLIES, timedelta(hours=1)),
        # A dead letter contains the whole message, plus headers with the reason. It is compressed, because a batch of
        # some kilobytes can have 17 MiB of garbage. All clients read gzip, and brokers need no native library for it.
        topic(
            DEAD_LETTERS,
            DEAD_LETTER_RETENTION,
            max_message_bytes=str(LARGEST_RECORD + 2**20),
            compression_type="gzip",
        ),
        *(spec for family in families for spec in topics_of(family)),
        *(
            topic(change_topic.name, EVENT_RETENTION, **(_COMPACTION if change_topic.compacted else {}))
            for change_topic in change_topics
        ),
    ]


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


_COMPACTION = {
    "cleanup_policy": "compact",
    "retention_ms": "-1",
    "max_compaction_lag_ms": _milliseconds(COMPACTION_LAG),
    "min_cleanable_dirty_ratio": "0.1",
    "delete_retention_ms": _milliseconds(TOMBSTONES_KEPT),
}
