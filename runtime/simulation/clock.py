"""The clock of a simulation, which runs faster than real time."""

import asyncio
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """`speed` is in simulated seconds per second. Simulated times are seconds since the start."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._started = datetime.now(UTC)
        self._started_at = time.monotonic()

    def now(self) -> float:
        return (time.monotonic() - self._started_at) * self.speed

    async def sleep_until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, (moment - self.now()) / self.speed))

    def instant(self, moment: float) -> datetime:
        """The real time at which a simulated moment occurs."""
        return self._started + timedelta(seconds=moment / self.speed)
