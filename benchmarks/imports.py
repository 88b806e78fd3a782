"""`visitor import`: a worker applies the rows of a file."""

import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import population
from benchmarks.installation import Installation
from benchmarks.population import Population
from benchmarks.results import Result, Row, at_least

COUNT = 100_000
_TARGET = at_least(3_000)

VISITORS = Row("import.visitors", "visitor import visitors", None, "rows/s", _TARGET)
VEHICLES = Row("import.vehicles", "visitor import vehicles", None, "rows/s", _TARGET)
OPTINS = Row("import.optins", "visitor import optins", None, "rows/s", _TARGET)

ROWS = (VISITORS, VEHICLES, OPTINS)

_numbers = count(1_000_000)


async def run(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """The time of a whole command with a worker that is ready."""
    async with installation.ready_worker():
        for row in rows:
            yield Result(row, [await _rate(installation, row) for _ in range(rounds)])


async def _rate(installation: Installation, row: Row) -> float:
    resource = row.name.partition(".")[2]
    lines = _LINES[row](installation.population)
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / f"{resource}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        started_at = time.perf_counter()
        await installation.output_of("runtime.cli", "import", resource, str(file))
        return COUNT / (time.perf_counter() - started_at)


def _visitors(people: Population) -> Iterator[dict[str, Any]]:
    return (population.visitor(next(_numbers), people.pc_code) for _ in range(COUNT))


def _vehicles(people: Population) -> Iterator[dict[str, Any]]:
    owners = people.people
    for number in range(COUNT):
        yield {"visitorId": owners[number % len(owners)].visitor_id, "licensePlate": f"I-{next(_numbers)}"}


def _optins(people: Population) -> Iterator[dict[str, Any]]:
    owners = people.people
    for number in range(COUNT):
        visitor_id, context = owners[number % len(owners)].visitor_id, next(_numbers)
        optin = {"optinType": "wallet", "optinChannel": "email", "isActive": True, "contextId": context}
        yield {"visitorId": visitor_id, **optin}


_LINES: dict[Row, Callable[[Population], Iterator[dict[str, Any]]]] = {
    VISITORS: _visitors,
    VEHICLES: _vehicles,
    OPTINS: _optins,
}
