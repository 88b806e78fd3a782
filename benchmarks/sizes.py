"""Bytes of a visit in the tables and topics. docs/deploy.md, Sizing, derives its plans from them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from benchmarks import population
from benchmarks.installation import Installation
from benchmarks.results import Result, Row, at_most
from topics import names

COUNT = 100_000
_CHANGES = names.changes("visits", "visit")


def _row(name: str, work: str, bound: float) -> Row:
    return Row(f"size.{name}", work, None, "bytes", at_most(bound))


TABLES: Mapping[Row, str] = {
    _row("visit", "a row of visits, with its indexes", 250): "visits",
    _row("inbox", "a row of the inbox, with its indexes", 600): "inbox",
    _row("outbox", "a row of the outbox, with its indexes", 500): "outbox",
}
TOPICS: Mapping[Row, str] = {
    _row("request", "a request on its topic", 1_000): names.requests("visits"),
    _row("result", "a result on its topic", 1_000): names.results("visits"),
    _row("change", "a change on its topic", 1_000): _CHANGES,
}
ROWS = (*TABLES, *TOPICS)


async def run(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """One load measures all rows. Each visit makes one row in each table, and one message on each topic."""
    # The rows would else use the space of those that other measurements have left.
    await installation.database.execute("vacuum full visits, inbox, outbox")
    empty = await _sizes(installation)
    results = await installation.count_results()
    async with installation.worker():
        # No worker publishes the changes while another session has the lock of their topic.
        async with _locked(installation, _CHANGES):
            await installation.send(population.visits(installation.population, COUNT))
            await installation.results_reach(results + COUNT)
            unpublished = await _sizes(installation)
        await installation.outbox_empties()
    published = await _sizes(installation)
    for row in rows:
        full = unpublished if row in TABLES else published
        yield Result(row, [(full[row] - empty[row]) / COUNT])


async def _sizes(installation: Installation) -> Mapping[Row, int]:
    size = "select pg_total_relation_size($1::text::regclass)"
    tables = {row: await installation.database.fetchval(size, table) for row, table in TABLES.items()}
    return tables | {row: installation.log_size(topic) for row, topic in TOPICS.items()}


@asynccontextmanager
async def _locked(installation: Installation, topic: str) -> AsyncIterator[None]:
    await installation.database.execute("select pg_advisory_lock(hashtextextended($1, 0))", topic)
    try:
        yield
    finally:
        await installation.database.execute("select pg_advisory_unlock_all()")
