"""`visitor doctor` says what it could not read, instead of `ok`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from runtime.doctor import kafka
from runtime.overview import DELAYED_SECONDS, LATE_SECONDS, GroupLag, PartitionLag
from storage import dead_letter_marks
from tests.unit.test_status import KAFKA, REQUESTS
from topics.names import DEAD_LETTERS
from topics.observer import Reading

UNREAD = TopicPartition(DEAD_LETTERS, 3)


class _Observer:
    """Cannot read its one partition."""

    async def partitions(self, _: Any) -> list[TopicPartition]:
        return [UNREAD]

    async def offsets_at(self, *_: Any) -> dict[TopicPartition, int]:
        return {UNREAD: 0}

    beginnings = offsets_at

    async def ends(self, _: Any) -> dict[TopicPartition, int]:
        return {UNREAD: 5}

    async def records(self, *_: Any) -> Reading:
        return Reading([], [UNREAD])


class _Database:
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[None]:
        yield


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> Any:
    @asynccontextmanager
    async def observing(_: Any) -> AsyncIterator[_Observer]:
        yield _Observer()

    async def no_marks(*_: Any) -> dict[Any, Any]:
        return {}

    monkeypatch.setattr(kafka, "observing", observing)
    monkeypatch.setattr(dead_letter_marks, "read", no_marks)
    return SimpleNamespace(settings=SimpleNamespace(kafka=None), database=_Database())


async def test_dead_letters_that_could_not_be_read_are_a_warning(installation: Any) -> None:
    finding = await kafka.recent_dead_letters(installation)
    assert (finding.state, "visitor.dead-letters:3" in finding.message) == ("warning", True)


async def test_a_clock_of_which_no_request_could_be_read_is_a_warning(installation: Any) -> None:
    finding = await kafka.clock(installation)
    assert (finding.state, "visitor.dead-letters:3" in finding.message) == ("warning", True)


@pytest.mark.parametrize(
    ("known_seconds", "state"),
    [(None, "warning"), (0.5, "warning"), (DELAYED_SECONDS, "warning"), (LATE_SECONDS, "failed")],
)
async def test_a_lag_of_unknown_age_is_not_ok(known_seconds: float | None, state: str) -> None:
    partitions = (PartitionLag(REQUESTS, 0, 7, None), PartitionLag(REQUESTS, 1, 1, known_seconds))
    groups = (GroupLag("g", "Stable", partitions),)
    overview = SimpleNamespace(kafka=KAFKA.__class__(**(vars(KAFKA) | {"groups": groups})))
    installation: Any = SimpleNamespace(overview=overview)
    finding = await kafka.lag(installation)
    assert (finding.state, finding.message.startswith("8 messages wait")) == (state, True)
    assert f"{REQUESTS}:0" in finding.message


async def test_a_known_short_lag_is_ok() -> None:
    groups = (GroupLag("g", "Stable", (PartitionLag(REQUESTS, 0, 7, 0.5),)),)
    overview = SimpleNamespace(kafka=KAFKA.__class__(**(vars(KAFKA) | {"groups": groups})))
    installation: Any = SimpleNamespace(overview=overview)
    assert (await kafka.lag(installation)).state == "ok"
