"""`visitor dead-letters`: lists dead letters, sends them again, and marks what was done with them."""

import heapq
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.catalogue import CATALOGUE
from runtime import progress
from runtime.command import WHOLE_LINES
from runtime.consume import Values, opened_values, printable
from runtime.operator_database import Retry, connected
from runtime.settings import Settings
from storage import dead_letter_marks, inbox
from storage.dead_letter_marks import Action, Mark, MarkKey
from storage.inbox import RequestKey
from topics import dead_letters, json, names, patches
from topics.dead_letters import DeadLetter, Position
from topics.kafka import Outgoing, Producer
from topics.snapshot import records

LARGE = 100
"""The number of dead letters above which a command asks before it handles them."""
PAGE = 100
PAGE_BYTES = 16 * 2**20
"""Limits of the messages that are held in memory, sent and marked together."""
LISTED = 50
"""How many dead letters `list` prints as a table: the newest."""

Confirm = Callable[[str], object]
"""Asks a question; raises if the answer is no."""


@dataclass(frozen=True)
class Filter:
    """Which dead letters a command is about. None and an empty set mean any."""

    positions: frozenset[Position] = frozenset()
    reason: str | None = None
    operation: str | None = None
    source: str | None = None
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        return self == Filter()

    def matches(self, letter: DeadLetter) -> bool:
        return (
            (not self.positions or letter.position in self.positions)
            and (self.reason is None or letter.reason == self.reason)
            and (self.operation is None or letter.operation == self.operation)
            and (self.source is None or letter.source == self.source)
            and (self.topic is None or letter.topic == self.topic)
            and (self.since is None or letter.written_at >= self.since)
            and (self.until is None or letter.written_at < self.until)
        )


class MarkedLetter(NamedTuple):
    """A dead letter, and what was done with it. `mark` is None if nothing was."""

    letter: DeadLetter
    mark: Mark | None


@dataclass
class Plan:
    """What a command will do. `letters` will be handled. The numbers count the other dead letters of the filter, and
    those of `letters` that are older than the inbox's answers. `still_faulty` counts those of `letters` whose replay
    fails again, by reason."""

    letters: list[DeadLetter] = field(default_factory=list)
    marked: int = 0
    incomplete: int = 0
    foreign: int = 0
    older_than_inbox: int = 0
    still_faulty: Counter[str] = field(default_factory=Counter)


class NoSuchDeadLetter(Exception):
    """The message says which."""


class DeadLetters:
    """The dead letters of an installation."""

    def __init__(self, settings: Settings, database: AsyncEngine) -> None:
        self._settings = settings
        self._database = database

    async def find(self, selection: Filter) -> list[MarkedLetter]:
        """The dead letters of a filter, oldest first. Raises KafkaError."""
        marks = await self._marks()
        letters = [letter async for letter, _ in self._matching(selection)]
        letters.sort(key=lambda letter: (letter.written_at, letter.position))
        return [MarkedLetter(letter, marks.get(_mark_key(letter))) for letter in letters]

    async def newest(
        self, selection: Filter, limit: int, *, include_marked: bool
    ) -> tuple[list[MarkedLetter], Counter[str]]:
        """The newest dead letters of a filter, newest first, at most `limit`, and the counts of all of them by reason.
        Raises KafkaError."""
        marks = await self._marks()
        counts: Counter[str] = Counter()
        newest: list[tuple[datetime, Position, MarkedLetter]] = []
        async for letter, _ in self._matching(selection):
            mark = marks.get(_mark_key(letter))
            if mark is not None and not include_marked:
                continue
            counts[letter.reason] += 1
            heapq.heappush(newest, (letter.written_at, letter.position, MarkedLetter(letter, mark)))
            if len(newest) > limit:
                heapq.heappop(newest)
        return [marked for *_, marked in sorted(newest, reverse=True)], counts

    async def content(self, position: Position, values: Values) -> dict[str, Any]:
        """A dead letter with its decoded content. Raises NoSuchDeadLetter, KafkaError."""
        async for letter, record in self._matching(Filter(positions=frozenset({position}))):
            mark = (await self._marks()).get(_mark_key(letter))
            return as_json(MarkedLetter(letter, mark)) | {"record": await printable(values, record)}
        raise NoSuchDeadLetter(f"There is no dead letter at {position}. `visitor dead-letters list` prints them.")

    async def plan_replay(self, selection: Filter) -> Plan:
        """Raises KafkaError."""
        plan, topics = Plan(), _request_topics()
        inbox_start = datetime.now(UTC) - timedelta(days=self._settings.worker.inbox_days)
        for letter, mark in await self.find(selection):
            if mark is not None:
                plan.marked += 1
            elif letter.topic not in topics:
                plan.foreign += 1
            elif not letter.complete:
                plan.incomplete += 1
            else:
                plan.letters.append(letter)
                plan.older_than_inbox += letter.written_at < inbox_start
                if letter.reason not in dead_letters.REPLAYABLE:
                    plan.still_faulty[letter.reason] += 1
        return plan

    async def plan_discard(self, selection: Filter) -> Plan:
        """Raises KafkaError."""
        letters = await self.find(selection)
        unmarked = [letter for letter, mark in letters if mark is None]
        return Plan(unmarked, marked=len(letters) - len(unmarked))

    async def replay(self, plan: Plan, on_progress: Callable[[Sequence[DeadLetter]], None]) -> None:
        """Send the original messages of a plan and mark their dead letters, page by page. After an error, the next
        replay begins with the page that failed; the inbox recognises what was sent twice. Raises DeliveryError,
        KafkaError."""
        producer = Producer(self._settings.kafka)
        try:
            await producer.start()
            async for page in self._pages(plan.letters):
                await self._reopen(letter for letter, _ in page)
                await producer.send([await _to_existing_partition(producer, message) for _, message in page])
                await self.mark([letter for letter, _ in page], "replayed")
                on_progress([letter for letter, _ in page])
        finally:
            await producer.stop()

    async def mark(self, letters: Sequence[DeadLetter], action: Action) -> None:
        async with self._database.begin() as conn:
            await dead_letter_marks.insert(conn, map(_mark_key, letters), action, datetime.now(UTC))

    async def _marks(self) -> dict[MarkKey, Mark]:
        async with self._database.begin() as conn:
            return await dead_letter_marks.read(conn)

    async def _matching(self, selection: Filter) -> AsyncIterator[tuple[DeadLetter, Any]]:
        async for record in records(self._settings.kafka, names.DEAD_LETTERS):
            letter = dead_letters.read(record)
            if selection.matches(letter):
                yield letter, record

    async def _pages(self, letters: Iterable[DeadLetter]) -> AsyncIterator[list[tuple[DeadLetter, Outgoing]]]:
        """These dead letters with their original messages, in the order of the topic."""
        keys = set(map(_mark_key, letters))
        page: list[tuple[DeadLetter, Outgoing]] = []
        size = 0
        async for letter, record in self._matching(Filter()):
            if _mark_key(letter) not in keys:
                continue
            message = dead_letters.original(record, letter)
            page.append((letter, message))
            size += len(message.value or b"")
            if len(page) == PAGE or size > PAGE_BYTES:
                yield page
                page, size = [], 0
        if page:
            yield page

    async def _reopen(self, letters: Iterable[DeadLetter]) -> None:
        """Let the requests that failed because of a bug be applied again; the inbox has their answers."""
        keys = [
            RequestKey(letter.topic, letter.source or "", letter.request_id)
            for letter in letters
            if letter.reason == "bug" and letter.request_id
        ]
        async with self._database.begin() as conn:
            await inbox.reopen(conn, keys)


async def _to_existing_partition(producer: Producer, message: Outgoing) -> Outgoing:
    """The message for the partition of the original, or of its key if the topic has fewer partitions now."""
    exists = message.partition is not None and message.partition < await producer.partitions(message.topic)
    return message if exists else message._replace(partition=None)


def _request_topics() -> set[str]:
    return {names.QUERIES, *(names.requests(family) for family in CATALOGUE.families)}


def _mark_key(letter: DeadLetter) -> MarkKey:
    return MarkKey(*letter.position, letter.written_at)


async def list_all(
    settings: Settings, selection: Filter, *, include_marked: bool, as_document: bool, retry: Retry
) -> None:
    """Print the dead letters of a filter and their counts by reason. Raises KafkaError, WrongRevision."""
    async with _opened(settings, retry) as letters:
        matching = [each for each in await letters.find(selection) if include_marked or each.mark is None]
    counts = Counter(each.letter.reason for each in matching)
    if as_document:
        document = {"counts": dict(counts.most_common()), "deadLetters": [as_json(each) for each in matching]}
        sys.stdout.write(json.write(document, indent=True).decode() + "\n")
        return
    console = _console()
    if not matching:
        console.print("There are no such dead letters." if include_marked else "There are no such open dead letters.")
        return
    console.print(_table(matching[-LISTED:]))
    if len(matching) > LISTED:
        console.print(f"The newest {LISTED} of {len(matching)}; --json prints all.")
    console.print(_counts(counts))


async def show(settings: Settings, position: Position, retry: Retry) -> None:
    """Print a dead letter with its content. Raises NoSuchDeadLetter, KafkaError, WrongRevision."""
    async with _opened(settings, retry) as letters, opened_values(settings.schema_registry) as values:
        sys.stdout.write(json.write(await letters.content(position, values), indent=True).decode() + "\n")


async def replay(
    settings: Settings, selection: Filter, confirm: Confirm | None, *, dry_run: bool, retry: Retry
) -> None:
    """Replay the open dead letters of a filter; with `dry_run`, only say which. `confirm` is asked before a large
    replay. Raises DeliveryError, KafkaError, WrongRevision."""
    console = _console()
    async with _opened(settings, retry) as letters:
        plan = await letters.plan_replay(selection)
        _describe(console, plan, settings)
        if dry_run or not plan.letters:
            console.print(f"{len(plan.letters)} would be replayed." if dry_run else "Nothing to replay.")
            return
        ask(confirm, selection, plan, f"Replay {len(plan.letters)} dead letters?")
        with progress.bar(console) as bar:
            task = bar.add_task("replayed", total=len(plan.letters))
            await letters.replay(plan, lambda page: bar.advance(task, len(page)))
        console.print(f"{len(plan.letters)} replayed.")


async def discard(settings: Settings, selection: Filter, confirm: Confirm | None, *, retry: Retry) -> None:
    """Mark the open dead letters of a filter as discarded. Raises KafkaError, WrongRevision."""
    console = _console()
    async with _opened(settings, retry) as letters:
        plan = await letters.plan_discard(selection)
        _describe(console, plan, settings)
        if plan.letters:
            ask(confirm, selection, plan, f"Discard {len(plan.letters)} dead letters?")
            await letters.mark(plan.letters, "discarded")
        console.print(f"{len(plan.letters)} discarded.")


@asynccontextmanager
async def _opened(settings: Settings, retry: Retry) -> AsyncIterator[DeadLetters]:
    patches.apply()
    async with connected(settings.database, retry) as database:
        yield DeadLetters(settings, database)


def ask(confirm: Confirm | None, selection: Filter, plan: Plan, question: str) -> None:
    if confirm is not None and (selection.is_empty or len(plan.letters) > LARGE or plan.older_than_inbox):
        confirm(question)


def _describe(console: Console, plan: Plan, settings: Settings) -> None:
    """Print what needs attention."""
    if plan.letters:
        console.print(_counts(Counter(letter.reason for letter in plan.letters)))
    notes = {
        "were replayed or discarded before; they are left alone.": plan.marked,
        "have only a part of the original message and cannot be replayed.": plan.incomplete,
        "are not from a request topic of this release and cannot be replayed.": plan.foreign,
        f"are older than the answers of the inbox ({settings.worker.inbox_days:g} days). If the sender has sent such a"
        " request again with the same id, a replay may apply it twice.": plan.older_than_inbox,
        f"({', '.join(plan.still_faulty)}) will be dead letters again, because the messages themselves are wrong. Let"
        " their senders send corrected ones, and discard these.": plan.still_faulty.total(),
    }
    for note, count in notes.items():
        if count:
            console.print(f"{count} {note}")


def as_json(marked: MarkedLetter) -> dict[str, Any]:
    """A dead letter without its content, for programs."""
    letter, mark = marked
    return {
        "id": str(letter.position),
        "writtenAt": _text(letter.written_at),
        "reason": letter.reason,
        "message": letter.message,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "operation": letter.operation,
        "source": letter.source,
        "requestId": letter.request_id,
        "complete": letter.complete,
        "action": mark and mark.action,
        "markedAt": mark and _text(mark.marked_at),
    }


def _table(letters: Iterable[MarkedLetter]) -> Table:
    table = Table("id", "written at", "reason", "operation", "source", "original", "action", box=None, pad_edge=False)
    for letter, mark in letters:
        original = f"{letter.topic}:{letter.partition}:{letter.offset}"
        cells = (
            str(letter.position),
            _text(letter.written_at),
            letter.reason,
            letter.operation,
            letter.source,
            original,
        )
        table.add_row(*(escape(cell or "") for cell in cells), mark.action if mark else "")
    return table


def _counts(counts: Counter[str]) -> Table:
    table = Table("reason", "count", box=None, pad_edge=False)
    for reason, count in counts.most_common():
        table.add_row(escape(reason), str(count))
    return table


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _console() -> Console:
    """Prints whole lines if the output is no terminal."""
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(soft_wrap=True, width=WHOLE_LINES)
