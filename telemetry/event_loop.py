"""Measures how late the event loop is, because a task blocks it or the process gets no CPU time."""

import asyncio

from telemetry.metrics import EVENT_LOOP_DELAY

INTERVAL = 0.25
"""Seconds between two measurements."""


async def measure_delay() -> None:
    """Measure until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        EVENT_LOOP_DELAY.observe(max(0.0, loop.time() - due))
