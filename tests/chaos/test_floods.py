"""Messages of one sender that the worker cannot read, in any number, do not harm the others."""

import json
import time
from typing import Any

import httpx
import pytest_asyncio

from tests.support import data
from tests.support.stack import Process, Stack, eventually
from topics import names

TOPIC = names.requests("visits")
FLOOD = 1_500


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    process = own_stack.worker()
    await eventually("a ready worker", process.ready)
    return process


async def _flood(stack: Stack, topic: str, count: int) -> None:
    """Write unreadable messages to partition 0."""
    for future in [await stack.producer.send(topic, b"no request", partition=0) for _ in range(count)]:
        await future


async def _seconds(stack: Stack, partition: int, topic: str = "visits") -> float:
    """How long a new request waits for its result."""
    operation = {"visits": "visits.create", "centers": "centers.create"}[topic]
    parts: dict[str, Any] = {"body": data.center()}
    if operation == "visits.create":
        parts = {"path": {"visitType": "entry"}, "body": {"barcode": "unknown", "pcCode": data.new_code()}}
    started_at = time.monotonic()
    await stack.result(operation, await stack.send(operation, parts, partition=partition))
    return time.monotonic() - started_at


def _events(process: Process, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


async def test_a_flood_of_unreadable_messages_pauses_only_its_own_partition(own_stack: Stack, worker: Process) -> None:
    await _flood(own_stack, TOPIC, FLOOD)

    async def paused() -> bool:
        return bool(_events(worker, "flood"))

    await eventually("a pause of the partition", paused)
    assert await _seconds(own_stack, partition=1) < 5
    assert await _seconds(own_stack, partition=0, topic="centers") < 5
    await _seconds(own_stack, partition=0)

    assert await worker.ready()
    floods = _events(worker, "flood")
    assert {(flood["topic"], flood["partition"]) for flood in floods} == {(TOPIC, 0)}
    assert [flood["pause"] for flood in floods] == sorted(flood["pause"] for flood in floods)
    assert sum(sum(flood["reasons"].values()) for flood in floods) > FLOOD - 200
    dead_letters = await own_stack.read(names.DEAD_LETTERS)
    assert len([letter for letter in dead_letters if letter.headers["error-topic"] == TOPIC]) == FLOOD
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(worker.health_url.replace("health/ready", "metrics"))).text
    assert f'visitor_floods_total{{partition="0",topic="{TOPIC}"}} {len(floods)}.0' in metrics
