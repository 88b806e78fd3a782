"""Topics that change while the service runs."""

import httpx
import pytest_asyncio

from agents.catalogue import CATALOGUE
from tests.support import data
from tests.support.stack import PARTITIONS, Process, Stack, eventually
from topics import admin, names

REQUESTS = names.requests("centers")
CHANGED = (REQUESTS, names.QUERIES, names.REPLIES)
SECONDS = 20
"""In which a changed topic is in use. The clients ask for metadata every 5 seconds, then the group rebalances."""
CALL_SECONDS = "3"
"""The edge's time limit for a reply. It is short, so that several calls fit into SECONDS."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    process = own_stack.worker()
    await eventually("a ready worker", process.ready)
    return process


async def _create_center(stack: Stack, partition: int) -> None:
    request_id = await stack.send("centers.create", {"body": data.center()}, partition=partition)
    assert (await stack.result("centers.create", request_id, SECONDS)).value["status"] == 201


async def _list_centers(stack: Stack, partition: int) -> None:
    """Over Kafka."""
    request_id = await stack.send("centers.list", {}, partition=partition)
    assert (await stack.result("centers.list", request_id, SECONDS)).value["status"] == 200


async def _answers(url: str) -> bool:
    """True if the edge answers a read and a write."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        calls = [await client.post("/centers", json=data.center()), await client.get("/centers")]
    return [call.status_code for call in calls] == [201, 200]


async def test_added_partitions_are_in_use_within_seconds(own_stack: Stack, worker: Process) -> None:
    """Also those of visitor.replies, on which another edge waits."""
    await _create_center(own_stack, 0)
    await own_stack.add_partitions(*CHANGED, count=PARTITIONS + 2)
    edge, url = own_stack.edge(
        VISITOR_HTTP_REPLY_PARTITION=str(PARTITIONS + 1), VISITOR_HTTP_TIMEOUT_SECONDS=CALL_SECONDS
    )
    await eventually("a ready edge", edge.ready)
    await _create_center(own_stack, PARTITIONS + 1)
    await _list_centers(own_stack, PARTITIONS)
    await eventually("answers from the edge", lambda: _answers(url), SECONDS)
    edge.kill()


async def test_topics_that_are_created_again_are_in_use_within_seconds(own_stack: Stack, worker: Process) -> None:
    edge, url = own_stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS=CALL_SECONDS)
    await eventually("a ready edge", edge.ready)
    await eventually("answers from the edge", lambda: _answers(url), SECONDS)
    await own_stack.delete_topics(*CHANGED)

    async def reported() -> bool:
        reasons = await worker.reasons()
        return all(topic in reasons.get("topics", "") for topic in CHANGED)

    await eventually("the worker reports that the topics are missing", reported, SECONDS)
    await admin.ensure(own_stack.kafka, CATALOGUE.topics(own_stack.kafka))
    await eventually("answers from the edge", lambda: _answers(url), SECONDS)
    for partition in range(PARTITIONS):
        await _create_center(own_stack, partition)
        await _list_centers(own_stack, partition)
    await eventually("a ready worker", worker.ready, SECONDS)
    assert await edge.ready()
    assert worker.terminate() == 0
