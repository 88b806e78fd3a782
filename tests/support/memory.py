"""The memory that processes use while a test does something."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil


class MemoryPeak:
    """`peak` is the highest resident set size of any of these processes, in bytes."""

    def __init__(self, *pids: int) -> None:
        self.peak = 0
        self._processes = [psutil.Process(pid) for pid in pids]

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, *(process.memory_info().rss for process in self._processes))
            await asyncio.sleep(0.02)
