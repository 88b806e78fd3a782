"""Visits over HTTP: the edge with a worker behind it, and the peer, under the same load."""

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
    """`p50` in milliseconds."""

    per_second: float
    p50: float


@asynccontextmanager
async def served(bootstrap: str, url: str) -> AsyncIterator[tuple[str, str]]:
    """The URLs of a ready edge and a ready peer."""
    edge, peer = free_port(), free_port()
    environment = {
        **os.environ, "VISITOR_KAFKA_BOOTSTRAP": bootstrap, "VISITOR_DATABASE_URL": url,
        "VISITOR_WORKER_HEALTH_PORT": "0", "VISITOR_HTTP_PORT": str(edge), "VISITOR_LOG_LEVEL": "error",
    }  # fmt: skip
    peer_argv = ["-m", "uvicorn", "benchmarks.peer:app", "--port", str(peer), "--log-level", "error"]
    children = [
        subprocess.Popen([sys.executable, *argv], env=environment, start_new_session=True)
        for argv in (["-m", "runtime.cli", "worker"], ["-m", "runtime.cli", "edge"], peer_argv)
    ]
    try:
        await _until_ready(f"http://127.0.0.1:{edge}/health")
        await _until_ready(f"http://127.0.0.1:{peer}/docs")
        yield f"http://127.0.0.1:{edge}", f"http://127.0.0.1:{peer}"
    finally:
        for child in children:
            child.terminate()
        for child in children:
            await asyncio.to_thread(child.wait, 60)


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def load(url: str, people: Sequence[Person], connections: int, *, quick: bool) -> Figures:
    """As many callers as connections, each with its next call right after the last answer."""
    times: list[float] = []
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        await _call(session, url, people[0])
        began = time.perf_counter()
        ends = began + (QUICK_SECONDS if quick else SECONDS)
        await asyncio.gather(*(_caller(session, url, people, ends, times) for _ in range(connections)))
        took = time.perf_counter() - began
    return Figures(len(times) / took, statistics.median(times) * 1000)


async def _caller(
    session: aiohttp.ClientSession, url: str, people: Sequence[Person], ends: float, times: list[float]
) -> None:
    while time.perf_counter() < ends:
        began = time.perf_counter()
        await _call(session, url, random.choice(people))
        times.append(time.perf_counter() - began)


async def _call(session: aiohttp.ClientSession, url: str, person: Person) -> None:
    who = random.choice([{"barcode": person.barcode}, {"licensePlate": person.plate}])
    kind = random.choice(["entry", "exit"])
    async with session.post(f"{url}/visits/{kind}", json={**who, "pcCode": person.pc_code}) as answer:
        assert answer.status == 201, await answer.text()
        await answer.read()
