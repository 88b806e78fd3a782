"""Speed with many visitors and visits compared with few. SQL makes the data of both."""

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks import grown_data, http, messages, population
from benchmarks.http import Call, Load
from benchmarks.installation import Installation, installed
from benchmarks.results import Result, Row, alternate, at_least

_SMALL = 10_000
_READ_SECONDS, _READ_CALLERS = 5.0, 32


def _row(name: str, work: str, unit: str) -> Row:
    return Row(f"growth.{name}", f"{work}, many visitors", "10,000 visitors", unit, at_least(0.9))


VISITS = _row("visits", "visits as messages", "requests/s")
READS: Mapping[Row, Call] = {
    _row("visitor", "HTTP reads of a visitor", "calls/s"): http.visitor,
    _row("list", "HTTP reads of the visits of a visitor", "calls/s"): http.visits,
    _row("details", "HTTP reads of a visitor with all records", "calls/s"): http.details,
}
ROWS = (VISITS, *READS)


async def run(home: Path, visitors: int, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """Compare an installation with `visitors`, whose data stays in `home` for the next run, with one of 10,000. Raises
    OSError if the disk has too little space."""
    with tempfile.TemporaryDirectory() as small_home:
        async with _grown(home / f"{visitors}-visitors", visitors) as large, _grown(Path(small_home), _SMALL) as small:
            if VISITS in rows:
                sides = {"large": large, "small": small}
                rates = {
                    name: partial(side.rate_of, population.visits, messages.VISITS) for name, side in sides.items()
                }
                values = await alternate(rates, rounds)
                yield Result(VISITS, values["large"], values["small"])
            async with large.ready_worker(), small.ready_worker(), large.edge() as large_url, small.edge() as small_url:
                for row in (row for row in rows if row in READS):
                    load = Load(READS[row], _READ_CALLERS, _READ_SECONDS)
                    reads = {
                        "large": partial(http.rate, large_url, large.population, load),
                        "small": partial(http.rate, small_url, small.population, load),
                    }
                    values = await alternate(reads, rounds)
                    yield Result(row, values["large"], values["small"])


@asynccontextmanager
async def _grown(home: Path, visitors: int) -> AsyncIterator[Installation]:
    home.mkdir(parents=True, exist_ok=True)
    if not any(home.iterdir()):
        grown_data.require_space(home, visitors)
    async with installed(home) as installation:
        await grown_data.grow(installation.database, visitors)
        installation.population = await grown_data.sample(installation.database, visitors)
        yield installation
