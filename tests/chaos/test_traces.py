"""Traces: what a collector of OpenTelemetry receives from worker and edge."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support import data
from tests.support.collector import Collector, attributes, collecting
from tests.support.stack import PERSONAL, Record, Stack, eventually
from topics import names
from topics.envelope import JSON, Headers, RequestHeaders

CHANGES = names.changes("centers", "center")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced(own_stack: Stack, collector: Collector) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge that exports its traces, as its worker does."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    worker = own_stack.worker(**settings)
    edge, own_stack.url = own_stack.edge(**settings)
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=own_stack.url, timeout=30) as client:
        yield client


def _new_traceparent() -> tuple[str, str, str]:
    """A trace id, the id of the caller's span, and the header."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


async def _span(collector: Collector, name: str, trace_id: str | None = None) -> Span:
    async def received() -> list[Span]:
        return collector.named(name, trace_id)

    spans: list[Span] = await eventually(f"the span {name}", received)
    return spans[0]


async def test_one_trace_follows_a_call_from_http_to_the_change_topic(
    own_stack: Stack, traced: httpx.AsyncClient, collector: Collector
) -> None:
    trace_id, caller, traceparent = _new_traceparent()
    center = data.center()
    answer = await traced.post("/centers", json=center, headers={"traceparent": traceparent})
    assert answer.status_code == 201

    call = await _span(collector, "POST /centers", trace_id)
    process = await _span(collector, "process centers.create", trace_id)
    change = await _span(collector, "publish center.created", trace_id)
    assert [span.parent_span_id.hex() for span in (call, process, change)] == [
        caller, call.span_id.hex(), process.span_id.hex(),
    ]  # fmt: skip
    assert attributes(call.attributes)["http.response.status_code"] == 201
    assert attributes(process.attributes)["visitor.status"] == 201
    record = await own_stack.await_record(CHANGES, lambda record: record.key == center["pcCode"])
    assert record.headers["traceparent"] == f"00-{trace_id}-{change.span_id.hex()}-01"
    assert {"visitor-worker", "visitor-edge"} <= collector.services


async def test_a_batch_links_to_its_requests_and_has_a_transaction_and_a_publication(
    traced: httpx.AsyncClient, collector: Collector
) -> None:
    trace_id, _, traceparent = _new_traceparent()
    assert (await traced.post("/centers", json=data.center(), headers={"traceparent": traceparent})).status_code == 201
    process = await _span(collector, "process centers.create", trace_id)
    batch = await _batch_of(collector, process)
    assert [link.span_id for link in process.links] == [batch.span_id]
    parts = [await _span(collector, name, batch.trace_id.hex()) for name in ("transaction", "publish")]
    assert {part.parent_span_id for part in parts} == {batch.span_id}


async def test_a_batch_links_to_each_of_its_requests_and_each_result_and_change_is_in_the_trace_of_its_request(
    own_stack: Stack, traced: httpx.AsyncClient, collector: Collector
) -> None:
    traceparents = [_new_traceparent()[2] for _ in range(3)]
    centers = [data.center() for _ in range(4)]
    headers = [
        RequestHeaders(str(uuid4()), "centers.create", "test", JSON)._replace(traceparent=traceparent)
        for traceparent in (*traceparents, None)
    ]
    values = [json.dumps({"body": center}).encode() for center in centers]
    await _send_together(own_stack, [(value, each.encode()) for value, each in zip(values, headers, strict=True)])
    results = [await own_stack.result("centers.create", each.request_id) for each in headers]
    assert [result.headers["traceparent"] for result in results[:3]] == traceparents

    processes = []
    for result in results:
        trace_id, _ = _trace_of(result)
        process = await _span(collector, "process centers.create", trace_id)
        assert attributes(process.attributes)["messaging.message.id"] == result.id
        processes.append(process)
    assert _trace_of(results[3]) == (processes[3].trace_id.hex(), processes[3].span_id.hex())
    (batch_id,) = {link.span_id for process in processes for link in process.links}
    batch = await _batch_of(collector, processes[0])
    assert batch.span_id == batch_id
    assert {link.span_id for link in batch.links} == {process.span_id for process in processes}

    for center, process in zip(centers, processes, strict=True):
        change = await _span(collector, "publish center.created", process.trace_id.hex())
        assert change.parent_span_id == process.span_id
        record = await own_stack.await_record(CHANGES, lambda record, key=center["pcCode"]: record.key == key)
        assert _trace_of(record) == (change.trace_id.hex(), change.span_id.hex())


def _trace_of(record: Record) -> tuple[str, str]:
    """The trace id and the span id that a record carries."""
    _, trace_id, span_id, _ = record.headers["traceparent"].split("-")
    return trace_id, span_id


async def _batch_of(collector: Collector, process: Span) -> Span:
    async def batches() -> list[Span]:
        return [each for each in collector.named("batch") if process.span_id in {link.span_id for link in each.links}]

    (batch,) = await eventually("the batch of the request", batches)
    return batch


async def _send_together(stack: Stack, messages: Sequence[tuple[bytes, Headers]]) -> None:
    """Append messages to the same partition in one step, so that a worker fetches them together."""
    batch = stack.producer.create_batch()
    for value, headers in messages:
        assert batch.append(key=None, value=value, timestamp=None, headers=headers) is not None
    await (await stack.producer.send_batch(batch, names.requests("centers"), partition=0))


async def test_a_read_has_its_own_transaction(traced: httpx.AsyncClient, collector: Collector) -> None:
    trace_id, _, traceparent = _new_traceparent()
    answer = await traced.get(f"/centers/{data.new_code()}", headers={"traceparent": traceparent})
    assert answer.status_code == 404
    process = await _span(collector, "process centers.get", trace_id)
    transaction = await _span(collector, "transaction", trace_id)
    assert transaction.parent_span_id == process.span_id
    assert process.status.code == transaction.status.code == 0  # A refusal is no error of the service.


@pytest.mark.parametrize("has_traceparent", [True, False], ids=["with-traceparent", "without"])
async def test_the_result_of_a_message_repeats_its_traceparent_or_has_a_new_one(
    own_stack: Stack, traced: httpx.AsyncClient, collector: Collector, has_traceparent: bool
) -> None:
    _, _, traceparent = _new_traceparent()
    headers = RequestHeaders(str(uuid4()), "centers.create", "test", JSON)
    headers = headers._replace(traceparent=traceparent if has_traceparent else None)
    await own_stack.raw(names.requests("centers"), json.dumps({"body": data.center()}).encode(), headers.encode())
    result = await own_stack.result("centers.create", headers.request_id)
    assert result.value["status"] == 201
    if has_traceparent:
        assert result.headers["traceparent"] == traceparent
    process = await _span(collector, "process centers.create", result.headers["traceparent"].split("-")[1])
    assert attributes(process.attributes)["messaging.message.id"] == headers.request_id


async def test_spans_have_no_personal_data(traced: httpx.AsyncClient, collector: Collector) -> None:
    trace_id, _, traceparent = _new_traceparent()
    center = data.center()
    assert (await traced.post("/centers", json=center)).status_code == 201
    for status in (201, 409):
        body = data.visitor(center["pcCode"], email="zora.quill@example.com")
        answer = await traced.post("/visitors", json=body, headers={"traceparent": traceparent})
        assert answer.status_code == status
    await traced.get("/visitors", params={"email": "zora.quill@example.com"}, headers={"traceparent": traceparent})
    await _span(collector, "publish visitor.created", trace_id)
    await _span(collector, "process visitors.list", trace_id)
    received = b"".join(collector.bodies).lower()
    assert [text for text in PERSONAL if text.lower().encode() in received] == []


async def test_processes_work_and_stop_in_time_without_the_collector(own_stack: Stack) -> None:
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "VISITOR_HTTP_DRAIN_SECONDS": "0"}
    worker = own_stack.worker(**nowhere)
    edge, url = own_stack.edge(**nowhere)
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        assert (await client.post("/centers", json=data.center())).status_code == 201
    assert worker.terminate(seconds=15) == 0
    edge.terminate(seconds=15)
