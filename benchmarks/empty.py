"""An unpatched Faust agent with the worker's settings. It reads and acknowledges messages without any work, and prints
the messages per second."""

import asyncio
import os
import sys
import time
from typing import Any

import faust
import uvloop
from faust.transport.drivers.aiokafka import Transport

from agents.engine import app as faust_app
from topics.settings import KafkaSettings


async def main() -> None:
    count, received, started_at = int(os.environ["BENCH_COUNT"]), 0, 0.0
    finished = asyncio.Event()

    def receive(event: Any) -> None:
        nonlocal received, started_at
        started_at = started_at or time.perf_counter()
        received += 1
        event.ack()
        if received == count:
            finished.set()

    topic = os.environ["BENCH_TOPIC"]
    kafka = KafkaSettings(bootstrap=os.environ["VISITOR_KAFKA_BOOTSTRAP"])
    app = faust_app.create(kafka, f"group-{topic}", 10.0, [topic], receive)
    app.transport, app.monitor = Transport(app.conf.broker_consumer, app), faust.Monitor()
    app.consumer.generation_of = lambda _: app.consumer_generation_id  # The agent asks for it.
    await app.start()
    await finished.wait()
    sys.stdout.write(f"{count / (time.perf_counter() - started_at)}\n")
    sys.stdout.flush()
    await app.stop()


if __name__ == "__main__":
    uvloop.run(main())
