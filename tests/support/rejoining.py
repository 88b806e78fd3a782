"""A worker whose consumers join their groups again and again, soon after each assignment: `python -m
tests.support.rejoining worker`. Brokers cause this where connections come and go."""

import asyncio
import random
from typing import Any

from agents.engine.group_consumer import GroupConsumer
from runtime import cli

_assigned = GroupConsumer._assigned


async def _join_again(consumer: GroupConsumer, *arguments: Any, **options: Any) -> None:
    await _assigned(consumer, *arguments, **options)
    coordinator = consumer._app.consumer._thread._consumer._coordinator
    delay = random.choice([0, random.uniform(0, 0.01), random.uniform(0, 0.05), random.uniform(0, 0.3)])
    asyncio.get_running_loop().call_later(delay, coordinator.request_rejoin)


if __name__ == "__main__":
    GroupConsumer._assigned = _join_again  # type: ignore[method-assign]
    cli.main()
