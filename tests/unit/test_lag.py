"""The metrics of lag."""

import time

import pytest

from agents.engine.lag import Lag, LagReport
from telemetry.metrics import LAG_MESSAGES, LAG_SECONDS, WORKER

PARTITION = ("visitor.visits.requests", 3)
LABELS = {"topic": PARTITION[0], "partition": "3"}


@pytest.fixture
def report() -> LagReport:
    LAG_MESSAGES.clear()
    LAG_SECONDS.clear()
    return LagReport()


def _at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)


def _seconds() -> float | None:
    return WORKER.get_sample_value("visitor_lag_seconds", LABELS)


def test_the_lag_in_seconds_is_the_age_of_the_oldest_message(
    report: LagReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, 1_000)
    report.update({PARTITION: Lag(messages=5, position=10, oldest=940)})
    assert (_seconds(), WORKER.get_sample_value("visitor_lag_messages", LABELS)) == (60, 5)
    report.update({PARTITION: Lag(messages=0, position=15, oldest=None)})
    assert _seconds() == 0


def test_a_message_that_is_not_fetched_is_as_old_as_it_has_been_the_first_one(
    report: LagReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now, position, expected in ((1_000, 10, 0), (1_030, 10, 30), (1_040, 12, 0), (1_045, 12, 5)):
        _at(monkeypatch, now)
        report.update({PARTITION: Lag(messages=5, position=position, oldest=None)})
        assert _seconds() == expected


def test_a_message_from_a_broker_whose_clock_is_ahead_has_no_negative_age(
    report: LagReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, 1_000)
    report.update({PARTITION: Lag(messages=1, position=10, oldest=1_002)})
    assert _seconds() == 0


def test_a_partition_that_another_worker_has_taken_over_has_no_series(report: LagReport) -> None:
    report.update({PARTITION: Lag(messages=1, position=10, oldest=None)})
    report.update({})
    assert _seconds() is None
