"""Turns of the event loop: long work is done in parts, and reads go first.

A worker answers reads in the same event loop in which it applies batches of requests. A read needs a dozen turns of the
loop, and without this module each turn waited for a part of a batch: the slowest percent of reads took ten times as
long while a backlog was applied.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

Item = TypeVar("Item")
Pause = Callable[[], Awaitable[object]]

ITEMS = 20
"""How many items are handled before other tasks run: about a millisecond of work. A batch of 500 requests would keep
reads waiting for tens of milliseconds, at each of several steps."""
BATCH_LIMIT = 500
BATCH_LIMIT_BESIDE_READS = 100
"""The limit within a second after a read. A statement is encoded, and its rows are decoded, in one turn, which takes
7 ms for 500 requests. A backlog takes a sixth longer with smaller batches."""
RECENT_SECONDS = 1.0
FIRST_SECONDS = 0.05
"""How long a read goes first. A slow one mostly waits for the database, and needs no turns."""
SHARE = 2.0
"""Batches wait at most so many times as long as none waits."""


async def in_turns(items: Iterable[Item], pause: Pause) -> AsyncIterator[Item]:
    """The items, with a pause between every `ITEMS` of them."""
    for number, item in enumerate(items):
        if number and number % ITEMS == 0:
            await pause()
        yield item


async def next_turn() -> None:
    """Let the tasks run that are ready."""
    await asyncio.sleep(0)


class ReadsFirst:
    """Makes large batches of writes wait for reads, but not for long: reads that never end take two thirds of the time
    at most. A batch of `ITEMS` requests or fewer does not wait. A batch must not wait inside a transaction, because it
    may hold locks there."""

    def __init__(self) -> None:
        self._running = 0
        self._none_runs = asyncio.Event()
        self._last_read = -math.inf
        self._waiting = 0
        """How many batches wait."""
        self._credit = FIRST_SECONDS
        """How long batches may wait, in seconds. It grows while none waits."""
        self._since = time.monotonic()
        """Until when `_credit` has been updated."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads run in this context."""
        self._running += 1
        self._none_runs.clear()
        self._last_read = time.monotonic()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._none_runs.set()

    def batch_limit(self) -> int:
        """How many requests a batch of writes may have now."""
        is_recent = time.monotonic() - self._last_read < RECENT_SECONDS
        return BATCH_LIMIT_BESIDE_READS if is_recent else BATCH_LIMIT

    async def give_way(self) -> None:
        """Let other tasks run, and wait while reads run that go first."""
        self._count_time()
        patience = min(self._credit, self._last_read + FIRST_SECONDS - self._since) if self._running else 0
        if patience <= 0:
            await next_turn()
            return
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._none_runs.wait()
        finally:
            self._count_time()
            self._waiting -= 1

    def _count_time(self) -> None:
        """Count the time since the last call: a batch has waited, or none has."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        self._credit = min(FIRST_SECONDS, self._credit + (-passed if self._waiting else SHARE * passed))
