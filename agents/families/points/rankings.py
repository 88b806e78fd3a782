"""The rank of a visitor in each of its challenges, in a number of statements that does not grow with the page."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from agents import crud
from agents.families.points import ranking_queries, standings
from agents.families.points.challenge_table import CHALLENGES, Challenge
from agents.families.points.histories import day_start
from agents.families.points.visitor_challenge_table import VISITOR_CHALLENGES, VisitorChallenge
from agents.families.points.visitor_challenges import VisitorChallengeQuery
from agents.operation import Operations
from schemas.model import Model
from schemas.types import Flag, Int64, Text
from storage.allowance import least_size_of
from storage.tx import Tx

NEIGHBOURS = 2
"""Participants shown above and below a visitor."""
TOP_LIMIT = 10_000
"""Limit for the entries of topRanking. A winner beyond it is shown in otherRanking."""


class Standing(Model):
    position: Int64
    """The position in the ranking. Equal points share a position."""
    name: Text
    """First name and initial of the participant."""
    points: Text
    """The points of the participant, as a text."""
    is_visitor_rank: Flag
    """Whether this participant is the visitor."""


class Ranking(Model):
    challenge: Challenge
    """The challenge."""
    visitor_challenge: VisitorChallenge
    """The participation of the visitor."""
    top_ranking: list[Standing]
    """The first participants, as many as there are winners."""
    other_ranking: list[Standing]
    """The visitor with the two participants above and the two below; empty for a visitor in `topRanking`."""
    bonus_activated_today: Flag
    """Whether the visitor had a bonus today, in the time zone of the challenge."""
    visitor_ranking_position: Int64
    """The position of the visitor."""
    can_log_points: Flag
    """Whether the challenge runs now."""


_Names = Mapping[UUID, str]
_Positions = Mapping[tuple[int, int], int]
"""By challenge and points."""


async def _rankings(tx: Tx, rows: Sequence[VisitorChallenge]) -> Sequence[Ranking]:
    if not rows:
        return []
    challenges = await CHALLENGES.by_key(tx, (row.challenge_id for row in rows), with_wide=tx.wants("challenge"))
    tops = await _tops(tx, challenges)
    ranks = await ranking_queries.ranks(tx, (row.visitor_challenge_id for row in rows))
    around = _best_first(await ranking_queries.neighbours(tx, ranks, NEIGHBOURS), by="participant")
    scores = (
        (row.challenge_id, participant.points) for row in rows for participant in around[row.visitor_challenge_id]
    )
    positions = await standings.positions(tx, scores)
    shown = {participant.visitor_id for group in (*tops.values(), *around.values()) for participant in group}
    names = await _names_of(tx, shown)
    tx.visitors.extend(shown)
    # A name may be in many rankings.
    tx.note_loaded(sum(len(names[each.visitor_id]) for top in tops.values() for each in top) - _size_of(names))
    await tx.refresh_now()
    with_bonus = await _with_bonus_today(tx, rows, challenges)
    in_top = await _in_top(tx, ranks, challenges, positions)
    others = {key: group for key, group in around.items() if key not in in_top}
    return [
        Ranking.model_construct(
            challenge=challenges[row.challenge_id],
            visitor_challenge=row,
            # Not needed any more; it may have thousands of participants.
            top_ranking=_top(tops.pop(row.challenge_id, ()), row, names),
            other_ranking=_others(others.get(row.visitor_challenge_id, ()), row, names, positions),
            bonus_activated_today=row.visitor_challenge_id in with_bonus,
            visitor_ranking_position=positions[row.challenge_id, row.points],
            can_log_points=challenges[row.challenge_id].runs(tx.now),
        )
        for row in rows
    ]


class _Participant(NamedTuple):
    points: int
    precedence: int
    visitor_id: UUID


async def _tops(tx: Tx, challenges: Mapping[int, Challenge]) -> dict[int, Sequence[_Participant]]:
    """The first participants of each challenge. Empty if the caller does not want them. Raises LoadsTooMuch."""
    if not tx.wants("topRanking"):
        return {}
    limits = {key: _top_size(challenge) for key, challenge in challenges.items()}
    tops: dict[int, list[_Participant]] = {key: [] for key in challenges}
    async with aclosing(ranking_queries.top(tx, limits)) as chunks:
        async for rows in chunks:
            tx.note_loaded(len(rows) * least_size_of(Standing))
            for row in rows:
                tops[row.challenge_id].append(_Participant(row.points, row.precedence, row.visitor_id))
    return {key: sorted(top, reverse=True) for key, top in tops.items()}


def _top_size(challenge: Challenge) -> int:
    return min(max(challenge.winner_number, 0), TOP_LIMIT)


async def _names_of(tx: Tx, visitor_ids: Iterable[UUID]) -> _Names:
    """Raises LoadsTooMuch."""
    names: dict[UUID, str] = {}
    async with aclosing(ranking_queries.names(tx, visitor_ids)) as chunks:
        async for rows in chunks:
            chunk = {row.visitor_id: _name(row) for row in rows}
            tx.note_loaded(_size_of(chunk))
            names |= chunk
    return names


def _size_of(names: _Names) -> int:
    return sum(map(len, names.values()))


def _best_first(rows: Iterable[Any], *, by: str) -> Mapping[int, list[Any]]:
    """Rows grouped by a column, each group from the highest rank to the lowest."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.points, row.precedence), reverse=True):
        groups[getattr(row, by)].append(row)
    return groups


def _top(top: Sequence[Any], row: VisitorChallenge, names: _Names) -> list[Standing]:
    positions = _positions_from_first(top)
    return [_standing(participant, row, names, position) for participant, position in zip(top, positions, strict=True)]


def _positions_from_first(top: Sequence[Any]) -> Iterator[int]:
    """Equal points share a position; the next position counts all participants above it."""
    position, points = 0, None
    for rank, participant in enumerate(top, start=1):
        if participant.points != points:
            position, points = rank, participant.points
        yield position


def _others(around: Sequence[Any], row: VisitorChallenge, names: _Names, positions: _Positions) -> list[Standing]:
    """The visitor with its neighbours."""
    return [
        _standing(participant, row, names, positions[row.challenge_id, participant.points]) for participant in around
    ]


def _standing(participant: Any, row: VisitorChallenge, names: _Names, position: int) -> Standing:
    return Standing.from_values(
        {
            "position": position,
            "name": names[participant.visitor_id],
            "points": str(participant.points),
            "is_visitor_rank": participant.visitor_id == row.visitor_id,
        }
    )


def _name(visitor: Any) -> str:
    """First name and initial; a partial visitor may have no last name."""
    return f"{visitor.first_name} {visitor.last_name[0]}." if visitor.last_name else str(visitor.first_name)


async def _in_top(tx: Tx, ranks: Sequence[Any], challenges: Mapping[int, Challenge], positions: _Positions) -> set[int]:
    """The visitorChallengeIds that are among the entries of topRanking. Equal points share a position; among equals,
    those who reached their points earlier come first, until topRanking is full."""
    remaining = {
        row.visitor_challenge_id: _top_size(challenges[row.challenge_id]) - positions[row.challenge_id, row.points]
        for row in ranks
    }
    candidates = [row for row in ranks if remaining[row.visitor_challenge_id] >= 0]
    limits = [remaining[row.visitor_challenge_id] + 1 for row in candidates]
    earlier = await ranking_queries.earlier_equals(tx, candidates, limits)
    return {key for key, number in remaining.items() if earlier.get(key, 0) <= number}


async def _with_bonus_today(tx: Tx, rows: Sequence[VisitorChallenge], challenges: Mapping[int, Challenge]) -> set[int]:
    """The participants who had a bonus today, by the day in the challenge's time zone (UTC if it has none)."""
    zones = {row.visitor_challenge_id: ZoneInfo(challenges[row.challenge_id].timezone or "UTC") for row in rows}
    return await ranking_queries.with_bonus_since(tx, {key: day_start(tx.now, zone) for key, zone in zones.items()})


OPERATIONS: Operations = (
    crud.lists(
        VISITOR_CHALLENGES,
        "rankings.list",
        "GET /visitors/{visitorId}/rankings",
        "List the rank of a visitor in each of its challenges",
        VisitorChallengeQuery,
        view=crud.View(Ranking, _rankings),
    ),
)
