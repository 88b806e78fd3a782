"""Which partitions count as stalled. The tests pass the time themselves."""

from agents.engine.progress import Progress


def test_a_partition_is_stalled_if_it_does_not_advance_within_the_limit() -> None:
    progress = Progress(limit=10)
    assert progress.update({"a": 5, "b": 1}, now=0) == []
    assert progress.update({"a": 5, "b": 2}, now=10) == []
    assert progress.update({"a": 5, "b": 2}, now=11) == ["a"]


def test_a_partition_that_was_empty_gets_the_full_limit_again() -> None:
    progress = Progress(limit=10)
    progress.update({"a": 5}, now=0)
    progress.update({}, now=5)
    assert progress.update({"a": 5}, now=11) == []


def test_a_partition_is_not_stalled_while_an_outage_is_reported() -> None:
    progress = Progress(limit=10)
    progress.update({"a": 5}, now=0)
    progress.reset()
    assert progress.update({"a": 5}, now=11) == []
    assert progress.update({"a": 5}, now=22) == ["a"]
