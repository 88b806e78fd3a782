"""Reads the messages of requests: CloudEvents 1.0 over Kafka. In binary mode, headers have the attributes, and the
value is the data. In structured mode, the value is a JSON envelope with the attributes and the data.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from topics import content_types, json, names
from topics.content_types import format_of, media_type
from topics.envelope import (
    AVRO,
    CORRELATION,
    EXPIRY_TIME,
    HEADER_LIMIT,
    ID_LIMIT,
    IF_MATCH,
    PREFIX,
    TRACEPARENT,
    InvalidMessage,
    Reason,
    ReplyTo,
    RequestHeaders,
)
from topics.fetch_limits import CutValue
from topics.traceparent import read_traceparent

ReceivedHeaders = Iterable[tuple[str, bytes | None]]


class RequestMessage(NamedTuple):
    """A request without its envelope. `data` is the request's value: bytes in the format `headers.content_type`, or
    decoded JSON if the envelope contained it as JSON. It is None if the message has no value."""

    headers: RequestHeaders
    data: Any


class _Event(NamedTuple):
    """The CloudEvents attributes of a message by their names, and its data. `label` says where an attribute is, for
    error messages."""

    attributes: Mapping[str, str]
    traceparent: str | None
    content_type: str
    data: Any
    label: str


_ATTRIBUTES = ("id", "source", "type", "datacontenttype", EXPIRY_TIME)
_LIMITED: dict[str, Reason] = {"id": "id_too_long", "source": "source_too_long"}
_ATTRIBUTE_HEADERS = {f"ce_{name}": name for name in _ATTRIBUTES}
_SPRING_TOPIC = "kafka_replyTopic"
_SPRING_PARTITION = "kafka_replyPartition"
_SPRING_CORRELATION = "kafka_correlationId"
_TEXTS = frozenset(("ce_specversion", *_ATTRIBUTE_HEADERS, "content-type", "reply-to", IF_MATCH, _SPRING_TOPIC))
_ENVELOPE_LABEL = "attribute {} of the envelope"
_CE_TRACEPARENT = f"ce_{TRACEPARENT}"
"""CloudEvents' extension for tracing, as SDKs write it. A header traceparent is newer."""
_TRACEPARENTS = frozenset((TRACEPARENT, _CE_TRACEPARENT))
_BYTES = frozenset((CORRELATION, _SPRING_CORRELATION, _SPRING_PARTITION))
_LAST_COUNTS = frozenset((_SPRING_TOPIC, _SPRING_PARTITION, _SPRING_CORRELATION))
"""Spring adds its headers again if an application sends a record object again, and reads the last one."""
_REVISION = re.compile(r"[0-9]{1,18}")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_ADDRESS = re.compile(
    rf"(?P<own>[0-9]{{1,9}})|(?!-?[0-9]+\Z)(?P<topic>{_TOPIC.pattern})(:(?P<partition>[0-9]{{1,9}}))?"
)
"""A partition of `visitor.replies`, or a topic with or without a partition. A number is never taken for a topic."""


def read_message(headers: ReceivedHeaders, value: bytes | None, position: str) -> RequestMessage:
    """Read a request. Unknown headers and attributes are ignored. `position` is the record's topic, partition and
    offset, and the id of a request without an id. Raises InvalidMessage."""
    received = _decode(headers)
    envelope = _envelope(received, value)
    event = _binary(received, value) if envelope is None else _structured(envelope)
    attributes = event.attributes
    event_type = attributes.get("type")
    if event_type is None:
        raise InvalidMessage("no_operation", f"The {event.label.format('type')} is missing. It names the operation.")
    if not event_type.startswith(PREFIX):
        raise InvalidMessage("unknown_operation", f"The {event.label.format('type')} must start with {PREFIX!r}.")
    for name, code in _LIMITED.items():
        if len(attributes.get(name, "")) > ID_LIMIT:
            message = f"The {event.label.format(name)} may have at most {ID_LIMIT} characters."
            raise InvalidMessage(code, message)
    sender_id = attributes.get("id") or received.texts.get("ce_id")
    request_headers = RequestHeaders(
        request_id=sender_id or position,
        operation=event_type.removeprefix(PREFIX),
        source=attributes.get("source") or None,
        content_type=event.content_type,
        reply_to=_reply_to(received),
        correlation=tuple(
            (name, received.values[name]) for name in (CORRELATION, _SPRING_CORRELATION) if name in received.values
        ),
        traceparent=received.texts.get(TRACEPARENT) or event.traceparent,
        has_id=bool(sender_id),
        if_match=_if_match(received.texts.get(IF_MATCH)),
        expires=_expiry(attributes.get(EXPIRY_TIME)),
    )
    return RequestMessage(request_headers, event.data)


class _Received(NamedTuple):
    """The headers of a request that the service knows: those with texts, and those with any bytes."""

    texts: dict[str, str]
    values: dict[str, bytes]


def _decode(headers: ReceivedHeaders) -> _Received:
    """A header may appear twice only with the same value, except for those of which the last one counts. One of them is
    traceparent: proxies and tracing agents append their own. An invalid traceparent is ignored (W3C Trace Context,
    section 3.2.2.3)."""
    texts: dict[str, str] = {}
    values: dict[str, bytes] = {}
    for name, value in headers:
        if name in _TEXTS:
            _set(texts, name, _text(name, value or b""))
        elif name in _BYTES:
            if len(value or b"") > HEADER_LIMIT:
                raise InvalidMessage("header_too_long", f"The header {name} may have at most {HEADER_LIMIT} bytes.")
            _set(values, name, value or b"")
        elif name in _TRACEPARENTS:
            traceparent = read_traceparent(value or b"")
            if traceparent is not None:
                texts[name] = traceparent
    return _Received(texts, values)


def _set(headers: dict[str, Any], name: str, value: Any) -> None:
    if name not in _LAST_COUNTS and headers.get(name, value) != value:
        raise InvalidMessage("duplicate_header", f"The header {name} appears twice with different values.")
    headers[name] = value


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidMessage("unreadable_header", f"The header {name} must be UTF-8.") from None
    return _checked("header {}", name, text)


def _checked(label: str, name: str, text: str) -> str:
    if len(text) > HEADER_LIMIT:
        message = f"The {label.format(name)} may have at most {HEADER_LIMIT} characters."
        raise InvalidMessage("header_too_long", message)
    if "\x00" in text:
        raise InvalidMessage("unreadable_header", f"The {label.format(name)} may not contain a NUL character.")
    return text


def _envelope(received: _Received, value: bytes | None) -> dict[str, Any] | None:
    """The envelope of a message in structured mode; None for binary mode. Python's SDK writes envelopes with the
    content type of the data, and Dapr writes them without a content type, so the members decide if the header ce_type
    is missing."""
    content_type = media_type(received.texts.get("content-type"))
    if content_type.startswith(content_types.BATCHED):
        message = "Messages in CloudEvents' batched mode are not accepted. Send each event as a message of its own."
        raise InvalidMessage("batched_mode", message)
    if content_type == content_types.STRUCTURED:
        return _read_envelope(value)
    if content_type.startswith("application/cloudevents"):
        message = f"Of CloudEvents' structured formats, only {content_types.STRUCTURED} is accepted."
        raise InvalidMessage("unknown_content_type", message)
    if "ce_type" in received.texts or value is None or not value.lstrip().startswith(b"{"):
        return None
    try:
        envelope = _read_envelope(value)
    except InvalidMessage:
        return None
    return envelope if "specversion" in envelope else None


def _read_envelope(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise InvalidMessage("no_value", "The message has no value.")
    if len(value) > names.VALUE_LIMIT or isinstance(value, CutValue):
        message = f"A message in structured mode holds at most {names.VALUE_LIMIT} bytes, its envelope included."
        raise InvalidMessage("value_too_large", message)
    envelope = json.read(value)
    if not isinstance(envelope, dict):
        raise InvalidMessage("not_an_object", "The value is not an envelope of CloudEvents, which is a JSON object.")
    return envelope


def _binary(received: _Received, value: bytes | None) -> _Event:
    texts = received.texts
    attributes = {name: texts[header] for header, name in _ATTRIBUTE_HEADERS.items() if header in texts}
    content_type = texts.get("content-type") or attributes.get("datacontenttype")
    return _Event(attributes, texts.get(_CE_TRACEPARENT), format_of(content_type, value or b""), value, "header ce_{}")


def _structured(envelope: Mapping[str, Any]) -> _Event:
    attributes = {name: _attribute(name, envelope[name]) for name in _ATTRIBUTES if envelope.get(name) is not None}
    content_type, data = attributes.get("datacontenttype"), _data(envelope)
    data_format = format_of(content_type, data if isinstance(data, bytes) else b"")
    if data_format == AVRO and not isinstance(data, bytes):
        message = "The attribute datacontenttype is Avro, but data is JSON. Send Avro as data_base64."
        raise InvalidMessage("not_avro", message)
    trace = envelope.get(TRACEPARENT)
    traceparent = read_traceparent(trace.encode(errors="replace")) if isinstance(trace, str) else None
    return _Event(attributes, traceparent, data_format, data, _ENVELOPE_LABEL)


def _attribute(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidMessage("wrong_attribute", f"The {_ENVELOPE_LABEL.format(name)} must be a string.")
    _encoded(_ENVELOPE_LABEL.format(name), value)
    return _checked(_ENVELOPE_LABEL, name, value)


def _encoded(label: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, "\ud800".
        raise InvalidMessage("unreadable_header", f"The {label} must be Unicode text.") from None


def _data(envelope: Mapping[str, Any]) -> Any:
    """The data of an envelope. A string is the text of the data; a request is never a JSON string."""
    data, base64 = envelope.get("data"), envelope.get("data_base64")
    if data is None and base64 is None:
        raise InvalidMessage("no_value", "The envelope has no data.")
    if data is not None and base64 is not None:
        raise InvalidMessage("two_values", "The envelope has both data and data_base64. Send one of them.")
    if base64 is not None:
        return _from_base64(base64)
    return _encoded("member data of the envelope", data) if isinstance(data, str) else data


def _from_base64(text: Any) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise InvalidMessage("not_base64", "The member data_base64 of the envelope must be Base64.") from None


def _reply_to(received: _Received) -> ReplyTo | None:
    address = received.texts.get("reply-to")
    if address is not None:
        return _address(address)
    topic, partition = received.texts.get(_SPRING_TOPIC), received.values.get(_SPRING_PARTITION)
    if topic is None:
        return None
    if not _TOPIC.fullmatch(topic):
        raise InvalidMessage("wrong_reply_to", f"The header {_SPRING_TOPIC} must be the name of a topic.")
    return ReplyTo(topic, None if partition is None else _spring_partition(partition))


def _expiry(value: str | None) -> datetime | None:
    """None for what is not an RFC 3339 time: the request is useful without it."""
    if value is None:
        return None
    try:
        expires = datetime.fromisoformat(value)
    except ValueError:
        return None
    return expires if expires.tzinfo is not None else None


def _if_match(value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    revisions = [revision.strip() for revision in value.split(",")]
    if not all(_REVISION.fullmatch(revision) for revision in revisions):
        raise InvalidMessage("wrong_if_match", "The header if-match must be one or more revisions, comma-separated.")
    return tuple(map(int, revisions))


def _address(text: str) -> ReplyTo:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        message = (
            "The header reply-to must be the number of a visitor.replies partition, or a topic, or a topic with a"
            " partition after a colon."
        )
        raise InvalidMessage("wrong_reply_to", message)
    partition = match["own"] or match["partition"]
    return ReplyTo(match["topic"], int(partition) if partition else None)


def _spring_partition(value: bytes) -> int:
    partition = int.from_bytes(value, "big", signed=True)
    if len(value) != 4 or partition < 0:
        message = f"The header {_SPRING_PARTITION} must be the number of a partition, as a 32-bit integer."
        raise InvalidMessage("wrong_reply_to", message)
    return partition
