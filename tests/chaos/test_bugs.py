"""A handler with a bug fails its own request only; a worker in which nearly everything fails stops."""

import json
from uuid import uuid4

import pytest_asyncio

from agents.engine.breaker import LEAST
from tests.support.buggy import BEYOND
from tests.support.stack import Process, Stack, eventually
from topics import names
from topics.envelope import JSON, RequestHeaders

TOPIC = names.requests("visits")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def buggy(lonely: Stack) -> Process:
    worker = lonely.worker("tests.support.buggy")
    await eventually("a ready worker", worker.ready)
    return worker


async def _send(stack: Stack, value: int) -> str:
    request_id = str(uuid4())
    head = RequestHeaders(request_id, "visits.fragile", "test/bugs", JSON)
    await stack.raw(TOPIC, json.dumps({"body": {"value": value}}).encode(), head.encode(), partition=0, key="k")
    return request_id


async def test_a_handler_with_a_bug_fails_its_own_request_only(lonely: Stack, buggy: Process) -> None:
    ids = [await _send(lonely, value) for value in (4, 0, 5, BEYOND)]
    results = [await lonely.result("visits.create", request_id) for request_id in ids]
    assert [result.value["status"] for result in results] == [201, 500, 201, 500]
    assert results[1].value["body"]["errors"][0]["code"] == "internal"
    assert [result.value["body"].get("data") for result in results] == [{"value": 25}, None, {"value": 20}, None]

    letter = await lonely.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == ids[1])
    assert (letter.headers["error-code"], letter.headers["error-topic"], letter.key) == ("bug", TOPIC, "k")
    assert letter.raw == b'{"body": {"value": 0}}'
    statuses = {row.request_id: row.status for row in await lonely.rows("select request_id, status from inbox")}
    assert statuses == dict(zip(ids, (201, 500, 201, 500), strict=True))
    assert await buggy.ready()


async def test_a_read_that_takes_too_long_is_503_and_holds_up_nobody(lonely: Stack, buggy: Process) -> None:
    ids = []
    for operation in ("visits.slow", "centers.list"):
        ids.append(str(uuid4()))
        await lonely.raw(
            names.QUERIES, b"{}", RequestHeaders(ids[-1], operation, "test/bugs", JSON).encode(), partition=0
        )
    slow = await lonely.result("visits.create", ids[0])
    assert (slow.value["status"], slow.value["body"]["errors"][0]["code"]) == (503, "too_slow")
    assert (await lonely.result("centers.list", ids[1])).value["status"] == 200
    assert await buggy.ready()


async def test_a_worker_in_which_nearly_everything_fails_stops_and_keeps_the_last_batch(
    lonely: Stack, buggy: Process
) -> None:
    for _ in range(2 * LEAST):
        await _send(lonely, 0)

    await eventually("the worker's end", buggy.ended)
    assert buggy.child.returncode == 1
    assert "nearly" in buggy.log.read_text().lower()
    letters = len(await lonely.read(names.DEAD_LETTERS))
    assert letters < 2 * LEAST

    # What was not acknowledged is there for the next worker, which ends as well, since nothing was mended.
    again = lonely.worker("tests.support.buggy")
    await eventually("the next worker's end", again.ended)
    assert again.child.returncode == 1
