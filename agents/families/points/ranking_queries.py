"""The SQL of rankings. Each query serves a whole page of participants, and reads a bounded number of index entries for
each of them, whatever the number of participants in the challenge.

Participants of a challenge are ordered by the index `visitor_challenges_standing_idx`: by points, then by `precedence`,
which is higher for a participant who reached these points earlier. So the top of a challenge, and the neighbours of a
participant, are the next few entries of that index in one direction.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agents.families.points.histories import HISTORIES
from agents.families.points.visitor_challenge_table import VISITOR_CHALLENGES
from agents.families.visitors.visitor_table import VISITORS
from storage.statements import any_of, unnest_rows
from storage.tx import Tx

_PARTICIPANTS, _VISITORS, _HISTORIES = VISITOR_CHALLENGES.columns, VISITORS.columns, HISTORIES.columns
_RANK = sa.tuple_(_PARTICIPANTS.points, _PARTICIPANTS.precedence)
_UPWARDS = (_PARTICIPANTS.points, _PARTICIPANTS.precedence)
_DOWNWARDS = (_PARTICIPANTS.points.desc(), _PARTICIPANTS.precedence.desc())
_BIGINT = sa.BigInteger()


def top(tx: Tx, limits: Mapping[int, int]) -> AsyncGenerator[Sequence[Any]]:
    """The best participants of each challenge, as many as `limits` says for its id, in chunks."""
    return tx.chunks(top_statement(), {"challenge_id": list(limits), "count": list(limits.values())})


def top_statement() -> Any:
    """For each challenge: walk the index from its end, and stop after `count` entries."""
    challenges = unnest_rows(challenge_id=_BIGINT, count=_BIGINT)
    return _nearest(challenges, _DOWNWARDS, challenges.c.count)


async def neighbours(tx: Tx, participants: Sequence[Any], distance: int) -> Sequence[Any]:
    """Each participant, and up to `distance` participants directly above and below it."""
    parameters = own_parameters(participants)
    upwards = await tx.all(upwards_statement(distance), parameters)
    return [*upwards, *await tx.all(below_statement(distance), parameters)]


def upwards_statement(distance: int) -> Any:
    """For each participant: start at its own index entry, and walk up. The first entry is the participant itself."""
    own = _own()
    return _nearest(own, _UPWARDS, distance + 1, sa.tuple_(own.c.own_points, own.c.own_precedence) <= _RANK)


def below_statement(distance: int) -> Any:
    """For each participant: start below its own index entry, and walk down."""
    own = _own()
    return _nearest(own, _DOWNWARDS, distance, sa.tuple_(own.c.own_points, own.c.own_precedence) > _RANK)


async def earlier_equals(tx: Tx, participants: Sequence[Any], limits: Sequence[int]) -> Mapping[int, int]:
    """How many participants have the same points and reached them earlier, by visitorChallengeId. The count ends at the
    participant's limit; a participant without such equals is left out."""
    parameters = own_parameters(participants) | {"limit": list(limits)}
    return {row.participant: row.number for row in await tx.all(earlier_equals_statement(), parameters)}


def earlier_equals_statement() -> Any:
    """For each participant: walk up the index within its own points, at most `limit` entries, and count them."""
    own = _own(limit=_BIGINT)
    same_points = _PARTICIPANTS.points == own.c.own_points
    earlier = _PARTICIPANTS.precedence > own.c.own_precedence
    equals = _nearest(own, (_PARTICIPANTS.precedence,), own.c.limit, same_points, earlier).subquery()
    return sa.select(equals.c.participant, sa.func.count().label("number")).group_by(equals.c.participant)


async def ranks(tx: Tx, visitor_challenge_ids: Iterable[int]) -> Sequence[Any]:
    """Challenge, points and precedence of these participants."""
    columns = (_PARTICIPANTS.visitor_challenge_id, _PARTICIPANTS.challenge_id, *_UPWARDS)
    statement = sa.select(*columns).where(any_of(_PARTICIPANTS.visitor_challenge_id, "participants"))
    return await tx.all(statement, {"participants": list(visitor_challenge_ids)})


def names(tx: Tx, visitor_ids: Iterable[Any]) -> AsyncGenerator[Sequence[Any]]:
    """First and last names of these visitors, in chunks."""
    statement = sa.select(_VISITORS.visitor_id, _VISITORS.first_name, _VISITORS.last_name)
    statement = statement.where(any_of(_VISITORS.visitor_id, "visitors"))
    return tx.chunks(statement, {"visitors": sorted(visitor_ids)})


async def with_bonus_since(tx: Tx, since: Mapping[int, datetime]) -> set[int]:
    """The participants who had a bonus at or after their time; `since` maps visitorChallengeIds to times."""
    participants = unnest_rows(participant=_BIGINT, since=sa.TIMESTAMP(timezone=True))
    bonus = sa.select(sa.literal(1)).where(
        _HISTORIES.visitor_challenge_id == participants.c.participant,
        _HISTORIES.participation_date >= participants.c.since,
        _HISTORIES.bonus_activated,
    )
    statement = sa.select(participants.c.participant).where(sa.exists(bonus))
    rows = await tx.all(statement, {"participant": list(since), "since": list(since.values())})
    return {row.participant for row in rows}


def own_parameters(participants: Sequence[Any]) -> dict[str, list[int]]:
    """The parameters that `_own` takes; `participants` are rows of `ranks`."""
    return {
        "participant": [row.visitor_challenge_id for row in participants],
        "challenge_id": [row.challenge_id for row in participants],
        "own_points": [row.points for row in participants],
        "own_precedence": [row.precedence for row in participants],
    }


def _own(**types: Any) -> sa.TableValuedAlias:
    """One row for each participant, with `own_parameters` and further columns of these types."""
    return unnest_rows(participant=_BIGINT, challenge_id=_BIGINT, own_points=_BIGINT, own_precedence=_BIGINT, **types)


def _nearest(origins: sa.TableValuedAlias, order: Sequence[Any], limit: Any, *where: Any) -> Any:
    """For each origin, the first `limit` participants of its challenge in this order of the index. A lateral join, so
    that PostgreSQL walks the index once for each origin and stops at the limit."""
    nearest = (
        sa.select(_PARTICIPANTS.visitor_id, _PARTICIPANTS.points, _PARTICIPANTS.precedence)
        .where(_PARTICIPANTS.challenge_id == origins.c.challenge_id, *where)
        .order_by(*order)
        .limit(limit)
        .lateral("nearest")
    )
    return sa.select(*origins.c, *nearest.c).select_from(origins).join(nearest, sa.true())
