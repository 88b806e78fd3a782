"""The headers of a message: CloudEvents 1.0, Kafka binary mode (https://github.com/cloudevents/spec)."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from topics.traceparent import read_traceparent

Headers = list[tuple[str, bytes]]

JSON = "application/json"
AVRO = "application/avro"
"""The content type of Confluent's wire format, and the default of a request without a content type."""

TRACEPARENT = "traceparent"
PREFIX = "visitor."
SOURCE = "visitor-service"
HEADER_LIMIT = 1_000
"""Characters of a request header. Results repeat some of the headers."""
ID_LIMIT = 255
"""Characters of ce_id and of ce_source. Both are part of the inbox's primary key, and an entry of a B-tree index has at
most 2,704 bytes."""


class InvalidMessage(Exception):
    """The message cannot be decoded. It becomes a dead letter with this code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ReplyTo(NamedTuple):
    """The partition of `visitor.replies` on which the caller waits, and the caller's correlation id for the call."""

    partition: int
    correlation: str | None


class RequestHeaders(NamedTuple):
    """The headers of a request. `request_id` is the sender's id. If the sender gave none, `has_id` is false and
    `request_id` is the record's topic, partition and offset."""

    request_id: str
    operation: str
    source: str | None = None
    content_type: str = AVRO
    reply_to: ReplyTo | None = None
    traceparent: str | None = None
    has_id: bool = True

    def encode(self) -> Headers:
        """The headers of the request message."""
        headers = _common_headers(
            self.request_id, self.operation, self.source or SOURCE, self.content_type, self.traceparent
        )
        if self.reply_to:
            headers.append(("reply-to", str(self.reply_to.partition).encode()))
            headers.extend(_optional_header("correlation-id", self.reply_to.correlation))
        return headers

    def result_headers(self) -> Headers:
        """The headers of this request's result. The result has the id of the request, and its source ends with the
        request's source. So the pair of source and id, which CloudEvents requires to be unique, is unique for results
        too."""
        source = f"{SOURCE}/{self.source}" if self.source else SOURCE
        headers = _common_headers(
            self.request_id, f"{self.operation}.result", source, self.content_type, self.traceparent
        )
        headers.extend(_optional_header("ce_requestsource", self.source))
        if self.reply_to:
            headers.extend(_optional_header("correlation-id", self.reply_to.correlation))
        return headers


def change_headers(change_id: str, resource: str, action: str) -> Headers:
    """The headers of a message on a change topic."""
    return _common_headers(change_id, f"{resource}.{action}", SOURCE, AVRO, None)


def _common_headers(event_id: str, event_type: str, source: str, content_type: str, traceparent: str | None) -> Headers:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", f"{PREFIX}{event_type}".encode()),
        ("ce_source", source.encode()),
        ("ce_time", _now_rfc3339()),
        ("content-type", content_type.encode()),
        *_optional_header(TRACEPARENT, traceparent),
    ]


def _now_rfc3339() -> bytes:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def _optional_header(name: str, value: str | None) -> Headers:
    return [] if value is None else [(name, value.encode())]


_REQUEST_HEADERS = frozenset(
    ("ce_id", "ce_type", "ce_source", "content-type", "reply-to", "correlation-id", TRACEPARENT, "ce_specversion")
)


def read_headers(headers: Iterable[tuple[str, bytes | None]], position: str) -> RequestHeaders:
    """Decode the headers of a request. Unknown headers are ignored. `position` is the record's topic, partition and
    offset, and the id of a request without ce_id. Raises InvalidMessage."""
    texts = _decode(headers)
    event_type = texts.get("ce_type")
    if event_type is None:
        raise InvalidMessage("no_operation", "The header ce_type is missing. It names the operation.")
    if not event_type.startswith(PREFIX):
        raise InvalidMessage("unknown_operation", f"The header ce_type must start with {PREFIX!r}.")
    request_id, source = texts.get("ce_id"), texts.get("ce_source")
    if len(request_id or "") > ID_LIMIT:
        raise InvalidMessage("id_too_long", f"The header ce_id may have at most {ID_LIMIT} characters.")
    if len(source or "") > ID_LIMIT:
        raise InvalidMessage("source_too_long", f"The header ce_source may have at most {ID_LIMIT} characters.")
    return RequestHeaders(
        request_id=request_id or position,
        operation=event_type.removeprefix(PREFIX),
        source=source or None,
        content_type=_content_type(texts.get("content-type")),
        reply_to=_reply_to(texts.get("reply-to"), texts.get("correlation-id")),
        traceparent=texts.get(TRACEPARENT),
        has_id=bool(request_id),
    )


def _decode(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The request headers as texts, by name. A header may appear twice only with the same value. The exception is
    traceparent: proxies and tracing agents append their own, and the last one counts. An invalid traceparent is ignored
    (W3C Trace Context, section 3.2.2.3)."""
    texts: dict[str, str] = {}
    traceparent = None
    for name, value in headers:
        if name not in _REQUEST_HEADERS:
            continue
        if name == TRACEPARENT:
            traceparent = read_traceparent(value or b"")
            continue
        text = _text(name, value or b"")
        if texts.setdefault(name, text) != text:
            raise InvalidMessage("duplicate_header", f"The header {name} appears twice with different values.")
    if traceparent is not None:
        texts[TRACEPARENT] = traceparent
    return texts


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidMessage("unreadable_header", f"The header {name} must be UTF-8.") from None
    if len(text) > HEADER_LIMIT:
        raise InvalidMessage("header_too_long", f"The header {name} may have at most {HEADER_LIMIT} characters.")
    if "\x00" in text:
        raise InvalidMessage("unreadable_header", f"The header {name} may not contain a NUL character.")
    return text


def _content_type(value: str | None) -> str:
    media_type = (value or AVRO).partition(";")[0].strip().lower()
    if media_type not in (JSON, AVRO):
        raise InvalidMessage("unknown_content_type", f"The header content-type must be {JSON} or {AVRO}.")
    return media_type


def _reply_to(partition: str | None, correlation: str | None) -> ReplyTo | None:
    if partition is None:
        return None
    if not (partition.isascii() and partition.isdigit() and len(partition) < 10):
        raise InvalidMessage("wrong_reply_to", "The header reply-to must be the number of a visitor.replies partition.")
    return ReplyTo(int(partition), correlation)
