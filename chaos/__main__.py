"""Runs the service under faults and traffic that a seed draws, and checks its guarantees: `make chaos`."""

import argparse
import asyncio
import logging
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos import cluster as clusters
from chaos import faults, oracle, traffic
from tests.support.stack import eventually

SETTLE_SECONDS = 120.0
PROBE_SECONDS = 120.0
"""How long to wait for a recovery, so that a slow one is reported with its duration."""


@dataclass
class Report:
    seed: int
    started: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    worst_recovery: float = 0.0
    worst_round: str = ""

    @property
    def minute(self) -> float:
        return (time.monotonic() - self.started) / 60


async def run(home: Path, seed: int, minutes: float, brokers: int, report: Report, console: Console) -> None:
    """Raises oracle.Violation, alone or in a group."""
    async with clusters.running(home, brokers) as cluster:
        console.print(f"Everything is ready after {report.minute:.1f} minutes.")
        report.started = time.monotonic()
        http = traffic.Http(cluster.edge_urls)
        watcher = oracle.Oracle(cluster.bootstrap, cluster.edge_urls)
        load = traffic.Traffic(watcher, http, seed)
        try:
            await load.populate()
            async with asyncio.TaskGroup() as background:
                follower = background.create_task(watcher.follow())
                supervisor = background.create_task(cluster.supervise())
                load.connect()
                sender = background.create_task(load.send())
                callers = [background.create_task(load.call(number)) for number in range(traffic.CALLERS)]
                await _inject(cluster, load, seed, minutes, report, console)
                load.stopping = True
                await asyncio.gather(sender, *callers)
                await _settle(cluster, watcher)
                follower.cancel()
                supervisor.cancel()
            connection = await cluster.postgres.connect()
            try:
                await watcher.verify(connection)
            finally:
                await connection.close()
        finally:
            await http.close()
            _print(console, report, cluster, load)


async def _inject(
    cluster: clusters.Cluster, load: traffic.Traffic, seed: int, minutes: float, report: Report, console: Console
) -> None:
    """Rounds of faults. After each, wait for the recovery."""
    # Rounds draw the same faults for a seed, however many attempts the probes need.
    rng, probes = random.Random(f"{seed} faults"), random.Random(f"{seed} probes")
    await _probe(load, probes)
    while report.minute < minutes:
        drawn = faults.draw(rng)
        runs = [(item, faults.Run(cluster, load, random.Random(rng.getrandbits(64)))) for item in drawn]
        name = " + ".join(item.kind for item in drawn)
        console.print(f"{report.minute:6.2f} min  {name}", highlight=False)
        await asyncio.gather(*(item.inject(each) for item, each in runs))
        report.faults.update(item.kind for item in drawn)
        seconds = await _probe(load, probes)
        if seconds > report.worst_recovery:
            report.worst_recovery, report.worst_round = seconds, name
        if seconds > oracle.RECOVERY_SECONDS:
            raise oracle.Violation(f"recovery within {oracle.RECOVERY_SECONDS:.0f} s", f"{seconds:.1f} s after {name}")
        _check_memory(cluster)


async def _probe(load: traffic.Traffic, rng: random.Random) -> float:
    """The seconds until all partitions and edges work."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await load.probe(rng)
    except TimeoutError:
        raise oracle.Violation(
            f"recovery within {oracle.RECOVERY_SECONDS:.0f} s", f"none after {PROBE_SECONDS:.0f} s"
        ) from None
    return time.monotonic() - started


def _check_memory(cluster: clusters.Cluster) -> None:
    for name, peak in cluster.peak_memory.items():
        limit = oracle.EDGE_MEMORY if name.startswith("edge") else oracle.WORKER_MEMORY
        if peak > limit:
            raise oracle.Violation(f"memory of at most {limit / 2**20:.0f} MiB", f"{name}: {peak / 2**20:.0f} MiB")


async def _settle(cluster: clusters.Cluster, watcher: oracle.Oracle) -> None:
    """Wait until every message has its result and every change is published and read."""
    connection = await cluster.postgres.connect()

    async def settled() -> bool:
        if watcher.unanswered() or await connection.fetchval("select count(*) from outbox"):
            return False
        return await watcher.caught_up()

    try:
        await eventually("results and changes of all requests", settled, SETTLE_SECONDS)
    finally:
        await connection.close()


def _print(console: Console, report: Report, cluster: clusters.Cluster, load: traffic.Traffic) -> None:
    table = Table("", "", title=f"Chaos, seed {report.seed}, {report.minute:.1f} minutes")
    table.add_row("faults", str(report.faults.total()))
    for kind, count in sorted(report.faults.items()):
        table.add_row(f"  {kind}", str(count))
    table.add_row("messages sent, repetitions included", f"{load.sent:,}")
    table.add_row("results read", f"{load.oracle.results:,}")
    table.add_row("changes read", f"{load.oracle.changes:,}")
    table.add_row("HTTP calls, attempts", f"{load.http.calls:,}, {load.http.attempts:,}")
    table.add_row("erasures", str(load.erasures))
    table.add_row("worst recovery", f"{report.worst_recovery:.1f} s, after {report.worst_round}")
    for name, peak in sorted(cluster.peak_memory.items()):
        table.add_row(f"peak memory of {name}", f"{peak / 2**20:.0f} MiB")
    for name, count in sorted(cluster.own_exits.items()):
        table.add_row(f"ended by itself: {name}", str(count))
    console.print(table)


def _violations(error: BaseException) -> list[oracle.Violation]:
    if isinstance(error, BaseExceptionGroup):
        return [violation for inner in error.exceptions for violation in _violations(inner)]
    return [error] if isinstance(error, oracle.Violation) else []


async def _interruptible(main: Any) -> None:
    """Stop all processes also when the run is ended by SIGTERM."""
    task = asyncio.ensure_future(main)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to inject faults; 60 by default")
    parser.add_argument("--seed", type=int, help="draws faults and traffic; random by default")
    parser.add_argument("--brokers", type=int, default=3, help="number of Kafka brokers; 3 by default")
    arguments = parser.parse_args()
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    console = Console(soft_wrap=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each lost connection
    home = Path(tempfile.mkdtemp(prefix=f"visitor-chaos-{seed}-"))
    console.print(f"Seed {seed}. The logs of all processes are in {home}.")
    report = Report(seed)
    try:
        asyncio.run(_interruptible(run(home, seed, arguments.minutes, arguments.brokers, report, console)))
    except asyncio.CancelledError:
        console.print(f"Ended by SIGTERM. Logs in {home}")
        return 130
    except BaseException as error:
        if not (violations := _violations(error)):
            raise
        for violation in violations:
            console.print(f"VIOLATED: {violation}", style="bold red", highlight=False, markup=False)
        console.print(f"Seed {seed}, minute {report.minute:.1f}, logs in {home}")
        return 1
    shutil.rmtree(home, ignore_errors=True)
    console.print("All guarantees hold.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
