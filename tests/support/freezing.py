"""A worker that stops itself, as `kill -STOP` does, right before it sends Kafka the first request of one kind about one
topic: `FREEZE_BEFORE=ProduceRequest FREEZE_TOPIC=… python -m tests.support.freezing worker`. SIGCONT lets it go on.

PostgreSQL ends its idle transactions after two seconds instead of 45."""

import asyncio
import os
import signal
import sys
from typing import Any

from aiokafka.client import AIOKafkaClient

from agents.catalogue import CATALOGUE
from runtime import logs, settings, worker_process
from storage import database

KIND, TOPIC = os.environ["FREEZE_BEFORE"], os.environ["FREEZE_TOPIC"]
_send = AIOKafkaClient.send
_frozen: list[Any] = []


def _is_it(request: Any) -> bool:
    if type(request).__name__ != KIND:
        return False
    told = [topic for topic, _ in request._topics] if KIND == "ProduceRequest" else request._transactional_id or ""
    return TOPIC in told


async def _freeze_before(client: AIOKafkaClient, node_id: int, request: Any, **where: Any) -> Any:
    if not _frozen and _is_it(request):
        _frozen.append(request)
        os.kill(os.getpid(), signal.SIGSTOP)
    return await _send(client, node_id, request, **where)


def main() -> int:
    AIOKafkaClient.send = _freeze_before
    database.IDLE_IN_TRANSACTION_TIMEOUT = 2
    found = settings.load()
    logs.configure(found.log)
    return asyncio.run(worker_process.run(found, CATALOGUE))


if __name__ == "__main__":
    sys.exit(main())
