"""Compares the service with its peers on the same work in one run: `make bench`, `make bench ARGS=--quick`."""

import asyncio
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import http, messages
from runtime.dev.servers import Kafka, Postgres, Processes

ROUNDS, QUICK_ROUNDS = 5, 3
HOME = Path(__file__).parents[1] / ".visitor"


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[Kafka, Postgres]]:
    """Embedded Kafka and PostgreSQL servers for this run."""
    with tempfile.TemporaryDirectory() as home:
        processes = Processes(Path(home))
        kafka = Kafka(Path(home), HOME / "downloads", processes)
        postgres = Postgres(Path(home), processes)
        try:
            postgres.start()
            kafka.start()
            yield kafka, postgres
        finally:
            kafka.stop()
            postgres.stop()


async def main(quick: bool) -> None:
    console = Console()
    console.print(_machine())
    async with (
        servers() as (kafka, postgres),
        messages.prepared(kafka.bootstrap, postgres.url, quick=quick) as bench,
    ):
        full, empty, ratio = await _alternate(bench.full_path, bench.empty_agent, QUICK_ROUNDS if quick else ROUNDS)
        single = await bench.one_per_transaction()
        table = Table("work", "per second", "ratio", "expected", title="Messages")
        table.add_row("visits, full path", f"{full:,.0f}", "", "")
        table.add_row("empty Faust agent", f"{empty:,.0f}", f"{ratio:.2f} of it", "≥ 0.5")
        table.add_row("one message per transaction", f"{single:,.0f}", f"{full / single:.1f} times it", "≥ 8")
        console.print(table)

        table = Table(
            "connections", "edge per second", "p50 ms", "peer per second", "p50 ms", "ratio", title="HTTP visits"
        )
        async with http.served(kafka.bootstrap, postgres.url) as (edge, peer):
            for connections in (32, 128):
                edge_figures = await http.load(edge, bench.people, connections, quick=quick)
                peer_figures = await http.load(peer, bench.people, connections, quick=quick)
                ratio = f"{edge_figures.per_second / peer_figures.per_second:.2f}"
                table.add_row(
                    str(connections), f"{edge_figures.per_second:,.0f}", f"{edge_figures.p50:.0f}",
                    f"{peer_figures.per_second:,.0f}", f"{peer_figures.p50:.0f}", ratio,
                )  # fmt: skip
        console.print(table)


async def _alternate(
    service: Callable[[], Awaitable[float]], peer: Callable[[], Awaitable[float]], rounds: int
) -> tuple[float, float, float]:
    """Run both in alternating order, because the speed of a machine drifts. Returns the median of each and the median
    of the ratios of the rounds."""
    pairs = []
    for number in range(rounds):
        order = (peer, service) if number % 2 else (service, peer)
        rates = {measure: await measure() for measure in order}
        pairs.append((rates[service], rates[peer]))
    return (
        statistics.median(service_rate for service_rate, _ in pairs),
        statistics.median(peer_rate for _, peer_rate in pairs),
        statistics.median(service_rate / peer_rate for service_rate, peer_rate in pairs),
    )


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("faust-streaming", "aiokafka", "sqlalchemy", "asyncpg")
    )
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()};"
        f" {libraries}; all servers and clients on the same machine"
    )


if __name__ == "__main__":
    asyncio.run(main("--quick" in sys.argv[1:]))
