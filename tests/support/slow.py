"""A worker with a slow broker: `python -m tests.support.slow worker`."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher

from runtime import cli

RESET_SECONDS = 4.0
"""The delay of the first offset of a partition. It is longer than the interval at which Faust checks all positions."""
COMMITTED_SECONDS = 0.1
"""The delay of the committed offset of a partition. Faust reads them one after the other."""

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
