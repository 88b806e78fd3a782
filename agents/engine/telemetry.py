"""The metrics of a worker, and its readiness."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("visitor_requests_total", "Requests answered, by operation and status.", ["operation", "status"])
DEAD_LETTERS = Counter("visitor_dead_letters_total", "Messages that went to the dead letters, by reason.", ["reason"])
BATCH_SIZE = Histogram(
    "visitor_batch_size",
    "Requests applied in one transaction.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500),
)
BATCH_SECONDS = Histogram(
    "visitor_batch_seconds", "From the first message of a batch to its acknowledgement.", ["topic"]
)
LOST_REPLIES = Counter(
    "visitor_replies_undelivered_total", "Replies that could not be sent to the topic that their request names."
)
EXPIRED_READS = Counter("visitor_reads_expired_total", "Reads that were dropped because their deadline had passed.")
FLOODS = Counter(
    "visitor_floods_total", "Pauses of a partition because of unreadable messages.", ["topic", "partition"]
)
CHANGES = Counter("visitor_changes_published_total", "Changes published, by topic.", ["topic"])
RETRIES = Counter("visitor_retries_total", "Attempts that failed with a transient fault, by what was tried.", ["part"])
LAG = Gauge("visitor_lag_messages", "Messages of the assigned partitions that are not acknowledged yet.")


class Readiness:
    """The reasons why a worker is not ready, by part. Without a reason, it is ready."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def not_ready(self, part: str, reason: str) -> None:
        self._reasons[part] = reason

    def ready(self, part: str) -> None:
        self._reasons.pop(part, None)

    @property
    def reasons(self) -> dict[str, str]:
        return dict(self._reasons)
