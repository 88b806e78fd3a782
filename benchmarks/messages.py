"""Visits as messages: a worker, and peers that read the same messages or write the same rows."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from itertools import count

from benchmarks import population
from benchmarks.installation import PARTITIONS, Installation
from benchmarks.results import Measure, Result, Row, alternate, at_least
from benchmarks.sink import Sink

VISITS = 30_000
_RATE = "requests/s"
_WORK = "visits as messages"

FAUST = Row("messages.faust", _WORK, "an empty Faust agent", _RATE, at_least(0.7))
FASTSTREAM = Row("messages.faststream", _WORK, "a FastStream batch subscriber", _RATE, at_least(1.2))
SINK = Row("messages.sink", _WORK, "Debezium's JDBC sink, inserts only", _RATE, at_least(1.5))
RAW = Row("messages.raw", _WORK, "asyncpg without Kafka and checks", _RATE, at_least(0.6))
MIX = Row("messages.mix", "a mix of operations as messages", _WORK, _RATE, at_least(0.5))
TWO_WORKERS = Row("messages.two-workers", "visits as messages, two workers", "one worker", _RATE, at_least(1.3))

ROWS = (FAUST, FASTSTREAM, RAW)
SINK_ROWS = (SINK,)
LOAD_ROWS = (MIX, TWO_WORKERS)

_numbers = count(1)


async def run(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """Compare one measurement of the worker with all peers of the same round."""
    peers: Mapping[Row, Measure] = {
        FAUST: partial(_empty_agent, installation),
        FASTSTREAM: partial(_faststream, installation),
        RAW: partial(_raw, installation),
    }
    measures = {"worker": partial(installation.rate_of, population.visits, VISITS)}
    values = await alternate(measures | {row.name: peers[row] for row in rows}, rounds)
    for row in rows:
        yield Result(row, values["worker"], values[row.name])


async def run_sink(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """Apart from the other peers, because it needs tools that not every machine has."""
    sink = Sink(installation)
    await sink.prepare()
    worker, peer = partial(installation.rate_of, population.visits, VISITS), partial(sink.rate, 2 * VISITS)
    values = await alternate({"worker": worker, "sink": peer}, rounds)
    yield Result(SINK, values["worker"], values["sink"])


async def run_loads(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    """Compare a worker with itself under another load."""
    rate_of = installation.rate_of
    if MIX in rows:
        mix = {"mix": partial(rate_of, population.mix, VISITS), "visits": partial(rate_of, population.visits, VISITS)}
        values = await alternate(mix, rounds)
        yield Result(MIX, values["mix"], values["visits"])
    if TWO_WORKERS in rows:
        # More visits, because the clock starts only when a third of them is done.
        loads = {workers: partial(rate_of, population.visits, 2 * VISITS, workers=workers) for workers in (2, 1)}
        values = await alternate({str(workers): measure for workers, measure in loads.items()}, rounds)
        yield Result(TWO_WORKERS, values["2"], values["1"])


async def _empty_agent(installation: Installation) -> float:
    return await _peer(installation, "benchmarks.empty")


async def _faststream(installation: Installation) -> float:
    return await _peer(installation, "benchmarks.faststream_peer", ".results", ".changes")


async def _peer(installation: Installation, module: str, *suffixes: str) -> float:
    """The rate of a peer that reads a topic with the same messages."""
    topic = f"bench.{next(_numbers)}"
    for name in (topic, *(f"{topic}{suffix}" for suffix in suffixes)):
        await installation.create_topic(name)
    await installation.send(population.visits(installation.population, VISITS), topic)
    settings = {"BENCH_TOPIC": topic, "BENCH_COUNT": str(VISITS), "BENCH_PARTITIONS": str(PARTITIONS)}
    return float(await installation.output_of(module, **settings))


async def _raw(installation: Installation) -> float:
    return float(await installation.output_of("benchmarks.raw", BENCH_COUNT=str(VISITS)))
