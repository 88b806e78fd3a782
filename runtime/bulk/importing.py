"""`visitor import`: applies the rows of a file as request messages.

The id of a request consists of the digest of the file and the line of the row. So if a file is imported again, for
example after an interruption, the inbox answers the rows that were applied, and nothing is applied twice.
"""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import Progress, TaskID

from runtime import progress
from runtime.bulk import Importable
from runtime.bulk.duplicates import Duplicates
from runtime.bulk.requests import Creation
from runtime.bulk.rows import Refusal, Row, as_json
from runtime.bulk.source import opened
from runtime.operator_database import Retry
from topics import json, names, patches
from topics.envelope import REVISION
from topics.kafka import Outgoing, Producer, consumer_at_ends, ended_tasks
from topics.settings import KafkaSettings

BATCH = 500
"""Rows that are sent together."""
IN_FLIGHT = 5_000
"""Rows that wait for their results at most. A batch of a worker holds 500 requests."""
QUIET_SECONDS = 10.0
"""How long no result arrives until a hint is printed."""


@dataclass
class Summary:
    """Counts of rows. `repeated` are those of the applied rows that an earlier import of the file has applied."""

    applied: int = 0
    repeated: int = 0
    refused: int = 0

    def text(self, *, dry_run: bool) -> str:
        if dry_run:
            return f"{self.applied:,} rows are valid, {self.refused:,} are not. Nothing was applied."
        repeated = f" ({self.repeated:,} of them by an earlier run)" if self.repeated else ""
        return f"{self.applied:,} rows are applied{repeated}, {self.refused:,} are refused."


class _Request(NamedTuple):
    row: Row
    message: Outgoing


def check(resource: Importable, file: Path) -> Summary:
    """Validate all rows without a server, and look for rows that exclude each other. Write a report of each refused row
    to standard output. Raises UnusableFile, OSError."""
    creation, summary = Creation(resource), Summary()
    with opened(file) as source, closing(Duplicates(resource)) as duplicates, _bar() as bar:
        task = bar.add_task(f"checking {resource}", total=source.lines)
        for row in source.rows(creation.types):
            if refusal := _refusal(row, creation, duplicates):
                summary.refused += 1
                _report(refusal)
            else:
                summary.applied += 1
            bar.advance(task)
    return summary


def _refusal(row: Row | Refusal, creation: Creation, duplicates: Duplicates) -> Refusal | None:
    parts = row if isinstance(row, Refusal) else creation.parts_of(row)
    if isinstance(parts, Refusal):
        return parts
    return duplicates.refusal(row) if isinstance(row, Row) else None


async def run(kafka: KafkaSettings, resource: Importable, file: Path, retry: Retry) -> Summary:
    """Send the rows of the file and wait for their results. Write a report of each refused row to standard output.
    Waits while Kafka or the workers are unavailable. Raises UnusableFile, OSError, KafkaError."""
    patches.apply()
    creation, producer = Creation(resource), Producer(kafka)
    with opened(file) as source:
        rows = source.rows(creation.types)
        try:
            async with _results(kafka, creation, producer, retry) as consumer:
                with _bar() as bar:
                    task = bar.add_task(f"importing {resource}", total=source.lines)
                    importer = _Importer(creation, source.digest, producer, consumer, retry, bar, task)
                    return await importer.run(rows)
        finally:
            await producer.stop()


class _Importer:
    """Imports one file. At most `IN_FLIGHT` rows wait for their results."""

    def __init__(
        self,
        creation: Creation,
        digest: str,
        producer: Producer,
        consumer: AIOKafkaConsumer,
        retry: Retry,
        bar: Progress,
        task: TaskID,
    ) -> None:
        self._creation = creation
        self._digest = digest
        self._source = f"import/{digest}"
        self._producer = producer
        self._consumer = consumer
        self._retry = retry
        self._bar = bar
        self._task = task
        self._summary = Summary()
        self._waiting: dict[bytes, Row] = {}
        """The rows that wait for their results, by request id."""

    async def run(self, rows: Iterator[Row | Refusal]) -> Summary:
        requests = self._requests(rows)
        batch = list(islice(requests, BATCH))
        heard_at, has_hinted = time.monotonic(), False
        while batch or self._waiting:
            if batch and len(self._waiting) + len(batch) <= IN_FLIGHT:
                await self._send(batch)
                batch = list(islice(requests, BATCH))
            may_send = batch and len(self._waiting) + len(batch) <= IN_FLIGHT
            if await self._receive(timeout_ms=0 if may_send else 500):
                heard_at = time.monotonic()
            elif not has_hinted and time.monotonic() - heard_at > QUIET_SECONDS:
                has_hinted = True
                self._bar.console.print("Waiting for results. Does a worker run? Rows that were sent are not lost.")
        return self._summary

    def _requests(self, rows: Iterator[Row | Refusal]) -> Iterator[_Request]:
        """The requests of the valid rows. The others are reported."""
        for row in rows:
            parts = row if isinstance(row, Refusal) else self._creation.parts_of(row)
            if isinstance(parts, Refusal):
                self._refuse(parts)
            elif isinstance(row, Row):
                message = self._creation.message(f"{self._digest}:{row.line}", self._source, parts)
                yield _Request(row, message)

    async def _send(self, batch: list[_Request]) -> None:
        # A batch that is sent again has the same ids.
        await self._retry(lambda: self._producer.send([request.message for request in batch]))
        self._waiting |= {f"{self._digest}:{request.row.line}".encode(): request.row for request in batch}

    async def _receive(self, timeout_ms: int) -> bool:
        """Handle the results that have arrived. Returns whether there were any. Raises KafkaError."""
        if ended := ended_tasks(self._consumer):
            raise KafkaError(f"the consumer's background tasks have ended: {', '.join(ended)}")
        batches = await self._consumer.getmany(timeout_ms=timeout_ms)
        answered = [self._handle(record) for records in batches.values() for record in records]
        return any(answered)

    def _handle(self, record: Any) -> bool:
        headers = dict(record.headers)
        if headers.get("ce_requestsource") != self._source.encode():
            return False
        row = self._waiting.pop(headers["ce_id"], None)
        if row is None:  # a result may arrive twice
            return False
        status, body = json.split_result(record.value)
        if status >= 400:
            self._refuse(Refusal(row.line, status, json.read(body)["errors"], row.fields))
            return True
        self._summary.applied += 1
        self._summary.repeated += REVISION not in headers  # see docs/send-requests.md, Results
        self._bar.advance(self._task)
        return True

    def _refuse(self, refusal: Refusal) -> None:
        self._summary.refused += 1
        _report(refusal)
        self._bar.advance(self._task)


@asynccontextmanager
async def _results(
    kafka: KafkaSettings, creation: Creation, producer: Producer, retry: Retry
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer at the ends of all partitions of the family's results topic."""
    topic = names.results(creation.family)
    # A missing topic, and one that the user may not read, are named; the consumer would wait for it.
    for required in (names.requests(creation.family), topic):
        await retry(partial(producer.partitions, required))
    async with consumer_at_ends(kafka, [topic]) as consumer:
        yield consumer


def _bar() -> Progress:
    return progress.bar(Console(stderr=True, soft_wrap=True))


def _report(refusal: Refusal) -> None:
    sys.stdout.buffer.write(as_json(refusal))
    sys.stdout.buffer.flush()
