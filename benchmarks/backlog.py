"""A worker that is idle, and one with a backlog."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import aiohttp

from benchmarks import http, population
from benchmarks.installation import Installation
from benchmarks.results import Result, Row, at_most

READS = Row("backlog.reads", "HTTP reads while a backlog of 100,000 visits drains", "idle", "ms p99", at_most(3))
CPU = Row("idle.cpu", "CPU time of an idle worker", None, "% of a core", at_most(2))
MEMORY = Row("backlog.memory", "resident memory with a backlog of 1,000,000 visits", None, "MB", at_most(256))
ROWS = (READS, CPU, MEMORY)

BACKLOG, LARGE_BACKLOG = 100_000, 1_000_000
_READS_PER_SECOND = 50
_COLD_READS = 100
"""The first reads of a process are not counted: it connects and prepares statements."""
_IDLE_SECONDS, _SETTLE_SECONDS, _MEMORY_SECONDS = 20, 10, 30


async def run(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """The last row leaves most of its backlog, so no other measurement can follow."""
    if READS in rows:
        async with installation.edge() as edge:
            pairs = [await _p99_with_and_without_backlog(installation, edge) for _ in range(rounds)]
        yield Result(READS, [drain for drain, _ in pairs], [idle for _, idle in pairs])
    if CPU in rows:
        yield Result(CPU, [await _idle_cpu(installation) for _ in range(rounds)])
    if MEMORY in rows:
        yield Result(MEMORY, [await _memory_with_backlog(installation)])


async def _p99_with_and_without_backlog(installation: Installation, edge: str) -> tuple[float, float]:
    async with installation.ready_worker():
        idle = await _p99_until(asyncio.sleep(_IDLE_SECONDS), edge, installation)
    target = await installation.count_results() + BACKLOG
    await installation.send(population.visits(installation.population, BACKLOG))
    async with installation.ready_worker():
        return await _p99_until(installation.results_reach(target), edge, installation), idle


async def _p99_until(end: Awaitable[Any], edge: str, installation: Installation) -> float:
    """The 99th percentile in milliseconds of reads at a fixed rate until `end` is done. The rate does not depend on the
    answers, and a call that starts late counts from the time at which it was due."""
    reads = []
    async with aiohttp.ClientSession(edge, connector=aiohttp.TCPConnector(limit=0)) as session:
        ended = asyncio.ensure_future(end)
        due_at = time.perf_counter()
        while not ended.done():
            person = random.choice(installation.population.people)
            call = http.visitor(installation.population, person)
            reads.append(asyncio.create_task(_seconds_of(session, call, due_at)))
            due_at += 1 / _READS_PER_SECOND
            await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
        seconds = await asyncio.gather(*reads)
    return statistics.quantiles(seconds[_COLD_READS:], n=100)[98] * 1000


async def _seconds_of(session: aiohttp.ClientSession, call: Any, due_at: float) -> float:
    await http.request(session, call)
    return time.perf_counter() - due_at


async def _idle_cpu(installation: Installation) -> float:
    async with installation.ready_worker() as worker:
        await asyncio.sleep(_SETTLE_SECONDS)
        worker.cpu_percent()
        await asyncio.sleep(_IDLE_SECONDS)
        return float(worker.cpu_percent())


async def _memory_with_backlog(installation: Installation) -> float:
    """The highest resident memory within the first half minute of a worker, in MB."""
    await installation.send(population.visits(installation.population, LARGE_BACKLOG))
    async with installation.worker() as worker:
        deadline, highest = time.perf_counter() + _MEMORY_SECONDS, 0
        while time.perf_counter() < deadline:
            highest = max(highest, worker.memory_info().rss)
            await asyncio.sleep(0.1)
    return highest / 2**20
