"""The live state of the installation, for everybody who watches it in the console."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from agents.catalogue import CATALOGUE
from runtime import overview
from runtime.overview import DatabaseOverview, GroupLag, KafkaOverview, Overview, Rates
from runtime.settings import Settings
from topics import names

INTERVAL_SECONDS = 2.0
"""Time between two overviews."""
HISTORY = 150
"""Points of the curves: five minutes."""
LATEST_SECONDS = 4 * INTERVAL_SECONDS
"""How old an overview may be for rates."""

Document = Mapping[str, Any]


class Feed:
    """Reads an overview every two seconds, once for all watchers, and none while nobody watches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watchers = 0
        self._watched = asyncio.Event()
        self._published = asyncio.Condition()
        self._document: Document | None = None
        self._points: deque[Document] = deque(maxlen=HISTORY)

    async def run(self) -> None:
        """Read overviews until cancelled."""
        async with overview.source(self._settings) as source:
            before: Overview | None = None
            while True:
                await self._watched.wait()
                started = time.monotonic()
                after = await source.read()
                if before is not None and (after.read_at - before.read_at).total_seconds() < LATEST_SECONDS:
                    await self._publish(after, overview.rates(before, after))
                before = after
                await asyncio.sleep(max(0.5, INTERVAL_SECONDS - (time.monotonic() - started)))

    async def watch(self) -> AsyncIterator[Document]:
        """The state now, with the points of the last minutes, and then each new state with one point."""
        self._watchers += 1
        self._watched.set()
        try:
            document = self._document
            if document is not None:
                yield {**document, "points": list(self._points)}
            while True:
                async with self._published:
                    while self._document is None or self._document is document:
                        await self._published.wait()
                    document = self._document
                yield document
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._watched.clear()
                self._document = None

    async def _publish(self, state: Overview, rates: Rates) -> None:
        point = _point(state, rates)
        self._points.append(point)
        self._document = {**describe(state, rates), "points": [point]}
        async with self._published:
            self._published.notify_all()


def describe(state: Overview, rates: Rates) -> Document:
    """The state for the console's pages. Rates are per second, lags in messages and in seconds."""
    return {"time": state.read_at, "kafka": _kafka(state, rates), "database": _database(state.database, rates)}


def _kafka(state: Overview, rates: Rates) -> Document:
    kafka = state.kafka
    if not isinstance(kafka, KafkaOverview):
        return {"unavailable": kafka.reason}
    lags = _lags(kafka.groups)
    waiting = _waiting(state.database)
    return {
        "families": [
            {
                "name": family,
                "requests": _topic(names.requests(family), rates, lags),
                "results": _topic(names.results(family), rates),
                "changes": _changes(family, rates, waiting),
            }
            for family in CATALOGUE.families
        ],
        "queries": _topic(names.QUERIES, rates, lags),
        "replies": _topic(names.REPLIES, rates),
        "deadLetters": _topic(names.DEAD_LETTERS, rates)
        | {
            "newest": [
                {"id": letter.id, "writtenAt": letter.written_at, "reason": letter.reason, "topic": letter.topic}
                for letter in kafka.dead_letters
            ],
            "unread": kafka.unread_dead_letters,
        },
        "groups": [
            {"name": group.name, "state": group.state, "lag": group.messages, "lagSeconds": group.seconds}
            for group in kafka.groups
        ],
        "partitions": [
            {"topic": each.topic, "partition": each.partition, "lag": each.messages, "lagSeconds": each.seconds}
            for group in kafka.groups
            for each in group.partitions
            if each.messages
        ],
        "workers": [
            {"clientId": worker.client_id, "host": worker.host, "partitions": worker.partitions}
            for worker in kafka.workers
        ],
        "missingTopics": kafka.missing_topics,
    }


def _database(database: DatabaseOverview | overview.Unavailable, rates: Rates) -> Document:
    if not isinstance(database, DatabaseOverview):
        return {"unavailable": database.reason}
    return {
        "revision": database.revision,
        "inboxRows": database.inbox_rows,
        "outboxRows": database.outbox_rows,
        "oldestChangeSeconds": database.oldest_change_seconds,
        "changesPerSecond": rates.changes,
        "lockWaits": len(database.lock_waits),
        "lockHolders": [
            {
                "session": holder.pid,
                "application": holder.application,
                "state": holder.state,
                "tables": holder.tables,
                "seconds": holder.seconds,
            }
            for holder in database.lock_holders
        ],
    }


def _lags(groups: Iterable[GroupLag]) -> dict[str, tuple[int, float]]:
    """By topic, the lag in messages and in seconds."""
    lags: dict[str, tuple[int, float]] = {}
    for group in groups:
        for each in group.partitions:
            messages, seconds = lags.get(each.topic, (0, 0.0))
            lags[each.topic] = (messages + each.messages, max(seconds, each.seconds or 0.0))
    return lags


def _topic(name: str, rates: Rates, lags: Mapping[str, tuple[int, float]] | None = None) -> dict[str, Any]:
    topic: dict[str, Any] = {"topic": name, "perSecond": rates.topics.get(name, 0.0)}
    if lags is not None:
        topic["lag"], topic["lagSeconds"] = lags.get(name, (0, 0.0))
    return topic


def _changes(family: str, rates: Rates, waiting: Mapping[str, int]) -> Document:
    """The change topics of a family together. Offsets also count the markers of transactions, so `atMostPerSecond` is
    more than the rate of the changes."""
    prefix = names.changes(family, "")
    topics = [topic.name for topic in CATALOGUE.change_topics if topic.name.startswith(prefix)]
    at_most = {topic: rates.topics.get(topic, 0.0) for topic in topics}
    return {
        "topics": [{"topic": topic, "atMostPerSecond": rate} for topic, rate in at_most.items()],
        "atMostPerSecond": sum(at_most.values()),
        "waiting": sum(waiting.get(topic, 0) for topic in topics),
    }


def _waiting(database: DatabaseOverview | overview.Unavailable) -> dict[str, int]:
    """By change topic, how many changes the outbox has."""
    if not isinstance(database, DatabaseOverview):
        return {}
    return {topic.topic: topic.waiting for topic in database.change_topics}


def _point(state: Overview, rates: Rates) -> Document:
    """A point of the curves; None where a server did not answer."""
    kafka, database = state.kafka, state.database
    is_known = isinstance(kafka, KafkaOverview)
    requests = [names.QUERIES, *(names.requests(family) for family in CATALOGUE.families)]
    return {
        "time": state.read_at,
        "requests": sum(rates.topics.get(topic, 0.0) for topic in requests) if is_known else None,
        "changes": rates.changes if isinstance(database, DatabaseOverview) else None,
        "lag": sum(group.messages for group in kafka.groups) if isinstance(kafka, KafkaOverview) else None,
        "outbox": database.outbox_rows if isinstance(database, DatabaseOverview) else None,
    }
