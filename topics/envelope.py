"""The headers of a message: CloudEvents 1.0, Kafka binary mode (https://github.com/cloudevents/spec)."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from topics.traceparent import read_traceparent

Headers = list[tuple[str, bytes]]

JSON = "application/json"
AVRO = "application/avro"
"""The content type of Confluent's wire format; also what a request without a content type is taken as."""

TRACEPARENT = "traceparent"
PREFIX = "visitor."
SOURCE = "visitor-service"
HEADER_LIMIT = 1_000
"""Characters of a header that is read; some are repeated with the result."""
ID_LIMIT = 255
"""Characters of ce_id and of ce_source, which together are a key of the inbox (an entry of a B-tree index holds at most
2,704 bytes)."""


class InvalidMessage(Exception):
    """A message that no agent can read; it goes to the dead letters with this reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ReplyTo(NamedTuple):
    """The partition of `visitor.replies` that waits for the answer, and what the waiter calls this call."""

    partition: int
    correlation: str | None


class RequestHeaders(NamedTuple):
    """What the headers of a request say. `request_id` is the sender's id; where the sender named none (`has_id` is
    false), it is the record's position in Kafka."""

    request_id: str
    operation: str
    source: str | None = None
    content_type: str = AVRO
    reply_to: ReplyTo | None = None
    traceparent: str | None = None
    has_id: bool = True

    def encode(self) -> Headers:
        """The headers of a request with this head."""
        found = _base(self.request_id, self.operation, self.source or SOURCE, self.content_type, self.traceparent)
        if self.reply_to:
            found.append(("reply-to", str(self.reply_to.partition).encode()))
            found.extend(_optional("correlation-id", self.reply_to.correlation))
        return found

    def result_headers(self) -> Headers:
        """The headers of this request's result. Its id is the request's id and its source ends with the request's
        source, so that CloudEvents' pair of source and id is unique for results as it is for requests."""
        source = f"{SOURCE}/{self.source}" if self.source else SOURCE
        found = _base(self.request_id, f"{self.operation}.result", source, self.content_type, self.traceparent)
        found.extend(_optional("ce_requestsource", self.source))
        if self.reply_to:
            found.extend(_optional("correlation-id", self.reply_to.correlation))
        return found


def change_headers(change_id: str, resource: str, action: str) -> Headers:
    return _base(change_id, f"{resource}.{action}", SOURCE, AVRO, None)


def _base(event_id: str, kind: str, source: str, content_type: str, trace: str | None) -> Headers:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", f"{PREFIX}{kind}".encode()),
        ("ce_source", source.encode()),
        ("ce_time", _rfc3339(int(time.time() * 1000))),
        ("content-type", content_type.encode()),
        *_optional(TRACEPARENT, trace),
    ]


@lru_cache(1)
def _rfc3339(milliseconds: int) -> bytes:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def _optional(name: str, value: str | None) -> Headers:
    return [] if value is None else [(name, value.encode())]


_KNOWN = frozenset(
    ("ce_id", "ce_type", "ce_source", "content-type", "reply-to", "correlation-id", TRACEPARENT, "ce_specversion")
)
_DIFFERENT = frozenset(("ce_id", "correlation-id"))
"""Those that hardly any two messages share."""


def read_headers(headers: Iterable[tuple[str, bytes | None]], position: str) -> RequestHeaders:
    """The head of a request. `position` stands for the id of a request that names none. Raises InvalidMessage."""
    found = _read(headers)
    kind = found.get("ce_type")
    if kind is None:
        raise InvalidMessage("no_operation", "The header ce_type is missing; it names the operation.")
    if not kind.startswith(PREFIX):
        raise InvalidMessage("unknown_operation", f"The header ce_type starts with {PREFIX!r} in every request.")
    request_id, source = found.get("ce_id"), found.get("ce_source")
    if len(request_id or "") > ID_LIMIT:
        raise InvalidMessage("id_too_long", f"The header ce_id holds at most {ID_LIMIT} characters.")
    if len(source or "") > ID_LIMIT:
        raise InvalidMessage("source_too_long", f"The header ce_source holds at most {ID_LIMIT} characters.")
    return RequestHeaders(
        request_id=request_id or position,
        operation=kind.removeprefix(PREFIX),
        source=source or None,
        content_type=_content_type(found.get("content-type")),
        reply_to=_reply_to(found.get("reply-to"), found.get("correlation-id")),
        traceparent=found.get(TRACEPARENT),
        has_id=bool(request_id),
    )


def _read(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers that are read, by name. A repeated header has to repeat its value, but for traceparent: proxies and
    tracing agents append their own, and the last one counts. An invalid traceparent is ignored (W3C Trace Context,
    section 3.2.2.3)."""
    texts: dict[str, str] = {}
    trace = None
    for name, value in headers:
        if name not in _KNOWN:
            continue
        if name == TRACEPARENT:
            trace = read_traceparent(value or b"")
            continue
        text = _text(name, value or b"") if name in _DIFFERENT else _same_text(name, value or b"")
        if texts.setdefault(name, text) != text:
            raise InvalidMessage("duplicate_header", f"The header {name} is there twice, with different values.")
    return texts if trace is None else texts | {TRACEPARENT: trace}


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidMessage("unreadable_header", f"The header {name} is not UTF-8.") from None
    if len(text) > HEADER_LIMIT:
        raise InvalidMessage("header_too_long", f"The header {name} holds at most {HEADER_LIMIT} characters.")
    if "\x00" in text:
        raise InvalidMessage("unreadable_header", f"The header {name} holds a NUL character.")
    return text


_same_text = lru_cache(1_024)(_text)
"""For headers that are the same in many messages."""


def _content_type(value: str | None) -> str:
    kind = (value or AVRO).partition(";")[0].strip().lower()
    if kind not in (JSON, AVRO):
        raise InvalidMessage("unknown_content_type", f"The header content-type is {JSON} or {AVRO}.")
    return kind


def _reply_to(partition: str | None, correlation: str | None) -> ReplyTo | None:
    if partition is None:
        return None
    if not (partition.isascii() and partition.isdigit() and len(partition) < 10):
        raise InvalidMessage("wrong_reply_to", "The header reply-to is the number of a partition of visitor.replies.")
    return ReplyTo(int(partition), correlation)
