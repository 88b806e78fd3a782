"""The topics of the service and what each must be like."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from topics.kafka import KafkaSettings

QUERIES = "visitor.queries"
REPLIES = "visitor.replies"
DEAD_LETTERS = "visitor.dead-letters"

LARGEST_RECORD = 16 * 2**20
"""Bytes that a topic lets in. Far above VALUE_LIMIT, so that an oversized request is answered, not lost."""

REPLY_LIMIT = 8 * 2**20
"""Bytes of one result's value; a read that would answer more is refused with 400."""

VALUE_LIMIT = 2**20
"""Bytes of one request's value; more is answered with 413."""

KEY_LIMIT = 4 * 2**10
"""Bytes of a request's key that its result repeats; a longer one is replaced by the request id."""

HEADERS_LIMIT = 512 * 2**10
"""Bytes of a message's headers that its dead letter repeats."""

LONGEST_SEGMENT = timedelta(days=1)
"""A record lives until the newest record of its segment file is older than the retention (Kafka's documentation,
log.segment.ms). Segments that take a week, Kafka's default, would double the time."""

RETENTION_CHECK = timedelta(minutes=10)
"""How much later a broker may delete: log.retention.check.interval.ms is 5 minutes, log.segment.delete.delay.ms 1."""

EVENT_FAMILIES = frozenset(("visits", "checkins"))
"""Families whose changes are events, kept by time; the changes of all others are compacted to the latest state."""


def requests(family: str) -> str:
    return f"visitor.{family}.requests"


def results(family: str) -> str:
    return f"visitor.{family}.results"


def changes(family: str) -> str:
    return f"visitor.{family}.changes"


def record_lifetime(retention: timedelta, segment: timedelta) -> timedelta:
    """How long a record of a topic can be delivered, with these values of retention.ms and segment.ms."""
    return retention + segment + RETENTION_CHECK


def request_lifetime(kafka: KafkaSettings) -> timedelta:
    """How long a request can be delivered, from a topic that `visitor topics` created."""
    retention = timedelta(days=kafka.retention_days)
    return record_lifetime(retention, _segment(retention))


def _segment(retention: timedelta) -> timedelta:
    return min(retention, LONGEST_SEGMENT)


def transactional_id(group: str, topic: str) -> str:
    """Of whichever worker of a group publishes a change topic. Installations on one cluster differ by their group."""
    return f"{group}.{topic}"


@dataclass(frozen=True)
class TopicSpec:
    """One topic as the service needs it; `config` holds Kafka's own names and values."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def specs(families: Iterable[str], kafka: KafkaSettings) -> list[TopicSpec]:
    """All topics, as these settings want them. Arrival times of requests are the broker's, so that a producer's wrong
    clock moves nothing."""

    def topic(full_name: str, keep: timedelta, **config: str) -> TopicSpec:
        kept = {"retention.ms": _milliseconds(keep), "segment.ms": _milliseconds(_segment(keep))}
        kept |= {"cleanup.policy": "delete"}
        kept |= {"min.insync.replicas": str(kafka.min_insync), "max.message.bytes": str(LARGEST_RECORD)}
        kept |= {name.replace("_", "."): value for name, value in config.items()}
        return TopicSpec(full_name, kafka.partitions, kafka.replication, kept)

    def for_family(family: str) -> list[TopicSpec]:
        compacted = {} if family in EVENT_FAMILIES else {"cleanup_policy": "compact", "retention_ms": "-1"}
        retention = timedelta(days=kafka.retention_days)
        return [
            topic(requests(family), retention, **_ARRIVAL),
            topic(results(family), retention),
            topic(changes(family), timedelta(days=30), **compacted),
        ]

    return [
        topic(QUERIES, timedelta(hours=1), **_ARRIVAL),
        topic(REPLIES, timedelta(hours=1)),
        # Room for the reason, in headers of its own, beside the largest message.
        topic(DEAD_LETTERS, timedelta(days=30), max_message_bytes=str(LARGEST_RECORD + 2**20)),
        *(spec for family in families for spec in for_family(family)),
    ]


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


_ARRIVAL = {"message_timestamp_type": "LogAppendTime"}
