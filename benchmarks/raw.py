"""The limit of the database: two connections of asyncpg insert the rows of visits in batches of 500, without Kafka and
without checks. Prints the visits per second."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import uvloop

from benchmarks import statements

_BATCH, _CONNECTIONS = 500, 2
_TOPIC = "bench.raw"


async def main(url: str, count: int) -> None:
    pool = await asyncpg.create_pool(url, min_size=_CONNECTIONS, max_size=_CONNECTIONS)
    vehicles = await pool.fetch("select visitor_id, vehicle_id, license_plate from vehicles limit 500")
    pc_code = await pool.fetchval("select pc_code from centers limit 1")
    batches = [_batch(vehicles, pc_code) for _ in range(count // _BATCH)]

    async def insert(batches: Sequence[Any]) -> None:
        async with pool.acquire() as connection:
            for visits, answers in batches:
                async with connection.transaction():
                    await connection.fetch(statements.INSERT_VISITS, *visits)
                    await connection.execute(statements.INSERT_ANSWERS, *answers)

    started_at = time.perf_counter()
    await asyncio.gather(*(insert(batches[number::_CONNECTIONS]) for number in range(_CONNECTIONS)))
    sys.stdout.write(f"{len(batches) * _BATCH / (time.perf_counter() - started_at)}\n")
    await pool.execute("delete from outbox where topic = $1", _TOPIC)
    await pool.close()


def _batch(vehicles: Sequence[Any], pc_code: str) -> tuple[list[Any], list[Any]]:
    """The parameters of INSERT_VISITS and of INSERT_ANSWERS. Half of the visits are entries."""
    now = datetime.now(UTC)
    visitors = [row["visitor_id"] for row in vehicles]
    vehicle_ids = [row["vehicle_id"] for row in vehicles]
    entered = len(vehicles) // 2
    plates = [row["license_plate"] for row in vehicles]
    size = len(vehicles)
    visits = [
        visitors[:entered], [now] * entered, vehicle_ids[:entered], [now] * entered,
        visitors, [pc_code] * size, [now] * size, ["entry", "exit"] * (size // 2), plates, vehicle_ids,
    ]  # fmt: skip
    ids = [str(uuid4()) for _ in vehicles]
    answers = [
        _TOPIC, now, ids, list(map(str, visitors)), ids, [b"c" * 150] * size,
        [_TOPIC] * size, ["gateway/bench"] * size, ids, [b"f" * 32] * size, [201] * size, [b"b" * 250] * size, visitors,
    ]  # fmt: skip
    return visits, answers


if __name__ == "__main__":
    uvloop.run(main(os.environ["VISITOR_DATABASE_URL"].replace("+asyncpg", ""), int(os.environ["BENCH_COUNT"])))
