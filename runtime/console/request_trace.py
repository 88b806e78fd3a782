"""One request by its id: its message, its entry in the inbox, its results and its changes."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from agents.catalogue import CATALOGUE
from runtime.console.servers import reading, searching_kafka
from runtime.console.view import View
from runtime.consume import Values
from schemas.faults import Unavailable
from storage import inbox, outbox
from storage.inbox import Receipt
from storage.outbox import Entry
from topics import dead_letters, names
from topics.envelope import PREFIX, TRACEPARENT, InvalidMessage
from topics.incoming import read_message
from topics.settings import KafkaSettings
from topics.snapshot import Period, record_at
from topics.traceparent import read_traceparent

RECORDS_LIMIT = 50_000
"""Messages that one search reads."""
BEFORE = timedelta(minutes=10)
"""How long before a request was applied its message is searched for."""
AFTER = timedelta(minutes=2)
"""How long after a request was applied its results and changes are searched for."""
CLOCK_OFFSET = timedelta(seconds=5)
"""How far the clocks of brokers, workers and PostgreSQL may differ. The broker sets the times of requests, workers
those of results and changes, and PostgreSQL those of the inbox."""

Kind = Literal["request", "result", "reply", "change", "deadLetter"]
_POSITION = re.compile(r"(?P<topic>[A-Za-z0-9._-]+):(?P<partition>\d+):(?P<offset>\d+)@(?P<milliseconds>\d+)")
"""The id of a request whose sender gave it none."""


class Answered(View):
    """What the inbox has about a request."""

    topic: str
    source: str
    operation: str
    status: int
    received_at: datetime
    """When a worker applied the request."""
    visitor_ids: list[UUID]
    """The visitors whose data the answer may contain."""


class Message(View):
    """A message of the request. Keys and values may have personal data and are left out."""

    kind: Kind
    topic: str
    partition: int
    offset: int
    time: datetime
    """The timestamp of the record: when the broker stored it."""
    name: str | None
    """The operation, or for a change its resource and action."""
    source: str | None
    """The sender of the request."""
    status: int | None
    """Of a result."""
    errors: list[str]
    """The codes of a result's errors, each with the field that caused it; the reason of a dead letter."""
    entity_id: str | None
    """Of a change."""
    revision: int | None
    """Of a change."""
    visitor_id: UUID | None
    """Of a change: the visitor to whom the entity belongs."""
    change_id: str | None
    """Of a change: what identifies it in its topic and in the outbox."""
    trace_id: str | None
    """From the header traceparent, to look the request up in a tracing backend."""


class Trace(View):
    request_id: str
    answered: list[Answered]
    """More than one if several senders have used the same id."""
    messages: list[Message]
    """In the order of their times."""
    since: datetime
    until: datetime
    """The period of the messages that were searched."""
    notes: list[str]
    """What could not be read, and why messages may be missing."""


class _Search(NamedTuple):
    """Topics to read, and in which period."""

    topics: Sequence[str]
    since: datetime
    until: datetime


class Traces:
    """Finds requests."""

    def __init__(self, kafka: KafkaSettings, database: AsyncEngine, values: Values) -> None:
        self._kafka = kafka
        self._database = database
        self._values = values

    async def find(self, request_id: str, minutes: int) -> Trace:
        """The trace of a request. If the inbox does not have the request, messages of the last `minutes` are searched.
        What cannot be read is in the notes."""
        notes: list[str] = []
        receipts = await self._receipts(request_id, notes)
        waiting = await self._waiting(request_id, notes) if receipts else []
        searches = _searches(receipts, minutes)
        by_position: dict[tuple[str, int, int], Message] = {}
        try:
            async with searching_kafka():
                async for message in self._messages(request_id, searches, notes):
                    by_position[message.topic, message.partition, message.offset] = message
        except Unavailable as fault:
            notes.append(fault.entries[0].message)
        messages = list(by_position.values())
        notes += _explanations(self._kafka, receipts, messages, waiting)
        return Trace(
            request_id=request_id,
            answered=[_answered(receipt) for receipt in receipts],
            messages=sorted(messages, key=lambda message: message.time),
            since=min(search.since for search in searches),
            until=max(search.until for search in searches),
            notes=list(dict.fromkeys(notes)),
        )

    async def _receipts(self, request_id: str, notes: list[str]) -> list[Receipt]:
        position = _POSITION.fullmatch(request_id)
        try:
            async with reading(self._database) as conn:
                if position is None:
                    return await inbox.with_id(conn, request_id)
                receipts = await inbox.with_id(conn, f"{position['offset']}@{position['milliseconds']}")
        except Unavailable as fault:
            notes.append(fault.entries[0].message)
            return []
        topic = f"{position['topic']}:{position['partition']}"
        return [receipt for receipt in receipts if receipt.entry.topic == topic]

    async def _waiting(self, request_id: str, notes: list[str]) -> list[Entry]:
        """Its changes that are not published yet. Read them before Kafka: a change leaves the outbox for Kafka."""
        try:
            async with reading(self._database) as conn:
                entries = await outbox.containing(conn, request_id.encode())
        except Unavailable as fault:
            notes.append(fault.entries[0].message)
            return []
        return [
            entry for entry in entries if _is_id((await self._fields(None, entry.value)).get("causedBy"), request_id)
        ]

    async def _messages(self, request_id: str, searches: Iterable[_Search], notes: list[str]) -> AsyncIterator[Message]:
        for search in searches:
            period = Period(self._kafka, search.since, search.until, RECORDS_LIMIT)
            async for record in period.records(search.topics):
                if (message := await self._match(record, request_id)) is not None:
                    yield message
            if not period.is_complete:
                notes.append(
                    f"Only the first {RECORDS_LIMIT:,} messages from {search.since:%H:%M:%S} UTC on were searched."
                    " Search a shorter period."
                )
        position = _POSITION.fullmatch(request_id)
        if position is not None and position["topic"] in _request_topics():
            record = await record_at(
                self._kafka, position["topic"], int(position["partition"]), int(position["offset"])
            )
            is_same = record is not None and record.timestamp == int(position["milliseconds"])
            if is_same and (message := _request(record, request_id)) is not None:
                yield message

    async def _match(self, record: Any, request_id: str) -> Message | None:
        """The message if it belongs to the request."""
        text = request_id.encode()
        if not any(text in (value or b"") for _, value in record.headers) and text not in (record.value or b""):
            return None
        if record.topic == names.DEAD_LETTERS:
            return _dead_letter(record, request_id)
        if ".changes." in record.topic:
            return await self._change(record, request_id)
        headers = _headers(record)
        if headers.get("ce_type", "").endswith(".result"):
            return await self._result(record, headers) if _is_id(headers.get("ce_id"), request_id) else None
        return _request(record, request_id)

    async def _result(self, record: Any, headers: dict[str, str]) -> Message:
        value = await self._fields(headers.get("content-type"), record.value)
        body = value.get("body")
        errors = body.get("errors", []) if isinstance(body, dict) else []
        return _message(
            "reply" if record.topic == names.REPLIES else "result",
            record,
            name=headers["ce_type"].removeprefix(PREFIX).removesuffix(".result"),
            source=headers.get("ce_requestsource"),
            status=value.get("status"),
            errors=[" ".join(filter(None, (error["code"], error.get("field")))) for error in errors],
        )

    async def _change(self, record: Any, request_id: str) -> Message | None:
        value = await self._fields(None, record.value)
        if not _is_id(value.get("causedBy"), request_id):
            return None
        return _message(
            "change",
            record,
            name=f"{value['resource']} {value['action']}",
            change_id=_headers(record).get("ce_id"),
            entity_id=value["id"],
            revision=value["revision"],
            visitor_id=value["visitorId"],
        )

    async def _fields(self, content_type: str | None, value: bytes | None) -> dict[str, Any]:
        """The fields of a value. A tombstone has none, and neither has a value that is no object."""
        fields = await self._values.read(content_type, value)
        return fields if isinstance(fields, dict) else {}


def _searches(receipts: Sequence[Receipt], minutes: int) -> list[_Search]:
    """Where the messages of the request can be."""
    if not receipts:
        now = datetime.now(UTC)
        topics = [*_request_topics(), *_outgoing(CATALOGUE.families), names.DEAD_LETTERS]
        return [_Search(topics, now - timedelta(minutes=minutes), now)]
    searches = []
    for entry, applied in receipts:
        family = CATALOGUE.family_of.get(entry.operation)
        outgoing = [*_outgoing([family] if family else CATALOGUE.families), *_change_topics(), names.DEAD_LETTERS]
        # The inbox has the partition, too, of a request without an id, and no topic of a request of release 0.1.0.
        topic = entry.topic.partition(":")[0]
        searches += [
            _Search(
                [topic] if topic in _request_topics() else _request_topics(), applied - BEFORE, applied + CLOCK_OFFSET
            ),
            _Search(outgoing, applied - CLOCK_OFFSET, applied + AFTER),
        ]
    return searches


def _request_topics() -> list[str]:
    return [names.QUERIES, *(names.requests(family) for family in CATALOGUE.families)]


def _outgoing(families: Iterable[str]) -> list[str]:
    return [names.REPLIES, *(names.results(family) for family in families)]


def _change_topics() -> list[str]:
    return [topic.name for topic in CATALOGUE.change_topics]


def _explanations(
    kafka: KafkaSettings, receipts: Sequence[Receipt], messages: Sequence[Message], waiting: Sequence[Entry]
) -> list[str]:
    """Why messages may be missing. `waiting` are changes that the outbox still has."""
    kinds = {message.kind for message in messages}
    oldest = datetime.now(UTC) - names.request_lifetime(kafka)
    if receipts and all(receipt.received_at < oldest for receipt in receipts):
        return [
            f"The request is older than what the topics keep ({kafka.retention_days:g} days): only the inbox has it."
        ]
    notes = []
    if not receipts and not messages:
        notes.append(
            "Neither the inbox nor the searched messages have this id. The inbox has writes that were applied in the"
            " last days; it has no reads and no malformed requests (400). Search a longer period."
        )
    if not receipts and "request" in kinds and not kinds & {"result", "reply"}:
        notes.append("No worker has answered this request yet. Look at the lag of its topic.")
    if receipts and "request" not in kinds:
        minutes = BEFORE // timedelta(minutes=1)
        notes.append(
            f"The message was not stored in the {minutes} minutes before it was applied. It may have waited longer."
        )
    published = {message.change_id for message in messages}
    unpublished = Counter(entry.topic for entry in waiting if entry.change_id not in published)
    succeeded = any(receipt.entry.status < 400 for receipt in receipts)
    if unpublished:
        topics = ", ".join(f"{topic} ({count})" for topic, count in sorted(unpublished.items()))
        notes.append(f"Its changes for {topics} are in the outbox and not published yet. `visitor doctor` says why.")
    elif succeeded and "change" not in kinds:
        notes.append(
            "No change was found, and none waits in the outbox. The request may have changed nothing, or Kafka has"
            " compacted the change because the entity has a newer one."
        )
    return notes


def _answered(receipt: Receipt) -> Answered:
    entry = receipt.entry
    return Answered(
        topic=entry.topic,
        source=entry.source,
        operation=entry.operation,
        status=entry.status,
        received_at=receipt.received_at,
        visitor_ids=list(entry.visitors),
    )


def _request(record: Any, request_id: str) -> Message | None:
    position = f"{record.topic}:{record.partition}:{record.offset}@{record.timestamp}"
    try:
        headers = read_message(record.headers, record.value, position).headers
    except InvalidMessage:
        return None  # It has a dead letter, which is found by the same id.
    if not _is_id(headers.request_id, request_id):
        return None
    return _message("request", record, name=headers.operation, source=headers.source)


def _dead_letter(record: Any, request_id: str) -> Message | None:
    letter = dead_letters.read(record)
    if not _is_id(letter.request_id, request_id) and letter.original_position() != request_id:
        return None
    return _message("deadLetter", record, name=letter.operation, source=letter.source, errors=[letter.reason])


def _is_id(actual: str | None, request_id: str) -> bool:
    """True if this is the id of the request. Of an HTTP call, it is `<caller>/<idempotency key>`."""
    return actual is not None and (actual == request_id or actual.endswith(f"/{request_id}"))


def _headers(record: Any) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


def _message(kind: Kind, record: Any, **fields: Any) -> Message:
    traceparent = read_traceparent(dict(record.headers).get(TRACEPARENT) or b"")
    values: dict[str, Any] = {
        "kind": kind,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": datetime.fromtimestamp(record.timestamp / 1000, UTC),
        "errors": [],
        "trace_id": traceparent and traceparent.split("-")[1],
    }
    return Message(**(dict.fromkeys(Message.model_fields) | values | fields))
