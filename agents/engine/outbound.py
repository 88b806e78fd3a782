"""What a worker publishes about a batch: results, replies and dead letters."""

from collections.abc import Iterator, Mapping, Sequence

import structlog

from agents.engine.decode import Decoded, InvalidRecord, RefusedRequest, ValidRequest
from telemetry.metrics import UNDELIVERED_REPLIES
from topics import dead_letters, names
from topics.envelope import Headers, Reason
from topics.kafka import Outgoing, Producer
from topics.replies import ReplyProducer

log = structlog.get_logger(__name__)

Readable = RefusedRequest | ValidRequest
"""A record with a result."""


class Outbound:
    """Publishes the results, replies and dead letters of a batch, in order, and waits for the broker."""

    def __init__(self, producer: Producer, reply_producer: ReplyProducer, family_of: dict[str, str]) -> None:
        self._producer = producer
        self._reply_producer = reply_producer
        self._family_of = family_of

    async def publish(self, batch: Sequence[Decoded]) -> None:
        """Publish the results and the replies. Raises DeliveryError."""
        readable = [incoming for incoming in batch if not isinstance(incoming, InvalidRecord)]
        if readable:
            counts = await self._partition_counts(readable)
            await self._producer.send(
                [message for incoming in readable for message in self._messages(incoming, counts)]
            )
            await self._publish_on_reply_topics(readable, counts)

    async def publish_dead_letters(self, batch: Sequence[Decoded]) -> None:
        """Raises DeliveryError."""
        reasons = ((incoming, reason_of(incoming)) for incoming in batch)
        letters = [
            dead_letters.from_record(incoming.record, *reason) for incoming, reason in reasons if reason is not None
        ]
        if letters:
            await self._producer.send(letters)

    async def _partition_counts(self, batch: Sequence[Readable]) -> dict[str, int]:
        """The number of partitions of each topic of the service that results may go to. Raises DeliveryError."""
        topics = {names.results(self._family_of[incoming.operation.name]) for incoming in batch}
        if any(is_http_call(incoming) for incoming in batch):
            topics.add(names.REPLIES)
        return {topic: await self._producer.partitions(topic) for topic in topics}

    def _messages(self, incoming: Readable, counts: Mapping[str, int]) -> Iterator[Outgoing]:
        """The messages of a request on topics of the service. The answer of a read has personal data, which the results
        topic would keep for days: if its partition of `visitor.replies` does not exist, the answer is dropped."""
        names_own_reply = is_http_call(incoming)
        if names_own_reply and (reply := _own_reply(incoming, counts[names.REPLIES])) is not None:
            yield reply
        if not incoming.operation.is_query or not (names_own_reply or _foreign_reply(incoming)):
            yield self._result(incoming, counts)

    def _result(self, incoming: Readable, counts: Mapping[str, int]) -> Outgoing:
        topic = names.results(self._family_of[incoming.operation.name])
        # The request's partition, so that results of one partition keep the order of their requests.
        partition = incoming.record.partition % counts[topic]
        headers = [*incoming.headers.result_headers(), *_answer_headers(incoming)]
        return Outgoing(topic, incoming.result, _key(incoming), headers, partition=partition)

    async def _publish_on_reply_topics(self, readable: Sequence[Readable], counts: Mapping[str, int]) -> None:
        """Publish the replies on topics of other systems. The result of a read whose reply cannot be delivered goes to
        the results topic; the results of writes are there already."""
        replies = [(incoming, reply) for incoming in readable if (reply := _foreign_reply(incoming)) is not None]
        delivered = await self._reply_producer.send([reply for _, reply in replies])
        undelivered = [incoming for (incoming, _), success in zip(replies, delivered, strict=True) if not success]
        UNDELIVERED_REPLIES.inc(len(undelivered))
        reads = [self._result(incoming, counts) for incoming in undelivered if incoming.operation.is_query]
        if reads:
            await self._producer.send(reads)


def is_http_call(incoming: Readable) -> bool:
    """True if the reply goes to `visitor.replies`, on which the edges wait for it."""
    reply_to = incoming.headers.reply_to
    return reply_to is not None and reply_to.partition is not None and reply_to.topic is None


def _own_reply(incoming: Readable, partitions: int) -> Outgoing | None:
    """The reply on `visitor.replies`, which has this number of partitions; None if it has no such partition."""
    reply_to = incoming.headers.reply_to
    assert reply_to is not None
    assert reply_to.partition is not None
    request_id = incoming.headers.request_id
    if reply_to.partition >= partitions:
        log.warning("no_such_reply_partition", request_id=request_id, partition=reply_to.partition)
        return None
    headers = [*incoming.headers.reply_headers(), *_answer_headers(incoming)]
    return Outgoing(names.REPLIES, incoming.result, request_id.encode(), headers, partition=reply_to.partition)


def _foreign_reply(incoming: Readable) -> Outgoing | None:
    """The reply, if it goes to a topic of another system."""
    reply_to = incoming.headers.reply_to
    if reply_to is None or reply_to.topic is None:
        return None
    headers = [*incoming.headers.reply_headers(), *_answer_headers(incoming)]
    return Outgoing(reply_to.topic, incoming.result, _key(incoming), headers, partition=reply_to.partition)


def _answer_headers(incoming: Readable) -> Headers:
    return [] if incoming.answer is None else incoming.answer.headers()


def _key(incoming: Readable) -> bytes:
    """The key of the request, or its id if it has no key or a very long one."""
    key = incoming.record.key
    return key if key and len(key) <= names.KEY_LIMIT else incoming.headers.request_id.encode()


def reason_of(incoming: Decoded) -> tuple[Reason, str] | None:
    """Why a message becomes a dead letter: a code, and a text for people. None where it does not."""
    if isinstance(incoming, InvalidRecord):
        return incoming.reason.code, str(incoming.reason)
    return None if incoming.bug is None else ("bug", type(incoming.bug).__name__)
