"""Long work in turns of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

ITEMS = 20
"""How many items are handled before other tasks run: about a millisecond of work. A batch of 500 requests would keep
reads waiting for tens of milliseconds, at each of several steps."""


async def in_turns(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items. Other tasks run after every `ITEMS` of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % ITEMS == 0:
            await asyncio.sleep(0)
