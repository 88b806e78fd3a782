"""Dead letters: copies of messages that the service could not process, with the reason in additional headers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from topics import names
from topics.envelope import PREFIX, InvalidMessage, Reason
from topics.fetch_limits import CutValue, UnreadBatch
from topics.incoming import read_message
from topics.kafka import Outgoing

REPLAYABLE: frozenset[Reason] = frozenset({"bug", "reply_topic_not_allowed", "unknown_operation", "unknown_schema"})
"""The reasons that operators can remove. With any other, the message itself is wrong, and a replay fails again."""
_CUT = "error-cut"
_ADDED = ("error-code", "error-message", "error-topic", "error-partition", "error-offset", "error-timestamp", _CUT)


class Record(Protocol):
    """The part of a consumed record that dead letters need; `timestamp` is in milliseconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int


class RequestRecord(Protocol):
    """The part of a consumed record that the engine needs, and that a dead letter repeats; `timestamp` is in
    seconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes]] | None
    timestamp: float


class Position(NamedTuple):
    """Where a dead letter is. Its text is `<partition>:<offset>`."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Raises ValueError."""
        partition, _, offset = text.partition(":")
        return cls(int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter without its content. `topic`, `partition` and `offset` are the position of the original message;
    `topic` is empty if the record has no such headers. `operation`, `source` and `request_id` are None if the original
    does not have them, or they cannot be read."""

    position: Position
    written_at: datetime
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    timestamp: int | None
    """When the broker stored the original, in milliseconds. Dead letters of release 0.1.0 do not have it."""
    complete: bool
    """False if the dead letter has only a part of the original."""
    operation: str | None
    source: str | None
    request_id: str | None

    def original_position(self) -> str:
        """The id of the original if its sender gave it none."""
        position = f"{self.topic}:{self.partition}:{self.offset}"
        return position if self.timestamp is None else f"{position}@{self.timestamp}"


def from_record(record: RequestRecord, code: Reason, reason: str) -> Outgoing:
    """The dead letter of a record: the message as it was received, with the reason in additional headers. If the
    message exceeds a limit of requests, it is cut and has the header error-cut: a replay would be refused. The original
    is at the position in the headers."""
    added = {
        "error-code": code,
        "error-message": reason,
        "error-topic": record.topic,
        "error-partition": str(record.partition),
        "error-offset": str(record.offset),
        "error-timestamp": str(round(record.timestamp * 1000)),
    }
    key, value, received = record.key, record.value, list(record.headers or ())
    headers = list(_fitting(received))
    too_large = len(key or b"") > names.KEY_LIMIT or isinstance(value, (CutValue, UnreadBatch))
    if too_large or len(headers) < len(received):
        key = key and key[: names.KEY_LIMIT]
        headers.append((_CUT, b"true"))
    if key is None and value is None:
        # The producer refuses messages with neither.
        key = f"{record.topic}:{record.partition}:{record.offset}".encode()
    headers += [(name, text.encode()) for name, text in added.items()]
    return Outgoing(names.DEAD_LETTERS, value, key, headers)


def _fitting(headers: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The first headers of a message, up to the limit of a dead letter."""
    size = 0
    for name, value in headers:
        size += len(name.encode()) + len(value or b"")
        if size > names.HEADERS_LIMIT:
            return
        yield name, value


def read(record: Record) -> DeadLetter:
    """Never raises for the content of a record."""
    headers, added = _split(record.headers)
    topic, partition, offset = _original_position(added)
    operation, source, request_id = _attributes(headers, record.value)
    return DeadLetter(
        position=Position(record.partition, record.offset),
        written_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
        reason=added.get("error-code", "unknown"),
        message=added.get("error-message", ""),
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=_number(added.get("error-timestamp")),
        complete=_CUT not in added and record.value is not None,
        operation=operation,
        source=source,
        request_id=request_id,
    )


def original(record: Record, letter: DeadLetter) -> Outgoing:
    """The original message of a complete dead letter, for its original topic: the same key, value and headers. A
    message without an id gets the id by which the service knew it, so that the inbox recognises its copies."""
    headers = [(name, value or b"") for name, value in _split(record.headers)[0]]
    if not letter.request_id:
        headers = [header for header in headers if header[0] != "ce_id"]
        headers.append(("ce_id", letter.original_position().encode()))
    return Outgoing(letter.topic, record.value, record.key, headers, partition=letter.partition)


def _split(
    headers: Sequence[tuple[str, bytes | None]],
) -> tuple[Sequence[tuple[str, bytes | None]], Mapping[str, str]]:
    """The headers of the original, and the texts of those that the service added after them. The original may be a copy
    of a dead letter and have headers with the same names."""
    added: dict[str, str] = {}
    end = len(headers)
    while end and headers[end - 1][0] in _ADDED and headers[end - 1][0] not in added:
        end -= 1
        name, value = headers[end]
        added[name] = (value or b"").decode(errors="replace")
    return headers[:end], added


def _original_position(added: Mapping[str, str]) -> tuple[str, int, int]:
    partition, offset = _number(added.get("error-partition")), _number(added.get("error-offset"))
    if partition is None or offset is None:
        return "", 0, 0
    return added.get("error-topic", ""), partition, offset


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _attributes(
    headers: Sequence[tuple[str, bytes | None]], value: bytes | None
) -> tuple[str | None, str | None, str | None]:
    """The operation, the source and the id of a message, as far as they can be read."""
    try:
        request = read_message(headers, value, "").headers
    except InvalidMessage:
        texts = {name: (content or b"").decode(errors="replace") for name, content in headers}
        operation = texts.get("ce_type", "").removeprefix(PREFIX)
        return operation or None, texts.get("ce_source") or None, texts.get("ce_id") or None
    return request.operation, request.source, request.request_id or None
