"""Calls over HTTP: the edge with a worker, and FastAPI with SQLAlchemy, under the same load."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from benchmarks.installation import Installation, wait_until_ready
from benchmarks.population import Person, Population, visit_body
from benchmarks.results import Result, Row, alternate, at_least, at_most
from runtime.dev.servers.processes import free_port

WRITE_SECONDS, READ_SECONDS = 5.0, 3.0
_WARM_UP_SECONDS = 15.0
"""Java compiles what a broker runs often. Until then, a call takes twice as long; a broker in production is past it."""
_PEER = "FastAPI + SQLAlchemy"
_RATE, _P50 = "calls/s", "ms p50"

Call = Callable[[Population, Person], tuple[str, str, dict[str, Any]]]
"""Makes the method, the path, and the keyword arguments of aiohttp."""


def visit(population: Population, person: Person) -> tuple[str, str, dict[str, Any]]:
    path = f"/visits/{random.choice(['entry', 'exit'])}"
    return "POST", path, {"json": visit_body(random, population, person)}  # type: ignore[arg-type]


def visitor(population: Population, person: Person) -> tuple[str, str, dict[str, Any]]:
    return "GET", f"/visitors/{person.visitor_id}", {}


def visits(population: Population, person: Person) -> tuple[str, str, dict[str, Any]]:
    return "GET", "/visits", {"params": {"barcode": person.barcode, "pcCode": population.pc_code}}


def details(population: Population, person: Person) -> tuple[str, str, dict[str, Any]]:
    return "GET", "/visitors/details", {"params": {"visitorId": person.visitor_id}}


@dataclass(frozen=True)
class Load:
    """`callers` send their next call as soon as they have the answer of the last one, for `seconds`."""

    call: Call
    callers: int
    seconds: float


def _reads(name: str, work: str, call: Call) -> dict[Row, Load]:
    return {
        Row(f"reads.{name}.1", f"{work}, 1 caller", _PEER, _P50, at_most(2)): Load(call, 1, READ_SECONDS),
        Row(f"reads.{name}.32", f"{work}, 32 callers", _PEER, _RATE, at_least(0.8)): Load(call, 32, READ_SECONDS),
    }


LOADS = {
    Row("http.visits.1", "HTTP visits, 1 caller", _PEER, _P50, at_most(1.5)): Load(visit, 1, WRITE_SECONDS),
    Row("http.visits.8", "HTTP visits, 8 callers", _PEER, _RATE, at_least(1.2)): Load(visit, 8, WRITE_SECONDS),
    Row("http.visits.32", "HTTP visits, 32 callers", _PEER, _RATE, at_least(2.5)): Load(visit, 32, WRITE_SECONDS),
    Row("http.visits.128", "HTTP visits, 128 callers", _PEER, _RATE, at_least(4)): Load(visit, 128, WRITE_SECONDS),
    **_reads("visitor", "HTTP reads of a visitor", visitor),
    **_reads("list", "HTTP reads of 25 visits of a visitor", visits),
    **_reads("details", "HTTP reads of a visitor with all records", details),
}
ROWS = tuple(LOADS)


async def run(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    async with installation.ready_worker(), installation.edge() as edge, _peer(installation) as peer:
        await rate(edge, installation.population, Load(visit, 32, _WARM_UP_SECONDS))
        for row in rows:
            measures = {url: partial(_measure, url, installation.population, row) for url in (edge, peer)}
            values = await alternate(measures, rounds)
            yield Result(row, values[edge], values[peer])


@asynccontextmanager
async def _peer(installation: Installation) -> AsyncIterator[str]:
    port = free_port()
    arguments = ["benchmarks.peer:app", "--port", str(port), "--log-level", "error"]
    async with installation.process("uvicorn", *arguments):
        await wait_until_ready(f"http://127.0.0.1:{port}/docs")
        yield f"http://127.0.0.1:{port}"


async def _measure(url: str, population: Population, row: Row) -> float:
    measure = _p50 if row.unit == _P50 else rate
    return await measure(url, population, LOADS[row])


async def _p50(url: str, population: Population, load: Load) -> float:
    """The median latency in milliseconds."""
    return statistics.median(await _latencies(url, population, load)) * 1000


async def rate(url: str, population: Population, load: Load) -> float:
    """Calls per second."""
    return len(await _latencies(url, population, load)) / load.seconds


async def _latencies(url: str, population: Population, load: Load) -> Sequence[float]:
    """The seconds that each call took."""
    connector = aiohttp.TCPConnector(limit=load.callers)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        await request(session, load.call(population, population.people[0]))
        deadline = time.perf_counter() + load.seconds
        callers = (_run_caller(session, population, load.call, deadline) for _ in range(load.callers))
        return [seconds for caller in await asyncio.gather(*callers) for seconds in caller]


async def _run_caller(
    session: aiohttp.ClientSession, population: Population, call: Call, deadline: float
) -> Sequence[float]:
    seconds = []
    while (sent_at := time.perf_counter()) < deadline:
        await request(session, call(population, random.choice(population.people)))
        seconds.append(time.perf_counter() - sent_at)
    return seconds


async def request(session: aiohttp.ClientSession, call: tuple[str, str, dict[str, Any]]) -> None:
    method, path, arguments = call
    async with session.request(method, path, **arguments) as response:
        assert response.ok, await response.text()
        await response.read()
