"""The position of points in a challenge, at a cost that does not grow with the number of participants.

A position is one more than the number of participants with more points. No index tells that number, so participants
are counted by the digits of their points in base 64: for each level i, `ranking_counts` holds how many participants
have the same `points >> 6·i`, which is called their bucket. A participant with more than p points differs from p at
exactly one highest digit and is counted at that digit's level. So at most 63 rows are read for each of the 11 digits
of a 64-bit number, and a few dozen in practice. A bucket that ends with the digit 0 is above no other and is not
stored: when points move, only the digits that changed move with them, three or four as a rule.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from storage.statements import unnest_rows
from storage.table import METADATA
from storage.tx import Tx

BITS = 6
"""Bits of a digit. More bits mean fewer levels and more rows for each of them."""
LAST_DIGIT = 2**BITS - 1
LEVELS = 11
"""Digits of a 64-bit number."""

RANKING_COUNTS = sa.Table(
    "ranking_counts",
    METADATA,
    sa.Column(
        "challenge_id", sa.BigInteger, sa.ForeignKey("challenges.challenge_id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("level", sa.SmallInteger, primary_key=True),
    sa.Column("bucket", sa.BigInteger, primary_key=True),
    sa.Column("participants", sa.BigInteger, nullable=False),
)

ARRIVALS = sa.Sequence("challenge_arrivals", metadata=METADATA, data_type=sa.BigInteger)
"""Numbers in the order in which participants reach their points."""

Bucket = tuple[int, int, int]
"""(challenge, level, bucket), the key of a row of `ranking_counts`."""

_COUNTS = RANKING_COUNTS.c
_BIGINT = sa.BigInteger()


async def arrivals(tx: Tx, count: int) -> list[int]:
    """New numbers, in order."""
    numbers = sa.func.generate_series(1, sa.bindparam("count", type_=sa.Integer)).table_valued("n")
    rows = await tx.all(sa.select(ARRIVALS.next_value()).select_from(numbers), {"count": count})
    return sorted(row[0] for row in rows)


async def move(tx: Tx, moves: Iterable[tuple[int, int, int]]) -> None:
    """Count participants who went from points to points: (challenge, before, after). The caller has locked their
    rows."""
    changes: Counter[Bucket] = Counter()
    for challenge, before, after in moves:
        changes.subtract(buckets(challenge, before))
        changes.update(buckets(challenge, after))
    changed = sorted((bucket, number) for bucket, number in changes.items() if number)
    if not changed:
        return
    parameters = {
        "challenge_ids": [challenge for (challenge, _, _), _ in changed],
        "levels": [level for (_, level, _), _ in changed],
        "buckets": [bucket for (_, _, bucket), _ in changed],
        "numbers": [number for _, number in changed],
    }
    await tx.execute(_ADD, parameters)
    if any(number < 0 for _, number in changed):
        await tx.execute(_DELETE_EMPTY, parameters)


def _changed_rows() -> sa.TableValuedAlias:
    return unnest_rows(challenge_ids=_BIGINT, levels=sa.SmallInteger(), buckets=_BIGINT, numbers=_BIGINT)


def _add_statement() -> Any:
    """Add each number to its bucket, in the order of the primary key, so that two transactions cannot deadlock."""
    changed = _changed_rows()
    added = postgresql.insert(RANKING_COUNTS).from_select(
        ("challenge_id", "level", "bucket", "participants"),
        sa.select(*changed.c).order_by(changed.c.challenge_ids, changed.c.levels, changed.c.buckets),
    )
    return added.on_conflict_do_update(
        index_elements=list(RANKING_COUNTS.primary_key),
        set_={"participants": _COUNTS.participants + added.excluded.participants},
    )


def _delete_empty_statement() -> Any:
    """Delete the changed buckets that have no participants any more."""
    changed = _changed_rows()
    return sa.delete(RANKING_COUNTS).where(
        _COUNTS.challenge_id == changed.c.challenge_ids,
        _COUNTS.level == changed.c.levels,
        _COUNTS.bucket == changed.c.buckets,
        _COUNTS.participants == 0,
    )


_ADD, _DELETE_EMPTY = _add_statement(), _delete_empty_statement()


async def positions(tx: Tx, scores: Iterable[tuple[int, int]]) -> Mapping[tuple[int, int], int]:
    """The position, from 1, of each score, which is (challenge, points)."""
    distinct = sorted(set(scores))
    better: Counter[int] = Counter()
    for row in await tx.all(better_statement(), ranges(distinct)):
        better[row.scores] += int(row.participants or 0)
    return {score: 1 + better[index] for index, score in enumerate(distinct)}


def better_statement() -> Any:
    """The sum of the participants in each range of buckets. A subquery for each range and not a join, because a
    subquery can only be answered along the primary key."""
    bucket_ranges = unnest_rows(
        scores=sa.Integer(), challenge_ids=_BIGINT, levels=sa.SmallInteger(), lows=_BIGINT, highs=_BIGINT
    )
    participants = (
        sa.select(sa.func.sum(_COUNTS.participants))
        .where(
            _COUNTS.challenge_id == bucket_ranges.c.challenge_ids,
            _COUNTS.level == bucket_ranges.c.levels,
            _COUNTS.bucket.between(bucket_ranges.c.lows, bucket_ranges.c.highs),
        )
        .correlate(bucket_ranges)
        .scalar_subquery()
    )
    return sa.select(bucket_ranges.c.scores, participants.label("participants"))


def ranges(scores: Iterable[tuple[int, int]]) -> dict[str, list[int]]:
    """The parameters of `better_statement`: the ranges of buckets that hold everybody with more points."""
    rows = [
        (index, challenge, level, low, high)
        for index, (challenge, points) in enumerate(scores)
        for level, low, high in _ranges_above(points)
    ]
    columns = ("scores", "challenge_ids", "levels", "lows", "highs")
    return {column: [row[number] for row in rows] for number, column in enumerate(columns)}


def _ranges_above(points: int) -> Iterator[tuple[int, int, int]]:
    """(level, low, high) of the buckets whose participants have more points."""
    for level in range(LEVELS):
        low = (points >> BITS * level) + 1
        high = (points >> BITS * (level + 1) << BITS) + LAST_DIGIT
        if low <= high:
            yield level, low, high


def buckets(challenge: int, points: int) -> Iterator[Bucket]:
    """The buckets in which a participant with these points is counted."""
    for level in range(LEVELS):
        bucket = points >> BITS * level
        if bucket & LAST_DIGIT:
            yield challenge, level, bucket
