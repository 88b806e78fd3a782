"""One transaction for a batch: a request that was answered before gets its stored answer, the others are applied in
order.

An answer is final whatever its status: it is stored in the transaction that gave it, so a request that is delivered
again, after a crash or an offset reset, gets the same answer and has no further effect."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, groupby
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from agents import answers
from agents.answers import Answer
from agents.engine.change_entries import change_entries
from agents.engine.decode import ValidRequest
from agents.engine.lanes import BLOCKED_LIMIT, OrderKey, TopicPartition
from agents.engine.turns import in_turns, next_turn
from agents.wire import Wire
from schemas.faults import BUG, Fault, KeyReused, Unavailable
from storage import deletions, inbox, outbox
from storage.commits import wait_for_standby
from storage.constraints import fault_of
from storage.database import is_lock_conflict, is_too_slow, is_transient
from storage.table import require_revision
from storage.tx import Tx
from telemetry.garbage import without_frames
from topics import json

log = structlog.get_logger(__name__)

_KEY_REUSED = "This request id was used before with different content. Give a new request a new id."
_TOO_SLOW = "This took too long at each attempt and was not applied. Ask for less at once, with a new request id."

APPLY_SECONDS = 2.0
"""Seconds after which a transaction begins no further request. The size of a batch is bounded in number, not in time;
this bound keeps it from holding locks for long. If the database is slow, the lanes take turns at this pace."""

SAVEPOINT_RUNS = 20
"""A savepoint covers at most so many runs. If one of them fails, they are applied again, each under a savepoint of its
own. A batch with no more runs needs no savepoint at first: its transaction is rolled back and repeated."""


class NeedsSavepoints(Exception):
    """A request failed that was applied without a savepoint. Roll the transaction back, and repeat it with savepoints.
    `waited_for_lock`: the request could not get a lock."""

    def __init__(self, *, waited_for_lock: bool) -> None:
        self.waited_for_lock = waited_for_lock


@dataclass
class Attempt:
    """One attempt to apply a batch.

    - `lock_timeout`: how long a statement waits for a lock.
    - `blocked`: the order keys of requests that wait for a lock. `apply` adds to them. Later requests with the same
      order key wait as well, so that they stay in order.
    - Without `savepoints`, `apply` raises NeedsSavepoints if a request fails.
    - With `last_try`, a request that takes too long is answered with 503 and not retried.
    """

    wire: Wire
    lock_timeout: timedelta
    blocked: set[OrderKey] = field(default_factory=set)
    savepoints: bool = True
    last_try: bool = False
    now: datetime = field(init=False)
    deadline: float = field(init=False)
    answered: list[ValidRequest] = field(default_factory=list)
    changes: list[outbox.Entry] = field(default_factory=list)
    erased: set[UUID] = field(default_factory=set)
    blocked_in_a_row: Counter[TopicPartition] = field(default_factory=Counter)

    def has_time(self) -> bool:
        return time.monotonic() <= self.deadline

    def waits(self, incoming: ValidRequest) -> bool:
        """True if an earlier request with the same order key waits for a lock, or too many of the partition do."""
        partition = (incoming.record.topic, incoming.record.partition)
        return incoming.order_key in self.blocked or self.blocked_in_a_row[partition] >= BLOCKED_LIMIT


async def apply(conn: AsyncConnection, requests: Sequence[ValidRequest], attempt: Attempt) -> set[str]:
    """Answer as many of the requests as there is time for, except those that wait for a lock, and store the answers and
    changes. Returns the change topics with new entries in the outbox. The caller commits. Raises NeedsSavepoints, and
    exceptions that `is_transient` accepts; the caller then retries the whole batch."""
    fresh, repeated = await _look_up(conn, requests, attempt)
    if len(fresh) + len(repeated) < len(requests):
        await wait_for_standby(conn)
    attempt.deadline = time.monotonic() + APPLY_SECONDS
    runs = list(_runs(_by_topic(fresh)))
    attempt.savepoints = attempt.savepoints or len(runs) > SAVEPOINT_RUNS
    for start in range(0, len(runs), SAVEPOINT_RUNS):
        if (attempt.answered or attempt.blocked_in_a_row) and not attempt.has_time():
            break  # A savepoint takes two round trips.
        await _apply_together(conn, runs[start : start + SAVEPOINT_RUNS], attempt)
    for first, again in repeated:
        if first.answer is not None:
            _repeat(again, first)
    if attempt.answered:
        entries = [_inbox_entry(incoming) for incoming in attempt.answered]
        await inbox.insert(conn, entries, attempt.changes, attempt.now)
    if attempt.changes:
        await deletions.record(conn, attempt.changes, attempt.now)
    if attempt.erased:
        # At the end, when the entries of earlier requests of the batch are there as well.
        await inbox.redact_visitors(conn, sorted(attempt.erased))
        await outbox.delete_unpublished(conn, sorted(attempt.erased))
    return {entry.topic for entry in attempt.changes}


def _by_topic(requests: Sequence[ValidRequest]) -> Iterable[ValidRequest]:
    """The requests of each topic together, in their order, so that a batch handler gets as many as possible at once:
    it locks the rows that they share, such as counts, in one order. Transactions with several calls of it would wait
    for each other."""
    by_topic: defaultdict[str, list[ValidRequest]] = defaultdict(list)
    for incoming in requests:
        by_topic[incoming.record.topic].append(incoming)
    return chain.from_iterable(by_topic.values())


async def _look_up(
    conn: AsyncConnection, requests: Sequence[ValidRequest], attempt: Attempt
) -> tuple[list[ValidRequest], list[tuple[ValidRequest, ValidRequest]]]:
    """Answer the requests that the inbox knows. Returns the requests to apply, and pairs of a request to apply and one
    that repeats it."""
    keys = [key for incoming in requests for key in (incoming.key, incoming.legacy_key)]
    attempt.now, entries = await inbox.look_up(conn, keys, attempt.lock_timeout)
    fresh: dict[inbox.RequestKey, ValidRequest] = {}
    repeated = []
    for incoming in requests:
        entry = _entry_of(incoming, entries)
        if entry is not None:
            _answer_again(incoming, entry, attempt.wire)
        elif incoming.key in fresh:
            repeated.append((fresh[incoming.key], incoming))
        else:
            fresh[incoming.key] = incoming
    return list(fresh.values()), repeated


def _entry_of(incoming: ValidRequest, entries: Mapping[inbox.RequestKey, inbox.Entry]) -> inbox.Entry | None:
    """The stored answer to this request. An entry of release 0.1.0 does not say whose request it answered, so it counts
    only if the content is the same."""
    if incoming.key in entries:
        return entries[incoming.key]
    entry = entries.get(incoming.legacy_key)
    return entry if entry is not None and incoming.matches(entry.fingerprint) else None


def _answer_again(incoming: ValidRequest, entry: inbox.Entry, wire: Wire) -> None:
    if not incoming.matches(entry.fingerprint):
        incoming.answer = _key_reused()
        return
    incoming.visitors = entry.visitors
    try:
        body = None if entry.body is None else json.read(entry.body)
        incoming.answer = Answer(entry.status, wire.native(incoming.operation, entry.status, body))
    except Exception as error:
        # An older version stored it. Only this request fails; its entry stays, so that it is not applied again.
        incoming.bug, incoming.answer = error, answers.of_fault(BUG)


def _repeat(again: ValidRequest, first: ValidRequest) -> None:
    """Give a request the answer of the request of this batch that it repeats."""
    if again.fingerprint != first.fingerprint:
        again.answer = _key_reused()
        return
    again.answer, again.visitors, again.erased = first.answer, first.visitors, first.erased


def _key_reused() -> Answer:
    return answers.of_fault(KeyReused("key_reused", _KEY_REUSED))


_Run = Sequence[ValidRequest]
"""Requests that one call of a handler applies."""


def _runs(fresh: Iterable[ValidRequest]) -> Iterator[_Run]:
    """Group neighbouring requests of the same operation if it has a batch handler. Every other request is a run by
    itself."""
    for operation, group in groupby(fresh, key=lambda incoming: incoming.operation):
        if operation.batch_handler is not None:
            yield list(group)
        else:
            yield from ([incoming] for incoming in group)


async def _apply_together(conn: AsyncConnection, runs: Sequence[_Run], attempt: Attempt) -> None:
    """Apply runs under one savepoint. If one of their requests fails, roll them back and apply each request by itself,
    so that only the faulty one fails."""
    outcomes: list[tuple[ValidRequest, _Applied | Fault]] = []
    try:
        async with conn.begin_nested() if attempt.savepoints else nullcontext():
            for run in runs:
                # There is always time for one request.
                if (outcomes or attempt.answered or attempt.blocked_in_a_row) and not attempt.has_time():
                    break
                outcomes += await _apply_run(conn, run, attempt)
    except Exception as error:
        if _is_to_be_retried(error, attempt):
            raise
        if not attempt.savepoints:
            raise NeedsSavepoints(waited_for_lock=is_lock_conflict(error)) from error
        parts = [[run] for run in runs] if len(runs) > 1 else [[[incoming]] for incoming in runs[0]]
        if len(parts) > 1:
            for part in parts:
                await _apply_together(conn, part, attempt)
            return
        (incoming,) = runs[0]
        if is_lock_conflict(error):
            _block(incoming, attempt)
            return
        outcomes = [(incoming, without_frames(error) if isinstance(error, Fault) else _fault_of(error, incoming))]
    for incoming, outcome in outcomes:
        _conclude(incoming, outcome, attempt)


def _is_to_be_retried(error: Exception, attempt: Attempt) -> bool:
    if isinstance(error, Fault) or is_lock_conflict(error) or (attempt.last_try and is_too_slow(error)):
        return False
    return is_transient(error)


def _block(incoming: ValidRequest, attempt: Attempt) -> None:
    attempt.blocked.add(incoming.order_key)
    attempt.blocked_in_a_row[incoming.record.topic, incoming.record.partition] += 1


async def _apply_run(
    conn: AsyncConnection, run: _Run, attempt: Attempt
) -> list[tuple[ValidRequest, "_Applied | Fault"]]:
    run = [incoming for incoming in run if not attempt.waits(incoming)]
    if not run:
        return []
    txs = [Tx(conn, incoming.cause(), attempt.now, target=incoming.target()) for incoming in run]
    return list(zip(run, await _call(run, txs, attempt), strict=True))


class _Applied(NamedTuple):
    """The outcome of a request that was applied. Result and changes are encoded inside the request's savepoint, so that
    a value that cannot be encoded fails its own request only."""

    answer: Answer
    result: bytes
    changes: Sequence[outbox.Entry]
    visitors: Sequence[UUID]
    erased: Sequence[UUID]


async def _call(run: _Run, txs: Sequence[Tx], attempt: Attempt) -> Sequence[_Applied | Fault]:
    """The outcomes of a run. A Fault of a single request that may have written something is raised, so that it is
    rolled back."""
    operation = run[0].operation
    requests = [incoming.request for incoming in run]
    outcomes: Sequence[Any]
    if operation.batch_handler is not None:
        outcomes = await operation.batch_handler(list(zip(txs, requests, strict=True)))
    else:
        assert operation.handler is not None
        try:
            await require_revision(txs[0], run[0].headers.if_match)
            outcomes = [await operation.handler(txs[0], requests[0])]
        except Fault as fault:
            if txs[0].wrote:
                raise
            outcomes = [without_frames(fault)]
    return [
        outcome if isinstance(outcome, Fault) else _applied(incoming, tx, outcome, attempt.wire)
        async for incoming, tx, outcome in in_turns(zip(run, txs, outcomes, strict=True), next_turn)
    ]


def _applied(incoming: ValidRequest, tx: Tx, value: Any, wire: Wire) -> _Applied:
    answer = answers.of_value(incoming.operation, incoming.request, incoming.raw_query, value)
    answer = answer._replace(revision=tx.revision)
    result = wire.bounded_result(incoming.operation, incoming.headers.content_type, answer)
    changes = [
        entry
        for change in tx.changes
        for entry in change_entries(
            wire,
            change,
            occurred_at=tx.now,
            caused_by=tx.cause.request_id,
            traceparent=incoming.traceparent,
            requested_at=tx.cause.arrived,
        )
    ]
    # Neither the request that erases a visitor nor one that takes a device from another visitor is one of the visitor's
    # own.
    visitors = {c.visitor_id for c in tx.changes if c.visitor_id is not None and c.action != "deleted"}
    # A request may change nothing and answer with what it was sent.
    if (visitor_id := getattr(incoming.request.path, "visitor_id", None)) is not None:
        visitors.add(visitor_id)
    return _Applied(answer, result, changes, sorted(visitors), tx.erased)


def _fault_of(error: Exception, incoming: ValidRequest) -> Fault:
    if isinstance(error, DBAPIError):
        wire_names = {field.serialization_alias or "" for field in type(incoming.request.path).model_fields.values()}
        fault = fault_of(error, wire_names)
        if fault is not None:
            return fault
    incoming.bug = error
    if is_too_slow(error):
        return Unavailable("too_slow", _TOO_SLOW)
    return BUG


def _conclude(incoming: ValidRequest, outcome: _Applied | Fault, attempt: Attempt) -> None:
    attempt.answered.append(incoming)
    attempt.blocked_in_a_row.pop((incoming.record.topic, incoming.record.partition), None)
    if isinstance(outcome, Fault):
        incoming.answer = answers.of_fault(outcome)
        return
    incoming.answer, incoming.result, incoming.visitors = outcome.answer, outcome.result, outcome.visitors
    attempt.changes.extend(outcome.changes)
    incoming.erased = outcome.erased
    attempt.erased.update(outcome.erased)


def _inbox_entry(incoming: ValidRequest) -> inbox.Entry:
    answer = incoming.answer
    assert answer is not None
    body = None if answer.body is None else json.write(answer.body)
    return inbox.Entry(
        *incoming.key, incoming.operation.name, incoming.fingerprint, answer.status, body, incoming.visitors
    )
