"""The end of a publisher: what it has begun is finished, for a limited time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agents.engine import publisher
from agents.engine.publisher import Publisher
from agents.engine.readiness import Readiness
from storage.outbox import Ownership
from topics.supervision import Supervisor


class _Publisher(Publisher):
    """Each attempt takes `seconds`, and notes how it ended."""

    def __init__(self, seconds: float) -> None:
        self.stopped_producers = 0
        producer: Any = SimpleNamespace(stop=self._stop_producer)
        super().__init__({"topic": producer}, None, Readiness())  # type: ignore[arg-type]
        self.seconds, self.started, self.ends = seconds, asyncio.Event(), []

    async def _stop_producer(self) -> None:
        self.stopped_producers += 1

    async def _topics_with_changes(self) -> list[str]:
        return []

    async def _attempt(self, topic: str) -> tuple[Ownership, float | None]:
        self.started.set()
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        assert not self.stopped_producers
        self.ends.append("finished")
        return Ownership.NO_CHANGES, None


@pytest.mark.parametrize(("seconds", "limit", "end"), [(1.6, 30, "finished"), (60, 2.5, "cancelled")])
async def test_an_attempt_may_finish_while_the_worker_stops(
    seconds: float, limit: float, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "STOP_SECONDS", limit)
    stopping = _Publisher(seconds)
    supervisor = Supervisor(lambda *_: None)
    supervisor.start("publisher", stopping.run())
    stopping.wake(["topic"])
    await stopping.started.wait()
    await supervisor.stop()
    assert (stopping.ends, stopping.stopped_producers) == ([], 0)
    await stopping.close()
    assert (stopping.ends, stopping.stopped_producers) == ([end], 1)
