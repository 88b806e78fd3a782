"""What a worker publishes about a batch: results, replies and dead letters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import structlog

from agents.engine.decode import Decoded, InvalidRecord, Record, RefusedRequest, ValidRequest
from topics import names
from topics.kafka import Outgoing, Producer

log = structlog.get_logger(__name__)

Readable = RefusedRequest | ValidRequest
"""A record with a result."""


class Outbound:
    """Publishes the results, replies and dead letters of a batch, in order, and waits for the broker."""

    def __init__(self, producer: Producer, family_of: dict[str, str]) -> None:
        self._producer = producer
        self._family_of = family_of

    async def publish(self, batch: Sequence[Decoded]) -> None:
        """Publish the results and the replies. Raises DeliveryError."""
        readable = [incoming for incoming in batch if not isinstance(incoming, InvalidRecord)]
        if readable:
            counts = await self._partition_counts(readable)
            await self._producer.send([message for incoming in readable for message in self._results(incoming, counts)])

    async def publish_dead_letters(self, batch: Sequence[Decoded]) -> None:
        """Raises DeliveryError."""
        reasons = ((incoming, reason_of(incoming)) for incoming in batch)
        letters = [_dead_letter(incoming.record, *reason) for incoming, reason in reasons if reason is not None]
        if letters:
            await self._producer.send(letters)

    async def _partition_counts(self, batch: Sequence[Readable]) -> dict[str, int]:
        """The number of partitions of each topic that results may go to."""
        topics = {names.results(self._family_of[incoming.operation.name]) for incoming in batch} | {names.REPLIES}
        return {topic: await self._producer.partitions(topic) for topic in topics}

    def _results(self, incoming: Readable, counts: Mapping[str, int]) -> Iterator[Outgoing]:
        request, operation = incoming.headers, incoming.operation
        value, headers = incoming.result, request.result_headers()
        if not operation.is_query or request.reply_to is None:
            topic = names.results(self._family_of[operation.name])
            # The request's partition, so that results of one partition keep the order of their requests.
            partition = incoming.record.partition % counts[topic]
            key = incoming.record.key
            if not key or len(key) > names.KEY_LIMIT:
                key = request.request_id.encode()
            yield Outgoing(topic, value, key, headers, partition=partition)
        if request.reply_to is None:
            return
        if request.reply_to.partition >= counts[names.REPLIES]:
            log.warning("no_such_reply_partition", request_id=request.request_id, partition=request.reply_to.partition)
            return
        key = request.request_id.encode()
        yield Outgoing(names.REPLIES, value, key, headers, partition=request.reply_to.partition)


def reason_of(incoming: Decoded) -> tuple[str, str] | None:
    """Why a message becomes a dead letter: a code, and a text for people. None where it does not."""
    if isinstance(incoming, InvalidRecord):
        return incoming.reason.code, str(incoming.reason)
    return None if incoming.bug is None else ("bug", type(incoming.bug).__name__)


def _dead_letter(record: Record, code: str, reason: str) -> Outgoing:
    """The message as it was received, with the reason in additional headers. If the message is larger than the topic
    accepts, it is cut and has the header error-cut; the original is at the position in the headers. A compressed
    message can be that large."""
    added = {
        "error-code": code,
        "error-message": reason,
        "error-topic": record.topic,
        "error-partition": str(record.partition),
        "error-offset": str(record.offset),
    }
    key, value, received = record.key, record.value, list(record.headers or ())
    headers = list(_fitting(received))
    too_large = len(key or b"") > names.KEY_LIMIT or len(value or b"") > names.LARGEST_RECORD
    if too_large or len(headers) < len(received):
        key, value = key and key[: names.KEY_LIMIT], value and value[: names.LARGEST_RECORD]
        headers.append(("error-cut", b"true"))
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
