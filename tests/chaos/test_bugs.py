"""A handler with a bug only fails its own request. If one sender meets it very often, only its partition pauses. A
worker stops if nearly all requests of several senders fail."""

import asyncio
import json
from collections.abc import Sequence
from uuid import uuid4

import pytest_asyncio

from agents.engine.breaker import LEAST
from tests.support import metrics
from tests.support.buggy import UNENCODABLE
from tests.support.stack import PARTITIONS, Process, Stack, eventually
from topics import names
from topics.envelope import JSON, ReplyTo, RequestHeaders

TOPIC = names.requests("visits")
STATUSES = ("201", "500")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    process = own_stack.worker("tests.support.buggy")
    await eventually("a ready worker", process.ready)
    return process


async def _send(
    stack: Stack,
    value: int,
    *,
    operation: str = "visits.fragile",
    source: str = "test/bugs",
    partition: int = 0,
    reply_to: ReplyTo | None = None,
) -> str:
    request_id = str(uuid4())
    headers = RequestHeaders(request_id, operation, source, JSON, reply_to=reply_to).encode()
    await stack.raw(TOPIC, json.dumps({"body": {"value": value}}).encode(), headers, partition=partition, key="k")
    return request_id


async def _all_fail(stack: Stack, request_ids: Sequence[str]) -> bool:
    results = await asyncio.gather(*(stack.result("visits.create", request_id) for request_id in request_ids))
    return {result.value["status"] for result in results} == {500}


async def test_a_handler_with_a_bug_only_fails_its_own_request(own_stack: Stack, worker: Process) -> None:
    ids = [await _send(own_stack, value) for value in (4, 0, 5, UNENCODABLE)]
    results = [await own_stack.result("visits.create", request_id) for request_id in ids]
    assert [result.value["status"] for result in results] == [201, 500, 201, 500]
    assert results[1].value["body"]["errors"][0]["code"] == "internal"
    assert [result.value["body"].get("data") for result in results] == [{"value": 25}, None, {"value": 20}, None]

    dead_letter = await own_stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == ids[1])
    assert dead_letter.raw == b'{"body": {"value": 0}}'
    assert dead_letter.key == "k"
    assert (dead_letter.headers["error-code"], dead_letter.headers["error-topic"]) == ("bug", TOPIC)
    statuses = {row.request_id: row.status for row in await own_stack.rows("select request_id, status from inbox")}
    assert statuses == dict(zip(ids, (201, 500, 201, 500), strict=True))

    async def are_counted() -> bool:
        scraped = await metrics.scrape(worker)
        requests = [
            scraped.value("visitor_requests_total", operation="visits.fragile", status=each) for each in STATUSES
        ]
        return (requests, scraped.value("visitor_dead_letters_total", reason="bug")) == ([2, 2], 2)

    await eventually("two answers, two failures and two dead letters that are counted", are_counted)
    assert await worker.ready()


async def test_a_query_that_takes_too_long_is_503_and_does_not_delay_other_queries(
    own_stack: Stack, worker: Process
) -> None:
    ids = []
    for operation in ("visits.slow", "centers.list"):
        request_id = str(uuid4())
        headers = RequestHeaders(request_id, operation, "test/bugs", JSON)
        await own_stack.raw(names.QUERIES, b"{}", headers.encode(), partition=0)
        ids.append(request_id)
    slow = await own_stack.result("visits.create", ids[0])
    assert (slow.value["status"], slow.value["body"]["errors"][0]["code"]) == (503, "too_slow")
    assert (await own_stack.result("centers.list", ids[1])).value["status"] == 200
    assert await worker.ready()


async def test_a_bug_that_one_sender_meets_in_one_operation_pauses_its_partition_only(
    own_stack: Stack, worker: Process
) -> None:
    ids = [await _send(own_stack, 0, partition=1) for _ in range(LEAST + 50)]
    assert await _all_fail(own_stack, ids)
    assert await worker.ready()
    scraped = await metrics.scrape(worker)
    assert scraped.value("visitor_floods_total", topic=TOPIC, partition="1") >= 1
    healthy = await _send(own_stack, 4, partition=0)
    assert (await own_stack.result("visits.create", healthy, seconds=5)).value["status"] == 201


async def test_http_calls_of_one_caller_that_meet_a_bug_delay_no_calls_of_others(
    own_stack: Stack, worker: Process
) -> None:
    reply_to = ReplyTo(partition=0)
    ids = [await _send(own_stack, 0, partition=2, reply_to=reply_to) for _ in range(LEAST + 50)]
    healthy = await _send(own_stack, 4, partition=2)
    assert (await own_stack.result("visits.create", healthy)).value["status"] == 201
    assert await _all_fail(own_stack, ids)
    assert await worker.ready()
    scraped = await metrics.scrape(worker)
    assert scraped.value("visitor_floods_total", topic=TOPIC, partition="2") == 0


async def test_a_worker_stops_if_nearly_all_requests_fail_and_does_not_commit_the_last_batch(
    own_stack: Stack, worker: Process
) -> None:
    read_before = len(await own_stack.read(names.DEAD_LETTERS))
    ids = await _send_failing(own_stack)
    await eventually("the worker's end", worker.ended)
    assert worker.child.returncode == 1
    assert "nearly" in worker.log.read_text().lower()
    assert len(await own_stack.read(names.DEAD_LETTERS)) - read_before < len(ids)

    # The next worker stops too, because the bug is still there.
    ids += await _send_failing(own_stack)
    next_worker = own_stack.worker("tests.support.buggy")
    await eventually("the next worker's end", next_worker.ended)
    assert next_worker.child.returncode == 1

    # Without a limit, a worker reads all that the others have not committed.
    own_stack.worker("tests.support.buggy", VISITOR_WORKER_FAILURE_LIMIT="1")
    assert await _all_fail(own_stack, ids)


async def _send_failing(stack: Stack) -> list[str]:
    """Send requests that fail, of several operations and sources, so many that a worker stops."""
    return [
        await _send(
            stack,
            0,
            operation=("visits.fragile", "visits.brittle")[number % 2],
            source=("test/bugs", "gateway/bugs")[number // 2 % 2],
            partition=number % PARTITIONS,
        )
        for number in range(2 * LEAST)
    ]
