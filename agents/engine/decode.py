"""Decodes a record of Kafka to a valid request, or the reason why it is not a request."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from opentelemetry.trace import Span
from pydantic import ValidationError

from agents import answers
from agents.answers import Answer
from agents.engine.lanes import OrderKey
from agents.engine.schema_lookup import SchemaLookup
from agents.engine.turns import Pause, in_turns
from agents.operation import AnyRequest, Catalogue, Operation
from agents.wire import Wire
from schemas.faults import Fault, Invalid, PreconditionFailed, TooLarge, from_validation
from schemas.types import PLAIN_AMOUNTS
from storage.inbox import RequestKey
from storage.table import Table
from storage.tx import Caller, Cause, Target
from telemetry import traces
from topics import names
from topics.codec import UnknownSchema
from topics.dead_letters import RequestRecord
from topics.envelope import InvalidMessage, ReplyTo, RequestHeaders
from topics.fetch_limits import CutValue, UnreadBatch
from topics.incoming import RequestMessage, read_message
from topics.replies import is_allowed


@dataclass(slots=True)
class InvalidRecord:
    """A record that is no request. It becomes a dead letter and has no result."""

    record: RequestRecord
    reason: InvalidMessage
    headers: RequestHeaders | None = None
    operation: Operation | None = None
    """`headers` is None if the headers are invalid. `operation` is None then too, and if the operation is unknown."""


@dataclass(slots=True)
class RefusedRequest:
    """A request that validation refuses, with the answer. The same bytes are always refused, so the answer is not
    stored."""

    record: RequestRecord
    headers: RequestHeaders
    operation: Operation
    answer: Answer
    result: bytes | None = None
    bug: None = None
    span: Span | None = None
    """Not ended yet; None without tracing."""


@dataclass(slots=True)
class ValidRequest:
    """A request to apply. The engine sets `answer` once it has one. `bug`: the unexpected exception, if a bug caused
    the answer."""

    record: RequestRecord
    headers: RequestHeaders
    operation: Operation
    request: AnyRequest
    raw_query: dict[str, Any]
    """The query as the caller sent it, for links to other pages."""
    key: RequestKey
    legacy_key: RequestKey
    """The key under which release 0.1.0 stored the same request."""
    fingerprint: bytes
    order_key: OrderKey
    """Requests with the same order key are always applied in order. A record without a key has the key that the edge
    would give it, or else its offset."""
    table: Table[Any] | None
    """The table of the one row that the request reads or writes."""
    answer: Answer | None = None
    result: bytes | None = None
    """The encoded answer."""
    visitors: Sequence[UUID] = ()
    """The visitors whom the path names or whose data the answer may hold."""
    erased: Sequence[UUID] = ()
    """The visitors whom the request has erased."""
    bug: BaseException | None = None
    span: Span | None = None
    """Not ended yet; None without tracing."""

    @property
    def traceparent(self) -> str | None:
        """The trace that the changes of the request continue."""
        return self.headers.traceparent if self.span is None else traces.traceparent(self.span)

    def cause(self) -> Cause:
        arrived = datetime.fromtimestamp(self.record.timestamp, UTC)
        return Cause(self.headers.request_id, caller_of(self.headers.source), arrived)

    def matches(self, stored_fingerprint: bytes) -> bool:
        """True if the inbox's fingerprint of an answered request is one of this content. Earlier releases stored
        amounts as they were sent: `31.40` in JSON, and with nine decimals in Avro."""
        if stored_fingerprint == self.fingerprint:
            return True
        as_sent = fingerprint(self.operation, self.request, self.headers.if_match, amounts="as sent")
        return stored_fingerprint == as_sent

    def has_expired(self) -> bool:
        """True if the deadline of the read has passed, so that its caller has stopped waiting."""
        return self.headers.expires is not None and self.headers.expires < datetime.now(UTC)

    def target(self) -> Target | None:
        """The row that the request reads or writes: its path names the row, or the parents of a new one."""
        if self.table is None:
            return None
        path = self.request.path
        names = type(path).model_fields.keys() & self.table.columns.keys()
        return Target(self.table, {name: getattr(path, name) for name in names})


Decoded = InvalidRecord | RefusedRequest | ValidRequest


def caller_of(source: str | None) -> Caller:
    """`ce_source` as a caller. `gateway/paris-12` is the gateway paris-12. Any other text is the name of a sender of
    the kind `message`."""
    kind, _, name = (source or "unknown").partition("/")
    return Caller(kind, name) if name else Caller("message", kind)


class Decoder:
    def __init__(
        self, catalogue: Catalogue, wire: Wire, schemas: SchemaLookup, reply_topics: Sequence[str] = ()
    ) -> None:
        """`reply_topics`: the patterns of the topics that replies may go to."""
        self._operations = catalogue.by_name
        self._topics = catalogue.topic_of
        self._catalogue = catalogue
        self._wire = wire
        self._schemas = schemas
        self._reply_topics = reply_topics

    async def decode_all(self, records: Iterable[RequestRecord], pause: Pause) -> list[Decoded | None]:
        """Decode records, also those whose schemas first have to be looked up. If these are many, some records are left
        for another batch: None for each record of a partition from the first one on whose schema was not looked up.
        Raises only transient errors."""
        decoded = [self.decode(record) async for record in in_turns(records, pause)]
        unknown_ids = _unknown_ids(decoded)
        if not unknown_ids:
            return [*decoded]
        resolved, pending = await self._schemas.add_to_codec(unknown_ids)
        results: list[Decoded | None] = []
        left = set()
        for each in decoded:
            schema_id, partition = _unknown_schema_id(each), (each.record.topic, each.record.partition)
            if schema_id in pending:
                left.add(partition)
            if partition in left:
                results.append(None)
            else:
                results.append(self.decode(each.record) if schema_id in resolved else each)
        return results

    def decode(self, record: RequestRecord) -> Decoded:
        """Never raises for the content of a record."""
        headers = operation = None
        if isinstance(record.value, UnreadBatch):
            return InvalidRecord(record, record.value.reason)
        try:
            message = read_message(record.headers or (), record.value, _position(record))
            headers = message.headers
            operation = self._operations.get(headers.operation)
            if operation is None:
                raise InvalidMessage("unknown_operation", f"There is no operation {headers.operation[:100]!r}.")
            self._check_reply_topic(headers.reply_to)
            return self._decode(record, message, operation)
        except InvalidMessage as reason:
            return InvalidRecord(record, reason, headers, operation)

    def _decode(self, record: RequestRecord, message: RequestMessage, operation: Operation) -> Decoded:
        try:
            return self._validate(record, message, operation)
        except ValidationError as error:
            fault: Fault = from_validation(error)
        except (Invalid, TooLarge, PreconditionFailed) as refusal:
            fault = refusal
        return RefusedRequest(record, message.headers, operation, answers.of_fault(fault))

    def _validate(self, record: RequestRecord, message: RequestMessage, operation: Operation) -> ValidRequest:
        headers = message.headers
        self._check_topic(operation, record.topic)
        if headers.if_match is not None and not self._catalogue.takes_if_match(operation):
            raise PreconditionFailed("no_revision", f"{operation.name} is not about a record with a revision.")
        if record.value is None:
            raise InvalidMessage("no_value", "The message has no value.")
        if isinstance(record.value, CutValue):
            raise TooLarge("value_too_large", f"A request holds at most {names.VALUE_LIMIT} bytes.")
        parts = self._wire.read_request(operation, headers.content_type, message.data)
        query = parts.get("query")
        request = operation.request.model_validate(parts)
        return ValidRequest(
            record=record,
            headers=headers,
            operation=operation,
            request=request,
            raw_query=query if isinstance(query, dict) else {},
            key=_key(record, headers),
            legacy_key=_legacy_key(record, headers),
            fingerprint=fingerprint(operation, request, headers.if_match),
            table=self._catalogue.table_of.get(operation.name),
            order_key=_order_key(record, operation, parts),
        )

    def _check_reply_topic(self, reply_to: ReplyTo | None) -> None:
        if reply_to is not None and reply_to.topic is not None and not is_allowed(reply_to.topic, self._reply_topics):
            message = "The setting VISITOR_WORKER_REPLY_TOPICS of the workers does not allow the reply topic."
            raise InvalidMessage("reply_topic_not_allowed", message)

    def _check_topic(self, operation: Operation, topic: str) -> None:
        right = self._topics[operation.name]
        if topic != right:
            raise Invalid("wrong_topic", f"Requests of {operation.name} are taken from {right}.")


def _unknown_ids(decoded: Iterable[Decoded]) -> list[int]:
    """The schema ids to look up, in this order: the first one of each partition, the oldest first, then the second
    ones, and so on. So a partition with garbage delays no other one."""
    since: dict[tuple[str, int], dict[int, float]] = {}
    for each in decoded:
        schema_id = _unknown_schema_id(each)
        if schema_id is not None:
            of_partition = since.setdefault((each.record.topic, each.record.partition), {})
            of_partition.setdefault(schema_id, each.record.timestamp)
    turns = [
        (turn, timestamp, schema_id)
        for of_partition in since.values()
        for turn, (schema_id, timestamp) in enumerate(of_partition.items())
    ]
    return list(dict.fromkeys(schema_id for _, _, schema_id in sorted(turns)))


def _unknown_schema_id(decoded: Decoded) -> int | None:
    if isinstance(decoded, InvalidRecord) and isinstance(decoded.reason, UnknownSchema):
        return decoded.reason.id
    return None


def _position(record: RequestRecord) -> str:
    """Where and when the broker stored a record. No other record has the same position. Without the time, another
    record could have it: offsets start again at 0 if a topic is created again or the cluster is replaced."""
    return f"{record.topic}:{record.partition}:{record.offset}@{_milliseconds(record)}"


def _milliseconds(record: RequestRecord) -> int:
    return round(record.timestamp * 1000)


def _key(record: RequestRecord, headers: RequestHeaders) -> RequestKey:
    """The key of a request without an id is its position. That key starts with `<topic>:<partition>`. Topic names have
    no colon, so no `ce_id` can produce the same key."""
    source = headers.source or ""
    if headers.has_id:
        return RequestKey(record.topic, source, headers.request_id)
    return RequestKey(f"{record.topic}:{record.partition}", source, f"{record.offset}@{_milliseconds(record)}")


def _order_key(record: RequestRecord, operation: Operation, parts: dict[str, Any]) -> OrderKey:
    key = record.key or (operation.record_key(parts) or str(record.offset)).encode()
    return record.topic, record.partition, key


def _legacy_key(record: RequestRecord, headers: RequestHeaders) -> RequestKey:
    position = f"{record.topic}:{record.partition}:{record.offset}"
    return RequestKey.legacy(headers.request_id if headers.has_id else position)


def fingerprint(
    operation: Operation, request: AnyRequest, if_match: Sequence[int] | None = None, *, amounts: str = PLAIN_AMOUNTS
) -> bytes:
    """A digest of what is asked, the same for the same content in JSON and in Avro. `amounts` says how amounts are
    written. Inboxes store the digest, so it may not change."""
    # Same as `model_dump_json`, but returns bytes.
    content = request.__pydantic_serializer__.to_json(request, exclude_unset=True, context=amounts)
    condition = b"" if if_match is None else b"\0if-match:%s" % ",".join(map(str, if_match)).encode()
    return hashlib.blake2b(b"%s\0%s%s" % (operation.name.encode(), content, condition), digest_size=16).digest()
