"""Rankings that count by digit, compared with plain counting."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agents.families.points.standings import LAST_DIGIT, LEVELS, buckets, ranges
from schemas.types import INT64

POINTS = st.one_of(st.integers(0, 200), st.integers(0, 10_000), st.integers(0, INT64))


@given(st.lists(POINTS, max_size=40), POINTS)
def test_the_ranges_count_exactly_the_participants_with_more_points(
    points_of_participants: list[int], points: int
) -> None:
    counts = Counter(bucket for participant in points_of_participants for bucket in buckets(1, participant))
    columns = ranges([(1, points)])
    counted = sum(
        count
        for level, low, high in zip(columns["levels"], columns["lows"], columns["highs"], strict=True)
        for (_, bucket_level, bucket), count in counts.items()
        if bucket_level == level and low <= bucket <= high
    )
    assert counted == sum(participant > points for participant in points_of_participants)


@given(POINTS)
def test_a_position_reads_a_bounded_number_of_rows(points: int) -> None:
    columns = ranges([(1, points)])
    sizes = [high - low + 1 for low, high in zip(columns["lows"], columns["highs"], strict=True)]
    assert len(sizes) <= LEVELS
    assert all(size <= LAST_DIGIT for size in sizes)
    assert len(list(buckets(1, points))) <= LEVELS
