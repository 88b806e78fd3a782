"""A worker that stops itself like `kill -STOP`, once, immediately before it sends a certain request to Kafka. SIGCONT
resumes it.

`FREEZE_BEFORE=ProduceRequest FREEZE_TOPIC=visitor.visits.changes.visit python -m tests.support.freezing worker` stops
before the first produce request for that topic. Requests about transactions are recognised by the topic in their
transactional id. In this worker, PostgreSQL ends idle transactions after 2 seconds instead of 45.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from aiokafka.client import AIOKafkaClient

from agents.catalogue import CATALOGUE
from runtime import logs, settings, worker_process
from storage import database

REQUEST_TYPE, TOPIC = os.environ["FREEZE_BEFORE"], os.environ["FREEZE_TOPIC"]
_send = AIOKafkaClient.send
_frozen_at: list[Any] = []


def _matches(request: Any) -> bool:
    if type(request).__name__ != REQUEST_TYPE:
        return False
    if REQUEST_TYPE == "ProduceRequest":
        return TOPIC in [topic for topic, _ in request._topics]
    return TOPIC in (request._transactional_id or "")


async def _freeze_and_send(client: AIOKafkaClient, node_id: int, request: Any, **options: Any) -> Any:
    if not _frozen_at and _matches(request):
        _frozen_at.append(request)
        os.kill(os.getpid(), signal.SIGSTOP)
    return await _send(client, node_id, request, **options)


def main() -> int:
    AIOKafkaClient.send = _freeze_and_send
    database.IDLE_IN_TRANSACTION_TIMEOUT = 2
    loaded = settings.load()
    logs.configure(loaded.log)
    return asyncio.run(worker_process.run(loaded, CATALOGUE))


if __name__ == "__main__":
    sys.exit(main())
