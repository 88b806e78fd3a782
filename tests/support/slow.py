"""A worker whose broker takes its time: `python -m tests.support.slow worker`."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher

from runtime import cli

RESET_SECONDS = 4.0
"""To say where a partition begins; longer than it takes until Faust looks at all positions again."""
COMMITTED_SECONDS = 0.1
"""To say what is committed of a partition; Faust asks for one after the other."""

_update, _committed = Fetcher._update_fetch_positions, AIOKafkaConsumer.committed


async def _slow_update(fetcher: Any, *arguments: Any) -> Any:
    await asyncio.sleep(RESET_SECONDS)
    return await _update(fetcher, *arguments)


async def _slow_committed(consumer: Any, *arguments: Any) -> Any:
    await asyncio.sleep(COMMITTED_SECONDS)
    return await _committed(consumer, *arguments)


if __name__ == "__main__":
    Fetcher._update_fetch_positions, AIOKafkaConsumer.committed = _slow_update, _slow_committed
    cli.main()
