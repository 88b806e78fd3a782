"""How a lane processes a batch. It applies all writes of a batch in one transaction, and answers each read by
itself."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agents import answers
from agents.engine import apply
from agents.engine.breaker import Breaker
from agents.engine.decode import Decoded, Decoder, InvalidRecord, RefusedRequest, ValidRequest
from agents.engine.lanes import Batch
from agents.engine.outbound import Outbound, Readable, reason_of
from agents.engine.retry import is_retryable, until_done
from agents.engine.telemetry import BATCH_SECONDS, BATCH_SIZE, DEAD_LETTERS, REQUESTS, Readiness
from agents.wire import Wire
from schemas.faults import BUG, Fault, Unavailable
from storage.database import is_too_slow
from storage.tx import Resources, Tx, clock

log = structlog.get_logger(__name__)

SLOW_ATTEMPTS = 3
"""After this many slow attempts of a batch, a request that is slow again is answered with 503. Until then it is
retried, because the database may only be busy."""


class BatchProcessor:
    """The work of all lanes of a process. `changed` is told which change topics have news."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        wire: Wire,
        outbound: Outbound,
        writes: AsyncEngine,
        reads: AsyncEngine,
        readiness: Readiness,
        breaker: Breaker,
        resources: Resources,
        changed: Callable[[set[str]], None],
    ) -> None:
        self._decoder = decoder
        self._wire = wire
        self._outbound = outbound
        self._writes = writes
        self._reads = reads
        self._readiness = readiness
        self._resources = resources
        self._changed = changed
        self._breaker = breaker

    async def write(self, batch: Batch) -> None:
        await self._timed(batch, self._write)

    async def read(self, batch: Batch) -> None:
        await self._timed(batch, self._read)

    async def _timed(self, batch: Batch, attempt: Callable[[Batch], Awaitable[None]]) -> None:
        begun = time.perf_counter()
        await until_done(batch.name, self._readiness, lambda: attempt(batch))
        BATCH_SECONDS.labels(batch.topic).observe(time.perf_counter() - begun)

    async def _write(self, batch: Batch) -> None:
        async with self._writes.connect() as conn:
            decoded = await self._decoder.decode_all(event.message for event in await batch.drain())
            # The end of this block commits the transaction.
            async with conn.begin():
                changed = await self._apply(conn, decoded, batch)
                done = list(takewhile(_is_concluded, decoded))
                # Before the commit: after it, the answers are final, and a crash would lose the dead letters.
                await self._encode_and_report_failures(batch, done)
        self._changed(changed)
        batch.requeue_from(len(done))
        BATCH_SIZE.labels(batch.topic).observe(len(done))
        await self._publish(done)

    async def _apply(self, conn: AsyncConnection, decoded: Sequence[Decoded], batch: Batch) -> set[str]:
        """Apply the valid requests of a batch. Returns the change topics with new entries in the outbox."""
        requests = [incoming for incoming in decoded if isinstance(incoming, ValidRequest)]
        if not requests:
            return set()
        last_try = batch.slow_attempts >= SLOW_ATTEMPTS
        try:
            return await apply.apply(conn, requests, self._wire, await clock(conn), last_try=last_try)
        except Exception as error:
            batch.slow_attempts += is_too_slow(error)
            raise

    async def _read(self, batch: Batch) -> None:
        """Answer each read as soon as its own data is there, without waiting for the other reads."""
        events = [event for event in await batch.drain() if event.message.offset not in batch.answered]
        decoded = await self._decoder.decode_all(event.message for event in events)
        ready: list[Decoded] = [incoming for incoming in decoded if not isinstance(incoming, ValidRequest)]
        valid = [incoming for incoming in decoded if isinstance(incoming, ValidRequest)]
        tasks = {asyncio.create_task(self._answer(incoming)): incoming for incoming in valid}
        try:
            while True:
                await self._encode_and_report_failures(batch, ready)
                await self._publish(ready)
                batch.answered.update(incoming.record.offset for incoming in ready)
                if not tasks:
                    return
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                ready = [tasks.pop(task) for task in done if task.result() is None]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _encode_and_report_failures(self, batch: Batch, decoded: Sequence[Decoded]) -> None:
        """Encode the results, count the failures for the breaker, and publish the dead letters. Raises DeliveryError
        and NearlyEverythingFails."""
        for incoming in decoded:
            if not isinstance(incoming, InvalidRecord):
                self._encode(incoming)
        # The breaker counts each message once, even if the batch is retried because the broker is unavailable.
        new = [incoming for incoming in decoded if incoming.record.offset not in batch.counted_by_breaker]
        self._breaker.note(reason_of(incoming) is not None for incoming in new)
        batch.counted_by_breaker.update(incoming.record.offset for incoming in new)
        await self._outbound.publish_dead_letters(decoded)

    async def _publish(self, decoded: Sequence[Decoded]) -> None:
        await self._outbound.publish(decoded)
        _count(decoded)

    def _encode(self, incoming: Readable) -> None:
        if incoming.result is not None:
            return
        assert incoming.answer is not None
        operation, content_type = incoming.operation, incoming.headers.content_type
        try:
            incoming.result = self._wire.write_result(operation, content_type, incoming.answer)
        except Exception as error:
            if isinstance(incoming, RefusedRequest):
                raise
            # An answer that an older version stored may lack fields.
            incoming.bug, incoming.answer = error, answers.of_fault(BUG)
            incoming.result = self._wire.write_result(operation, content_type, incoming.answer)

    async def _answer(self, incoming: ValidRequest) -> None:
        """Answer a read in a transaction of its own. Raises only transient errors."""
        operation, request = incoming.operation, incoming.request
        assert operation.handler is not None
        try:
            async with self._reads.connect() as conn, conn.begin():
                tx = Tx(conn, incoming.cause(), await clock(conn), resources=self._resources, target=incoming.target())
                value = await operation.handler(tx, request)
            answer = answers.of_value(operation, request, incoming.raw_query, value)
            answer = answer._replace(revision=tx.revision)
            incoming.result = self._wire.bounded_result(operation, incoming.headers.content_type, answer)
            incoming.answer = answer
        except Fault as fault:
            incoming.answer = answers.of_fault(fault)
        except Exception as error:
            if is_too_slow(error):
                incoming.answer = answers.of_fault(Unavailable("too_slow", "This took too long; ask for less."))
            elif is_retryable(error):
                raise
            else:
                incoming.bug = error
                incoming.answer = answers.of_fault(BUG)


def _is_concluded(incoming: Decoded) -> bool:
    return not isinstance(incoming, ValidRequest) or incoming.answer is not None


def _count(decoded: Sequence[Decoded]) -> None:
    """Metrics and logs of records that are done."""
    statuses: Counter[tuple[str, int]] = Counter()
    for incoming in decoded:
        reason = reason_of(incoming)
        if reason is not None:
            _log_dead_letter(incoming, reason[0])
        if not isinstance(incoming, InvalidRecord) and incoming.answer is not None:
            statuses[incoming.operation.name, incoming.answer.status] += 1
    for labels, count in statuses.items():
        REQUESTS.labels(*labels).inc(count)


def _log_dead_letter(incoming: Decoded, code: str) -> None:
    DEAD_LETTERS.labels(code).inc()
    record, headers = incoming.record, incoming.headers
    log.error(
        "dead_letter",
        reason=code,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        request_id=headers.request_id if headers else None,
        operation=incoming.operation.name if incoming.operation else None,
        exc_info=None if isinstance(incoming, InvalidRecord) else incoming.bug,
    )
