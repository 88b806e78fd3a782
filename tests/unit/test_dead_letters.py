"""Dead letters: what a worker writes is what an operator reads and sends again, and the docs explain each reason."""

import re
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from click.exceptions import Abort

import runtime.dead_letters
from runtime.dead_letters import LARGE, PAGE, DeadLetters, Filter, Plan, ask
from runtime.settings import Settings
from storage import dead_letter_marks
from storage.dead_letter_marks import Mark, MarkKey
from topics import dead_letters, names
from topics.dead_letters import DeadLetter
from topics.envelope import Reason

REASONS_PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"
TOPIC = names.requests("visits")
HEADERS = [("ce_id", b"id-1"), ("ce_type", b"visitor.visits.create"), ("ce_source", b"gateway/a"), ("raw", b"\xff\x00")]


@dataclass
class _Record:
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, Any]]
    topic: str = TOPIC
    partition: int = 3
    offset: int = 17
    timestamp: Any = 1_700_000_000.123


def _written(record: _Record) -> _Record:
    """The dead letter of a record, as it is read from its topic."""
    letter = dead_letters.from_record(record, "bug", "ZeroDivisionError")
    return _Record(letter.key, letter.value, letter.headers, letter.topic, 1, 5, 1_700_000_001_000)


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS,
        [*HEADERS, ("error-code", b"of the sender")],
        [*HEADERS, ("error-cut", b"x"), ("error-code", b"a"), ("error-message", b"b")],
        [("ce_type", b"\xff"), ("ce_id", b"id-1")],
    ],
    ids=["headers", "a header of the same name", "a copy of a dead letter", "unreadable"],
)
def test_the_original_of_a_dead_letter_has_the_same_bytes(headers: Sequence[tuple[str, bytes]]) -> None:
    written = _written(_Record(b"key", b"\x00value", headers))
    letter = dead_letters.read(written)
    original = dead_letters.original(written, letter)
    assert (original.topic, original.partition, original.key, original.value) == (TOPIC, 3, b"key", b"\x00value")
    assert original.headers == list(headers)
    assert (letter.reason, letter.request_id, str(letter.position)) == ("bug", "id-1", "1:5")


@pytest.mark.parametrize("sent", [[], [("ce_id", b"")]], ids=["no id", "an empty id"])
def test_a_message_without_an_id_gets_its_position_as_its_id(sent: Sequence[tuple[str, bytes]]) -> None:
    written = _written(_Record(b"key", b"{}", [*sent, ("ce_type", b"visitor.visits.create")]))
    original = dead_letters.original(written, dead_letters.read(written))
    assert original.headers == [
        ("ce_type", b"visitor.visits.create"),
        ("ce_id", f"{TOPIC}:3:17@1700000000123".encode()),
    ]


def test_a_dead_letter_that_was_cut_is_not_complete() -> None:
    assert not dead_letters.read(_written(_Record(b"k" * (names.KEY_LIMIT + 1), b"{}", HEADERS))).complete
    assert not dead_letters.read(_written(_Record(None, None, HEADERS))).complete
    assert dead_letters.read(_written(_Record(None, b"{}", HEADERS))).complete


def test_a_record_that_is_no_dead_letter_can_be_listed() -> None:
    letter = dead_letters.read(_Record(None, None, [("error-partition", None), ("error-offset", b"x")], timestamp=0))
    assert (letter.reason, letter.topic, letter.operation, letter.request_id) == ("unknown", "", None, None)


def test_large_replays_and_those_of_all_dead_letters_ask() -> None:
    def refuse(question: str) -> None:
        raise Abort(question)

    some = Filter(reason="bug")
    ask(refuse, Plan(some, Counter(bug=LARGE)), "?")
    ask(None, Plan(Filter(), Counter(bug=LARGE + 1)), "?")
    for plan in (
        Plan(Filter(), Counter(bug=1)),
        Plan(some, Counter(bug=LARGE, unknown_schema=1)),
        Plan(some, Counter(bug=1), older_than_inbox=1),
    ):
        with pytest.raises(Abort):
            ask(refuse, plan, "?")


class _Flood:
    """Dead letters of a flood. `marked` has the offsets of those that have a mark."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.count, self.marked = count, set[int]()
        monkeypatch.setattr(runtime.dead_letters, "records", self._records)
        monkeypatch.setattr(dead_letter_marks, "read", self._read)
        monkeypatch.setattr(dead_letter_marks, "insert", self._insert)
        self.letters = DeadLetters(Settings(), cast(Any, nullcontext))

    async def _records(self, *_: object) -> AsyncIterator[_Record]:
        for offset in range(self.count):
            value = b"x" * 10_000 + str(offset).encode()  # No two records share their bytes.
            letter = dead_letters.from_record(_Record(b"key", value, HEADERS, offset=offset), "not_json", "The reason.")
            yield _Record(letter.key, letter.value, letter.headers, letter.topic, 0, offset, 1_700_000_001_000 + offset)

    async def _read(self, _: object, keys: Sequence[MarkKey]) -> dict[MarkKey, Mark]:
        return {key: Mark("discarded", key.written_at) for key in keys if key.offset in self.marked}

    async def _insert(self, _: object, keys: Iterable[MarkKey], *__: object) -> None:
        self.marked.update(key.offset for key in keys)


@pytest.mark.parametrize("command", ["list", "discard"])
async def test_a_flood_of_dead_letters_needs_the_memory_of_a_page(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    flood = _Flood(monkeypatch, 1_000)
    tracemalloc.start()
    try:
        if command == "list":
            newest, counts = await flood.letters.newest(Filter(), 3, include_marked=False)
            assert [marked.letter.offset for marked in newest] == [999, 998, 997]
            assert counts == {"not_json": 1_000}
        else:
            plan = await flood.letters.plan_discard(Filter())
            assert plan.count == 1_000
            await flood.letters.discard(plan, lambda _: None)
            assert flood.marked == set(range(1_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * PAGE * 10_000  # The values of all have 10 MB.


async def test_dead_letters_that_arrive_after_the_count_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a replay of messages that fail again would never end."""
    flood = _Flood(monkeypatch, PAGE)
    plan = await flood.letters.plan_discard(Filter())
    flood.count += PAGE
    handled: list[DeadLetter] = []
    await flood.letters.discard(plan, handled.extend)
    assert (plan.count, len(handled), flood.marked) == (PAGE, PAGE, set(range(PAGE)))


def test_the_docs_explain_every_reason_and_no_other() -> None:
    section = REASONS_PAGE.read_text().partition("## Reasons")[2].partition("\n## ")[0]
    cells = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    explained = [reason for cell in cells for reason in re.findall(r"`(\w+)`", cell[1])]
    assert sorted(explained) == sorted(get_args(Reason))
    assert all(cell[2].strip() and cell[3].strip() for cell in cells)
    replayed = {reason for cell in cells if "replay" in cell[4] for reason in re.findall(r"`(\w+)`", cell[1])}
    assert replayed == dead_letters.REPLAYABLE
