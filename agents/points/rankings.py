"""Where a visitor stands in each challenge, in a number of statements that does not grow with the page."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from agents import crud
from agents.operation import Operations
from agents.points import standings
from agents.points.challenge import CHALLENGES, Challenge
from agents.points.histories import HISTORIES, day_start
from agents.points.visitor_challenge import VISITOR_CHALLENGES, VisitorChallenge
from agents.points.visitor_challenges import VisitorChallengeQuery
from agents.visitors.visitor import VISITORS
from schemas.model import Model
from schemas.types import Flag, Int64, Text
from storage.table import any_of, given
from storage.tx import Tx

AROUND = 2
"""Neighbours shown above and below a visitor."""
TOP_LIMIT = 10_000
"""Entries of topRanking at most, whatever winnerNumber says. Who is in the top does not depend on it."""


class Standing(Model):
    position: Int64
    name: Text
    points: Text
    is_visitor_rank: Flag


class Ranking(Model):
    challenge: Challenge
    visitor_challenge: VisitorChallenge
    top_ranking: list[Standing]
    other_ranking: list[Standing]
    bonus_activated_today: Flag
    visitor_ranking_position: Int64
    can_log_points: Flag


_V, _P, _H = VISITOR_CHALLENGES.columns, VISITORS.columns, HISTORIES.columns
_BIG, _MOMENT = sa.BigInteger(), sa.TIMESTAMP(timezone=True)


def _nearest(whose: sa.TableValuedAlias, order: Sequence[Any], limit: Any, *where: Any) -> Any:
    """For each of those, the first participants in an order of the index."""
    found = (
        sa.select(_V.visitor_id, _V.points, _V.precedence)
        .where(_V.challenge_id == whose.c.challenge, *where)
        .order_by(*order)
        .limit(limit)
        .lateral("found")
    )
    return sa.select(*whose.c, *found.c).select_from(whose).join(found, sa.true())


_UP, _DOWN = (_V.points, _V.precedence), (_V.points.desc(), _V.precedence.desc())
_PLACE = sa.tuple_(*_UP)
_CHALLENGE = given(challenge=_BIG, count=_BIG)
_OWN = given(participant=_BIG, challenge=_BIG, own_points=_BIG, own_precedence=_BIG)
_OWN_PLACE = sa.tuple_(_OWN.c.own_points, _OWN.c.own_precedence)
_EQUAL = given(participant=_BIG, challenge=_BIG, own_points=_BIG, own_precedence=_BIG, most=_BIG)
TOP = _nearest(_CHALLENGE, _DOWN, _CHALLENGE.c.count)
FROM_OWN_UP = _nearest(_OWN, _UP, AROUND + 1, _PLACE >= _OWN_PLACE)
BELOW_OWN = _nearest(_OWN, _DOWN, AROUND, _PLACE < _OWN_PLACE)
_BEFORE = _nearest(
    _EQUAL, (_V.precedence,), _EQUAL.c.most, _V.points == _EQUAL.c.own_points, _V.precedence > _EQUAL.c.own_precedence
).subquery()
BEFORE_OWN = sa.select(_BEFORE.c.participant, sa.func.count().label("number")).group_by(_BEFORE.c.participant)
_PLACES = sa.select(_V.visitor_challenge_id, _V.challenge_id, _V.points, _V.precedence).where(
    any_of(_V.visitor_challenge_id, "participants")
)
_NAMES = sa.select(_P.visitor_id, _P.first_name, _P.last_name).where(any_of(_P.visitor_id, "visitors"))
_TODAY = given(participant=_BIG, since=_MOMENT)
_BONUS = sa.select(_TODAY.c.participant).where(
    sa.exists(
        sa.select(sa.literal(1)).where(
            _H.visitor_challenge_id == _TODAY.c.participant,
            _H.participation_date >= _TODAY.c.since,
            _H.bonus_activated,
        )
    )
)


async def _rankings(tx: Tx, rows: Sequence[VisitorChallenge]) -> Sequence[Ranking]:
    if not rows:
        return []
    challenges = await CHALLENGES.by_key(tx, (row.challenge_id for row in rows))
    counts = [min(max(challenge.winner_number, 0), TOP_LIMIT) for challenge in challenges.values()]
    tops = _sorted(await tx.all(TOP, {"challenge": list(challenges), "count": counts}), "challenge")
    places = await tx.all(_PLACES, {"participants": [row.visitor_challenge_id for row in rows]})
    around = await _around(tx, places)
    wanted = ((row.challenge_id, found.points) for row in rows for found in around[row.visitor_challenge_id])
    positions = await standings.positions(tx, wanted)
    shown = {found.visitor_id for group in (*tops.values(), *around.values()) for found in group}
    names = {row.visitor_id: _name(row) for row in await tx.all(_NAMES, {"visitors": sorted(shown)})}
    bonus = await _bonus_today(tx, rows, challenges)
    winners = await _winners(tx, places, challenges, positions)
    neighbours = {key: found for key, found in around.items() if key not in winners}
    return [
        Ranking.model_construct(
            challenge=challenges[row.challenge_id],
            visitor_challenge=row,
            top_ranking=_top(tops[row.challenge_id], row, names),
            other_ranking=_others(neighbours.get(row.visitor_challenge_id, ()), row, names, positions),
            bonus_activated_today=row.visitor_challenge_id in bonus,
            visitor_ranking_position=positions[row.challenge_id, row.points],
            can_log_points=challenges[row.challenge_id].runs(tx.now),
        )
        for row in rows
    ]


_Names = Mapping[UUID, str]
_Positions = Mapping[tuple[int, int], int]
"""By challenge and points."""


def _top(top: Sequence[Any], row: VisitorChallenge, names: _Names) -> list[Standing]:
    return [
        _standing(found, row, names, position) for found, position in zip(top, _positions_from_first(top), strict=True)
    ]


def _others(around: Sequence[Any], row: VisitorChallenge, names: _Names, positions: _Positions) -> list[Standing]:
    """The visitor with its neighbours."""
    return [_standing(found, row, names, positions[row.challenge_id, found.points]) for found in around]


def _positions_from_first(top: Sequence[Any]) -> Iterator[int]:
    """Equal points share a position; the next one counts all before it."""
    position, points = 0, None
    for place, found in enumerate(top, start=1):
        if found.points != points:
            position, points = place, found.points
        yield position


def _standing(found: Any, row: VisitorChallenge, names: _Names, position: int) -> Standing:
    return Standing.model_construct(
        position=position,
        name=names[found.visitor_id],
        points=str(found.points),
        is_visitor_rank=found.visitor_id == row.visitor_id,
    )


def _name(visitor: Any) -> str:
    """First name and initial; a partial visitor may have no last name."""
    return f"{visitor.first_name} {visitor.last_name[0]}." if visitor.last_name else str(visitor.first_name)


def _sorted(found: Iterable[Any], name: str) -> Mapping[int, list[Any]]:
    """By the given one that they were found for, each from the highest to the lowest."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for row in sorted(found, key=lambda row: (row.points, row.precedence), reverse=True):
        groups[getattr(row, name)].append(row)
    return groups


def _own(places: Sequence[Any]) -> dict[str, list[int]]:
    return {
        "participant": [place.visitor_challenge_id for place in places],
        "challenge": [place.challenge_id for place in places],
        "own_points": [place.points for place in places],
        "own_precedence": [place.precedence for place in places],
    }


async def _around(tx: Tx, places: Sequence[Any]) -> Mapping[int, list[Any]]:
    """Each participant and its neighbours."""
    own = _own(places)
    return _sorted([*await tx.all(FROM_OWN_UP, own), *await tx.all(BELOW_OWN, own)], "participant")


async def _winners(
    tx: Tx, places: Sequence[Any], challenges: Mapping[int, Challenge], positions: _Positions
) -> set[int]:
    """Who of them is among the first winnerNumber. Equal points share a position, so who of the equals was earlier
    counts too, as far as there is room for."""
    room = {
        place.visitor_challenge_id: challenges[place.challenge_id].winner_number
        - positions[place.challenge_id, place.points]
        for place in places
    }
    near = [place for place in places if room[place.visitor_challenge_id] >= 0]
    most = [room[place.visitor_challenge_id] + 1 for place in near]
    earlier = {row.participant: row.number for row in await tx.all(BEFORE_OWN, _own(near) | {"most": most})}
    return {key for key, number in room.items() if earlier.get(key, 0) <= number}


async def _bonus_today(tx: Tx, rows: Sequence[VisitorChallenge], challenges: Mapping[int, Challenge]) -> set[int]:
    """Who had a bonus today, by the day of the challenge's time zone (UTC where it has none)."""
    since = [day_start(tx.now, ZoneInfo(challenges[row.challenge_id].timezone or "UTC")) for row in rows]
    found = await tx.all(_BONUS, {"participant": [row.visitor_challenge_id for row in rows], "since": since})
    return {row.participant for row in found}


OPERATIONS: Operations = (
    crud.lists(
        VISITOR_CHALLENGES,
        "rankings.list",
        "GET /visitors/{visitorId}/rankings",
        "List where a visitor stands in each of its challenges",
        VisitorChallengeQuery,
        view=crud.View(Ranking, _rankings),
    ),
)
