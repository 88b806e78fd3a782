"""One transaction for a batch: a request that was answered before gets its stored answer, the others are applied in
order.

An answer is final whatever its status: it is stored in the transaction that gave it, so a request that is delivered
again, after a crash or an offset reset, gets the same answer and has no further effect."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from agents import answers
from agents.answers import Answer
from agents.engine.decode import Incoming
from agents.wire import Wire
from schemas.faults import BUG, Fault, Invalid, KeyReused, Unavailable
from storage import inbox, outbox
from storage.database import is_too_slow, is_transient
from storage.table import fault_of
from storage.tx import EntityChange, Tx
from topics import json, names

log = structlog.get_logger(__name__)

_KEY_REUSED = "This request id came before with another content; give a new request a new id."
_TOO_SLOW = "This took too long at each attempt and was not applied. Ask for less at once, with a new request id."

APPLY_SECONDS = 10.0
"""How long one transaction goes on with a next request. A batch is bounded in number, not in time; this keeps it from
holding locks that others wait for, and from being taken for one that does not move."""


@dataclass
class _Batch:
    """What a batch leaves behind in the transaction. The `last_try` answers also what took too long each time."""

    wire: Wire
    now: datetime
    last_try: bool
    until: float
    concluded: int = 0
    answered: list[Incoming] = field(default_factory=list)
    changes: list[outbox.Entry] = field(default_factory=list)
    erased: set[UUID] = field(default_factory=set)


async def apply(
    conn: AsyncConnection, requests: Sequence[Incoming], wire: Wire, now: datetime, *, last_try: bool = False
) -> set[str]:
    """Set the answer of every request that there is time for, one at least, and keep it, with the changes; which change
    topics have news. The caller commits. Raises only what `is_transient` knows; the batch is then to be done again."""
    fresh, repeated = await _sort_out(conn, requests, wire)
    batch = _Batch(wire, now, last_try, time.monotonic() + APPLY_SECONDS)
    await _apply_runs(conn, _runs(fresh), batch)
    for first, again in repeated:
        if first.answer is not None:
            again.answer = first.answer if again.fingerprint == first.fingerprint else _key_reused()
    if batch.answered:
        await inbox.insert(conn, [_entry(incoming) for incoming in batch.answered], now)
    if batch.changes:
        await outbox.insert(conn, batch.changes, now)
    if batch.erased:
        # Here, since what earlier requests of the batch left about them stands there only now.
        await inbox.forget(conn, sorted(batch.erased))
        await outbox.forget(conn, sorted(batch.erased))
    return {entry.topic for entry in batch.changes}


async def _sort_out(
    conn: AsyncConnection, requests: Sequence[Incoming], wire: Wire
) -> tuple[list[Incoming], list[tuple[Incoming, Incoming]]]:
    """The requests to apply, and those that repeat one of them: (first, again). Known ones are answered here."""
    entries = await inbox.look_up(conn, [key for incoming in requests for key in _keys(incoming)])
    fresh: dict[inbox.RequestKey, Incoming] = {}
    repeated = []
    for incoming in requests:
        entry = _entry_of(incoming, entries)
        key = _key(incoming)
        if entry is not None:
            _answer_again(incoming, entry, wire)
        elif key in fresh:
            repeated.append((fresh[key], incoming))
        else:
            fresh[key] = incoming
    return list(fresh.values()), repeated


def _key(incoming: Incoming) -> inbox.RequestKey:
    assert incoming.key is not None
    return incoming.key


def _keys(incoming: Incoming) -> Iterator[inbox.RequestKey]:
    yield _key(incoming)
    assert incoming.key_before_sources is not None
    yield incoming.key_before_sources


def _entry_of(incoming: Incoming, entries: Mapping[inbox.RequestKey, inbox.Entry]) -> inbox.Entry | None:
    """The stored answer to this request. An entry of release 0.1.0 does not say whose request it answered, so it counts
    only where the content is the same."""
    key, key_before_sources = _keys(incoming)
    entry = entries.get(key_before_sources)
    return entries.get(key) or (entry if entry is not None and entry.fingerprint == incoming.fingerprint else None)


def _answer_again(incoming: Incoming, entry: inbox.Entry, wire: Wire) -> None:
    if entry.fingerprint != incoming.fingerprint:
        incoming.answer = _key_reused()
        return
    assert incoming.operation is not None
    try:
        body = None if entry.body is None else json.read(entry.body)
        incoming.answer = Answer(entry.status, wire.native(incoming.operation, entry.status, body))
    except Exception as error:
        # An older version stored it. Only this request fails; its entry stays, so that it is not applied again.
        incoming.bug, incoming.answer = error, answers.of_fault(BUG)


def _key_reused() -> Answer:
    return answers.of_fault(KeyReused("key_reused", _KEY_REUSED))


def _runs(fresh: Iterable[Incoming]) -> Iterator[list[Incoming]]:
    """Neighbours of one set-based operation together, every other request by itself."""
    for operation, group in groupby(fresh, key=lambda incoming: incoming.operation):
        members = list(group)
        if operation is not None and operation.batch is not None:
            yield members
        else:
            yield from ([member] for member in members)


async def _apply_runs(conn: AsyncConnection, runs: Iterable[Sequence[Incoming]], batch: _Batch) -> None:
    for run in runs:
        if batch.concluded and time.monotonic() > batch.until:
            return
        await _apply_run(conn, run, batch)


async def _apply_run(conn: AsyncConnection, run: Sequence[Incoming], batch: _Batch) -> None:
    transactions = [Tx(conn, incoming.cause(), batch.now) for incoming in run]
    try:
        async with conn.begin_nested():
            outcomes = await _call(run, transactions, batch.wire)
    except Exception as error:
        if _is_to_be_repeated(error, batch):
            raise
        if len(run) > 1:
            # Something in one of them: each by itself, so that only that one fails.
            await _apply_runs(conn, ([incoming] for incoming in run), batch)
            return
        outcomes = [error if isinstance(error, Fault) else _fault_of(error, run[0])]
    for incoming, outcome in zip(run, outcomes, strict=True):
        _conclude(incoming, outcome, batch)


def _is_to_be_repeated(error: Exception, batch: _Batch) -> bool:
    if isinstance(error, Fault) or (batch.last_try and is_too_slow(error)):
        return False
    return is_transient(error)


class _Done(NamedTuple):
    """A request that was applied, with all that goes out encoded, so that what cannot be encoded fails by itself."""

    answer: Answer
    result: bytes
    changes: Sequence[outbox.Entry]
    visitors: Sequence[UUID]
    erased: Sequence[UUID]


async def _call(run: Sequence[Incoming], transactions: Sequence[Tx], wire: Wire) -> Sequence[_Done | Fault]:
    """What came of a run; a Fault of a single one is raised, so that its savepoint is undone."""
    operation = run[0].operation
    assert operation is not None
    requests = [incoming.request for incoming in run]
    if operation.batch is not None:
        outcomes = await operation.batch(list(zip(transactions, requests, strict=True)))
    else:
        assert operation.handler is not None
        outcomes = [await operation.handler(transactions[0], requests[0])]
    return [
        outcome if isinstance(outcome, Fault) else _done(incoming, tx, outcome, wire)
        for incoming, tx, outcome in zip(run, transactions, outcomes, strict=True)
    ]


def _done(incoming: Incoming, tx: Tx, value: Any, wire: Wire) -> _Done:
    assert incoming.operation is not None
    assert incoming.request is not None
    assert incoming.head is not None
    answer = answers.of_value(incoming.operation, incoming.request, incoming.raw_query or {}, value)
    result = wire.bounded_result(incoming.operation, incoming.head.content_type, answer)
    changes = [entry for change in tx.changes for entry in _outgoing(wire, tx, change)]
    # Once a visitor is deleted, the request that did it is no request of its own.
    visitors = {c.visitor_id for c in tx.changes if c.visitor_id is not None and c.action != "deleted"}
    return _Done(answer, result, changes, sorted(visitors), tx.erased)


def _fault_of(error: Exception, incoming: Incoming) -> Fault:
    assert incoming.request is not None
    if isinstance(error, DBAPIError):
        wire_names = {field.serialization_alias or "" for field in type(incoming.request.path).model_fields.values()}
        fault = fault_of(error, wire_names)
        if fault is not None:
            return fault
    incoming.bug = error
    if is_too_slow(error):
        return Unavailable("too_slow", _TOO_SLOW)
    return BUG


def _conclude(incoming: Incoming, outcome: _Done | Fault, batch: _Batch) -> None:
    batch.concluded += 1
    batch.answered.append(incoming)
    if isinstance(outcome, Fault):
        incoming.answer = answers.of_fault(outcome)
        return
    incoming.answer, incoming.result, incoming.visitors = outcome.answer, outcome.result, outcome.visitors
    batch.changes.extend(outcome.changes)
    batch.erased.update(outcome.erased)


def _entry(incoming: Incoming) -> inbox.Entry:
    assert incoming.operation is not None
    assert incoming.answer is not None
    answer = incoming.answer
    body = None if answer.body is None else json.write(answer.body)
    return inbox.Entry(
        *_key(incoming), incoming.operation.name, incoming.fingerprint, answer.status, body, incoming.visitors
    )


def _outgoing(wire: Wire, tx: Tx, change: EntityChange) -> Iterator[outbox.Entry]:
    """The change, and after the last one of an entity whose topic is compacted, a tombstone. Raises Invalid where the
    entity is larger than a message may be."""
    key = f"{change.resource}:{change.id}"
    entry = outbox.Entry(
        topic=names.changes(change.family),
        key=key,
        partition_key=str(change.visitor_id or key),
        change_id=f"{key}:{change.revision}",
        change_type=f"{change.resource}.{change.action}",
        value=wire.write_change(change, occurred_at=tx.now, caused_by=tx.cause.request_id),
    )
    if len(entry.value or b"") > names.REPLY_LIMIT:
        raise Invalid("too_large", f"With this, the {change.resource} would be too large; shorten its texts.")
    yield entry
    if change.action == "deleted" and change.family not in names.EVENT_FAMILIES:
        yield entry._replace(change_id=f"{entry.change_id}:tombstone", value=None)
