"""The headers of messages that the service writes: CloudEvents 1.0 in Kafka's binary mode
(https://github.com/cloudevents/spec). `topics.incoming` reads those of others."""

from datetime import UTC, datetime
from typing import Literal, NamedTuple

Headers = list[tuple[str, bytes]]

JSON = "application/json"
AVRO = "application/avro"
"""The content type of Confluent's wire format."""

TRACEPARENT = "traceparent"
IF_MATCH = "if-match"
EXPIRY_TIME = "expirytime"
"""CloudEvents' extension for the time after which an event is of no use any more."""
REVISION = "revision"
MORE = "more"
PREFIX = "visitor."
SOURCE = "visitor-service"
CORRELATION = "correlation-id"
HEADER_LIMIT = 1_000
"""Characters of a request header; bytes of a correlation id. Results repeat some of the headers."""
ID_LIMIT = 255
"""Characters of ce_id and of ce_source. Both are part of the inbox's primary key, and an entry of a B-tree index has at
most 2,704 bytes."""


Reason = Literal[
    "batch_too_large",
    "batched_mode",
    "broken_avro",
    "bug",
    "duplicate_header",
    "header_too_long",
    "id_too_long",
    "no_operation",
    "no_value",
    "not_an_object",
    "not_avro",
    "not_base64",
    "not_json",
    "not_utf8",
    "reply_topic_not_allowed",
    "source_too_long",
    "two_values",
    "unknown_content_type",
    "unknown_operation",
    "unknown_schema",
    "unreadable_header",
    "value_too_large",
    "wrong_attribute",
    "wrong_if_match",
    "wrong_reply_to",
    "wrong_schema",
]
"""Why a message becomes a dead letter: the values of the header error-code. docs/dead-letters.md explains each."""


class InvalidMessage(Exception):
    """The message cannot be decoded. It becomes a dead letter with this code and message."""

    def __init__(self, code: Reason, message: str) -> None:
        super().__init__(message)
        self.code = code


class ReplyTo(NamedTuple):
    """Where the sender waits for the reply: a partition of `visitor.replies`, or a topic of its own. There, the key of
    the reply selects the partition if `partition` is None."""

    topic: str | None = None
    partition: int | None = None

    def encode(self) -> bytes:
        """The value of the header reply-to."""
        return ":".join(str(part) for part in self if part is not None).encode()


class RequestHeaders(NamedTuple):
    """The headers of a request. `request_id` is the sender's id. If the sender gave none, `has_id` is false and
    `request_id` is the record's topic, partition and offset. `correlation` are the sender's headers with ids by which
    it recognises the reply."""

    request_id: str
    operation: str
    source: str | None = None
    content_type: str = AVRO
    reply_to: ReplyTo | None = None
    correlation: tuple[tuple[str, bytes], ...] = ()
    traceparent: str | None = None
    has_id: bool = True
    if_match: tuple[int, ...] | None = None
    """The revisions of which the row must have one. None if it may have any."""
    expires: datetime | None = None
    """The deadline of a read. A worker drops the read after it. Writes do not expire."""

    def encode(self) -> Headers:
        """The headers of the request message."""
        headers = _common_headers(
            self.request_id, self.operation, self.source or SOURCE, self.content_type, self.traceparent
        )
        if self.reply_to:
            headers.append(("reply-to", self.reply_to.encode()))
        if self.if_match is not None:
            headers.append((IF_MATCH, ",".join(map(str, self.if_match)).encode()))
        if self.expires is not None:
            headers.append((f"ce_{EXPIRY_TIME}", _rfc3339(self.expires)))
        return [*headers, *self.correlation]

    def result_headers(self) -> Headers:
        """The headers of this request's result on a results topic. They have the correlation ids only if the sender
        waits there: others read the topic too, and whoever knows a correlation id can forge a reply."""
        return self._result_headers() if self.reply_to else self.reply_headers()

    def reply_headers(self) -> Headers:
        """The headers of this request's result where the sender waits for it."""
        return [*self._result_headers(), *self.correlation]

    def reply_attributes(self) -> dict[str, bytes]:
        """The headers by which a result names its request."""
        event_id, event_type, source = self._result_identity()
        return {
            "ce_id": event_id.encode(),
            "ce_type": f"{PREFIX}{event_type}".encode(),
            "ce_source": source.encode(),
        }

    def _result_headers(self) -> Headers:
        headers = _common_headers(*self._result_identity(), self.content_type, self.traceparent)
        return [*headers, *_optional_header("ce_requestsource", self.source)]

    def _result_identity(self) -> tuple[str, str, str]:
        """The id, type and source of the result. It has the id of the request, and its source ends with the request's
        source. So the pair of source and id, which CloudEvents requires to be unique, is unique for results too."""
        source = f"{SOURCE}/{self.source}" if self.source else SOURCE
        return self.request_id, f"{self.operation}.result", source


def change_headers(change_id: str, resource: str, action: str, traceparent: str | None) -> Headers:
    """The headers of a message on a change topic."""
    return _common_headers(change_id, f"{resource}.{action}", SOURCE, AVRO, traceparent)


def _common_headers(event_id: str, event_type: str, source: str, content_type: str, traceparent: str | None) -> Headers:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", f"{PREFIX}{event_type}".encode()),
        ("ce_source", source.encode()),
        ("ce_time", _rfc3339(datetime.now(UTC))),
        ("content-type", content_type.encode()),
        *_optional_header(TRACEPARENT, traceparent),
    ]


def _rfc3339(time: datetime) -> bytes:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def _optional_header(name: str, value: str | None) -> Headers:
    return [] if value is None else [(name, value.encode())]
