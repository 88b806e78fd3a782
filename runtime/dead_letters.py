"""`visitor dead-letters`: lists dead letters, sends them again, and marks what was done with them.

After a flood, there are millions of dead letters, so every command reads them page by page. A command that handles dead
letters reads them twice: first it counts them and asks, then it handles those that it has counted."""

import heapq
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from agents.catalogue import CATALOGUE
from runtime import operator_audit, progress
from runtime.command import WHOLE_LINES, print_json, shown
from runtime.consume import Values, opened_values, printable
from runtime.operator_database import Retry, connected
from runtime.settings import Settings
from storage import dead_letter_marks, inbox
from storage.dead_letter_marks import Action, Mark, MarkKey
from storage.inbox import RequestKey
from storage.tx import clock
from topics import dead_letters, names, patches
from topics.dead_letters import DeadLetter, Position
from topics.fetch_limits import bytes_of
from topics.kafka import Outgoing, Producer
from topics.snapshot import record_at, records

LARGE = 100
"""The number of dead letters above which a command asks before it handles them."""
PAGE = 100
PAGE_BYTES = 16 * 2**20
"""Limits of the dead letters that are held in memory, sent and marked together."""

_REQUEST_TOPICS = frozenset((names.QUERIES, *map(names.requests, CATALOGUE.families)))

Confirm = Callable[[str], object]
"""Asks a question; raises if the answer is no."""
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
OnProgress = Callable[[Sequence[DeadLetter]], None]
"""Is told which dead letters were handled, after each page."""


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

    @property
    def offsets(self) -> dict[int, range] | None:
        """For each partition, the offsets from the least of the positions to the greatest; None without positions."""
        if not self.positions:
            return None
        of_partition: defaultdict[int, list[int]] = defaultdict(list)
        for partition, offset in self.positions:
            of_partition[partition].append(offset)
        return {partition: range(min(each), max(each) + 1) for partition, each in of_partition.items()}

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
    """What a command will do with the dead letters of `selection`.

    - `reasons` counts those that it will handle, by reason. Of these, `older_than_inbox` are older than the inbox's
      answers, and the replay of `still_faulty` fails again, by reason.
    - `marked`, `incomplete` and `foreign` count those that it will leave alone.
    - `ends` is the greatest counted offset of each partition. Later dead letters are left alone: nobody was asked about
      them, and some are of messages that the replay has sent.
    """

    selection: Filter
    reasons: Counter[str] = field(default_factory=Counter)
    older_than_inbox: int = 0
    still_faulty: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    incomplete: int = 0
    foreign: int = 0
    ends: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.reasons.total()

    def includes(self, letter: DeadLetter) -> bool:
        return letter.position.offset <= self.ends.get(letter.position.partition, -1)


class NoSuchDeadLetter(Exception):
    """The message says which."""


class DeadLetters:
    """The dead letters of an installation. `begin` opens a transaction of the database."""

    def __init__(self, settings: Settings, begin: Begin) -> None:
        self._settings = settings
        self._begin = begin

    async def newest(
        self, selection: Filter, limit: int, *, include_marked: bool
    ) -> tuple[list[MarkedLetter], Counter[str]]:
        """The newest dead letters of a filter, newest first, at most `limit`, and the counts of all of them by reason.
        Raises KafkaError."""
        counts: Counter[str] = Counter()
        newest: list[tuple[datetime, Position, MarkedLetter]] = []
        async for page in self._pages(selection):
            for letter, _, mark in page:
                if mark is not None and not include_marked:
                    continue
                counts[letter.reason] += 1
                heapq.heappush(newest, (letter.written_at, letter.position, MarkedLetter(letter, mark)))
                if len(newest) > limit:
                    heapq.heappop(newest)
        return [marked for *_, marked in sorted(newest, reverse=True)], counts

    async def content(self, position: Position, values: Values) -> dict[str, Any]:
        """A dead letter with its decoded content. Raises NoSuchDeadLetter, KafkaError."""
        record = await record_at(self._settings.kafka, names.DEAD_LETTERS, *position)
        if record is None:
            raise NoSuchDeadLetter(f"There is no dead letter at {position}. `visitor dead-letters list` prints them.")
        letter = dead_letters.read(record)
        mark = (await self._marks([letter])).get(_mark_key(letter))
        return as_json(MarkedLetter(letter, mark)) | {"record": await printable(values, record)}

    async def plan_replay(self, selection: Filter) -> Plan:
        """Raises KafkaError."""
        plan = Plan(selection)
        async with self._begin() as conn:
            inbox_start = await clock(conn) - timedelta(days=self._settings.worker.inbox_days)
        async for page in self._pages(selection):
            for letter, _, mark in page:
                if mark is not None:
                    plan.marked += 1
                elif letter.topic not in _REQUEST_TOPICS:
                    plan.foreign += 1
                elif not letter.complete:
                    plan.incomplete += 1
                else:
                    _count(plan, letter)
                    plan.older_than_inbox += letter.written_at < inbox_start
                    if letter.reason not in dead_letters.REPLAYABLE:
                        plan.still_faulty[letter.reason] += 1
        return plan

    async def plan_discard(self, selection: Filter) -> Plan:
        """Raises KafkaError."""
        plan = Plan(selection)
        async for page in self._pages(selection):
            for letter, _, mark in page:
                if mark is not None:
                    plan.marked += 1
                else:
                    _count(plan, letter)
        return plan

    async def replay(self, plan: Plan, on_progress: OnProgress) -> None:
        """Send the original messages of a plan and mark their dead letters, page by page. After an error, the next
        replay begins with the page that failed; the inbox recognises what was sent twice. Raises DeliveryError,
        KafkaError."""
        producer = Producer(self._settings.kafka)
        try:
            await producer.start()
            async for page in self._open(plan, _is_replayable):
                letters = [letter for letter, _ in page]
                messages = [dead_letters.original(record, letter) for letter, record in page]
                await self._reopen(letters)
                await producer.send([await _to_existing_partition(producer, message) for message in messages])
                await self._mark(letters, "replayed")
                on_progress(letters)
        finally:
            await producer.stop()

    async def discard(self, plan: Plan, on_progress: OnProgress) -> None:
        """Mark the dead letters of a plan, page by page. Raises KafkaError."""
        async for page in self._open(plan, lambda _: True):
            letters = [letter for letter, _ in page]
            await self._mark(letters, "discarded")
            on_progress(letters)

    async def _open(
        self, plan: Plan, is_handled: Callable[[DeadLetter], bool]
    ) -> AsyncIterator[list[tuple[DeadLetter, Any]]]:
        """The dead letters of a plan that have no mark and that the command handles, with their records, in pages."""
        async for page in self._pages(plan.selection):
            handled = [
                (letter, record)
                for letter, record, mark in page
                if mark is None and plan.includes(letter) and is_handled(letter)
            ]
            if handled:
                yield handled

    async def _mark(self, letters: Sequence[DeadLetter], action: Action) -> None:
        async with self._begin() as conn:
            await dead_letter_marks.insert(conn, map(_mark_key, letters), action)

    async def _marks(self, letters: Sequence[DeadLetter]) -> dict[MarkKey, Mark]:
        async with self._begin() as conn:
            return await dead_letter_marks.read(conn, list(map(_mark_key, letters)))

    async def _pages(self, selection: Filter) -> AsyncIterator[list[tuple[DeadLetter, Any, Mark | None]]]:
        """The dead letters of a filter with their records and marks, in the order of the topic."""
        page: list[tuple[DeadLetter, Any]] = []
        size = 0
        async for record in records(self._settings.kafka, names.DEAD_LETTERS, selection.since, selection.offsets):
            letter = dead_letters.read(record)
            if not selection.matches(letter):
                continue
            page.append((letter, record))
            size += bytes_of(record.key, record.value, record.headers)
            if len(page) == PAGE or size > PAGE_BYTES:
                yield await self._with_marks(page)
                page, size = [], 0
        if page:
            yield await self._with_marks(page)

    async def _with_marks(self, page: Sequence[tuple[DeadLetter, Any]]) -> list[tuple[DeadLetter, Any, Mark | None]]:
        marks = await self._marks([letter for letter, _ in page])
        return [(letter, record, marks.get(_mark_key(letter))) for letter, record in page]

    async def _reopen(self, letters: Sequence[DeadLetter]) -> None:
        """Let the requests that failed because of a bug be applied again; the inbox has their answers."""
        keys = [
            RequestKey(letter.topic, letter.source or "", letter.request_id)
            for letter in letters
            if letter.reason == "bug" and letter.request_id
        ]
        async with self._begin() as conn:
            await inbox.reopen(conn, keys)


def _count(plan: Plan, letter: DeadLetter) -> None:
    """Count a dead letter that the command will handle."""
    plan.reasons[letter.reason] += 1
    partition, offset = letter.position
    plan.ends[partition] = max(offset, plan.ends.get(partition, -1))


async def _to_existing_partition(producer: Producer, message: Outgoing) -> Outgoing:
    """The message for the partition of the original, or of its key if the topic has fewer partitions now."""
    exists = message.partition is not None and message.partition < await producer.partitions(message.topic)
    return message if exists else message._replace(partition=None)


def _is_replayable(letter: DeadLetter) -> bool:
    return letter.topic in _REQUEST_TOPICS and letter.complete


def _mark_key(letter: DeadLetter) -> MarkKey:
    return MarkKey(*letter.position, letter.written_at)


async def list_newest(
    settings: Settings, selection: Filter, limit: int, *, include_marked: bool, as_document: bool, retry: Retry
) -> None:
    """Print the newest dead letters of a filter, at most `limit`, and the counts of all of them by reason. Raises
    KafkaError, WrongRevision."""
    async with _opened(settings, retry) as letters:
        newest, counts = await letters.newest(selection, limit, include_marked=include_marked)
    newest.reverse()
    if as_document:
        document = {"counts": dict(counts.most_common()), "deadLetters": [as_json(each) for each in newest]}
        print_json(document, indent=True)
        return
    console = _console()
    if not newest:
        console.print("There are no such dead letters." if include_marked else "There are no such open dead letters.")
        return
    console.print(_table(newest))
    if len(newest) < counts.total():
        console.print(f"The newest {len(newest)} of {counts.total()}; --limit sets how many are printed.")
    console.print(_counts(counts))


async def show(settings: Settings, position: Position, retry: Retry) -> None:
    """Print a dead letter with its content. Raises NoSuchDeadLetter, KafkaError, WrongRevision."""
    async with _opened(settings, retry) as letters, opened_values(settings.schema_registry) as values:
        content = await letters.content(position, values)
    operator_audit.log(settings, f"dead-letters.show.{position}")
    print_json(content, indent=True)


async def replay(
    settings: Settings, selection: Filter, confirm: Confirm | None, *, dry_run: bool, retry: Retry
) -> None:
    """Replay the open dead letters of a filter; with `dry_run`, only say which. `confirm` is asked before a large
    replay. Raises DeliveryError, KafkaError, WrongRevision."""
    console = _console()
    async with _opened(settings, retry) as letters:
        plan = await letters.plan_replay(selection)
        _describe(console, plan, settings)
        if dry_run or not plan.count:
            console.print(f"{plan.count} would be replayed." if dry_run else "Nothing to replay.")
            return
        ask(confirm, plan, f"Replay {plan.count} dead letters?")
        operator_audit.log(settings, "dead-letters.replay")
        await _with_progress(console, "replayed", plan, letters.replay)


async def discard(settings: Settings, selection: Filter, confirm: Confirm | None, *, retry: Retry) -> None:
    """Mark the open dead letters of a filter as discarded. Raises KafkaError, WrongRevision."""
    console = _console()
    async with _opened(settings, retry) as letters:
        plan = await letters.plan_discard(selection)
        _describe(console, plan, settings)
        if plan.count:
            ask(confirm, plan, f"Discard {plan.count} dead letters?")
            operator_audit.log(settings, "dead-letters.discard")
        await _with_progress(console, "discarded", plan, letters.discard)


async def _with_progress(
    console: Console, done: str, plan: Plan, handle: Callable[[Plan, OnProgress], Awaitable[None]]
) -> None:
    """Handle the dead letters of a plan with a progress bar, and print how many were handled: another operator may have
    handled some of them meanwhile."""
    handled = 0
    with progress.bar(console) as bar:
        task = bar.add_task(done, total=plan.count)

        def advance(letters: Sequence[DeadLetter]) -> None:
            nonlocal handled
            handled += len(letters)
            bar.advance(task, len(letters))

        await handle(plan, advance)
    console.print(f"{handled} {done}.")


@asynccontextmanager
async def _opened(settings: Settings, retry: Retry) -> AsyncIterator[DeadLetters]:
    patches.apply()
    async with connected(settings.database, retry) as database:
        yield DeadLetters(settings, database.begin)


def ask(confirm: Confirm | None, plan: Plan, question: str) -> None:
    if confirm is not None and (plan.selection.is_empty or plan.count > LARGE or plan.older_than_inbox):
        confirm(question)


def _describe(console: Console, plan: Plan, settings: Settings) -> None:
    """Print what needs attention."""
    if plan.count:
        console.print(_counts(plan.reasons))
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
        table.add_row(*map(shown, cells), mark.action if mark else "")
    return table


def _counts(counts: Counter[str]) -> Table:
    table = Table("reason", "count", box=None, pad_edge=False)
    for reason, count in counts.most_common():
        table.add_row(shown(reason), str(count))
    return table


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _console() -> Console:
    """Prints whole lines if the output is no terminal."""
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(soft_wrap=True, width=WHOLE_LINES)
