"""How a batch is processed: its writes are applied in one transaction, each of its reads is answered by itself."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from agents import answers
from agents.engine import apply, audit, spans
from agents.engine.apply import Attempt
from agents.engine.batches import Batch
from agents.engine.breaker import Breaker, Outcome
from agents.engine.decode import Decoded, Decoder, InvalidRecord, RefusedRequest, ValidRequest
from agents.engine.lanes import Delivery, OrderKey
from agents.engine.outbound import Outbound, Readable, is_http_call, reason_of
from agents.engine.read_memory import SMALL_READ, ReadMemory
from agents.engine.retry import is_retryable
from agents.engine.turns import Pause, ReadsFirst, next_turn
from agents.wire import Wire, too_large
from schemas.faults import BUG, Fault, Unavailable
from schemas.replies import selected_fields
from storage.allowance import Allowance, LoadsTooMuch
from storage.commits import Commits
from storage.database import BLOCKED_LOCK_TIMEOUT, LOCK_TIMEOUT, is_too_slow, single_statements
from storage.tx import Resources, Tx
from telemetry import traces
from telemetry.garbage import without_frames
from telemetry.metrics import BATCH_REQUESTS, DEAD_LETTERS, EXPIRED_READS, REQUESTS, RESULT_LATENCY
from topics import names
from topics.envelope import Reason

log = structlog.get_logger(__name__)

SLOW_ATTEMPTS = 3
"""After this many slow attempts of a lane, a request that is slow again is answered with 503. Until then it is
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
        breaker: Breaker,
        reads_first: ReadsFirst,
        resources: Resources,
        changed: Callable[[set[str]], None],
    ) -> None:
        self._decoder = decoder
        self._wire = wire
        self._outbound = outbound
        self._writes = writes
        self._reads = reads
        self._single_reads = single_statements(reads)
        self._resources = resources
        self._changed = changed
        self._commits = Commits()
        self._breaker = breaker
        self._read_memory = ReadMemory()
        self._reads_first = reads_first
        # Prometheus does not notice the first increment of a counter that did not exist before.
        for reason in get_args(Reason):
            DEAD_LETTERS.labels(reason)

    async def write(self, batch: Batch) -> None:
        """Apply the requests of a batch in one transaction, publish the results and conclude the deliveries. Requests
        that wait for a lock are parked. Raises what `is_retryable` accepts, and NearlyEverythingFails."""
        decoded = await self._decode(batch, self._reads_first.give_way)
        with spans.of_batch(decoded.values()):
            await self._write(batch, decoded)

    async def _write(self, batch: Batch, decoded: Mapping[Delivery, Decoded]) -> None:
        last_try = batch.slow_attempts >= SLOW_ATTEMPTS
        locks_are_held = batch.locks_are_held
        try:
            done, changed = await self._commit(batch, decoded, locks_are_held, savepoints=last_try, last_try=last_try)
        except apply.NeedsSavepoints as failed:
            locks_are_held = locks_are_held or failed.waited_for_lock
            done, changed = await self._commit(batch, decoded, locks_are_held, savepoints=True)
        if requests := sum(isinstance(decoded[delivery], ValidRequest) for delivery in done):
            BATCH_REQUESTS.observe(requests)
        answered = [decoded[delivery] for delivery in done]
        try:
            await self._publish(answered)
            audit.log(answered)
        finally:
            # After the results, which callers wait for.
            self._changed(changed)
        batch.conclude(done)

    async def _decode(self, batch: Batch, pause: Pause) -> dict[Delivery, Decoded]:
        """The decoded deliveries, without those that are left for another batch."""
        decoded = await self._decoder.decode_all((delivery.record for delivery in batch.deliveries), pause)
        pairs = zip(batch.deliveries, decoded, strict=True)
        return {delivery: incoming for delivery, incoming in pairs if incoming is not None}

    async def _commit(
        self,
        batch: Batch,
        decoded: Mapping[Delivery, Decoded],
        locks_are_held: bool,
        *,
        savepoints: bool,
        last_try: bool = False,
    ) -> tuple[Sequence[Delivery], set[str]]:
        """Apply the requests of a batch and park those that wait for a lock. Returns the deliveries that are done, and
        the change topics with new entries in the outbox."""
        lock_timeout = BLOCKED_LOCK_TIMEOUT if locks_are_held else LOCK_TIMEOUT
        attempt = Attempt(self._wire, lock_timeout, batch.parked_keys, savepoints, last_try)
        requests = [incoming for incoming in decoded.values() if isinstance(incoming, ValidRequest)]
        changed: set[str] = set()
        with traces.part("transaction"):
            async with self._writes.connect() as conn, conn.begin():
                if requests:
                    await self._commits.begin(conn)
                    changed = await apply.apply(conn, requests, attempt)
                done, blocked = _sort(decoded, attempt.blocked)
                # Before the commit: after it, the answers are final, and a crash would lose the dead letters.
                await self._encode_and_report_failures({delivery: decoded[delivery] for delivery in done})
                await self._commits.commit(conn)
        batch.park(blocked)
        return done, changed

    async def read(self, batch: Batch) -> None:
        """Answer each read as soon as its own data is there, without waiting for the other reads. Raises what
        `is_retryable` accepts, and NearlyEverythingFails."""
        with self._reads_first.reading():
            await self._read(batch)

    async def _read(self, batch: Batch) -> None:
        decoded = await self._decode(batch, next_turn)
        with spans.of_batch(decoded.values()):
            ready: dict[Delivery, Decoded] = {
                delivery: incoming for delivery, incoming in decoded.items() if not isinstance(incoming, ValidRequest)
            }
            tasks = {
                asyncio.create_task(self._answer(delivery, read)): (delivery, read)
                for delivery, read in decoded.items()
                if isinstance(read, ValidRequest)
            }
            # An answer may have megabytes, so that nothing may refer to it after it is published.
            del decoded
            await self._publish_when_ready(batch, ready, tasks)

    async def _publish_when_ready(
        self,
        batch: Batch,
        ready: dict[Delivery, Decoded],
        tasks: dict[asyncio.Task[bool], tuple[Delivery, ValidRequest]],
    ) -> None:
        try:
            while True:
                await self._encode_and_report_failures(ready)
                # Before the answer: a read that is delivered again after a crash has expired, and is dropped.
                audit.log(ready.values())
                await self._publish(list(ready.values()))
                batch.conclude(ready)
                self._read_memory.release(ready)
                ready.clear()
                if not tasks:
                    return
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    delivery, read = tasks.pop(task)
                    if task.result():
                        ready[delivery] = read
                    else:
                        EXPIRED_READS.inc()
                        batch.conclude([delivery])
                        self._read_memory.release([delivery])
                del done, task, read
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._read_memory.release([*ready, *(delivery for delivery, _ in tasks.values())])

    async def _encode_and_report_failures(self, decoded: Mapping[Delivery, Decoded]) -> None:
        """Encode the results, count the failures, and publish the dead letters. Raises DeliveryError and
        NearlyEverythingFails."""
        for incoming in decoded.values():
            if not isinstance(incoming, InvalidRecord):
                self._encode(incoming)
        self._count_failures(decoded)
        await self._outbound.publish_dead_letters(list(decoded.values()))

    def _count_failures(self, decoded: Mapping[Delivery, Decoded]) -> None:
        """Count each message once, even if the batch is retried because the broker is unavailable. A bug that an HTTP
        call meets is no part of a flood: its caller has the answer, the edge limits its rate, and a pause would delay
        the calls of others. Raises NearlyEverythingFails."""
        outcomes = []
        for delivery, incoming in decoded.items():
            if delivery.counted:
                continue
            delivery.counted = True
            if isinstance(incoming, InvalidRecord):
                delivery.lane.floods.note(incoming.reason.code)
                continue
            failed = incoming.bug is not None and not is_too_slow(incoming.bug)
            delivery.lane.floods.note("bug" if failed and not is_http_call(incoming) else None)
            outcomes.append(Outcome(incoming.operation.name, incoming.headers.source or "", failed))
        self._breaker.note(outcomes)

    async def _publish(self, decoded: Sequence[Decoded]) -> None:
        with traces.part("publish"):
            await self._outbound.publish(decoded)
        _count(decoded)
        spans.end(decoded)

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

    async def _answer(self, delivery: Delivery, incoming: ValidRequest) -> bool:
        """Answer a read. Returns False if it has expired by the time a connection is free. Raises only transient
        errors."""
        operation = incoming.operation
        try:
            value, tx = await self._load(delivery, incoming)
            answer = answers.of_value(operation, incoming.request, incoming.raw_query, value)
            answer = answer._replace(revision=tx.revision)
            incoming.visitors = sorted(audit.visitors_in(value).union(tx.visitors))
            incoming.result = self._wire.bounded_result(operation, incoming.headers.content_type, answer)
            # The body takes more memory than the encoded result.
            incoming.answer = answer._replace(body=None)
        except _Expired:
            return False
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
        self._read_memory.hold(delivery, incoming.result)
        return True

    async def _load(self, delivery: Delivery, incoming: ValidRequest) -> tuple[Any, Tx]:
        """The value that the handler returns, and what else the handler has noted. A read that turns out to be large is
        repeated when no other large one runs. Raises _Expired, and Invalid if the reply would be too large."""
        with suppress(LoadsTooMuch):
            return await self._handle(incoming, SMALL_READ)
        # Without a connection, which other reads can use.
        await self._read_memory.be_alone(delivery)
        with suppress(LoadsTooMuch):
            return await self._handle(incoming, names.REPLY_LIMIT)
        raise too_large(incoming.operation)

    async def _handle(self, incoming: ValidRequest, limit: int) -> tuple[Any, Tx]:
        """Call the handler in a transaction of its own, which a single statement also is. Raises _Expired, and
        LoadsTooMuch if it loads more than `limit`."""
        operation, request = incoming.operation, incoming.request
        assert operation.handler is not None
        engine = self._single_reads if operation.one_statement else self._reads
        with traces.part("transaction", incoming.span):
            async with engine.connect() as conn, conn.begin():
                # Here, where few reads can pass at once.
                await self._read_memory.wait_for_room()
                if incoming.has_expired():
                    raise _Expired
                tx = Tx(
                    conn, incoming.cause(), resources=self._resources, target=incoming.target(),
                    allowance=Allowance(limit), fields=selected_fields(request.query),
                )  # fmt: skip
                return await operation.handler(tx, request), tx


class _Expired(Exception):
    """The caller of a read has stopped waiting."""


def _sort(
    decoded: Mapping[Delivery, Decoded], blocked: Container[OrderKey]
) -> tuple[list[Delivery], list[tuple[Delivery, OrderKey]]]:
    """The deliveries that are done, and those that wait for a lock, with their order keys. From the first delivery of a
    lane on that is neither, for example because the transaction had no time for it, all are left for another batch."""
    done, waiting, ended = [], [], set()
    for delivery, incoming in decoded.items():
        if delivery.lane in ended:
            continue
        if not isinstance(incoming, ValidRequest) or incoming.answer is not None:
            done.append(delivery)
        elif incoming.order_key in blocked:
            waiting.append((delivery, incoming.order_key))
        else:
            ended.add(delivery.lane)
    return done, waiting


def _count(decoded: Sequence[Decoded]) -> None:
    """Metrics and logs of records that are done."""
    statuses: Counter[tuple[str, int]] = Counter()
    latencies: defaultdict[str, list[float]] = defaultdict(list)
    now = time.time()
    for incoming in decoded:
        reason = reason_of(incoming)
        if reason is not None:
            _log_dead_letter(incoming, reason[0])
        if not isinstance(incoming, InvalidRecord) and incoming.answer is not None:
            statuses[incoming.operation.name, incoming.answer.status] += 1
            # The broker's clock may be ahead of ours.
            latencies[incoming.record.topic].append(max(0.0, now - incoming.record.timestamp))
    for labels, count in statuses.items():
        REQUESTS.labels(*labels).inc(count)
    for topic, seconds in latencies.items():
        histogram = RESULT_LATENCY.labels(topic)
        for each in seconds:
            histogram.observe(each)


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
    if not isinstance(incoming, InvalidRecord) and incoming.bug is not None:
        without_frames(incoming.bug)
