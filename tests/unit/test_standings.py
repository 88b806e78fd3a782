"""Counting by digits, held against counting."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agents.families.points.standings import LAST_DIGIT, LEVELS, buckets, ranges
from schemas.types import INT64

POINTS = st.one_of(st.integers(0, 200), st.integers(0, 10_000), st.integers(0, INT64))


@given(st.lists(POINTS, max_size=40), POINTS)
def test_the_ranges_count_all_with_more_points_and_nobody_else(participants: list[int], points: int) -> None:
    counts = Counter(bucket for each in participants for bucket in buckets(1, each))
    wanted = ranges([(1, points)])
    rows = zip(wanted["levels"], wanted["lows"], wanted["highs"], strict=True)
    above = sum(
        number
        for level, low, high in rows
        for (_, at, bucket), number in counts.items()
        if at == level and low <= bucket <= high
    )
    assert above == sum(each > points for each in participants)


@given(POINTS)
def test_a_position_reads_a_bounded_number_of_rows(points: int) -> None:
    wanted = ranges([(1, points)])
    sizes = [high - low + 1 for low, high in zip(wanted["lows"], wanted["highs"], strict=True)]
    assert len(sizes) <= LEVELS
    assert all(size <= LAST_DIGIT for size in sizes)
    assert len(list(buckets(1, points))) <= LEVELS
