"""How a lane works off a batch: writes through the inbox in one transaction, reads each by itself."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agents import answers
from agents.engine import apply
from agents.engine.breaker import Breaker
from agents.engine.decode import Decoder, Incoming
from agents.engine.lanes import Batch
from agents.engine.retry import passes, until_done
from agents.engine.telemetry import BATCH_SECONDS, BATCH_SIZE, DEAD_LETTERS, REQUESTS, Readiness
from agents.wire import Wire
from schemas.faults import BUG, Fault, Unavailable
from storage.database import is_too_slow
from storage.tx import Signing, Tx, clock
from topics import names
from topics.kafka import Outgoing, Producer

log = structlog.get_logger(__name__)

SLOW_ATTEMPTS = 3
"""Attempts that took too long, after which a request that does so again is answered so; before, the database may only
be busy."""


class Results:
    """Publishes results, replies and dead letters of a batch, in order, and waits for the broker."""

    def __init__(self, producer: Producer, wire: Wire, family_of: dict[str, str]) -> None:
        self._producer = producer
        self._wire = wire
        self._family_of = family_of

    async def publish(self, batch: Sequence[Incoming]) -> None:
        """Results and replies. Raises Undelivered."""
        counts = await self._partitions(batch)
        readable = (incoming for incoming in batch if incoming.unreadable is None)
        messages = [message for incoming in readable for message in self._results(incoming, counts)]
        if messages:
            await self._producer.send(messages)

    async def publish_dead_letters(self, batch: Sequence[Incoming]) -> None:
        """Raises Undelivered."""
        reasons = ((incoming, _reason(incoming)) for incoming in batch)
        letters = [_dead_letter(incoming, *reason) for incoming, reason in reasons if reason is not None]
        if letters:
            await self._producer.send(letters)

    async def _partitions(self, batch: Sequence[Incoming]) -> dict[str, int]:
        """How many partitions each topic has that results may go to."""
        operations = {incoming.operation.name for incoming in batch if incoming.operation is not None}
        topics = {names.results(self._family_of[operation]) for operation in operations} | {names.REPLIES}
        return {topic: await self._producer.partitions(topic) for topic in topics}

    def _results(self, incoming: Incoming, counts: Mapping[str, int]) -> list[Outgoing]:
        head, operation = incoming.head, incoming.operation
        assert head is not None
        assert operation is not None
        value, headers = incoming.result, head.result_headers()
        found = []
        if not operation.is_query or head.reply_to is None:
            topic = names.results(self._family_of[operation.name])
            # The request's partition, so that results of one partition keep the order of their requests.
            partition = incoming.record.partition % counts[topic]
            given = incoming.record.key
            key = given if given and len(given) <= names.KEY_LIMIT else head.request_id.encode()
            found.append(Outgoing(topic, value, key, headers, partition=partition))
        if head.reply_to is not None:
            if head.reply_to.partition < counts[names.REPLIES]:
                key = head.request_id.encode()
                found.append(Outgoing(names.REPLIES, value, key, headers, partition=head.reply_to.partition))
            else:
                log.warning("no_such_reply_partition", request_id=head.request_id, partition=head.reply_to.partition)
        return found


def _reason(incoming: Incoming) -> tuple[str, str] | None:
    """Why a message is a dead letter: a code, and what people may read."""
    if incoming.unreadable is not None:
        return incoming.unreadable.code, str(incoming.unreadable)
    return None if incoming.bug is None else ("bug", type(incoming.bug).__name__)


def _dead_letter(incoming: Incoming, code: str, reason: str) -> Outgoing:
    """The message as it came, with the reason in headers of their own; cut where it is larger than the topic takes (it
    came compressed then, and stands whole at the place that the headers tell)."""
    record = incoming.record
    place = {
        "error-code": code,
        "error-message": reason,
        "error-topic": record.topic,
        "error-partition": str(record.partition),
        "error-offset": str(record.offset),
    }
    key, value, headers = record.key, record.value, list(_carried(record.headers or ()))
    if len(key or b"") > names.KEY_LIMIT or len(value or b"") > names.LARGEST_RECORD:
        key, value = key and key[: names.KEY_LIMIT], value and value[: names.LARGEST_RECORD]
        headers.append(("error-cut", b"true"))
    if key is None and value is None:
        # A message has one of them at least.
        key = f"{record.topic}:{record.partition}:{record.offset}".encode()
    headers += [(name, text.encode()) for name, text in place.items()]
    return Outgoing(names.DEAD_LETTERS, value, key, headers)


def _carried(headers: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The first of a message's headers, as many as a dead letter takes."""
    size = 0
    for name, value in headers:
        size += len(name.encode()) + len(value or b"")
        if size > names.HEADERS_LIMIT:
            return
        yield name, value


class Worker:
    """The work of all lanes of a process. `changed` is told which change topics have news."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        wire: Wire,
        results: Results,
        writes: AsyncEngine,
        reads: AsyncEngine,
        readiness: Readiness,
        breaker: Breaker,
        signing: Signing | None,
        changed: Callable[[set[str]], None],
    ) -> None:
        self._decoder = decoder
        self._wire = wire
        self._results = results
        self._writes = writes
        self._reads = reads
        self._readiness = readiness
        self._signing = signing
        self._changed = changed
        self._breaker = breaker

    async def write(self, batch: Batch) -> None:
        await self._timed(batch, self._write)

    async def read(self, batch: Batch) -> None:
        await self._timed(batch, self._read)

    async def _timed(self, batch: Batch, attempt: Callable[[Batch], Awaitable[None]]) -> None:
        begun = time.perf_counter()
        await until_done(batch.place, self._readiness, lambda: attempt(batch))
        BATCH_SECONDS.labels(batch.topic).observe(time.perf_counter() - begun)

    async def _write(self, batch: Batch) -> None:
        async with self._writes.connect() as conn:
            decoded = [self._decoder.decode(event.message) for event in await batch.drain()]
            async with conn.begin():
                changed = await self._apply(conn, decoded, batch)
                done = list(takewhile(lambda incoming: incoming.concluded, decoded))
                # Before the commit: after it, the answers are final, and a crash would lose the dead letters.
                await self._judge(batch, done)
        self._changed(changed)
        batch.leave(len(done))
        BATCH_SIZE.labels(batch.topic).observe(len(done))
        await self._publish(done)

    async def _apply(self, conn: AsyncConnection, decoded: Sequence[Incoming], batch: Batch) -> set[str]:
        """Apply the requests of a batch; the change topics that have news."""
        requests = [incoming for incoming in decoded if incoming.request is not None]
        if not requests:
            return set()
        last_try = batch.too_slow >= SLOW_ATTEMPTS
        try:
            return await apply.apply(conn, requests, self._wire, await clock(conn), last_try=last_try)
        except Exception as error:
            batch.too_slow += is_too_slow(error)
            raise

    async def _read(self, batch: Batch) -> None:
        """Each is answered as soon as it can be, whatever the others take."""
        events = [event for event in await batch.drain() if event.message.offset not in batch.answered]
        decoded = [self._decoder.decode(event.message) for event in events]
        ready = [incoming for incoming in decoded if incoming.concluded]
        work = {asyncio.create_task(self._answer(found)): found for found in decoded if not found.concluded}
        try:
            while True:
                await self._judge(batch, ready)
                await self._publish(ready)
                batch.answered.update(incoming.record.offset for incoming in ready)
                if not work:
                    return
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                ready = [work.pop(task) for task in done if task.result() is None]
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _judge(self, batch: Batch, decoded: Sequence[Incoming]) -> None:
        """Encode the results and publish the dead letters. Raises NearlyEverythingFails."""
        for incoming in decoded:
            self._complete(incoming)
        # Counted once, however often the batch is repeated because the broker is away.
        new = [incoming for incoming in decoded if incoming.record.offset not in batch.judged]
        self._breaker.note(_reason(incoming) is not None for incoming in new)
        batch.judged.update(incoming.record.offset for incoming in new)
        await self._results.publish_dead_letters(decoded)

    async def _publish(self, decoded: Sequence[Incoming]) -> None:
        await self._results.publish(decoded)
        _tell(decoded)

    def _complete(self, incoming: Incoming) -> None:
        """Encode the result. An answer that an older version stored may lack fields, and then cannot be encoded."""
        if incoming.result is not None or incoming.unreadable is not None:
            return
        operation, head, answer = incoming.operation, incoming.head, incoming.answer
        assert operation is not None
        assert head is not None
        assert answer is not None
        try:
            incoming.result = self._wire.write_result(operation, head.content_type, answer)
        except Exception as error:
            incoming.bug, incoming.answer = error, answers.of_fault(BUG)
            incoming.result = self._wire.write_result(operation, head.content_type, incoming.answer)

    async def _answer(self, incoming: Incoming) -> None:
        """Answer a read in a transaction of its own. Raises only what is transient."""
        operation, request, head = incoming.operation, incoming.request, incoming.head
        assert operation is not None
        assert operation.handler is not None
        assert head is not None
        assert request is not None
        try:
            async with self._reads.connect() as conn, conn.begin():
                tx = Tx(conn, incoming.cause(), await clock(conn), signing=self._signing)
                value = await operation.handler(tx, request)
            answer = answers.of_value(operation, request, incoming.raw_query or {}, value)
            incoming.result = self._wire.bounded_result(operation, head.content_type, answer)
            incoming.answer = answer
        except Fault as fault:
            incoming.answer = answers.of_fault(fault)
        except Exception as error:
            if is_too_slow(error):
                incoming.answer = answers.of_fault(Unavailable("too_slow", "This took too long; ask for less."))
            elif passes(error):
                raise
            else:
                incoming.bug = error
                incoming.answer = answers.of_fault(BUG)


def _tell(decoded: Sequence[Incoming]) -> None:
    """Counts and logs of a batch that is done."""
    for incoming in decoded:
        reason = _reason(incoming)
        if reason is not None:
            record = incoming.record
            DEAD_LETTERS.labels(reason[0]).inc()
            log.error(
                "dead_letter", reason=reason[0], topic=record.topic, partition=record.partition,
                offset=record.offset, exc_info=incoming.bug, **_names(incoming),
            )  # fmt: skip
    answered = Counter(
        (incoming.operation.name, incoming.answer.status)
        for incoming in decoded
        if incoming.operation is not None and incoming.answer is not None
    )
    for labels, count in answered.items():
        REQUESTS.labels(*labels).inc(count)


def _names(incoming: Incoming) -> dict[str, str | None]:
    return {
        "request_id": incoming.head.request_id if incoming.head else None,
        "operation": incoming.operation.name if incoming.operation else None,
    }
