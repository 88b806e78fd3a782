"""Compares the service with its peers on the same work in one run: `make bench`.

docs/performance.md explains the rows of the table."""

import asyncio
import json
import logging
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import backlog, growth, http, imports, locks, messages, results, sink, sizes
from benchmarks.installation import Installation, installed
from benchmarks.results import Result, Row

ROUNDS, QUICK_ROUNDS = 3, 1
_GROWTH_HOME = Path(".visitor/bench")


@dataclass(frozen=True)
class Group:
    """Rows that are measured together, because they share processes or measurements."""

    rows: Sequence[Row]
    run: Callable[[Installation, Sequence[Row], int], AsyncIterator[Result]]


GROUPS = (
    Group(http.ROWS, http.run),
    Group(locks.ROWS, locks.run),
    Group(messages.ROWS, messages.run),
    Group(messages.LOAD_ROWS, messages.run_loads),
    Group(messages.SINK_ROWS, messages.run_sink),
    Group(sizes.ROWS, sizes.run),
    Group(backlog.ROWS, backlog.run),
    Group(imports.ROWS, imports.run),
)


def main(
    only: Annotated[str, typer.Option(help="Comma-separated beginnings of the names of the rows to measure.")] = "",
    quick: Annotated[bool, typer.Option(help="One round instead of three.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="File for the results and the machine.")] = None,
    growth_rows: Annotated[bool, typer.Option("--growth", help="Measure the rows with many visitors instead.")] = False,
    visitors: Annotated[
        int, typer.Option(help="With --growth: how many; each with a vehicle and 5 visits.")
    ] = 10_000_000,
) -> None:
    prefixes = tuple(prefix.strip() for prefix in only.split(","))
    names = growth.ROWS if growth_rows else [row for group in GROUPS for row in group.rows]
    rows = [row for row in names if row.name.startswith(prefixes)]
    if not rows:
        raise typer.BadParameter(f"No row begins with {only}. The rows are: {', '.join(row.name for row in names)}")
    if messages.SINK in rows:
        sink.require_tools()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    # While topics are created, aiokafka logs an error for each request that it repeats.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends the servers as Ctrl-C does.
    measured = growth.run(_GROWTH_HOME, visitors, rows, rounds) if growth_rows else _groups(rows, rounds)
    asyncio.run(_report(measured, rounds, output))


async def _groups(rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    with tempfile.TemporaryDirectory() as home:
        async with installed(Path(home)) as installation:
            await installation.populate()
            for group in GROUPS:
                if selected := [row for row in group.rows if row in rows]:
                    try:
                        async for result in group.run(installation, selected, rounds):
                            yield result
                    except RuntimeError as error:  # a program of a peer failed
                        print(f"Not measured: {', '.join(row.name for row in selected)}: {error}", file=sys.stderr)


async def _report(measured: AsyncIterator[Result], rounds: int, output: Path | None) -> None:
    """Print each result and write it to the file when it is measured. Print the table at the end."""
    console = Console(width=200)
    machine = results.machine()
    finished: list[Result] = []
    async for result in measured:
        finished.append(result)
        console.print(f"{result.row.name}: {result.median:.3g} (target {result.row.target})")
        if output is not None:
            report = {"machine": machine, "rounds": rounds, "results": [result.as_json() for result in finished]}
            output.write_text(json.dumps(report, indent=2))
    console.print(results.table(finished))
    console.print(json.dumps(machine))


if __name__ == "__main__":
    typer.run(main)
