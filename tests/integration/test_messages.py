"""Messages as upstream systems send them, good and bad."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from agents.catalogue import CATALOGUE
from tests.support import data, misnamed
from tests.support.stack import WIRE, Stack, decode, eventually, plain
from topics import names
from topics.envelope import AVRO, JSON, Headers, ReplyTo, RequestHeaders

TOPIC = names.requests("visits")
Bad = Callable[[str, dict[str, Any]], tuple[bytes | None, Headers]]


def _value(known: dict[str, Any], **body: Any) -> bytes:
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": known["barcode"], "pcCode": known["pcCode"], **body}}
    return json.dumps(parts).encode()


def _headers(request_id: str, content_type: str = JSON, operation: str = "visits.create") -> Headers:
    return RequestHeaders(request_id, operation, "gateway/test", content_type).encode()


def _avro(known: dict[str, Any]) -> bytes:
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": known["barcode"], "pcCode": known["pcCode"]}}
    return WIRE.write_request(CATALOGUE.by_name["visits.create"], AVRO, parts)


UNREADABLE: dict[str, tuple[str, Bad]] = {
    "truncated Avro": ("broken_avro", lambda i, k: (_avro(k)[:-3], _headers(i, AVRO))),
    "unknown schema id": ("unknown_schema", lambda i, k: (b"\x00\x00\x00\x00\x01" + _avro(k)[5:], _headers(i, AVRO))),
    "not JSON": ("not_json", lambda i, k: (b'{"path":', _headers(i))),
    "JSON that is no object": ("not_an_object", lambda i, k: (b"[1, 2]", _headers(i))),
    "unknown operation": ("unknown_operation", lambda i, k: (_value(k), _headers(i, operation="visits.destroy"))),
    "no headers": ("no_operation", lambda i, k: (_value(k), [])),
    "duplicate headers": ("duplicate_header", lambda i, k: (_value(k), [*_headers(i), ("ce_id", b"other")])),
    "invalid UTF-8": ("not_utf8", lambda i, k: (_value(k) + b"\xff", _headers(i))),
    "no value": ("no_value", lambda i, k: (None, _headers(i))),
    "a long header": ("header_too_long", lambda i, k: (_value(k), [*_headers(i), ("correlation-id", b"x" * 1_001)])),
    "a long id": ("id_too_long", lambda i, k: (_value(k), _headers("x" * 256))),
    "a long source": (
        "source_too_long",
        lambda i, k: (_value(k), RequestHeaders(i, "visits.create", "x" * 256, JSON).encode()),
    ),
    "lone surrogate": ("not_json", lambda i, k: (b'{"path": {"visitType": "\\ud8"}}', _headers(i))),
}
INVALID: dict[str, tuple[int, str, Bad]] = {
    "wrong types": (400, "wrong_type", lambda i, k: (_value(k, pcCode=True, barcode=["x"]), _headers(i))),
    "10 MB value": (413, "value_too_large", lambda i, k: (_value(k, barcode="x" * 10 * 2**20), _headers(i))),
    "NUL in a string": (400, "nul_refused", lambda i, k: (_value(k, barcode="a\x00b"), _headers(i))),
    "unknown field": (400, "unknown_field", lambda i, k: (_value(k, gate=5), _headers(i))),
}


async def _between_neighbours(
    stack: Stack, known: dict[str, Any], value: bytes | None, headers: Headers, partition: int = 2
) -> None:
    """Send something bad between two good visits of one partition, which are both applied."""
    before, after = str(uuid4()), str(uuid4())
    await stack.raw(TOPIC, _value(known), _headers(before), partition=partition)
    await stack.raw(TOPIC, value, headers, partition=partition, key="the-key")
    await stack.raw(TOPIC, _value(known), _headers(after), partition=partition)
    for request_id in (before, after):
        assert (await stack.result("visits.create", request_id)).value["status"] == 201


@pytest.mark.parametrize("what", UNREADABLE)
async def test_what_nobody_can_read_is_a_dead_letter_that_says_why(
    stack: Stack, client: httpx.AsyncClient, what: str
) -> None:
    known = await data.parker(client)
    code, make = UNREADABLE[what]
    marker = uuid4().hex
    value, headers = make(marker, known)
    headers = [*headers, ("test-marker", marker.encode())]
    await _between_neighbours(stack, known, value, headers)
    letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("test-marker") == marker)
    assert letter.headers["error-code"] == code
    assert letter.headers["error-message"]
    assert (letter.headers["error-topic"], letter.headers["error-partition"]) == (TOPIC, "2")
    assert (letter.raw, letter.key) == (value, "the-key")


@pytest.mark.parametrize("what", INVALID)
async def test_what_is_invalid_is_an_error_result_that_says_why(
    stack: Stack, client: httpx.AsyncClient, what: str
) -> None:
    known = await data.parker(client)
    status, code, make = INVALID[what]
    request_id = str(uuid4())
    await _between_neighbours(stack, known, *make(request_id, known))
    result = (await stack.result("visits.create", request_id)).value
    assert result["status"] == status
    assert code in {entry["code"] for entry in result["body"]["errors"]}
    visits = await stack.rows("select * from visits where visitor_id = :id", id=known["visitorId"])
    assert len(visits) == 2


async def test_a_request_on_another_topic_is_told_the_right_one(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    request_id = str(uuid4())
    await stack.raw(names.requests("centers"), _value(known), _headers(request_id))
    result = (await stack.result("visits.create", request_id)).value
    assert result["status"] == 400
    assert result["body"]["errors"][0]["code"] == "wrong_topic"
    assert TOPIC in result["body"]["errors"][0]["message"]


@pytest.mark.parametrize("content_type", [JSON, AVRO])
async def test_the_same_id_with_the_same_content_gets_the_stored_result(
    stack: Stack, client: httpx.AsyncClient, content_type: str
) -> None:
    known = await data.parker(client)
    request_id = str(uuid4())
    value = _value(known) if content_type == JSON else _avro(known)
    for partition in (0, 1, 1):
        await stack.raw(TOPIC, value, _headers(request_id, content_type), partition=partition)

    marker = str(uuid4())
    for partition in (0, 1):
        await stack.raw(TOPIC, _value(known), _headers(f"{marker}-{partition}"), partition=partition)
        await stack.result("visits.create", f"{marker}-{partition}")
    results = [record for record in await stack.read(names.results("visits")) if record.id == request_id]
    assert len(results) == 3
    assert {record.raw for record in results} == {results[0].raw}
    assert results[0].value["status"] == 201
    assert len(await stack.rows("select * from visits where visitor_id = :id", id=known["visitorId"])) == 3


async def test_the_stored_result_of_a_record_is_the_same_in_avro(stack: Stack, client: httpx.AsyncClient) -> None:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    parts = {"body": data.visitor(pc_code)}
    request_id = await stack.send("visitors.create", parts, content_type=AVRO)
    first = await stack.result("visitors.create", request_id)
    await stack.send("visitors.create", parts, content_type=AVRO, request_id=request_id)
    # Without a key a message goes anywhere, so the two may have the same offset, each in its own partition.
    second = await stack.await_record(
        names.results("visitors"), lambda record: record.id == request_id and record.place != first.place
    )
    assert second.raw == first.raw
    assert first.value["body"]["data"]["accountType"] == "full"


async def test_the_same_id_with_another_content_is_422(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    request_id = str(uuid4())
    await stack.raw(TOPIC, _value(known), _headers(request_id), partition=0)
    assert (await stack.result("visits.create", request_id)).value["status"] == 201
    parts = {"path": {"visitType": "exit"}, "body": {"barcode": known["barcode"], "pcCode": known["pcCode"]}}
    await stack.raw(TOPIC, json.dumps(parts).encode(), _headers(request_id), partition=1)
    again = await stack.await_record(
        names.results("visits"), lambda record: record.id == request_id and record.value["status"] != 201
    )
    assert again.value["status"] == 422
    assert again.value["body"]["errors"][0]["code"] == "key_reused"


async def test_a_request_is_known_by_topic_source_and_id(stack: Stack, client: httpx.AsyncClient) -> None:
    """The longest ids that are accepted, of characters with four bytes, fit into the inbox."""
    known = await data.parker(client)
    request_id = "\N{GRINNING FACE}" * 255
    for source in ("\N{GRINNING FACE}" * 255, "gateway/test", "gateway/test", None):
        await stack.send("visits.create", json.loads(_value(known)), request_id=request_id, source=source, partition=0)
    results = [await stack.result("visits.create", request_id, nth=number) for number in (1, 2, 3, 4)]
    assert [result.value["status"] for result in results] == [201] * 4
    assert [result.headers.get("ce_requestsource") for result in results][1:3] == ["gateway/test"] * 2
    assert len(await stack.rows("select 1 from visits where visitor_id = :id", id=known["visitorId"])) == 3


async def test_a_request_without_an_id_is_known_by_its_position_and_the_brokers_time(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await data.parker(client)
    headers = [(name, value) for name, value in _headers("x") if name != "ce_id"]
    sent = await stack.producer.send_and_wait(TOPIC, _value(known), headers=headers)
    position = f"{TOPIC}:{sent.partition}:{sent.offset}@{sent.timestamp}"
    assert (await stack.result("visits.create", position)).value["status"] == 201
    # A sender that spells another request's position is another request.
    await stack.raw(TOPIC, _value(known), _headers(position))
    assert (await stack.result("visits.create", position, nth=2)).value["status"] == 201
    assert len(await stack.rows("select 1 from visits where visitor_id = :id", id=known["visitorId"])) == 2


async def _replies(stack: Stack, correlation: str) -> Any:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stack.servers.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(names.REPLIES, 1)])
        async for record in consumer:
            found = decode(record)
            if found.headers.get("correlation-id") == correlation:
                return found
    finally:
        await consumer.stop()


async def test_reply_to_names_a_partition_of_the_replies(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    head = RequestHeaders(str(uuid4()), "visits.create", "gateway/test", JSON, ReplyTo(1, "call-1"))
    await stack.raw(TOPIC, _value(known), head.encode())
    reply = await _replies(stack, "call-1")
    result = await stack.result("visits.create", head.request_id)
    assert (reply.id, reply.value) == (head.request_id, result.value)


async def test_a_reply_partition_that_does_not_exist_harms_nothing(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    head = RequestHeaders(str(uuid4()), "visits.create", "gateway/test", JSON, ReplyTo(4_711, "call-2"))
    await _between_neighbours(stack, known, _value(known), head.encode())
    assert (await stack.result("visits.create", head.request_id)).value["status"] == 201


@pytest.mark.parametrize("content_type", [JSON, AVRO])
async def test_a_read_without_reply_to_is_answered_on_the_results_topic(
    stack: Stack, client: httpx.AsyncClient, content_type: str
) -> None:
    known = await data.parker(client)
    parts = {"path": {"visitorId": known["visitorId"]}, "query": {"limit": 1, "fields": "licensePlate,vehicleId"}}
    request_id = await stack.send("vehicles.list", parts, content_type=content_type)
    body = plain((await stack.result("vehicles.list", request_id)).value)["body"]
    found = {name: value for name, value in body["data"][0].items() if value is not None}
    assert found == {"licensePlate": known["licensePlate"], "vehicleId": known["vehicleId"]}
    path, _, query = body["metadata"]["_links"]["self"].partition("?")
    assert path == f"/visitors/{known['visitorId']}/vehicles"
    assert set(query.split("&")) == {"limit=1", "fields=licensePlate%2CvehicleId"}


@pytest.mark.parametrize("compression", ["gzip", "lz4", "snappy", "zstd"])
async def test_compressed_messages_are_read(stack: Stack, client: httpx.AsyncClient, compression: str) -> None:
    known, request_id = await data.parker(client), str(uuid4())
    producer = AIOKafkaProducer(bootstrap_servers=stack.servers.kafka, compression_type=compression)
    await producer.start()
    await producer.send_and_wait(TOPIC, _value(known), headers=_headers(request_id))
    await producer.stop()
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_what_a_handler_answered_is_final_for_that_request_whatever_its_status(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, center, request_id = await data.parker(client), data.center(), str(uuid4())
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": known["barcode"], "pcCode": center["pcCode"]}}
    await stack.send("visits.create", parts, request_id=request_id)
    first = await stack.result("visits.create", request_id)
    assert first.value["status"] == 400
    await data.create(client, "/centers", center)
    await stack.send("visits.create", parts, request_id=request_id)
    second = await stack.result("visits.create", request_id, nth=2)
    assert second.raw == first.raw
    await stack.send("visits.create", parts, request_id=f"{request_id} again")
    assert (await stack.result("visits.create", f"{request_id} again")).value["status"] == 201


async def test_what_validation_refuses_is_not_kept(stack: Stack, client: httpx.AsyncClient) -> None:
    known, request_id = await data.parker(client), str(uuid4())
    await stack.raw(TOPIC, _value(known, gate=5), _headers(request_id))
    assert (await stack.result("visits.create", request_id)).value["status"] == 400
    assert await stack.rows("select 1 from inbox where request_id = :id", id=request_id) == []


async def test_a_stored_answer_that_no_longer_parses_fails_its_own_request_only(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, request_id = await data.parker(client), str(uuid4())
    await stack.raw(TOPIC, _value(known), _headers(request_id), partition=2)
    assert (await stack.result("visits.create", request_id)).value["status"] == 201
    async with stack.engine.begin() as conn:
        older = sa.text("update inbox set body = :body where request_id = :id")
        await conn.execute(older, {"body": b'{"visitDate": 17}', "id": request_id})
    await _between_neighbours(stack, known, _value(known), _headers(request_id))
    assert (await stack.result("visits.create", request_id, nth=2)).value["status"] == 500
    letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    assert letter.headers["error-code"] == "bug"
    visits = await stack.rows("select 1 from visits where visitor_id = :id", id=known["visitorId"])
    assert len(visits) == 3


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("sent", "repeated"),
    [
        ([b"x" * 1_001], None),
        ([b"00-00000000000000000000000000000000-00f067aa0ba902b7-01"], None),
        ([b"\xff\xfe"], None),
        ([b"00-11111111111111111111111111111111-1111111111111111-00", TRACE], TRACE.decode()),
        ([TRACE, TRACE], TRACE.decode()),
    ],
)
async def test_an_invalid_traceparent_is_ignored_and_the_last_of_several_counts(
    stack: Stack, client: httpx.AsyncClient, sent: list[bytes], repeated: str | None
) -> None:
    known, request_id = await data.parker(client), str(uuid4())
    headers = [*_headers(request_id), *(("traceparent", value) for value in sent)]
    await stack.raw(TOPIC, _value(known), headers)
    result = await stack.result("visits.create", request_id)
    assert (result.value["status"], result.headers.get("traceparent")) == (201, repeated)


async def test_a_header_that_is_repeated_with_the_same_value_counts_once(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, request_id = await data.parker(client), str(uuid4())
    await stack.raw(TOPIC, _value(known), [*_headers(request_id), *_headers(request_id)[:5]])
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_a_header_whose_name_is_not_utf8_harms_nothing(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    request_id = str(uuid4())
    batch = stack.producer.create_batch()
    headers = [(misnamed.NAME, b"x"), *_headers(request_id)]
    batch.append(key=None, value=_value(known), timestamp=None, headers=headers)
    build = batch._build
    batch._build = lambda: misnamed.misname(bytes(build()))
    await (await stack.producer.send_batch(batch, TOPIC, partition=2))
    assert (await stack.result("visits.create", request_id)).value["status"] == 201


async def test_a_message_with_neither_key_nor_value_is_a_dead_letter(stack: Stack, client: httpx.AsyncClient) -> None:
    request_id = str(uuid4())
    # The client refuses to send one, the broker does not: as other clients send it.
    batch = stack.producer.create_batch()
    batch.append(key=None, value=None, timestamp=None, headers=_headers(request_id))
    sent = await (await stack.producer.send_batch(batch, TOPIC, partition=2))
    letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    assert (letter.headers["error-code"], letter.key) == ("no_value", f"{TOPIC}:2:{sent.offset}")


async def test_a_key_too_long_to_be_repeated_is_the_request_id_in_the_result(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await data.parker(client)
    request_id = str(uuid4())
    await stack.raw(TOPIC, _value(known), _headers(request_id), key="k" * (names.KEY_LIMIT + 1))
    result = await stack.result("visits.create", request_id)
    assert (result.value["status"], result.key) == (201, request_id)


async def test_an_aborted_transaction_of_a_producer_was_never_sent_and_nothing_waits_behind_it(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await data.parker(client)
    worker = next(process for process in stack.processes if process.name == "worker")
    sender = AIOKafkaProducer(bootstrap_servers=stack.servers.kafka, transactional_id=f"gateway-{uuid4()}")
    await sender.start()
    ids = {}
    for outcome in ("aborted", "committed"):
        await sender.begin_transaction()
        ids[outcome] = str(uuid4())
        await sender.send_and_wait(TOPIC, _value(known), headers=_headers(ids[outcome]), partition=3)
        await (sender.abort_transaction() if outcome == "aborted" else sender.commit_transaction())
    await sender.stop()
    assert (await stack.result("visits.create", ids["committed"])).value["status"] == 201
    visits = await stack.rows("select 1 from visits where visitor_id = :id", id=known["visitorId"])
    assert len(visits) == 1

    async def nothing_waits() -> bool:
        told = (await client.get(worker.health.replace("/health/ready", "/metrics"))).text
        return "visitor_lag_messages 0.0" in told

    await eventually("no message that waits", nothing_waits)
