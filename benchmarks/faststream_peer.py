"""The same work in a batch subscriber of FastStream: it applies visits once, answers them, and publishes their changes
from the outbox. Prints the visits per second, from the first batch to the last published change."""

import asyncio
import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import orjson
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage, KafkaPublishMessage
from pydantic import BaseModel

from benchmarks import statements
from schemas.plates import plate_key
from topics.kafka import partition_of

_REQUESTS, _COUNT = os.environ["BENCH_TOPIC"], int(os.environ["BENCH_COUNT"])
_RESULTS, _CHANGES = f"{_REQUESTS}.results", f"{_REQUESTS}.changes"
_PARTITIONS = int(os.environ["BENCH_PARTITIONS"])

broker = KafkaBroker(
    os.environ["VISITOR_KAFKA_BOOTSTRAP"], max_batch_size=2**20, acks="all", enable_idempotence=True, logger=None
)
app = FastStream(broker, logger=None)


class VisitPath(BaseModel):
    visitType: Literal["entry", "exit"]  # noqa: N815 - the wire's name


class VisitBody(BaseModel):
    barcode: str | None = None
    licensePlate: str | None = None  # noqa: N815
    pcCode: str  # noqa: N815


class VisitRequest(BaseModel):
    path: VisitPath
    body: VisitBody


class Database:
    """Connections for the subscriber and for the publisher of changes, opened at start."""

    subscriber: "asyncpg.Connection[Any]"
    publisher: "asyncpg.Connection[Any]"


class Progress:
    """`first` and `started_at` are the number of visits and the time at the end of the first batch."""

    applied = first = 0
    started_at = 0.0
    has_changes = asyncio.Event()


@app.on_startup
async def connect() -> None:
    url = os.environ["VISITOR_DATABASE_URL"].replace("+asyncpg", "")
    Database.subscriber, Database.publisher = await asyncpg.connect(url), await asyncpg.connect(url)


@broker.subscriber(
    _REQUESTS, batch=True, max_records=500, group_id=f"group-{_REQUESTS}", auto_offset_reset="earliest",
    ack_policy=AckPolicy.NACK_ON_ERROR,
)  # fmt: skip
async def create(requests: list[VisitRequest], message: KafkaMessage) -> None:
    records: tuple[Any, ...] = message.raw_message
    async with Database.subscriber.transaction():
        answers = await _apply(records, requests)
    await _publish(_RESULTS, ((record.partition, request_id, body) for record, request_id, body in answers))
    Progress.has_changes.set()
    Progress.applied += len(requests)
    if not Progress.first:
        Progress.first, Progress.started_at = Progress.applied, time.perf_counter()


async def _apply(records: Sequence[Any], requests: Sequence[VisitRequest]) -> list[tuple[Any, str, bytes]]:
    """Returns the record, the request id and the answer of each request."""
    headers = [dict(record.headers) for record in records]
    ids = [header["ce_id"].decode() for header in headers]
    sources = [header["ce_source"].decode() for header in headers]
    stored = await Database.subscriber.fetch(statements.LOOK_UP, [_REQUESTS] * len(ids), sources, ids)
    answers = {row["request_id"]: row["body"] for row in stored}
    new = [position for position, request_id in enumerate(ids) if request_id not in answers]
    visits = await _insert([requests[position] for position in new])
    now = datetime.now(UTC)
    bodies = [_encode({"status": 201, "body": {"data": visit}}) for visit in visits]
    answers |= {ids[position]: body for position, body in zip(new, bodies, strict=True)}
    size = len(new)
    await Database.subscriber.execute(
        statements.INSERT_ANSWERS, _CHANGES, now, [str(visit["visitId"]) for visit in visits],
        [str(visit["visitorId"]) for visit in visits], [str(uuid4()) for _ in visits], list(map(_encode, visits)),
        [_REQUESTS] * size, [sources[position] for position in new], [ids[position] for position in new],
        [hashlib.sha256(records[position].value).digest() for position in new], [201] * size, bodies,
        [visit["visitorId"] for visit in visits],
    )  # fmt: skip
    return [(record, request_id, answers[request_id]) for record, request_id in zip(records, ids, strict=True)]


async def _insert(requests: Sequence[VisitRequest]) -> list[dict[str, Any]]:
    bodies = [request.body for request in requests]
    rows = await Database.subscriber.fetch(
        statements.SELECT_REFERENCES,
        list({body.pcCode for body in bodies}),
        list({body.barcode for body in bodies if body.barcode is not None}),
        list({plate_key(body.licensePlate) for body in bodies if body.licensePlate is not None}),
    )
    references = {(row["kind"], row["name"]): (row["visitor_id"], row["vehicle_id"]) for row in rows}
    visits = [_visit(references, request) for request in requests]
    last_visits: dict[UUID, datetime] = {}
    last_sessions: dict[int, datetime] = {}
    for visit in visits:
        if visit["visitType"] == "entry":
            last_visits[visit["visitorId"]] = visit["visitDate"]
            if visit["vehicleId"] is not None:
                last_sessions[visit["vehicleId"]] = visit["visitDate"]
    fields = ("visitorId", "pcCode", "visitDate", "visitType", "licensePlate", "vehicleId")
    ids = await Database.subscriber.fetch(
        statements.INSERT_VISITS, list(last_visits), list(last_visits.values()), list(last_sessions),
        list(last_sessions.values()), *([visit[name] for visit in visits] for name in fields),
    )  # fmt: skip
    return [visit | {"visitId": row["visit_id"]} for visit, row in zip(visits, ids, strict=True)]


def _visit(references: dict[tuple[str, str], tuple[Any, Any]], request: VisitRequest) -> dict[str, Any]:
    """All requests of the benchmark are about existing visitors, so this raises KeyError for others."""
    body = request.body
    assert ("center", body.pcCode) in references
    if body.barcode is not None:
        visitor_id, vehicle_id = references["visitor", body.barcode]
    else:
        visitor_id, vehicle_id = references["vehicle", plate_key(body.licensePlate or "")]
    return {
        "visitorId": visitor_id, "pcCode": body.pcCode, "visitDate": datetime.now(UTC),
        "visitType": request.path.visitType, "licensePlate": body.licensePlate, "vehicleId": vehicle_id,
    }  # fmt: skip


def _encode(value: Any) -> bytes:
    return orjson.dumps(value, default=str)  # asyncpg has UUIDs of its own.


async def _publish(topic: str, messages: Iterable[tuple[int, str, bytes]]) -> None:
    """Publish messages, each with its partition and its key."""
    by_partition = defaultdict(list)
    for partition, key, body in messages:
        by_partition[partition].append(KafkaPublishMessage(body, key=key.encode()))
    await asyncio.gather(
        *(broker.publish_batch(*batch, topic=topic, partition=partition) for partition, batch in by_partition.items())
    )


@app.after_startup
async def start_publisher() -> None:
    app.context.set_global("publisher", asyncio.create_task(_publish_changes()))


async def _publish_changes() -> None:
    while Progress.applied < _COUNT or Progress.has_changes.is_set():
        await Progress.has_changes.wait()
        async with Database.publisher.transaction():
            rows = await Database.publisher.fetch(statements.CLAIM, _CHANGES)
            await _publish(_CHANGES, ((_partition(row), row["key"], row["value"]) for row in rows))
        if not rows:
            Progress.has_changes.clear()
    sys.stdout.write(f"{(_COUNT - Progress.first) / (time.perf_counter() - Progress.started_at)}\n")
    app.exit()


def _partition(row: Any) -> int:
    return partition_of(row["partition_key"].encode(), _PARTITIONS)


if __name__ == "__main__":
    uvloop.run(app.run(log_level=40))
