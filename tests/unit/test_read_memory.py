"""Reads wait while many answers wait to be published, and large reads wait for each other."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from agents.answers import Answer
from agents.catalogue import CATALOGUE
from agents.engine.batches import Batch
from agents.engine.breaker import Breaker
from agents.engine.decode import ValidRequest
from agents.engine.lanes import Lane
from agents.engine.processor import BatchProcessor
from agents.engine.read_memory import SMALL_READ, UNPUBLISHED_LIMIT
from agents.engine.turns import ReadsFirst
from agents.families.points.histories import ChallengeHistory
from schemas.replies import Page
from storage.tx import Tx
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.stack import WIRE
from topics import names
from topics.envelope import JSON, RequestHeaders

CONNECTIONS = 4
READS = 60
OPERATION = CATALOGUE.by_name["challengeHistories.list"]
_HISTORY = ChallengeHistory.model_construct(
    visitor_challenge_history_id=1, challenge_id=1, visitor_id=UUID(ABSENT_VISITOR_ID), visitor_challenge_id=1,
    points=1, bonus_activated=False, total_points=1, participation_date=datetime.now(UTC), origin="x" * 900,
    action="increment",
)  # fmt: skip
ROWS = 700
"""Of one answer, which is nearly as large as a small read can be."""


class _Database:
    """Counts the reads that have a connection, and those that were handled."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CONNECTIONS)

    def get_execution_options(self) -> dict[str, Any]:
        return {"transaction_pooling": True}

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        async with self._free:
            yield SimpleNamespace(begin=_begin)


def _record(offset: int) -> Any:
    return SimpleNamespace(
        topic=names.QUERIES, partition=0, offset=offset, timestamp=0.0, headers=(), key=None, value=b"{}"
    )


@asynccontextmanager
async def _begin() -> AsyncIterator[None]:
    yield


class _Outbound:
    """A broker that takes the messages once `answers` is set."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.published: list[int] = []

    async def publish_dead_letters(self, batch: Sequence[Any]) -> None:
        pass

    async def publish(self, batch: Sequence[ValidRequest]) -> None:
        if batch:
            await self.answers.wait()
        self.published.extend(read.record.offset for read in batch)


class _Reads:
    """A worker's reads. Each handler loads `loaded` bytes and answers `ROWS` histories."""

    def __init__(self, loaded: int) -> None:
        self.handled = self.running = self.most_large = 0
        self._loaded = loaded
        self.outbound = _Outbound()
        database = cast(Any, _Database())
        self.processor = BatchProcessor(
            decoder=cast(Any, self), wire=WIRE, outbound=cast(Any, self.outbound), writes=database, reads=database,
            breaker=Breaker(1), reads_first=ReadsFirst(), resources=cast(Any, None), changed=lambda _: None,
        )  # fmt: skip
        source = cast(Any, SimpleNamespace(acknowledge=lambda _: None))
        self.lane = Lane((names.QUERIES, 0), 1, source, set())

    async def decode_all(self, records: Iterable[Any], _: Any) -> list[ValidRequest]:
        operation = replace(OPERATION, handler=self._handle, one_statement=False)
        headers = RequestHeaders("id", OPERATION.name, "test", JSON)
        request = OPERATION.request.model_validate({"path": {"visitorId": ABSENT_VISITOR_ID}})
        key = cast(Any, None)
        return [
            ValidRequest(record, headers, operation, request, {}, key, key, b"", ("", 0, b""), None)
            for record in records
        ]

    async def _handle(self, tx: Tx, _: Any) -> Page[ChallengeHistory]:
        tx.note_loaded(self._loaded)
        self.running += 1
        self.most_large = max(self.most_large, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        self.handled += 1
        return Page([_HISTORY] * ROWS, more=False)

    def start(self) -> "asyncio.Task[None]":
        for offset in range(READS):
            record = _record(offset)
            self.lane.put(cast(Any, SimpleNamespace(message=record)))
        batch = Batch(parked=False, locks_are_held=False)
        batch.add(self.lane, self.lane.take(READS))
        return asyncio.create_task(self.processor.read(batch))

    async def do_nothing_more(self) -> None:
        """Return once no further read is handled."""
        handled = -1
        while handled != self.handled:
            handled = self.handled
            for _ in range(100):
                await asyncio.sleep(0)

    def are_published(self) -> bool:
        return sorted(self.outbound.published) == list(range(READS))


async def test_few_answers_wait_while_the_broker_does_not_answer() -> None:
    reads = _Reads(loaded=SMALL_READ)
    task = reads.start()
    await reads.do_nothing_more()
    size = len(WIRE.write_result(OPERATION, JSON, Answer(200, [OPERATION.to_reply_data(_HISTORY)] * ROWS)))
    assert UNPUBLISHED_LIMIT <= reads.handled * size <= UNPUBLISHED_LIMIT + CONNECTIONS * size
    reads.outbound.answers.set()
    await task
    assert reads.are_published()


async def test_large_reads_are_handled_one_after_the_other_and_each_is_published_before_the_next() -> None:
    reads = _Reads(loaded=SMALL_READ + 1)
    task = reads.start()
    await reads.do_nothing_more()
    assert reads.handled == 1
    reads.outbound.answers.set()
    await task
    assert (reads.handled, reads.most_large) == (READS, 1)
    assert reads.are_published()


async def test_reads_that_are_cancelled_leave_room_for_others() -> None:
    reads = _Reads(loaded=SMALL_READ + 1)
    task = reads.start()
    await reads.do_nothing_more()
    task.cancel()
    await asyncio.wait([task])
    reads.outbound.answers.set()
    await reads.start()
    assert reads.are_published()
