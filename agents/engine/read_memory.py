"""Bounds the memory that reads take: one large read runs at a time, and no read begins while many answers wait to be
published."""

import asyncio
from collections.abc import Iterable

from agents.engine.lanes import Delivery

SMALL_READ = 2**20
"""Bytes that the records of a read may have at least, as JSON. In memory they take several times as much. A read that
exceeds it runs again as a large one, which may load `topics.names.REPLY_LIMIT`."""

UNPUBLISHED_LIMIT = 8 * 2**20
"""Bytes of answers that wait to be published. No read begins above it. A publish may take `topics.kafka.SEND_LIMIT`."""


class ReadMemory:
    """The answers of a worker that are not published yet. A large read is alone until its answer is published."""

    def __init__(self) -> None:
        self._sizes: dict[Delivery, int] = {}
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._alone = asyncio.Lock()
        self._large: Delivery | None = None

    async def wait_for_room(self) -> None:
        """Wait while too many bytes wait to be published."""
        while not self._has_room.is_set():
            await self._has_room.wait()

    async def be_alone(self, delivery: Delivery) -> None:
        """Wait for the other large reads. Call `release` in any case."""
        await self._alone.acquire()
        self._large = delivery

    def hold(self, delivery: Delivery, result: bytes | None) -> None:
        """An answer waits to be published."""
        self._sizes[delivery] = len(result or b"")
        self._update()

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """These reads are published, or have failed."""
        for delivery in deliveries:
            self._sizes.pop(delivery, None)
            if delivery is self._large:
                self._large = None
                self._alone.release()
        self._update()

    def _update(self) -> None:
        if sum(self._sizes.values()) < UNPUBLISHED_LIMIT:
            self._has_room.set()
        else:
            self._has_room.clear()
