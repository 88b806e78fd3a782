"""Requests in the modes, content types and with the reply addresses that clients of others use."""

import json
from base64 import b64encode
from typing import Any

import pytest

from topics import names
from topics.envelope import AVRO, JSON, Headers, InvalidMessage, ReplyTo, RequestHeaders
from topics.incoming import RequestMessage, read_message
from topics.replies import is_allowed

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACEPARENT = TRACEPARENT.replace("-01", "-00")
POSITION = "t:0:1"
TYPE = ("ce_type", b"visitor.visits.create")
VALUE = {"path": {"visitType": "entry"}, "body": {"barcode": "b", "pcCode": "FR-A-1"}}
JSON_VALUE = json.dumps(VALUE).encode()
AVRO_VALUE = b"\x00\x00\x00\x00\x01avro"
STRUCTURED = ("content-type", b"application/cloudevents+json; charset=UTF-8")


def _read(headers: Headers, value: bytes | None = b"{}") -> RequestMessage:
    return read_message(headers, value, POSITION)


def _envelope(**members: Any) -> bytes:
    attributes = {"specversion": "1.0", "id": "id-1", "source": "gateway/a", "type": "visitor.visits.create"}
    present = {name: member for name, member in (attributes | members).items() if member is not ...}
    return json.dumps(present).encode()


def _refusal(headers: Headers, value: bytes | None = b"{}") -> InvalidMessage:
    with pytest.raises(InvalidMessage) as refused:
        _read(headers, value)
    return refused.value


@pytest.mark.parametrize("reply_to", [ReplyTo(None, 3), ReplyTo("crm.replies"), ReplyTo("crm.replies", 3)])
def test_encoded_request_headers_are_read_back_unchanged(reply_to: ReplyTo) -> None:
    correlation = (("correlation-id", b"\xff\x00"),)
    headers = RequestHeaders("id-1", "visits.create", "gateway/a", JSON, reply_to, correlation, TRACEPARENT)
    assert _read(headers.encode()).headers == headers


def test_a_request_without_an_id_gets_its_position_as_its_id() -> None:
    assert _read([TYPE]).headers.request_id == POSITION


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "no_operation"),
        ([("ce_type", b"other.thing")], "unknown_operation"),
        ([("ce_type", b"visitor.a"), ("ce_type", b"visitor.b")], "duplicate_header"),
        ([("ce_type", b"\xff")], "unreadable_header"),
        ([TYPE, ("ce_id", b"a\x00")], "unreadable_header"),
        ([TYPE, ("ce_id", b"a" * 256)], "id_too_long"),
        ([TYPE, ("content-type", b"application/xml")], "unknown_content_type"),
        ([TYPE, ("content-type", b"application/cloudevents+avro")], "unknown_content_type"),
        ([TYPE, ("reply-to", b"-1")], "wrong_reply_to"),
        ([TYPE, ("reply-to", b"")], "wrong_reply_to"),
        ([TYPE, ("reply-to", b"crm.replies:x")], "wrong_reply_to"),
        ([TYPE, ("reply-to", b"crm/replies")], "wrong_reply_to"),
        ([TYPE, ("kafka_replyTopic", b"crm replies")], "wrong_reply_to"),
        ([TYPE, ("kafka_replyTopic", b"crm"), ("kafka_replyPartition", b"1")], "wrong_reply_to"),
        ([TYPE, ("kafka_replyTopic", b"crm"), ("kafka_replyPartition", b"\xff\xff\xff\xff")], "wrong_reply_to"),
        ([TYPE, ("correlation-id", b"a"), ("correlation-id", b"b")], "duplicate_header"),
    ],
)
def test_the_error_about_invalid_headers_has_a_code(headers: Headers, code: str) -> None:
    assert _refusal(headers).code == code


@pytest.mark.parametrize(
    ("content_type", "value", "read_as"),
    [
        (None, JSON_VALUE, JSON),
        (None, b" \n{}", JSON),
        (None, AVRO_VALUE, AVRO),
        ("text/plain", JSON_VALUE, JSON),
        ("application/octet-stream", AVRO_VALUE, AVRO),
        ("application/json", JSON_VALUE, JSON),
        ("Application/JSON; charset=utf-8", JSON_VALUE, JSON),
        ('"application/json"', JSON_VALUE, JSON),
        ("text/json", JSON_VALUE, JSON),
        ("application/vnd.visitor.visit+json", JSON_VALUE, JSON),
        ("application/avro", AVRO_VALUE, AVRO),
        ("application/avro;v=1", AVRO_VALUE, AVRO),
        ("avro/binary", AVRO_VALUE, AVRO),
        ("application/vnd.apache.avro+binary", AVRO_VALUE, AVRO),
        ("application/vnd.visit.v1+avro", AVRO_VALUE, AVRO),
    ],
)
@pytest.mark.parametrize("header", ["content-type", "ce_datacontenttype"])
def test_content_types_of_others_mean_json_or_avro(
    header: str, content_type: str | None, value: bytes, read_as: str
) -> None:
    headers = [TYPE] if content_type is None else [TYPE, (header, content_type.encode())]
    message = _read(headers, value)
    assert (message.headers.content_type, message.data) == (read_as, value)
    assert dict(message.headers.result_headers())["content-type"] == read_as.encode()


@pytest.mark.parametrize(
    ("members", "data", "content_type"),
    [
        ({"data": VALUE}, VALUE, JSON),
        ({"data": VALUE, "datacontenttype": "application/json"}, VALUE, JSON),
        ({"data": VALUE, "datacontenttype": "text/plain"}, VALUE, JSON),
        ({"data": JSON_VALUE.decode(), "datacontenttype": "text/plain"}, JSON_VALUE, JSON),
        ({"data": JSON_VALUE.decode(), "datacontenttype": "application/json"}, JSON_VALUE, JSON),
        ({"data_base64": b64encode(JSON_VALUE).decode()}, JSON_VALUE, JSON),
        ({"data_base64": b64encode(AVRO_VALUE).decode()}, AVRO_VALUE, AVRO),
        ({"data_base64": b64encode(AVRO_VALUE).decode(), "datacontenttype": "application/avro"}, AVRO_VALUE, AVRO),
    ],
)
@pytest.mark.parametrize(
    "headers", [[STRUCTURED], [("content-type", b"application/json")], []], ids=["structured", "json", "none"]
)
def test_an_envelope_means_the_same_as_headers(
    headers: Headers, members: dict[str, Any], data: Any, content_type: str
) -> None:
    """Python's SDK writes envelopes with the content type of the data or with none, Dapr with none."""
    message = _read(headers, _envelope(**members, traceparent=TRACEPARENT))
    binary = [
        TYPE, ("ce_id", b"id-1"), ("ce_source", b"gateway/a"), ("content-type", content_type.encode()),
        ("traceparent", TRACEPARENT.encode()),
    ]  # fmt: skip
    assert message.headers == _read(binary).headers
    assert message.data == data


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        (_envelope(data={}, type=...), "no_operation", "attribute type of the envelope is missing"),
        (_envelope(data={}, type="other"), "unknown_operation", "attribute type of the envelope must start"),
        (_envelope(data={}, id=7), "wrong_attribute", "attribute id of the envelope must be a string"),
        (_envelope(data={}, id="a" * 256), "id_too_long", "attribute id of the envelope may have at most 255"),
        (_envelope(data={}, source="a" * 256), "source_too_long", "attribute source of the envelope"),
        (_envelope(data={}, id="a\x00"), "unreadable_header", "attribute id of the envelope may not contain a NUL"),
        (_envelope(data={}, id="\ud800"), "unreadable_header", "attribute id of the envelope must be Unicode"),
        (_envelope(data="\ud800"), "unreadable_header", "member data of the envelope must be Unicode"),
        (_envelope(), "no_value", "The envelope has no data"),
        (_envelope(data={}, data_base64="e30="), "two_values", "both data and data_base64"),
        (_envelope(data_base64="e30"), "not_base64", "must be Base64"),
        (_envelope(data_base64={}), "not_base64", "must be Base64"),
        (_envelope(data={}, datacontenttype="application/xml"), "unknown_content_type", "content type"),
        (_envelope(data={}, datacontenttype="application/avro"), "not_avro", "Send Avro as data_base64"),
        (b"[]", "not_an_object", "not an envelope"),
        (b"{", "not_json", "must be JSON"),
        (None, "no_value", "The message has no value"),
        (_envelope(data="x" * names.VALUE_LIMIT), "value_too_large", "its envelope included"),
    ],
)
def test_the_reason_about_an_envelope_describes_its_fault(value: bytes | None, code: str, reason: str) -> None:
    refusal = _refusal([STRUCTURED], value)
    assert refusal.code == code
    assert reason in str(refusal)


def test_a_batched_message_is_refused_with_a_reason_that_says_so() -> None:
    refusal = _refusal([("content-type", b"application/cloudevents-batch+json")], b"[]")
    assert refusal.code == "batched_mode"
    assert "Send each event as a message of its own" in str(refusal)


def test_a_message_without_an_operation_is_not_taken_for_an_envelope() -> None:
    for value in (JSON_VALUE, AVRO_VALUE, b'{"specversion"', b"[]", None):
        assert "header ce_type is missing" in str(_refusal([], value))


def test_ids_of_json_and_of_headers_are_read_alike() -> None:
    message = _read([STRUCTURED], _envelope(data={}, id=..., source=None))
    assert message.headers == _read([TYPE]).headers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("ce_traceparent", TRACEPARENT.encode())], TRACEPARENT),
        ([("traceparent", OTHER_TRACEPARENT.encode()), ("ce_traceparent", TRACEPARENT.encode())], OTHER_TRACEPARENT),
        ([("ce_traceparent", b"\xff")], None),
    ],
)
def test_the_trace_of_the_event_counts_where_the_message_has_none(headers: Headers, expected: str | None) -> None:
    assert _read([TYPE, *headers]).headers.traceparent == expected


def test_an_invalid_traceparent_in_an_envelope_is_ignored() -> None:
    for traceparent in ("", 7, "\ud800"):
        assert _read([STRUCTURED], _envelope(data={}, traceparent=traceparent)).headers.traceparent is None


def test_springs_headers_are_an_address_and_a_correlation_id() -> None:
    """The last of each counts, since Spring adds them again if an application sends a record object again."""
    spring: Headers = [
        ("kafka_replyTopic", b"crm.replies"), ("kafka_replyPartition", b"\x00\x00\x01\x02"),
        ("kafka_correlationId", b"\x00first"), ("kafka_correlationId", b"\xff\x00second"),
    ]  # fmt: skip
    headers = _read([TYPE, *spring]).headers
    assert headers.reply_to == ReplyTo("crm.replies", 258)
    assert headers.reply_headers()[-1] == ("kafka_correlationId", b"\xff\x00second")
    assert _read([TYPE, spring[0]]).headers.reply_to == ReplyTo("crm.replies")
    assert _read([TYPE, *spring, ("reply-to", b"2")]).headers.reply_to == ReplyTo(None, 2)


def test_only_the_reader_of_the_reply_learns_the_correlation_id() -> None:
    correlation = ("correlation-id", b"c-1")
    with_address = _read([TYPE, correlation, ("reply-to", b"crm.replies")]).headers
    assert correlation in with_address.reply_headers()
    assert correlation not in with_address.result_headers()
    assert correlation in _read([TYPE, correlation]).headers.result_headers()


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [("crm.eu.replies", True), ("crm.replies", False), ("erp", True), ("CRM.eu.replies", False), ("erp2", False)],
)
def test_patterns_allow_reply_topics(topic: str, allowed: bool) -> None:
    assert is_allowed(topic, ["crm.*.replies", "erp"]) == allowed


def test_no_pattern_allows_a_topic_of_the_service() -> None:
    assert not is_allowed(names.requests("visits"), ["*", "visitor.*"])
