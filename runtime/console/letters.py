"""Dead letters for the console: without the contents of their messages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from runtime.consume import Values
from runtime.dead_letters import DeadLetters, Filter, as_json
from topics.dead_letters import DeadLetter, Position

LISTED = 200
"""How many dead letters a list has: the newest."""
_SHOWN_HEADERS = (
    "ce_id", "ce_type", "ce_source", "ce_time", "ce_specversion", "content-type", "traceparent",
)  # fmt: skip
"""Headers of the original whose values are shown. Others may have personal data."""


class Query(BaseModel):
    """The parameters of a list. An empty text is the same as none."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = None
    operation: str | None = None
    source: str | None = None
    topic: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    all: bool = False
    """Also those that were replayed or discarded."""

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @property
    def selection(self) -> Filter:
        return Filter(**self.model_dump(exclude={"all"}))


class Selection(BaseModel):
    """The dead letters of a replay."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(min_length=1, max_length=LISTED)

    @field_validator("ids")
    @classmethod
    def _are_positions(cls, ids: list[str]) -> list[str]:
        for text in ids:
            Position.parse(text)
        return ids

    @property
    def filter(self) -> Filter:
        return Filter(positions=frozenset(map(Position.parse, self.ids)))


async def listing(letters: DeadLetters, query: Query) -> Mapping[str, Any]:
    """The newest dead letters that match, and the counts of all that match. Raises KafkaError."""
    newest, counts = await letters.newest(query.selection, LISTED, include_marked=query.all)
    return {
        "counts": dict(counts.most_common()),
        "total": counts.total(),
        "deadLetters": [as_json(marked) for marked in newest],
    }


async def detail(letters: DeadLetters, position: Position, values: Values) -> Mapping[str, Any]:
    """A dead letter with the outline of its value. Raises NoSuchDeadLetter, KafkaError."""
    content = dict(await letters.content(position, values))
    record = content.pop("record")
    headers = record["headers"]
    return content | {
        "headers": {name: headers[name] for name in _SHOWN_HEADERS if name in headers},
        "hiddenHeaders": sorted(
            name for name in headers if name not in _SHOWN_HEADERS and not name.startswith("error-")
        ),
        "outline": outline(record["value"]),
    }


def outline(value: Any) -> Any:
    """The value with the types of texts and numbers instead of them."""
    match value:
        case {"unreadable": str(), **rest} if rest.keys() <= {"bytes", "text"}:
            return "unreadable"
        case dict():
            return {name: outline(item) for name, item in value.items()}
        case list():
            return [outline(item) for item in value[:3]] + (["…"] if len(value) > 3 else [])
        case None | bool():
            return value
        case str():
            return "text"
        case int() | float():
            return "number"
    return type(value).__name__.lower()


async def plan(letters: DeadLetters, selection: Selection, inbox_days: float) -> Mapping[str, Any]:
    """What a replay would do. Raises KafkaError."""
    planned = await letters.plan_replay(selection.filter)
    return {
        "replayable": planned.count,
        "marked": planned.marked,
        "incomplete": planned.incomplete,
        "foreign": planned.foreign,
        "olderThanInbox": planned.older_than_inbox,
        "stillFaulty": planned.still_faulty.total(),
        "inboxDays": inbox_days,
    }


async def replay(letters: DeadLetters, selection: Selection, on_page: Callable[[Sequence[str]], None]) -> list[str]:
    """Replay those that can be replayed, and return their ids. `on_page` is told the ids of each page that was sent,
    also if a later one fails. Raises DeliveryError, KafkaError."""
    planned = await letters.plan_replay(selection.filter)
    replayed: list[str] = []

    def note(page: Sequence[DeadLetter]) -> None:
        ids = [str(letter.position) for letter in page]
        replayed.extend(ids)
        on_page(ids)

    if planned.count:
        await letters.replay(planned, note)
    return replayed
