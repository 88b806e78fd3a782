"""`visitor status`, as an operator runs it."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support import data
from tests.support.stack import PARTITIONS, Stack, eventually
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


async def test_it_says_that_no_worker_runs(stack: Stack) -> None:
    done = await stack.command("status", VISITOR_WORKER_GROUP="nobody")
    assert done.returncode == 0, done.stderr
    assert "No worker runs: the consumer group nobody.requests has no members." in done.stdout


async def test_a_server_that_is_unavailable_is_named_and_the_other_one_is_shown(stack: Stack) -> None:
    done = await stack.command("status", VISITOR_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert done.returncode == 1, done.stderr
    assert "Kafka is unavailable: " in done.stdout
    assert "in the inbox" in done.stdout


async def test_on_a_terminal_it_is_refreshed_until_it_is_interrupted(stack: Stack, tmp_path: Path) -> None:
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime.cli", "status", stdin=child, stdout=child, stderr=child,
        env=stack.environment(TERM="xterm-256color"), start_new_session=True,
    )  # fmt: skip
    os.close(child)
    os.set_blocking(terminal, False)
    output = b""

    async def shows_the_view_twice() -> bool:
        nonlocal output
        with suppress(BlockingIOError):
            output += os.read(terminal, 2**20)
        return output.count(b"visitor status") >= 2

    try:
        await eventually("two views", shows_the_view_twice)
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
        os.close(terminal)
    assert process.returncode == 0, output
