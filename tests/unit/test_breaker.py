"""The breaker stops a worker in which nearly everything fails. One operation, or one source, cannot stop it."""

from collections import deque

import pytest

from agents.engine.breaker import LEAST, WINDOW, Breaker, NearlyEverythingFails, Outcome


def _outcomes(count: int, *, failing: float = 1, operations: int = 2, sources: int = 2) -> list[Outcome]:
    """Requests of so many operations and sources. The share `failing` of them fails."""
    return [
        Outcome(f"operation {n % operations}", f"source {n // operations % sources}", failed=n < failing * count)
        for n in range(count)
    ]


def test_it_opens_if_nearly_all_requests_fail() -> None:
    breaker = Breaker(0.9)
    breaker.note(_outcomes(LEAST - 1))
    with pytest.raises(NearlyEverythingFails):
        breaker.note(_outcomes(1))


def test_it_stays_closed_if_some_requests_fail() -> None:
    breaker = Breaker(0.9)
    for _ in range(20):
        breaker.note(_outcomes(100, failing=0.8, operations=10, sources=10))
    with pytest.raises(NearlyEverythingFails):
        breaker.note(_outcomes(WINDOW, operations=10, sources=10))


@pytest.mark.parametrize("others", [0, 10])
@pytest.mark.parametrize(("operations", "sources"), [(1, 1), (1, 50), (50, 1)])
def test_a_bug_that_one_operation_or_one_source_meets_stops_nothing(operations: int, sources: int, others: int) -> None:
    breaker = Breaker(0.9)
    for _ in range(2 * WINDOW // 100):
        breaker.note(_outcomes(100, operations=operations, sources=sources))
        breaker.note(_outcomes(others, failing=0, operations=3, sources=60))


@pytest.mark.parametrize("batch", [1, 17, 300])
@pytest.mark.parametrize("silent", [None, 0, 1, 2, 3])
def test_it_opens_whichever_partition_is_read_first(batch: int, silent: int | None) -> None:
    """Each partition has the requests of one operation from one source. One partition may have none."""
    breaker = Breaker(0.9)
    batches = [
        batch * [Outcome(f"operation {part % 2}", f"source {part // 2}", failed=True)]
        for part in range(4)
        if part != silent
    ]
    with pytest.raises(NearlyEverythingFails):
        deque(map(breaker.note, 2 * LEAST // batch * batches), maxlen=0)


def test_it_forgets_requests_operations_and_sources() -> None:
    breaker = Breaker(0.9)
    for number in range(3 * WINDOW):
        breaker.note([Outcome(f"operation {number}", f"source {number}", failed=False)])
        assert len(breaker._latest) <= 2 * WINDOW
    with pytest.raises(NearlyEverythingFails):
        breaker.note(_outcomes(WINDOW, operations=30, sources=30))


def test_with_a_limit_of_1_it_never_opens() -> None:
    Breaker(1).note(_outcomes(2 * WINDOW, operations=30, sources=30))
