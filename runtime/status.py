"""`visitor status`: shows the overview of an installation on a terminal."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agents.catalogue import CATALOGUE
from runtime import overview
from runtime.command import print_json, shown
from runtime.overview import (
    DELAYED_SECONDS,
    LATE_SECONDS,
    DatabaseOverview,
    GroupLag,
    KafkaOverview,
    Overview,
    PartitionLag,
    Rates,
    Source,
    Unavailable,
)
from runtime.settings import Settings
from storage.outbox import WAITING_LIMIT
from topics import names

INTERVAL_SECONDS = 2.0
"""Between two overviews. Rates and latencies are those of the time in between."""
DEAD_LETTERS_SHOWN = 5
LIVE_HEIGHT, LIVE_WIDTH = 30, 80
"""The smallest terminal that has room for the live view of `visitor dev`."""
MIN_WIDTH = 6
"""Of a column of numbers. All columns fit into a terminal of 60 columns."""

_GOOD, _WARNING, _BAD, _DIM = "green", "yellow", "bold red", "dim"


def fits(console: Console) -> bool:
    """True if the terminal can show the live view."""
    is_usable = console.is_terminal and not console.is_dumb_terminal
    return is_usable and console.height >= LIVE_HEIGHT and console.width >= LIVE_WIDTH


async def show(settings: Settings, console: Console) -> None:
    """Show the live view until cancelled."""
    async with overview.source(settings) as source:
        with Live(Text("Reading …"), console=console, screen=True, auto_refresh=False) as live:
            await follow(source, live)


async def follow(source: Source, live: Live) -> None:
    """Update a live view until cancelled."""
    before = await source.read()
    live.update(view(before, before), refresh=True)
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        after = await source.read()
        live.update(view(before, after), refresh=True)
        before = after


async def print_once(settings: Settings, console: Console, *, as_json: bool) -> bool:
    """Print the status after two overviews. Returns False if a server is unavailable."""
    async with overview.source(settings) as source:
        before = await source.read()
        await asyncio.sleep(INTERVAL_SECONDS)
        after = await source.read()
    if as_json:
        print_json(overview.as_document(after, overview.rates(before, after)), indent=True)
    else:
        console.print(view(before, after))
    return not (isinstance(after.kafka, Unavailable) or isinstance(after.database, Unavailable))


def view(before: Overview, after: Overview) -> RenderableType:
    """The whole view of the later overview, with the rates since the earlier one."""
    rates = overview.rates(before, after)
    parts: list[RenderableType] = [Text(f"visitor status  {_time(after.read_at)}", style="bold")]
    if isinstance(after.kafka, Unavailable):
        parts.append(Text(f"Kafka is unavailable: {after.kafka.reason}", style=_BAD))
    else:
        parts += [*_problems(after.kafka), Text(), _families(after.kafka, rates), Text(), _workers(after.kafka)]
    parts.append(Text())
    if isinstance(after.database, Unavailable):
        parts.append(Text(f"PostgreSQL is unavailable: {after.database.reason}", style=_BAD))
    else:
        parts += _database(after.database, rates)
    if isinstance(after.kafka, KafkaOverview):
        parts += [Text(), _dead_letters(after.kafka)]
    return Group(*parts)


def _problems(kafka: KafkaOverview) -> Iterator[Text]:
    """What is wrong with topics and groups; nothing if all is well."""
    if kafka.missing_topics:
        yield Text(f"Topics are missing, run `visitor topics`: {', '.join(kafka.missing_topics)}", style=_BAD)
    for group in kafka.groups:
        if group.state in ("Empty", "Dead"):
            yield Text(f"No worker runs: the consumer group {group.name} has no members.", style=_BAD)
        elif group.state != "Stable":
            yield Text(f"The consumer group {group.name} is rebalancing ({group.state}).", style=_WARNING)


def _families(kafka: KafkaOverview, rates: Rates) -> Table:
    table = Table(box=None, pad_edge=False, header_style=_DIM)
    table.add_column("family")
    for heading in ("requests/s", "results/s", "latency p50", "p95", "lag", "oldest"):
        table.add_column(heading, justify="right", min_width=MIN_WIDTH)
    lags = _by_topic(kafka.groups)
    topics = {family: (names.requests(family), names.results(family)) for family in CATALOGUE.families}
    for name, (requests, results) in {**topics, "reads": (names.QUERIES, names.REPLIES)}.items():
        latency = kafka.latencies.get(requests)
        of_topic = GroupLag(name, "", tuple(lags[requests]))
        table.add_row(
            name,
            _rate(rates.topics.get(requests)),
            _rate(rates.topics.get(results)),
            _seconds(latency.median if latency else None),
            _seconds(latency.p95 if latency else None),
            _count(of_topic.messages),
            _age(of_topic.seconds),
        )
    return table


def _by_topic(groups: Iterable[GroupLag]) -> dict[str, list[PartitionLag]]:
    lags = defaultdict(list)
    for group in groups:
        for partition in group.partitions:
            lags[partition.topic].append(partition)
    return lags


def _workers(kafka: KafkaOverview) -> Table:
    table = Table("worker", "address", "partitions", box=None, pad_edge=False, header_style=_DIM)
    for worker in kafka.workers:
        cells = (worker.client_id.removeprefix("visitor-worker-"), worker.host, _partitions(worker.partitions.items()))
        table.add_row(*map(shown, cells))
    if not kafka.workers:
        table.add_row(Text("none", style=_BAD))
    return table


def _partitions(by_topic: Iterable[tuple[str, Sequence[int]]]) -> str:
    """For example `0-5 of 11 topics`, or `0-2 of visits, optins; 3-5 of checkins`."""
    topics = defaultdict(list)
    for topic, numbers in by_topic:
        topics[_ranges(numbers)].append(topic.removeprefix("visitor.").removesuffix(".requests"))
    if len(topics) == 1:
        ((ranges, of_range),) = topics.items()
        return f"{ranges} of {len(of_range)} topics"
    return "; ".join(f"{ranges} of {', '.join(of_range)}" for ranges, of_range in topics.items())


def _ranges(numbers: Sequence[int]) -> str:
    """`0-2, 5` for 0, 1, 2 and 5."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def _database(database: DatabaseOverview, rates: Rates) -> Iterator[RenderableType]:
    table = Table.grid(padding=(0, 2))
    oldest = database.oldest_change_seconds
    waiting = (f"{database.outbox_rows:,} wait, the oldest for ", _age(oldest)) if oldest else ("none waits",)
    table.add_row(Text("changes", style=_DIM), Text.assemble(f"{rates.changes:,.1f}/s, ", *waiting))
    table.add_row(Text("answers", style=_DIM), f"about {database.inbox_rows:,} in the inbox")
    yield table
    for topic in database.change_topics:
        if topic.oldest_seconds is not None and topic.oldest_seconds >= DELAYED_SECONDS:
            more = " or more" if topic.waiting >= WAITING_LIMIT else ""
            yield Text(
                f"{topic.topic}: {topic.waiting}{more} changes wait, the oldest for {topic.oldest_seconds:.0f} s;"
                f" {_last_published(topic.published_seconds)}",
                style=_BAD if topic.oldest_seconds >= LATE_SECONDS else _WARNING,
            )
    for wait in database.lock_waits:
        holder = f"{wait.application or 'another session'}, {wait.state or 'unknown state'}"
        yield Text(
            f"session {wait.pid} ({wait.waiting_application or 'unnamed'}) waits {wait.seconds:.1f} s"
            f" for a lock of session {wait.blocked_by} ({holder})",
            style=_WARNING,
        )
    for session in database.lock_holders:
        yield Text(
            f"session {session.pid} ({session.application or 'unnamed'}, {session.state or 'unknown state'})"
            f" holds locks on {', '.join(session.tables)} for {session.seconds:.0f} s",
            style=_WARNING,
        )


def _last_published(seconds: float | None) -> str:
    return "nothing was ever published" if seconds is None else f"last published {seconds:.0f} s ago"


def _dead_letters(kafka: KafkaOverview) -> RenderableType:
    if kafka.unread_dead_letters:
        partitions = _ranges(kafka.unread_dead_letters)
        return Text(f"The dead letters of partitions {partitions} could not be read.", style=_WARNING)
    if not kafka.dead_letters:
        return Text("no dead letters", style=_DIM)
    table = Table("newest dead letters", "reason", "operation", "source", "id", box=None, pad_edge=False)
    table.header_style = _DIM
    for letter in kafka.dead_letters[:DEAD_LETTERS_SHOWN]:
        cells = (_time(letter.written_at), letter.reason, letter.operation, letter.source, letter.id)
        table.add_row(*map(shown, cells))
    return table


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _rate(per_second: float | None) -> Text:
    if per_second is None:
        return Text("-", style=_DIM)
    return Text(f"{per_second:,.1f}", style="" if per_second else _DIM)


def _count(number: int) -> Text:
    return Text(f"{number:,}", style="" if number else _DIM)


def _seconds(seconds: float | None) -> Text:
    if seconds is None:
        return Text("-", style=_DIM)
    return Text(f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s")


def _age(seconds: float) -> Text:
    """The age of what waits, in the colour of its severity."""
    if not seconds:
        return Text("-", style=_DIM)
    style = _BAD if seconds >= LATE_SECONDS else _WARNING if seconds >= DELAYED_SECONDS else _GOOD
    return Text(f"{seconds:,.1f} s", style=style)
