"""Valid and invalid messages, as upstream systems send them."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.catalogue import CATALOGUE
from tests.support import data, metrics, odd_batches
from tests.support.stack import WIRE, Stack, decode, eventually, plain
from topics import admin, names
from topics.envelope import AVRO, CORRELATION, JSON, Headers, ReplyTo, RequestHeaders
from topics.names import TopicSpec

TOPIC = names.requests("visits")
MessageFactory = Callable[[str, dict[str, Any]], tuple[bytes | None, Headers]]


def _value(parker: dict[str, Any], **body: Any) -> bytes:
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": parker["barcode"], "pcCode": parker["pcCode"], **body}}
    return json.dumps(parts).encode()


def _headers(request_id: str, content_type: str = JSON, operation: str = "visits.create") -> Headers:
    return RequestHeaders(request_id, operation, "gateway/test", content_type).encode()


def _avro(parker: dict[str, Any]) -> bytes:
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}}
    return WIRE.write_request(CATALOGUE.by_name["visits.create"], AVRO, parts)


UNREADABLE: dict[str, tuple[str, MessageFactory]] = {
    "truncated Avro": ("broken_avro", lambda request_id, parker: (_avro(parker)[:-3], _headers(request_id, AVRO))),
    "unknown schema id": (
        "unknown_schema",
        lambda request_id, parker: (b"\x00\x00\x00\x00\x01" + _avro(parker)[5:], _headers(request_id, AVRO)),
    ),
    "schema id above 31 bits": (
        "unknown_schema",
        lambda request_id, parker: (b"\x00\xff\xff\xff\xff" + _avro(parker)[5:], _headers(request_id, AVRO)),
    ),
    "not JSON": ("not_json", lambda request_id, parker: (b'{"path":', _headers(request_id))),
    "JSON that is not an object": ("not_an_object", lambda request_id, parker: (b"[1, 2]", _headers(request_id))),
    "unknown operation": (
        "unknown_operation",
        lambda request_id, parker: (_value(parker), _headers(request_id, operation="visits.destroy")),
    ),
    "no headers": ("no_operation", lambda request_id, parker: (_value(parker), [])),
    "duplicate headers": (
        "duplicate_header",
        lambda request_id, parker: (_value(parker), [*_headers(request_id), ("ce_id", b"other")]),
    ),
    "invalid UTF-8": ("not_utf8", lambda request_id, parker: (_value(parker) + b"\xff", _headers(request_id))),
    "no value": ("no_value", lambda request_id, parker: (None, _headers(request_id))),
    "a long header": (
        "header_too_long",
        lambda request_id, parker: (_value(parker), [*_headers(request_id), ("correlation-id", b"x" * 1_001)]),
    ),
    "a long id": ("id_too_long", lambda request_id, parker: (_value(parker), _headers("x" * 256))),
    "a long source": (
        "source_too_long",
        lambda request_id, parker: (
            _value(parker),
            RequestHeaders(request_id, "visits.create", "x" * 256, JSON).encode(),
        ),
    ),
    "lone surrogate": (
        "not_json",
        lambda request_id, parker: (b'{"path": {"visitType": "\\ud8"}}', _headers(request_id)),
    ),
}
INVALID: dict[str, tuple[int, str, MessageFactory]] = {
    "wrong types": (
        400,
        "wrong_type",
        lambda request_id, parker: (_value(parker, pcCode=True, barcode=["x"]), _headers(request_id)),
    ),
    "10 MB value": (
        413,
        "value_too_large",
        lambda request_id, parker: (_value(parker, barcode="x" * 10 * 2**20), _headers(request_id)),
    ),
    "NUL in a string": (
        400,
        "nul_refused",
        lambda request_id, parker: (_value(parker, barcode="a\x00b"), _headers(request_id)),
    ),
    "unknown field": (400, "unknown_field", lambda request_id, parker: (_value(parker, gate=5), _headers(request_id))),
}


async def _send_between_valid_messages(
    stack: Stack, parker: dict[str, Any], value: bytes | None, headers: Headers, partition: int = 2
) -> None:
    """Send a message between two valid visits in one partition, and check that both visits are applied."""
    before, after = str(uuid4()), str(uuid4())
    await stack.raw(TOPIC, _value(parker), _headers(before), partition=partition)
    await stack.raw(TOPIC, value, headers, partition=partition, key="the-key")
    await stack.raw(TOPIC, _value(parker), _headers(after), partition=partition)
    for request_id in (before, after):
        assert (await stack.result("visits.create", request_id)).value["status"] == 201


@pytest.mark.parametrize("case", UNREADABLE)
async def test_an_unreadable_message_becomes_a_dead_letter_with_a_reason(
    stack: Stack, client: httpx.AsyncClient, case: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    code, make_message = UNREADABLE[case]
    marker = uuid4().hex
    value, headers = make_message(marker, parker)
    headers = [*headers, ("test-marker", marker.encode())]
    await _send_between_valid_messages(stack, parker, value, headers)
    dead_letter = await stack.await_record(
        names.DEAD_LETTERS, lambda record: record.headers.get("test-marker") == marker
    )
    assert dead_letter.headers["error-code"] == code
    assert dead_letter.headers["error-message"]
    assert (dead_letter.headers["error-topic"], dead_letter.headers["error-partition"]) == (TOPIC, "2")
    assert (dead_letter.raw, dead_letter.key) == (value, "the-key")


@pytest.mark.parametrize("case", INVALID)
async def test_an_invalid_request_gets_an_error_result_with_a_reason(
    stack: Stack, client: httpx.AsyncClient, case: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    status, code, make_message = INVALID[case]
    request_id = str(uuid4())
    await _send_between_valid_messages(stack, parker, *make_message(request_id, parker))
    result = (await stack.result("visits.create", request_id)).value
    assert result["status"] == status
    assert code in {entry["code"] for entry in result["body"]["errors"]}
    visits = await stack.rows("select * from visits where visitor_id = :id", id=parker["visitorId"])
    assert len(visits) == 2


async def test_a_request_on_the_wrong_topic_gets_a_result_that_names_the_right_topic(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = str(uuid4())
    await stack.raw(names.requests("centers"), _value(parker), _headers(request_id))
    result = (await stack.result("visits.create", request_id)).value
    assert result["status"] == 400
    assert result["body"]["errors"][0]["code"] == "wrong_topic"
    assert TOPIC in result["body"]["errors"][0]["message"]


@pytest.mark.parametrize("content_type", [JSON, AVRO])
async def test_the_same_id_with_the_same_content_gets_the_stored_result(
    stack: Stack, client: httpx.AsyncClient, content_type: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = str(uuid4())
    value = _value(parker) if content_type == JSON else _avro(parker)
    for partition in (0, 1, 1):
        await stack.raw(TOPIC, value, _headers(request_id, content_type), partition=partition)

    marker = str(uuid4())
    for partition in (0, 1):
        await stack.raw(TOPIC, _value(parker), _headers(f"{marker}-{partition}"), partition=partition)
        await stack.result("visits.create", f"{marker}-{partition}")
    results = [record for record in await stack.read(names.results("visits")) if record.id == request_id]
    assert len(results) == 3
    assert {record.raw for record in results} == {results[0].raw}
    assert results[0].value["status"] == 201
    assert len(await stack.rows("select * from visits where visitor_id = :id", id=parker["visitorId"])) == 3


async def test_a_stored_result_is_repeated_identically_in_avro(stack: Stack, client: httpx.AsyncClient) -> None:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    parts = {"body": data.visitor(pc_code)}
    request_id = await stack.send("visitors.create", parts, content_type=AVRO)
    first = await stack.result("visitors.create", request_id)
    await stack.send("visitors.create", parts, content_type=AVRO, request_id=request_id)
    # Messages without a key go to any partition, so both results may have the same offset in different partitions.
    second = await stack.await_record(
        names.results("visitors"), lambda record: record.id == request_id and record.position != first.position
    )
    assert second.raw == first.raw
    assert first.value["body"]["data"]["accountType"] == "full"


async def test_the_same_id_with_different_content_is_422(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = str(uuid4())
    await stack.raw(TOPIC, _value(parker), _headers(request_id), partition=0)
    assert (await stack.result("visits.create", request_id)).value["status"] == 201
    parts = {"path": {"visitType": "exit"}, "body": {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}}
    await stack.raw(TOPIC, json.dumps(parts).encode(), _headers(request_id), partition=1)
    second_result = await stack.await_record(
        names.results("visits"), lambda record: record.id == request_id and record.value["status"] != 201
    )
    assert second_result.value["status"] == 422
    assert second_result.value["body"]["errors"][0]["code"] == "key_reused"


@pytest.mark.parametrize(("first", "second"), [(JSON, AVRO), (AVRO, JSON)])
async def test_a_repetition_in_another_encoding_has_the_same_content_also_with_an_amount(
    stack: Stack, client: httpx.AsyncClient, first: str, second: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    body = {
        "startDate": datetime(2026, 1, 1, tzinfo=UTC), "balance": Decimal("31.4"), "threshold": 100,
        "outsideOptin": False, "pcCode": parker["pcCode"],
    }  # fmt: skip
    parts = {"path": {"visitorId": parker["visitorId"]}, "body": body}
    request_id = await stack.send("rewards.create", parts, content_type=first)
    result = await stack.result("rewards.create", request_id)
    await stack.send("rewards.create", parts, content_type=second, request_id=request_id)
    again = await stack.await_record(
        names.results("points"), lambda record: record.id == request_id and record.position != result.position
    )
    assert (result.value["status"], again.value["status"]) == (201, 201), again.value
    assert again.value["body"]["data"]["rewardId"] == result.value["body"]["data"]["rewardId"]
    statement = "select balance from rewards where visitor_id = :id"
    assert [row.balance for row in await stack.rows(statement, id=parker["visitorId"])] == [Decimal("31.4")]


async def test_an_answer_that_was_stored_with_an_amount_as_it_was_sent_is_repeated(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Releases up to 0.1.0 stored another fingerprint if an amount had trailing zeros or an exponent."""
    parker = await data.visitor_with_vehicle(client)
    body = {
        "startDate": "2026-01-01T00:00:00Z", "balance": Decimal("31.40"), "threshold": 100, "outsideOptin": False,
        "pcCode": parker["pcCode"],
    }  # fmt: skip
    parts = {"path": {"visitorId": parker["visitorId"]}, "body": body}
    request_id = await stack.send("rewards.create", parts)
    result = await stack.result("rewards.create", request_id)
    content = (
        f'{{"path":{{"visitorId":"{parker["visitorId"]}"}},"query":{{}},"body":{{"startDate":"2026-01-01T00:00:00Z",'
        f'"balance":"31.40","outsideOptin":false,"threshold":100,"pcCode":"{parker["pcCode"]}"}}}}'
    )
    stored = hashlib.blake2b(b"rewards.create\0" + content.encode(), digest_size=16).digest()
    async with stack.engine.begin() as conn:
        statement = sa.text("update inbox set fingerprint = :stored where request_id = :id")
        await conn.execute(statement, {"stored": stored, "id": request_id})
    await stack.send("rewards.create", parts, request_id=request_id)
    again = await stack.await_record(
        names.results("points"), lambda record: record.id == request_id and record.position != result.position
    )
    assert again.raw == result.raw


async def test_the_request_key_is_topic_source_and_id(stack: Stack, client: httpx.AsyncClient) -> None:
    """Also with the longest accepted ids, of characters with four bytes."""
    parker = await data.visitor_with_vehicle(client)
    request_id = "\N{GRINNING FACE}" * 255
    for source in ("\N{GRINNING FACE}" * 255, "gateway/test", "gateway/test", None):
        await stack.send("visits.create", json.loads(_value(parker)), request_id=request_id, source=source, partition=0)
    results = [await stack.result("visits.create", request_id, nth=number) for number in (1, 2, 3, 4)]
    assert [result.value["status"] for result in results] == [201] * 4
    assert [result.headers.get("ce_requestsource") for result in results][1:3] == ["gateway/test"] * 2
    assert len(await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"])) == 3


async def test_the_key_of_a_request_without_an_id_is_its_position_and_the_broker_timestamp(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    headers = [(name, value) for name, value in _headers("x") if name != "ce_id"]
    metadata = await stack.producer.send_and_wait(TOPIC, _value(parker), headers=headers)
    position = f"{TOPIC}:{metadata.partition}:{metadata.offset}@{metadata.timestamp}"
    assert (await stack.result("visits.create", position)).value["status"] == 201
    # A sender that sends this position as an explicit id makes a different request.
    await stack.raw(TOPIC, _value(parker), _headers(position))
    assert (await stack.result("visits.create", position, nth=2)).value["status"] == 201
    assert len(await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"])) == 2


def _reply_to(partition: int, correlation_id: str) -> tuple[ReplyTo, tuple[tuple[str, bytes], ...]]:
    return ReplyTo(None, partition), ((CORRELATION, correlation_id.encode()),)


async def _await_reply(stack: Stack, correlation_id: str) -> Any:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stack.servers.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(names.REPLIES, 1)])
        async for record in consumer:
            reply = decode(record)
            if reply.headers.get("correlation-id") == correlation_id:
                return reply
    finally:
        await consumer.stop()


async def test_reply_to_selects_a_partition_of_the_replies_topic(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_headers = RequestHeaders(str(uuid4()), "visits.create", "gateway/test", JSON, *_reply_to(1, "call-1"))
    await stack.raw(TOPIC, _value(parker), request_headers.encode())
    reply = await _await_reply(stack, "call-1")
    result = await stack.result("visits.create", request_headers.request_id)
    assert (reply.id, reply.value) == (request_headers.request_id, result.value)


async def test_an_unknown_reply_partition_does_not_disturb_other_requests(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_headers = RequestHeaders(str(uuid4()), "visits.create", "gateway/test", JSON, *_reply_to(4_711, "call-2"))
    await _send_between_valid_messages(stack, parker, _value(parker), request_headers.encode())
    assert (await stack.result("visits.create", request_headers.request_id)).value["status"] == 201


async def test_the_answer_of_a_read_whose_reply_partition_does_not_exist_is_dropped(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """The results topic would keep the visitor's data for 8 days."""
    parker = await data.visitor_with_vehicle(client)
    value = json.dumps({"path": {"visitorId": parker["visitorId"]}}).encode()
    read = RequestHeaders(str(uuid4()), "visitors.get", "gateway/test", JSON, *_reply_to(4_711, "call-3"))
    await stack.raw(names.QUERIES, value, read.encode())
    worker = next(process for process in stack.processes if process.name == "worker")

    async def is_logged() -> bool:
        lines = worker.log.read_text().splitlines()
        return any("no_such_reply_partition" in line and read.request_id in line for line in lines)

    await eventually("a warning", is_logged)
    # What was published with the first read precedes the result of the second.
    await stack.result("visitors.get", await stack.send("visitors.get", {"path": {"visitorId": parker["visitorId"]}}))
    results = await stack.read(names.results("visitors"))
    assert [result for result in results if result.id == read.request_id] == []


@pytest.mark.parametrize("content_type", [JSON, AVRO])
async def test_a_read_without_reply_to_is_answered_on_the_results_topic(
    stack: Stack, client: httpx.AsyncClient, content_type: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    parts = {"path": {"visitorId": parker["visitorId"]}, "query": {"limit": 1, "fields": "licensePlate,vehicleId"}}
    request_id = await stack.send("vehicles.list", parts, content_type=content_type)
    body = plain((await stack.result("vehicles.list", request_id)).value)["body"]
    fields = {name: value for name, value in body["data"][0].items() if value is not None}
    assert fields == {"licensePlate": parker["licensePlate"], "vehicleId": parker["vehicleId"]}
    path, _, query = body["metadata"]["_links"]["self"].partition("?")
    assert path == f"/visitors/{parker['visitorId']}/vehicles"
    assert set(query.split("&")) == {"limit=1", "fields=licensePlate%2CvehicleId"}


@pytest.mark.parametrize("compression", ["gzip", "lz4", "snappy", "zstd"])
async def test_compressed_messages_are_read(stack: Stack, client: httpx.AsyncClient, compression: str) -> None:
    parker, request_id = await data.visitor_with_vehicle(client), str(uuid4())
    producer = AIOKafkaProducer(bootstrap_servers=stack.servers.kafka, compression_type=compression)
    await producer.start()
    await producer.send_and_wait(TOPIC, _value(parker), headers=_headers(request_id))
    await producer.stop()
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_a_batch_with_bytes_after_its_last_snappy_block_is_read(stack: Stack, client: httpx.AsyncClient) -> None:
    parker, request_id = await data.visitor_with_vehicle(client), str(uuid4())
    producer = AIOKafkaProducer(bootstrap_servers=stack.servers.kafka, compression_type="snappy")
    await producer.start()
    batch = producer.create_batch()
    batch.append(key=None, value=_value(parker), timestamp=None, headers=_headers(request_id))
    build = batch._build
    batch._build = lambda: odd_batches.with_bytes_at_the_end(bytes(build()), b"\0")
    await (await producer.send_batch(batch, TOPIC, partition=2))
    await producer.stop()
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_an_answer_of_a_handler_is_final_for_its_request_even_if_it_is_an_error(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, center, request_id = await data.visitor_with_vehicle(client), data.center(), str(uuid4())
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": parker["barcode"], "pcCode": center["pcCode"]}}
    await stack.send("visits.create", parts, request_id=request_id)
    first = await stack.result("visits.create", request_id)
    assert first.value["status"] == 400
    await data.create(client, "/centers", center)
    await stack.send("visits.create", parts, request_id=request_id)
    second = await stack.result("visits.create", request_id, nth=2)
    assert second.raw == first.raw
    await stack.send("visits.create", parts, request_id=f"{request_id} again")
    assert (await stack.result("visits.create", f"{request_id} again")).value["status"] == 201


async def test_an_answer_to_an_invalid_request_is_not_stored(stack: Stack, client: httpx.AsyncClient) -> None:
    parker, request_id = await data.visitor_with_vehicle(client), str(uuid4())
    await stack.raw(TOPIC, _value(parker, gate=5), _headers(request_id))
    assert (await stack.result("visits.create", request_id)).value["status"] == 400
    assert await stack.rows("select 1 from inbox where request_id = :id", id=request_id) == []


async def test_a_stored_answer_that_cannot_be_parsed_fails_only_its_own_request(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, request_id = await data.visitor_with_vehicle(client), str(uuid4())
    await stack.raw(TOPIC, _value(parker), _headers(request_id), partition=2)
    assert (await stack.result("visits.create", request_id)).value["status"] == 201
    async with stack.engine.begin() as conn:
        update = sa.text("update inbox set body = :body where request_id = :id")
        await conn.execute(update, {"body": b'{"visitDate": 17}', "id": request_id})
    await _send_between_valid_messages(stack, parker, _value(parker), _headers(request_id))
    assert (await stack.result("visits.create", request_id, nth=2)).value["status"] == 500
    dead_letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    assert dead_letter.headers["error-code"] == "bug"
    visits = await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"])
    assert len(visits) == 3


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"x" * 1_001], None),
        ([b"00-00000000000000000000000000000000-00f067aa0ba902b7-01"], None),
        ([b"\xff\xfe"], None),
        ([b"00-11111111111111111111111111111111-1111111111111111-00", TRACE], TRACE.decode()),
        ([TRACE, TRACE], TRACE.decode()),
    ],
)
async def test_an_invalid_traceparent_is_ignored_and_the_last_of_several_is_used(
    stack: Stack, client: httpx.AsyncClient, values: list[bytes], expected: str | None
) -> None:
    parker, request_id = await data.visitor_with_vehicle(client), str(uuid4())
    headers = [*_headers(request_id), *(("traceparent", value) for value in values)]
    await stack.raw(TOPIC, _value(parker), headers)
    result = await stack.result("visits.create", request_id)
    assert (result.value["status"], result.headers.get("traceparent")) == (201, expected)


async def test_a_header_may_be_repeated_with_the_same_value(stack: Stack, client: httpx.AsyncClient) -> None:
    parker, request_id = await data.visitor_with_vehicle(client), str(uuid4())
    await stack.raw(TOPIC, _value(parker), [*_headers(request_id), *_headers(request_id)[:5]])
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_a_header_name_that_is_not_utf8_is_ignored(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = str(uuid4())
    batch = stack.producer.create_batch()
    headers = [(odd_batches.NAME, b"x"), *_headers(request_id)]
    batch.append(key=None, value=_value(parker), timestamp=None, headers=headers)
    build = batch._build
    batch._build = lambda: odd_batches.misname(bytes(build()))
    await (await stack.producer.send_batch(batch, TOPIC, partition=2))
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_a_message_with_neither_key_nor_value_is_a_dead_letter(stack: Stack, client: httpx.AsyncClient) -> None:
    request_id = str(uuid4())
    # send() refuses such a message, but the broker and other clients do not.
    batch = stack.producer.create_batch()
    batch.append(key=None, value=None, timestamp=None, headers=_headers(request_id))
    metadata = await (await stack.producer.send_batch(batch, TOPIC, partition=2))
    dead_letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    assert (dead_letter.headers["error-code"], dead_letter.key) == ("no_value", f"{TOPIC}:2:{metadata.offset}")


@pytest.mark.parametrize(
    ("key", "added"),
    [("k" * (names.KEY_LIMIT + 1), []), ("k", [("baggage", b"x" * (names.HEADERS_LIMIT + 1))])],
    ids=["key", "headers"],
)
async def test_a_dead_letter_tells_that_a_key_or_headers_were_cut(
    stack: Stack, key: str, added: list[tuple[str, bytes]]
) -> None:
    request_id = str(uuid4())
    await stack.raw(TOPIC, b"{", [*_headers(request_id), *added], key=key)
    dead_letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    assert dead_letter.headers["error-cut"] == "true"
    assert dead_letter.key == key[: names.KEY_LIMIT]
    assert "baggage" not in dead_letter.headers


async def test_visitor_consume_shows_the_headers_of_a_dead_letter(stack: Stack) -> None:
    request_id = str(uuid4())
    await stack.raw(TOPIC, b"{", [*_headers(request_id), ("null-value", None)])  # type: ignore[list-item]
    await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    message = await stack.consume(names.DEAD_LETTERS, lambda line: line["headers"].get("ce_id") == request_id)
    headers = message["headers"]
    assert (headers["error-code"], headers["error-topic"], headers["null-value"]) == ("not_json", TOPIC, None)
    assert (headers["ce_type"], headers["ce_source"]) == ("visitor.visits.create", "gateway/test")


async def test_visitor_consume_to_end_prints_what_a_topic_has_and_ends(stack: Stack) -> None:
    request_id = str(uuid4())
    await stack.raw(TOPIC, b"{", _headers(request_id))
    await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    consumed = await stack.command("consume", names.DEAD_LETTERS, "--to-end")
    lines = [json.loads(line) for line in consumed.stdout.splitlines()]
    assert request_id in [line["headers"].get("ce_id") for line in lines]
    assert (len(lines), consumed.returncode) == (await stack.count(names.DEAD_LETTERS), 0)


async def test_visitor_consume_begins_at_a_time(stack: Stack) -> None:
    topic, noon = f"times-{uuid4()}", datetime(2026, 11, 26, 12, tzinfo=UTC)
    await admin.ensure(stack.kafka, [TopicSpec(topic, 2, 1, {"retention.ms": "-1"})])
    for seconds in (-2, -1, 0, 1):
        await stack.producer.send_and_wait(
            topic, b"{}", str(seconds).encode(), 0, timestamp_ms=round(noon.timestamp() + seconds) * 1000
        )
    consumed = await stack.command("consume", topic, "--since", "2026-11-26T13:00:00+01:00", "--to-end")
    assert [json.loads(line)["key"] for line in consumed.stdout.splitlines()] == ["0", "1"], consumed.stderr

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime.cli", "consume", topic, "--since", "2026-11-26T12:00:01",
        env=stack.environment(), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["key"] == "1"
    await stack.producer.send_and_wait(topic, b"{}", b"new", 1)
    assert json.loads(await process.stdout.readline())["key"] == "new"
    process.terminate()
    await process.wait()


async def test_visitor_consume_ends_without_a_word_if_its_reader_has_ended(stack: Stack) -> None:
    await stack.raw(TOPIC, b"{}", _headers(str(uuid4())))
    reading, writing = os.pipe()
    os.close(reading)
    consumed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "runtime.cli", "consume", TOPIC, "--to-end"],
        env=stack.environment(), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert consumed.stderr == b""


async def test_visitor_consume_to_end_refuses_a_topic_that_does_not_exist(stack: Stack) -> None:
    consumed = await stack.command("consume", "visitor.unknown", "--to-end")
    assert (consumed.stdout, consumed.returncode) == ("", 2)
    assert "visitor.unknown does not exist" in consumed.stderr


async def test_a_result_has_the_request_id_as_its_key_if_the_message_key_is_too_long(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = str(uuid4())
    await stack.raw(TOPIC, _value(parker), _headers(request_id), key="k" * (names.KEY_LIMIT + 1))
    result = await stack.result("visits.create", request_id)
    assert (result.value["status"], result.key) == (201, request_id)


async def test_messages_of_an_aborted_kafka_transaction_are_skipped_and_leave_no_lag(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    worker = next(process for process in stack.processes if process.name == "worker")
    producer = AIOKafkaProducer(bootstrap_servers=stack.servers.kafka, transactional_id=f"gateway-{uuid4()}")
    await producer.start()
    request_ids = {}
    for outcome in ("aborted", "committed"):
        await producer.begin_transaction()
        request_ids[outcome] = str(uuid4())
        await producer.send_and_wait(TOPIC, _value(parker), headers=_headers(request_ids[outcome]), partition=3)
        if outcome == "aborted":
            await producer.abort_transaction()
        else:
            await producer.commit_transaction()
    await producer.stop()
    assert (await stack.result("visits.create", request_ids["committed"])).value["status"] == 201
    visits = await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"])
    assert len(visits) == 1

    async def no_lag() -> bool:
        return (await metrics.scrape(worker)).value("visitor_lag_messages") == 0

    await eventually("no lag", no_lag)


async def test_a_read_that_has_expired_is_dropped_and_counted(stack: Stack) -> None:
    worker = next(process for process in stack.processes if process.name == "worker")
    before, now = await metrics.scrape(worker), datetime.now(UTC)
    requests = [
        RequestHeaders(str(uuid4()), "centers.list", "gateway/test", JSON, expires=now + timedelta(seconds=seconds))
        for seconds in (-1, 60)
    ]
    for request in requests:
        await stack.raw(names.QUERIES, b"{}", request.encode(), partition=0)
    malformed = requests[0]._replace(request_id=str(uuid4()), expires=None)
    await stack.raw(names.QUERIES, b"{}", [*malformed.encode(), ("ce_expirytime", b"soon")], partition=0)
    for request in (requests[1], malformed):
        assert (await stack.result("centers.list", request.request_id)).value["status"] == 200
    result_ids = {record.headers.get("ce_id") for record in await stack.read(names.results("centers"))}
    assert requests[0].request_id not in result_ids

    async def are_counted() -> bool:
        after = await metrics.scrape(worker)
        answered = after.increase(before, "visitor_requests_total", operation="centers.list", status="200")
        return (answered, after.increase(before, "visitor_reads_expired_total")) == (2, 1)

    await eventually("two reads that were answered, and one that had expired", are_counted)


async def test_a_write_never_expires(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = str(uuid4())
    await stack.raw(TOPIC, _value(parker), [*_headers(request_id), ("ce_expirytime", b"2020-01-01T00:00:00Z")])
    assert (await stack.result("visits.create", request_id)).value["status"] == 201
