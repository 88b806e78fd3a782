"""A worker far from its database: it is slow, but it works."""

import time

from sqlalchemy import make_url

from tests.support import data
from tests.support.proxy import Proxy
from tests.support.stack import Stack, eventually
from topics import names

TOPIC = names.requests("centers")
PARTITIONS = 24
REQUESTS = 60
"""Requests of each partition. They take more than two turns, because about 20 are applied in a turn of two seconds."""
STALL_SECONDS = 10
"""Much less than it takes until each partition had its turn."""


async def test_a_worker_with_a_slow_database_goes_on_and_its_partitions_take_turns(own_stack: Stack) -> None:
    await own_stack.add_partitions(TOPIC, count=PARTITIONS)
    # Nothing to update, which takes one statement for each request.
    parts = {"path": {"pcCode": data.new_code()}, "body": {"centerCode": 1}}
    ids = {
        partition: [await own_stack.send("centers.update", parts, partition=partition) for _ in range(REQUESTS)]
        for partition in range(PARTITIONS)
    }
    url = make_url(own_stack.servers.database)
    assert url.host is not None
    proxy = Proxy(url.host, url.port or 5432)
    async with proxy.listening():
        proxy.delay = 0.1
        worker = own_stack.worker(
            VISITOR_DATABASE_URL=url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False),
            VISITOR_WORKER_STALL_SECONDS=str(STALL_SECONDS),
        )
        await eventually("a ready worker", worker.ready)
        started_at = time.monotonic()
        for requests in ids.values():
            await own_stack.result("centers.update", requests[0])
        assert not await worker.ended()
        assert time.monotonic() - started_at > STALL_SECONDS, "the database is not slow"
        assert await own_stack.count(names.results("centers")) < PARTITIONS * REQUESTS / 2, "partitions take no turns"

        proxy.delay = 0
        for requests in ids.values():
            for request_id in requests:
                await own_stack.result("centers.update", request_id)
        assert worker.terminate() == 0
