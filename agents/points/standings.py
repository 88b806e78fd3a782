"""Who stands where in a challenge, at a cost that does not grow with its participants.

The order is that of the index `visitor_challenges_standing_idx`: points, and among equal points who reached them first.
So the top and a visitor's neighbours are a few steps along an index.

A position is one more than the number of participants with more points, which no index tells. So participants are
counted by the digits of their points in base 64: `ranking_counts` has, for each level i, how many have the same
`points >> 6·i`. Who has more than p differs from p at exactly one highest digit, and is counted there: at most 63 rows
for each of the 11 digits of a 64-bit number, and in practice some dozen. A digit 0 is above no other, so it is not
kept: points move as many rows as they have digits that changed, three or four as a rule.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from storage.table import METADATA, given
from storage.tx import Tx

BITS = 6
LEVELS = 11

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

Place = tuple[int, int, int]
"""(challenge, level, bucket)"""

_C = RANKING_COUNTS.c


_BIG = sa.BigInteger()
_MOVED = given(challenges=_BIG, levels=sa.SmallInteger(), buckets=_BIG, numbers=_BIG)
_INSERT = postgresql.insert(RANKING_COUNTS).from_select(
    ("challenge_id", "level", "bucket", "participants"),
    sa.select(*_MOVED.c).order_by(_MOVED.c.challenges, _MOVED.c.levels, _MOVED.c.buckets),
)
_ADD = _INSERT.on_conflict_do_update(
    index_elements=list(RANKING_COUNTS.primary_key),
    set_={"participants": _C.participants + _INSERT.excluded.participants},
)
_CLEAN = sa.delete(RANKING_COUNTS).where(
    _C.challenge_id == _MOVED.c.challenges,
    _C.level == _MOVED.c.levels,
    _C.bucket == _MOVED.c.buckets,
    _C.participants == 0,
)
_WANTED = given(places=sa.Integer(), challenges=_BIG, levels=sa.SmallInteger(), lows=_BIG, highs=_BIG)
_COUNTED = (
    sa.select(sa.func.sum(_C.participants))
    .where(
        _C.challenge_id == _WANTED.c.challenges,
        _C.level == _WANTED.c.levels,
        _C.bucket.between(_WANTED.c.lows, _WANTED.c.highs),
    )
    .correlate(_WANTED)
    .scalar_subquery()
)
# A subquery for each range, and not a join: it can only be read along the primary key.
ABOVE = sa.select(_WANTED.c.places, _COUNTED.label("above"))
_NEXT = sa.select(ARRIVALS.next_value()).select_from(
    sa.func.generate_series(1, sa.bindparam("count", type_=sa.Integer)).table_valued("n")
)


async def arrivals(tx: Tx, count: int) -> list[int]:
    """New numbers, in order."""
    return sorted(row[0] for row in await tx.all(_NEXT, {"count": count}))


async def move(tx: Tx, moves: Iterable[tuple[int, int, int]]) -> None:
    """Participants went from points to points: (challenge, before, after). Their rows are locked already."""
    changed: Counter[Place] = Counter()
    for challenge, before, after in moves:
        changed.subtract(places(challenge, before))
        changed.update(places(challenge, after))
    kept = sorted((place, number) for place, number in changed.items() if number)
    if not kept:
        return
    parameters = {
        "challenges": [place[0] for place, _ in kept],
        "levels": [place[1] for place, _ in kept],
        "buckets": [place[2] for place, _ in kept],
        "numbers": [number for _, number in kept],
    }
    await tx.conn.execute(_ADD, parameters)
    if any(number < 0 for _, number in kept):
        await tx.conn.execute(_CLEAN, parameters)


async def positions(tx: Tx, wanted: Iterable[tuple[int, int]]) -> Mapping[tuple[int, int], int]:
    """The position, from 1, of each (challenge, points)."""
    distinct = sorted(set(wanted))
    found = await tx.all(ABOVE, ranges(distinct))
    above: Counter[int] = Counter()
    for row in found:
        above[row.places] += int(row.above or 0)
    return {pair: 1 + above[place] for place, pair in enumerate(distinct)}


def ranges(wanted: Iterable[tuple[int, int]]) -> dict[str, list[int]]:
    """The parameters of `ABOVE`: for each of (challenge, points), where those with more points are counted."""
    rows = [
        (place, challenge, level, low, high)
        for place, (challenge, points) in enumerate(wanted)
        for level, low, high in _above(points)
    ]
    names = ("places", "challenges", "levels", "lows", "highs")
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}


def _above(points: int) -> Iterator[tuple[int, int, int]]:
    """(level, low, high) of the buckets whose participants have more points."""
    for level in range(LEVELS):
        low = (points >> BITS * level) + 1
        high = (points >> BITS * (level + 1) << BITS) + 63
        if low <= high:
            yield level, low, high


def places(challenge: int, points: int) -> Iterator[Place]:
    """Where a participant with these points is counted."""
    for level in range(LEVELS):
        bucket = points >> BITS * level
        if bucket & 63:
            yield challenge, level, bucket
