"""`visitor status`, as an operator runs it."""

import asyncio
from typing import Any

import httpx

from tests.support import data, terminal
from tests.support.stack import PARTITIONS, Stack
from topics import json, names


async def _document(stack: Stack) -> Any:
    done = await stack.command("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.read(done.stdout.encode())


async def test_the_document_has_rates_and_latencies_of_requests_while_it_was_read(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    status = asyncio.create_task(_document(stack))
    while not status.done():
        await data.create(client, "/centers", data.center())
    document = await status
    topic = names.requests("centers")
    assert document["rates"]["topics"][topic] > 0
    assert document["rates"]["changes"] > 0
    latency = document["kafka"]["latencies"][topic]
    assert latency["count"] > 0
    assert 0 <= latency["median"] <= latency["p95"] < 60
    (worker,) = document["kafka"]["workers"]
    assert worker["partitions"][topic] == list(range(PARTITIONS))


async def test_it_is_printed_once_if_the_output_is_no_terminal(stack: Stack) -> None:
    done = await stack.command("status")
    assert done.returncode == 0, done.stderr
    for text in ("visits", "reads", "latency p50", "0-3 of 11 topics"):
        assert text in done.stdout


async def test_it_says_that_no_worker_runs_in_one_line_that_programs_can_search(stack: Stack) -> None:
    done = await stack.command("status", VISITOR_WORKER_GROUP="nobody-of-the-second-installation")
    assert done.returncode == 0, done.stderr
    group = "nobody-of-the-second-installation.requests"
    assert f"No worker runs: the consumer group {group} has no members." in done.stdout.splitlines()


async def test_a_server_that_is_unavailable_is_named_and_the_other_one_is_shown(stack: Stack) -> None:
    done = await stack.command("status", VISITOR_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert done.returncode == 1, done.stderr
    assert "Kafka is unavailable: " in done.stdout
    assert "in the inbox" in done.stdout


async def test_on_a_terminal_it_is_refreshed_in_its_size_until_it_is_interrupted(stack: Stack) -> None:
    async with terminal.running(["status"], stack.environment(), width=120, height=40) as shown:
        await shown.await_text("visitor status", await shown.await_text("visitor status"))
        shown.resize(60, 30)
        # The next view may have been on its way.
        position = await shown.await_text("visitor status", await shown.await_text("visitor status", len(shown.output)))
        await shown.await_text("in the inbox", position)
        assert max(map(len, shown.lines(position))) <= 60
        assert "oldest" in shown.output[position:]
        shown.interrupt()
        assert await shown.wait() == 0
    assert "Traceback" not in shown.output
    assert shown.is_clean
