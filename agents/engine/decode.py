"""From a record of Kafka to a request that can be applied, or to why it cannot."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

from pydantic import ValidationError

from agents import answers
from agents.answers import Answer
from agents.operation import AnyRequest, Catalogue, Operation
from agents.wire import Wire
from schemas.faults import Invalid, TooLarge, from_validation
from storage.inbox import RequestKey
from storage.tx import Caller, Cause
from topics import names
from topics.envelope import Head, Unreadable, read_head


class Record(Protocol):
    """What is needed of a record that was consumed; `timestamp` is in seconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: float
    headers: Iterable[tuple[str, bytes]] | None


@dataclass(slots=True)
class Incoming:
    """A record on its way. Exactly one of these holds: `unreadable` is set; `answer` is set, since it is refused or
    already answered; or `request` is there to be applied."""

    record: Record
    head: Head | None = None
    key: RequestKey | None = None
    """The request's identity, by which the inbox knows it."""
    key_before_sources: RequestKey | None = None
    """The key under which release 0.1.0 stored the same request."""
    operation: Operation | None = None
    request: AnyRequest | None = None
    raw_query: dict[str, Any] | None = None
    fingerprint: bytes = b""
    answer: Answer | None = None
    result: bytes | None = None
    """The answer as it goes out, where it was encoded already."""
    visitors: Sequence[UUID] = ()
    """Whose data the answer may hold."""
    unreadable: Unreadable | None = None
    bug: BaseException | None = None

    @property
    def concluded(self) -> bool:
        """Whether it is known what goes out."""
        return self.answer is not None or self.unreadable is not None

    def cause(self) -> Cause:
        assert self.head is not None
        arrived = datetime.fromtimestamp(self.record.timestamp, UTC)
        return Cause(self.head.request_id, caller_of(self.head.source), arrived)


@lru_cache(4_096)
def caller_of(source: str | None) -> Caller:
    """`ce_source` as a caller: `gateway/paris-12` is the gateway paris-12, any other text a message source's name."""
    kind, _, name = (source or "unknown").partition("/")
    return Caller(kind, name) if name else Caller("message", kind)


class Decoder:
    def __init__(self, catalogue: Catalogue, wire: Wire) -> None:
        self._operations = catalogue.by_name
        self._topics = {
            operation.name: names.QUERIES if operation.is_query else names.requests(catalogue.family_of[operation.name])
            for operation in catalogue.operations
        }
        self._wire = wire

    def decode(self, record: Record) -> Incoming:
        """Never raises for what a record holds."""
        found = Incoming(record)
        try:
            self._fill(found)
        except Unreadable as error:
            found.unreadable = error
        except ValidationError as error:
            found.answer = answers.of_fault(from_validation(error))
        except (Invalid, TooLarge) as fault:
            found.answer = answers.of_fault(fault)
        return found

    def _fill(self, found: Incoming) -> None:
        record = found.record
        found.head = head = read_head(record.headers or (), _position(record))
        found.key = _key(record, head)
        found.key_before_sources = _key_before_sources(record, head)
        operation = self._operations.get(head.operation)
        if operation is None:
            raise Unreadable("unknown_operation", f"There is no operation {head.operation[:100]!r}.")
        found.operation = operation
        self._check_topic(operation, record.topic)
        if record.value is None:
            raise Unreadable("no_value", "The message has no value.")
        if len(record.value) > names.VALUE_LIMIT:
            raise TooLarge("value_too_large", f"A request holds at most {names.VALUE_LIMIT} bytes.")
        parts = self._wire.read_request(operation, head.content_type, record.value)
        query = parts.get("query")
        found.raw_query = query if isinstance(query, dict) else {}
        found.request = operation.request.model_validate(parts)
        found.fingerprint = fingerprint(operation, found.request)

    def _check_topic(self, operation: Operation, topic: str) -> None:
        right = self._topics[operation.name]
        if topic != right:
            raise Invalid("wrong_topic", f"Requests of {operation.name} are taken from {right}.")


def _position(record: Record) -> str:
    """Where and when the broker took a record in, which no other record shares: offsets start again at 0 where a topic
    is created again or the cluster is replaced."""
    return f"{record.topic}:{record.partition}:{record.offset}@{_milliseconds(record)}"


def _milliseconds(record: Record) -> int:
    return round(record.timestamp * 1000)


def _key(record: Record, head: Head) -> RequestKey:
    """A request without an id is known by its position, in a namespace that no id can reach: no topic's name has a
    colon."""
    source = head.source or ""
    if head.has_id:
        return RequestKey(record.topic, source, head.request_id)
    return RequestKey(f"{record.topic}:{record.partition}", source, f"{record.offset}@{_milliseconds(record)}")


def _key_before_sources(record: Record, head: Head) -> RequestKey:
    position = f"{record.topic}:{record.partition}:{record.offset}"
    return RequestKey.before_sources(head.request_id if head.has_id else position)


def fingerprint(operation: Operation, request: AnyRequest) -> bytes:
    """A digest of what is asked, the same for the same content in JSON and in Avro."""
    # The bytes that `model_dump_json` would make a text of.
    content = request.__pydantic_serializer__.to_json(request, exclude_unset=True)
    return hashlib.blake2b(b"%s\0%s" % (operation.name.encode(), content), digest_size=16).digest()
