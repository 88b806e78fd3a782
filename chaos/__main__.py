"""Runs the service under faults and traffic that a seed draws, and checks its guarantees: `make chaos`."""

import argparse
import asyncio
import logging
import math
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console

from chaos import clocks, faults, oracle, traffic
from chaos import cluster as clusters
from chaos.http import Http
from chaos.report import Report

SETTLE_SECONDS = 120.0
PROBE_SECONDS = 120.0
"""How long to wait for a recovery, so that a slow one is reported with its duration."""


async def run(home: Path, options: argparse.Namespace, report: Report, console: Console) -> None:
    """Raises oracle.Violation, alone or in a group."""
    async with clusters.running(home, options.brokers, options.worker) as cluster:
        console.print(f"Everything is ready after {report.minute:.1f} minutes.")
        http = Http(cluster.callers_urls)
        watcher = oracle.Oracle(cluster.bootstrap, cluster.edge_urls)
        load = traffic.Traffic(watcher, http, report.seed)
        try:
            await load.populate()
            # What follows is counted.
            report.started, http.calls, http.attempts = time.monotonic(), 0, 0
            watcher.compared.clear()
            async with asyncio.TaskGroup() as background:
                follower = background.create_task(watcher.follow())
                supervisor = background.create_task(cluster.supervise())
                load.connect()
                sender = background.create_task(load.send())
                callers = [background.create_task(load.call(number)) for number in range(traffic.CALLERS)]
                await _inject(cluster, load, report, console)
                load.stopping = True
                await asyncio.gather(sender, *callers)
                # Once each partition has answered again, calls whose callers have left are done as well.
                await _recover(cluster, load, random.Random(f"{report.seed} last probes"))
                await load.flush()
                await _settle(cluster, watcher)
                follower.cancel()
                supervisor.cancel()
            connection = await cluster.postgres.connect()
            try:
                await watcher.verify(connection)
            finally:
                await connection.close()
            report.verify(load)
        finally:
            await http.close()
            report.own_exits = cluster.own_exits
            console.print(report.table(load, cluster.peak_memory))


async def _inject(cluster: clusters.Cluster, load: traffic.Traffic, report: Report, console: Console) -> None:
    """Rounds of faults. After each, wait for the recovery."""
    # The number of attempts that the probes need must not change what the rounds draw.
    rng, probes = random.Random(f"{report.seed} faults"), random.Random(f"{report.seed} probes")
    decks = faults.decks(report.seed)

    def log(fault: faults.Fault, seconds: float) -> None:
        report.faults[fault.kind] += 1
        console.print(f"{report.minute:6.2f} min  {fault.kind}, ended after {seconds:.1f} s", highlight=False)

    await _probe(cluster, load, probes)
    while report.minute < report.minutes:
        own = random.Random(rng.getrandbits(64))
        await faults.inject_round(cluster, load, own, decks, report.overload_seconds, log)
        last, seconds = await _recover(cluster, load, probes)
        report.recoveries.append(seconds)
        number = len(report.recoveries)
        recovery = f"round {number}: recovery in {seconds:.1f} s, the {last} last"
        console.print(f"{report.minute:6.2f} min  {recovery}", highlight=False)
        load.oracle.verify_progress()
        _check_memory(cluster)


async def _recover(cluster: clusters.Cluster, load: traffic.Traffic, rng: random.Random) -> tuple[str, float]:
    """What worked last, and after how many seconds. Raises Violation if they are too many."""
    recovered = await _probe(cluster, load, rng)
    last, seconds = max(recovered.items(), key=itemgetter(1))
    if seconds > oracle.RECOVERY_SECONDS:
        raise oracle.Violation(f"recovery within {oracle.RECOVERY_SECONDS:.0f} s", f"seconds: {recovered}")
    return last, seconds


async def _probe(cluster: clusters.Cluster, load: traffic.Traffic, rng: random.Random) -> dict[str, float]:
    """The seconds until each partition, each edge and each publisher works, by name."""
    keeper = asyncio.create_task(cluster.keep_servers_running())
    recovered: dict[str, float] = {}
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await load.probe(rng, recovered)
    except TimeoutError:
        missing = [name for name, seconds in recovered.items() if seconds == math.inf]
        raise oracle.Violation(
            f"recovery within {oracle.RECOVERY_SECONDS:.0f} s",
            f"after {PROBE_SECONDS:.0f} s, {len(missing)} of {len(recovered)} do not work: {', '.join(missing)}\n"
            f"{len(load.oracle.unanswered())} messages have no result\n{await cluster.diagnosis()}",
        ) from None
    finally:
        keeper.cancel()
    return recovered


def _check_memory(cluster: clusters.Cluster) -> None:
    if missing := {*clusters.WORKERS, *clusters.EDGES} - cluster.peak_memory.keys():
        raise oracle.Violation("the memory of each process is measured", f"not that of {sorted(missing)}")
    for name, peak in cluster.peak_memory.items():
        limit = oracle.EDGE_MEMORY if name.startswith("edge") else oracle.WORKER_MEMORY
        if peak > limit:
            raise oracle.Violation(f"memory of at most {limit / 2**20:.0f} MiB", f"{name}: {peak / 2**20:.0f} MiB")


async def _settle(cluster: clusters.Cluster, watcher: oracle.Oracle) -> None:
    """Wait until every message has its result and every change is published and read. Raises Violation."""
    connection = await cluster.postgres.connect()
    pending = ""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while pending := await _pending(connection, watcher):
                pass
    except TimeoutError:
        raise oracle.Violation(f"all work is done {SETTLE_SECONDS:.0f} s after the last message", pending) from None
    finally:
        await connection.close()


async def _pending(connection: asyncpg.Connection, watcher: oracle.Oracle) -> str:
    """The work that the service has not finished, as text; empty if it has finished all."""
    if unanswered := watcher.unanswered():
        await asyncio.sleep(1)
        return f"messages without result: {oracle.some(unanswered)}"
    if waiting := await connection.fetchval("select count(*) from outbox"):
        await asyncio.sleep(1)
        return f"{waiting} changes in the outbox"
    return await watcher.unread()


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
    parser.add_argument("--worker", default="runtime.cli", help="module of the workers, for example a sabotaged one")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("Run it as root: it mounts a small file system for each server.")
    try:
        with tempfile.TemporaryDirectory() as folder:
            clocks.require_effect(Path(folder))
    except clocks.NoLibfaketime as error:
        parser.error(str(error))
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    console = Console(soft_wrap=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each lost connection
    home = Path(tempfile.mkdtemp(prefix=f"visitor-chaos-{seed}-"))
    console.print(f"Seed {seed}. The logs of all processes are in {home}.")
    report = Report(seed, options.minutes)
    try:
        asyncio.run(_interruptible(run(home, options, report, console)))
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
    console.print("All guarantees hold.")
    if report.own_exits:
        console.print(f"Processes ended by themselves; their logs are in {home}")
    else:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
