"""Dead letters: what a worker writes is what an operator reads and sends again, and the docs explain each reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from click.exceptions import Abort

from runtime.dead_letters import LARGE, Filter, Plan, ask
from topics import dead_letters, names
from topics.envelope import Reason

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"
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
    letter = dead_letters.read(_written(_Record(b"key", b"{}", HEADERS)))

    def refuse(question: str) -> None:
        raise Abort(question)

    ask(refuse, Filter(reason="bug"), Plan([letter] * LARGE), "?")
    ask(None, Filter(), Plan([letter] * (LARGE + 1)), "?")
    for selection, plan in (
        (Filter(), Plan([letter])),
        (Filter(reason="bug"), Plan([letter] * (LARGE + 1))),
        (Filter(reason="bug"), Plan([letter], older_than_inbox=1)),
    ):
        with pytest.raises(Abort):
            ask(refuse, selection, plan, "?")


def test_the_docs_explain_every_reason_and_no_other() -> None:
    section = PAGE.read_text().partition("## Reasons")[2].partition("\n## ")[0]
    cells = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    explained = [reason for cell in cells for reason in re.findall(r"`(\w+)`", cell[1])]
    assert sorted(explained) == sorted(get_args(Reason))
    assert all(cell[2].strip() and cell[3].strip() for cell in cells)
    replayed = {reason for cell in cells if "replay" in cell[4] for reason in re.findall(r"`(\w+)`", cell[1])}
    assert replayed == dead_letters.REPLAYABLE
