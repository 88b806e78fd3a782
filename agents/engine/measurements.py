"""Measures inbox and outbox at a fixed period, so that the cost does not depend on how often metrics are scraped."""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from storage import inbox, outbox, statistics
from storage.database import single_statements
from telemetry.metrics import ALL_OUTBOX_ROWS, INBOX_AGE, INBOX_ROWS, OUTBOX_AGE, OUTBOX_ROWS
from topics.supervision import interruptions_raised

log = structlog.get_logger(__name__)

PERIOD = 15.0
"""Seconds between two measurements."""


async def run(database: AsyncEngine, topics: Sequence[str]) -> None:
    """Measure until cancelled. After an error, the metrics keep their values until the next measurement: a worker that
    cannot measure can still work."""
    while True:
        try:
            with interruptions_raised():
                await _measure(database, topics)
        except Exception as error:
            log.warning("not_measured", error=type(error).__name__)
        await asyncio.sleep(PERIOD)


async def _measure(database: AsyncEngine, topics: Sequence[str]) -> None:
    async with single_statements(database).connect() as conn:
        of_topics = await outbox.waiting(conn, topics)
        for waiting in of_topics:
            OUTBOX_ROWS.labels(waiting.topic).set(waiting.changes)
            OUTBOX_AGE.labels(waiting.topic).set(waiting.oldest_seconds or 0)
        ALL_OUTBOX_ROWS.set(await outbox.rows(conn, of_topics))
        INBOX_ROWS.set(await statistics.rows(conn, inbox.INBOX.name))
        INBOX_AGE.set(await inbox.oldest_seconds(conn) or 0)
