"""What counts as a stall, with a clock of the test's own."""

from agents.engine.progress import Progress


def test_what_waits_and_does_not_move_is_told_after_the_limit() -> None:
    progress = Progress(limit=10)
    assert progress.note({"a": 5, "b": 1}, now=0) == []
    assert progress.note({"a": 5, "b": 2}, now=10) == []
    assert progress.note({"a": 5, "b": 2}, now=11) == ["a"]


def test_what_waits_no_longer_starts_anew() -> None:
    progress = Progress(limit=10)
    progress.note({"a": 5}, now=0)
    progress.note({}, now=5)
    assert progress.note({"a": 5}, now=11) == []


def test_a_known_fault_excuses() -> None:
    progress = Progress(limit=10)
    progress.note({"a": 5}, now=0)
    progress.excuse()
    assert progress.note({"a": 5}, now=11) == []
    assert progress.note({"a": 5}, now=22) == ["a"]
