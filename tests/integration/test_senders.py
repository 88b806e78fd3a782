"""Requests with the bytes that the SDKs of others write, and replies where the senders listen."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.catalogue import CATALOGUE
from tests.support import data, metrics
from tests.support.stack import WIRE, Record, Stack, eventually, plain
from topics import names
from topics.envelope import AVRO, JSON, Headers, RequestHeaders

TOPIC = names.requests("visits")
RESULTS = names.results("visits")
MESSAGES = json.loads((Path(__file__).parents[1] / "support" / "sdk_messages.json").read_text())["messages"]
SPRING_MESSAGES = [message for message in MESSAGES if "ReplyingKafkaTemplate" in message["sdk"]]
CENTER, PLATE = "FR-SDK-1", "SDK-100-FR"
"""The center and the licence plate in all of these messages."""
REPLIES = "crm.senders.replies"
SPRING_REPLIES = "crm.spring.replies"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sdk_visitor(client: httpx.AsyncClient) -> None:
    await data.create(client, "/centers", data.center(pcCode=CENTER))
    owner = await data.create(client, "/visitors", data.visitor(CENTER))
    await data.create(client, f"/visitors/{owner['visitorId']}/vehicles", data.vehicle(licensePlate=PLATE))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def reply_topics(stack: Stack) -> None:
    admin = AIOKafkaAdminClient(**stack.kafka.client())
    await admin.start()
    await admin.create_topics([NewTopic(REPLIES, 2, 1), NewTopic(SPRING_REPLIES, 2, 1)])
    await admin.close()


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value.encode()


async def _send(stack: Stack, message: dict[str, Any], partition: int) -> None:
    headers = [(name, _bytes(value)) for name, value in message["headers"]]
    await stack.producer.send_and_wait(
        TOPIC, _bytes(message["value"]), key=_bytes(message["key"]), headers=headers, partition=partition
    )


def _id(message: dict[str, Any]) -> str:
    request_id: str = dict(message["headers"]).get("ce_id") or json.loads(message["value"])["id"]
    return request_id


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{message['sdk']} {message['mode']}")
async def test_the_bytes_of_an_sdk_are_a_request(
    stack: Stack, sdk_visitor: None, reply_topics: None, message: dict[str, Any]
) -> None:
    for partition in (0, 1):
        await _send(stack, message, partition)
    first, second = [await stack.result("visits.create", _id(message), nth=number) for number in (1, 2)]
    assert first.value["status"] == 201, first.value
    assert second.raw == first.raw
    assert first.headers["content-type"] == JSON
    assert first.headers["ce_requestsource"] in ("gateway-dapr", "crm/spring", *SOURCES)
    if "traceparent" in str(message):
        assert first.headers["traceparent"] == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


SOURCES = tuple(f"gateway/{language}" for language in ("python", "java", "javascript", "go"))


async def test_both_modes_of_a_request_are_one_request(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    binary = RequestHeaders(str(uuid4()), "visits.create", "gateway/modes", JSON)
    attributes = {"id": binary.request_id, "source": binary.source, "type": "visitor.visits.create"}
    avro = WIRE.write_request(CATALOGUE.by_name["visits.create"], AVRO, _visit(parker))
    structured: Headers = [("content-type", b"application/cloudevents+json")]
    await stack.raw(TOPIC, json.dumps(_visit(parker)).encode(), binary.encode(), partition=0)
    await stack.raw(TOPIC, json.dumps(attributes | {"data": _visit(parker)}).encode(), structured, partition=1)
    await stack.raw(TOPIC, avro, [header for header in binary.encode() if header[0] != "content-type"], partition=2)
    results = [await stack.result("visits.create", binary.request_id, nth=number) for number in (1, 2, 3)]
    assert [result.value["status"] for result in results] == [201] * 3
    assert sorted(result.headers["content-type"] for result in results) == [AVRO, JSON, JSON]
    assert len(await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"])) == 1


def _visit(parker: dict[str, Any]) -> dict[str, Any]:
    return {"path": {"visitType": "entry"}, "body": {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}}


async def test_the_reason_of_a_dead_letter_in_structured_mode_describes_its_fault(stack: Stack) -> None:
    marker = uuid4().hex
    envelope = {"specversion": "1.0", "id": marker, "source": "gateway/test", "type": "visitor.visits.create"}
    await stack.raw(TOPIC, json.dumps(envelope).encode(), [("content-type", b"application/cloudevents+json")])
    letter = await stack.await_record(names.DEAD_LETTERS, lambda record: marker.encode() in (record.raw or b""))
    assert (letter.headers["error-code"], letter.headers["error-message"]) == ("no_value", "The envelope has no data.")


async def _reply(stack: Stack, topic: str, request_id: str) -> Record:
    return await stack.await_record(topic, lambda record: record.headers.get("ce_id") == request_id)


async def _visit_with(stack: Stack, parker: dict[str, Any], *headers: tuple[str, bytes], **changes: Any) -> str:
    """Send a visit with these additional headers, and return its id."""
    request = RequestHeaders(str(uuid4()), "visits.create", "crm/test", JSON)._replace(**changes)
    value = WIRE.write_request(CATALOGUE.by_name["visits.create"], request.content_type, _visit(parker))
    await stack.raw(TOPIC, value, [*request.encode(), *headers], partition=0, key="the-key")
    return request.request_id


@pytest.mark.parametrize(("address", "partitions"), [(REPLIES, {0, 1}), (f"{REPLIES}:0", {0}), (f"{REPLIES}:1", {1})])
async def test_a_reply_goes_to_the_topic_that_its_request_names(
    stack: Stack, client: httpx.AsyncClient, reply_topics: None, address: str, partitions: set[int]
) -> None:
    parker = await data.visitor_with_vehicle(client)
    correlation = ("correlation-id", b"\xff\x00binary")
    request_id = await _visit_with(stack, parker, ("reply-to", address.encode()), correlation, content_type=AVRO)
    reply, result = await _reply(stack, REPLIES, request_id), await stack.result("visits.create", request_id)
    assert reply.partition in partitions
    assert (reply.raw, reply.key, reply.value["status"]) == (result.raw, "the-key", 201)
    assert (reply.headers["content-type"], reply.raw_headers["correlation-id"]) == (AVRO, correlation[1])
    assert "correlation-id" not in result.headers


async def test_a_correlation_id_without_an_address_is_repeated_in_the_result(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = await _visit_with(stack, parker, ("correlation-id", b"\xff\x00binary"))
    assert (await stack.result("visits.create", request_id)).raw_headers["correlation-id"] == b"\xff\x00binary"


@pytest.mark.parametrize("message", SPRING_MESSAGES, ids=lambda message: message["mode"])
async def test_springs_reply_template_gets_its_reply(
    stack: Stack, sdk_visitor: None, reply_topics: None, message: dict[str, Any]
) -> None:
    await _send(stack, message, partition=3)
    reply = await _reply(stack, SPRING_REPLIES, _id(message))
    headers = dict(message["headers"])
    assert reply.value["status"] == 201
    assert reply.raw_headers["kafka_correlationId"] == _bytes(headers["kafka_correlationId"])
    if "kafka_replyPartition" in headers:
        assert reply.partition == 1


async def _list_with(stack: Stack, parker: dict[str, Any], address: str) -> str:
    request_id = str(uuid4())
    headers = RequestHeaders(request_id, "vehicles.list", "crm/test", JSON).encode()
    value = json.dumps({"path": {"visitorId": parker["visitorId"]}}).encode()
    await stack.raw(names.QUERIES, value, [*headers, ("reply-to", address.encode())])
    return request_id


async def test_a_read_with_a_reply_topic_is_answered_only_there(
    stack: Stack, client: httpx.AsyncClient, reply_topics: None
) -> None:
    parker = await data.visitor_with_vehicle(client)
    request_id = await _list_with(stack, parker, REPLIES)
    reply = await _reply(stack, REPLIES, request_id)
    assert plain(reply.value)["body"]["data"][0]["licensePlate"] == parker["licensePlate"]
    assert all(record.id != request_id for record in await stack.read(names.results("parking")))


async def test_a_reply_topic_that_is_not_allowed_makes_a_dead_letter_that_names_the_setting(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    for topic in (b"erp.replies", TOPIC.encode()):
        request_id = await _visit_with(stack, parker, ("kafka_replyTopic", topic))
        letter = await _reply(stack, names.DEAD_LETTERS, request_id)
        assert letter.headers["error-code"] == "reply_topic_not_allowed"
        assert "VISITOR_WORKER_REPLY_TOPICS" in letter.headers["error-message"]
    assert await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"]) == []


@pytest.mark.parametrize("address", ["crm.missing.replies", f"{REPLIES}:7", "4711"])
async def test_a_reply_that_cannot_be_delivered_leaves_its_result_on_the_results_topic_and_is_counted(
    stack: Stack, client: httpx.AsyncClient, reply_topics: None, address: str
) -> None:
    parker = await data.visitor_with_vehicle(client)
    worker = next(process for process in stack.processes if process.name == "worker")
    before = await metrics.scrape(worker)
    request_ids = [await _visit_with(stack, parker, ("reply-to", address.encode())) for _ in range(20)]
    for request_id in request_ids:
        assert (await stack.result("visits.create", request_id)).value["status"] == 201
    # Without a topic, it names a partition of ours, and the answer of a read is dropped.
    is_own = address == "4711"
    if not is_own:
        read = await _list_with(stack, parker, address)
        assert (await stack.result("vehicles.list", read)).value["status"] == 200

    async def are_counted() -> bool:
        expected = 0 if is_own else len(request_ids) + 1
        return (await metrics.scrape(worker)).increase(before, "visitor_replies_undelivered_total") == expected

    await eventually("the replies are counted", are_counted)
