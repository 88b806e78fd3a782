"""All metrics of worker and edge. docs/metrics.md lists them; a test holds it equal to this module.

Names follow https://prometheus.io/docs/practices/naming/: base units as suffixes, `_total` for counters. Labels have
few values and no personal data: operations, topics, partitions, statuses and reasons.

A gauge about the database has the same value in each worker, so query it with `max`, not with `sum`. A gauge about
partitions has them in one worker only.
"""

from importlib.metadata import version

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info
from prometheus_client.registry import Collector

# The creation time of each series would double the number of series.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

WORKER = CollectorRegistry()
"""What a worker exports."""
EDGE = CollectorRegistry()
"""What an edge exports."""

SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Buckets from a request on an idle installation to the longest time that anything may take: a rebalance."""
REQUESTS_OF_BATCH = (1, 2, 5, 10, 25, 50, 100, 250, 500)
"""Up to `agents.engine.turns.BATCH_LIMIT`."""


def _of_both(*collectors: Collector) -> None:
    """Let both processes export these."""
    for collector in collectors:
        WORKER.register(collector)
        EDGE.register(collector)


# Worker and edge

BUILD = Info("visitor_build", "The version of the program.", registry=None)
BUILD.info({"version": version("visitor-service")})
READY = Gauge("visitor_ready", "1 if the process is ready, else 0.", registry=None)
EVENT_LOOP_DELAY = Histogram(
    "visitor_event_loop_delay_seconds",
    "How late a timer of the event loop is, measured four times per second.",
    registry=None,
    buckets=SECONDS,
)
AUDIT_LINES_LOST = Counter(
    "visitor_audit_lines_lost_total", "Lines that could not be written to the audit log.", registry=None
)
_of_both(BUILD, READY, EVENT_LOOP_DELAY, AUDIT_LINES_LOST)
_of_both(prometheus_client.ProcessCollector(registry=None), prometheus_client.PlatformCollector(registry=None))

# Worker: requests

REQUESTS = Counter(
    "visitor_requests_total", "Requests and reads that were answered.", ["operation", "status"], registry=WORKER
)
RESULT_LATENCY = Histogram(
    "visitor_result_latency_seconds",
    "From the time at which Kafka stored a request or read to the time at which it had its result.",
    ["topic"],
    registry=WORKER,
    buckets=SECONDS,
)
BATCH_REQUESTS = Histogram(
    "visitor_batch_requests", "Requests of one transaction.", registry=WORKER, buckets=REQUESTS_OF_BATCH
)
BATCH_DURATION = Histogram(
    "visitor_batch_seconds",
    "From the first attempt of a partition's batch to its last result, retries included.",
    ["topic"],
    registry=WORKER,
    buckets=SECONDS,
)
RETRIES = Counter(
    "visitor_retries_total", "Attempts that failed with a transient error, by what was tried.", ["part"],
    registry=WORKER,
)  # fmt: skip
DEAD_LETTERS = Counter("visitor_dead_letters_total", "Messages that became dead letters.", ["reason"], registry=WORKER)
FLOODS = Counter(
    "visitor_floods_total",
    "Pauses of a partition because of many dead letters.",
    ["topic", "partition"],
    registry=WORKER,
)
EXPIRED_READS = Counter(
    "visitor_reads_expired_total", "Reads that were dropped because their deadline had passed.", registry=WORKER
)
UNDELIVERED_REPLIES = Counter(
    "visitor_replies_undelivered_total",
    "Replies that could not be sent to the topic that their request names.",
    registry=WORKER,
)
LAG_MESSAGES = Gauge(
    "visitor_lag_messages",
    "Messages of an assigned partition that are not acknowledged.",
    ["topic", "partition"],
    registry=WORKER,
)
LAG_SECONDS = Gauge(
    "visitor_lag_seconds",
    "Age of the oldest message of an assigned partition that is not acknowledged; 0 without one.",
    ["topic", "partition"],
    registry=WORKER,
)

# Worker: changes

CHANGES = Counter("visitor_changes_published_total", "Changes that were published.", ["topic"], registry=WORKER)
CHANGE_LATENCY = Histogram(
    "visitor_change_latency_seconds",
    "From the time at which Kafka stored a request to the time at which it had the request's change.",
    ["topic"],
    registry=WORKER,
    buckets=SECONDS,
)
PUBLISHER = Enum(
    "visitor_publisher_state",
    "1 for the outcome of the publisher's last attempt, else 0.",
    ["topic"],
    registry=WORKER,
    states=["idle", "publishing", "standby", "failing"],
)
"""idle: no changes to publish; standby: another worker publishes them."""

# Worker: database

OUTBOX_ROWS = Gauge(
    "visitor_outbox_rows", "Changes that wait in the outbox, counted up to 1,000.", ["topic"], registry=WORKER
)
ALL_OUTBOX_ROWS = Gauge(
    "visitor_outbox_estimated_rows",
    "Changes that wait in the outbox, of all topics. If a topic has more than 1,000, PostgreSQL estimates them.",
    registry=WORKER,
)
OUTBOX_AGE = Gauge(
    "visitor_outbox_oldest_seconds", "Age of the oldest change in the outbox; 0 without one.", ["topic"],
    registry=WORKER,
)  # fmt: skip
INBOX_ROWS = Gauge("visitor_inbox_rows", "Answers in the inbox, as PostgreSQL estimates.", registry=WORKER)
INBOX_AGE = Gauge(
    "visitor_inbox_oldest_seconds", "Age of the oldest answer in the inbox; 0 without one.", registry=WORKER
)
POOL_WAIT = Histogram(
    "visitor_pool_wait_seconds",
    "How long a task waited for a database connection, including the time to open one.",
    ["pool"],
    registry=WORKER,
    buckets=SECONDS,
)

# Edge

HTTP_CALLS = Counter("visitor_http_calls_total", "HTTP calls of operations.", ["operation", "status"], registry=EDGE)
HTTP_DURATION = Histogram(
    "visitor_http_seconds", "From an HTTP call to its answer.", ["operation"], registry=EDGE, buckets=SECONDS
)
HTTP_REFUSED_CONNECTIONS = Counter(
    "visitor_http_connections_refused_total", "Connections beyond VISITOR_HTTP_CONNECTIONS.", registry=EDGE
)
HTTP_TIMEOUTS = Counter(
    "visitor_http_timeouts_total", "Connections that were closed because the client was too slow.", registry=EDGE
)
