"""Measures visits over HTTP: the edge with a worker, and the peer, under the same load."""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.messages import Person
from runtime.dev.servers.processes import free_port

SECONDS = 8.0
QUICK_SECONDS = 3.0


@dataclass(frozen=True)
class Figures:
    """`per_second` are calls, `p50` is the median latency in milliseconds."""

    per_second: float
    p50: float


@asynccontextmanager
async def served(bootstrap: str, url: str) -> AsyncIterator[tuple[str, str]]:
    """Start a worker, an edge and the peer. Yields the URLs of the edge and the peer when both are ready."""
    edge_port, peer_port = free_port(), free_port()
    edge_url, peer_url = f"http://127.0.0.1:{edge_port}", f"http://127.0.0.1:{peer_port}"
    environment = {
        **os.environ, "VISITOR_KAFKA_BOOTSTRAP": bootstrap, "VISITOR_DATABASE_URL": url,
        "VISITOR_WORKER_HEALTH_PORT": "0", "VISITOR_HTTP_PORT": str(edge_port), "VISITOR_LOG_LEVEL": "error",
        "VISITOR_HTTP_METRICS_PORT": "0",
    }  # fmt: skip
    peer_argv = ["-m", "uvicorn", "benchmarks.peer:app", "--port", str(peer_port), "--log-level", "error"]
    children = [
        subprocess.Popen([sys.executable, *argv], env=environment, start_new_session=True)
        for argv in (["-m", "runtime.cli", "worker"], ["-m", "runtime.cli", "edge"], peer_argv)
    ]
    try:
        await _wait_until_ready(f"{edge_url}/health")
        await _wait_until_ready(f"{peer_url}/docs")
        yield edge_url, peer_url
    finally:
        for child in children:
            child.terminate()
        for child in children:
            await asyncio.to_thread(child.wait, 60)


async def _wait_until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def load(url: str, people: Sequence[Person], connections: int, *, quick: bool) -> Figures:
    """Run one caller per connection. Each caller sends its next call as soon as it has the answer of the last one."""
    latencies: list[float] = []
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        await _call(session, url, people[0])
        started_at = time.perf_counter()
        deadline = started_at + (QUICK_SECONDS if quick else SECONDS)
        await asyncio.gather(*(_run_caller(session, url, people, deadline, latencies) for _ in range(connections)))
        duration = time.perf_counter() - started_at
    return Figures(len(latencies) / duration, statistics.median(latencies) * 1000)


async def _run_caller(
    session: aiohttp.ClientSession, url: str, people: Sequence[Person], deadline: float, latencies: list[float]
) -> None:
    while time.perf_counter() < deadline:
        sent_at = time.perf_counter()
        await _call(session, url, random.choice(people))
        latencies.append(time.perf_counter() - sent_at)


async def _call(session: aiohttp.ClientSession, url: str, person: Person) -> None:
    identification = random.choice([{"barcode": person.barcode}, {"licensePlate": person.plate}])
    visit_type = random.choice(["entry", "exit"])
    body = {**identification, "pcCode": person.pc_code}
    async with session.post(f"{url}/visits/{visit_type}", json=body) as response:
        assert response.status == 201, await response.text()
        await response.read()
