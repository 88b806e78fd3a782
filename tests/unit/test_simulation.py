"""A simulation follows a plan that only depends on its seed."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from typer.testing import CliRunner, Result

from runtime import cli
from runtime.cli import app
from runtime.dev.sample import CENTERS, SamplePerson
from runtime.simulation import plan
from runtime.simulation.plan import DAY, HOUR, Send
from runtime.simulation.report import Report

RATE = 0.05
PEOPLE = [
    SamplePerson(f"v{n}", f"b{n}", f"P-{n}", n, CENTERS[n % 5]["pcCode"]) for n in range(plan.people_needed(RATE, DAY))
]


@pytest.fixture(autouse=True)
def logs_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands leave the logging of this process alone."""
    monkeypatch.setattr(cli, "load_settings_and_configure_logs", cli.load_settings)


def _sends(seed: int = 1, until: float = DAY) -> list[Send]:
    return list(plan.sends(seed, PEOPLE, RATE, until))


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert _sends(1) == _sends(1) != _sends(2)
    calls = [list(plan.calls(seed, PEOPLE, RATE, DAY)) for seed in (1, 1, 2)]
    assert calls[0] == calls[1] != calls[2]


def test_a_day_has_rush_hours_and_the_promised_rate() -> None:
    firsts = [send for send in _sends() if send.reason != "repeated"]
    assert len(firsts) == pytest.approx(RATE * DAY, rel=0.1)
    by_hour = Counter(int(plan.START_HOUR + send.passage_at / HOUR) % 24 for send in firsts)
    assert by_hour[18] > 1.3 * by_hour[15] > 5 * by_hour[4]


def test_messages_are_in_the_order_of_sending_and_some_are_late_or_repeated() -> None:
    sends = _sends()
    assert [send.at for send in sends] == sorted(send.at for send in sends)
    shares = {reason: count / len(sends) for reason, count in Counter(send.reason for send in sends).items()}
    assert 0.01 < shares["late"] < 0.05
    assert 0.01 < shares["repeated"] < 0.04
    assert 0.01 < shares["backlog"] < 0.15


def test_a_gateway_that_was_offline_sends_its_backlog_in_order_and_nothing_meanwhile() -> None:
    by_gateway: dict[str, list[Send]] = defaultdict(list)
    for send in _sends():
        by_gateway[send.passage.gateway].append(send)
    backlogs = 0
    for sends in by_gateway.values():
        ends = {send.at for send in sends if send.reason == "backlog"}
        for end in ends:
            backlog = [send for send in sends if send.at == end and send.reason == "backlog"]
            assert [send.passage_at for send in backlog] == sorted(send.passage_at for send in backlog)
            assert not [send for send in sends if backlog[0].passage_at < send.at < end and send.reason == "prompt"]
            backlogs += len(backlog) > 1
    assert backlogs > 5


def test_each_person_enters_and_leaves_in_turn() -> None:
    by_person: dict[str, list[str]] = defaultdict(list)
    for send in sorted(_sends(), key=lambda send: send.passage_at):
        if send.reason != "repeated":
            by_person[send.passage.person.visitor_id].append(send.passage.visit_type)
    assert all(first != second for types in by_person.values() for first, second in pairwise(types))
    assert all(types[0] == "entry" for types in by_person.values())


def test_what_gateways_hold_at_the_end_is_sent_at_the_end() -> None:
    whole, half = _sends(), _sends(until=DAY / 2)
    assert max(send.at for send in half) <= DAY / 2
    passages = {send.number for send in whole if send.passage_at < DAY / 2}
    # Exits after the last entry are not in the plan.
    assert len(passages) - len({send.number for send in half}) < 5


def test_latencies_are_those_of_the_first_records_in_any_order() -> None:
    report = Report()
    request_id = f"{report.run_id}-1"
    report.note_sent(request_id, "prompt", 0)
    report.note_result(request_id, 201, 1_250)
    report.note_time("request", request_id, 1_000)
    report.note_result(request_id, 201, 9_000)
    assert not report.is_complete
    report.note_time("change", request_id, 1_500)
    report.note_time("request", "another sender", 0)
    assert [list(report.latencies(f"append to {moment}")) for moment in ("result", "change")] == [[0.25], [0.5]]
    assert (report.results, report.is_complete) == ({201: 1}, True)


def _simulate(monkeypatch: pytest.MonkeyPatch, *options: str, answer: str = "") -> Result:
    """Run `visitor simulate` against a remote broker, and an edge that does not answer."""
    monkeypatch.setenv("VISITOR_KAFKA_BOOTSTRAP", "localhost:9092,kafka.example.com:9092")
    return CliRunner().invoke(app, ["simulate", "--url", "http://127.0.0.1:1", *options], input=answer)


def test_a_remote_installation_is_not_used_without_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _simulate(monkeypatch, answer="n\n")
    assert result.exit_code == 1
    assert "kafka.example.com?" in result.output
    assert "cannot be used" not in result.output


def test_a_remote_installation_is_used_after_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _simulate(monkeypatch, answer="y\n")
    assert "kafka.example.com?" in result.output
    assert "The installation cannot be used: ConnectError" in result.output


def test_with_the_option_yes_a_remote_installation_is_used_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _simulate(monkeypatch, "--yes")
    assert "kafka.example.com?" not in result.output
    assert "The installation cannot be used: ConnectError" in result.output
