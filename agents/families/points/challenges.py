"""Challenges: their dates and texts, their participants, and their end."""

from typing import Annotated

import sqlalchemy as sa

from agents import crud
from agents.families.points.challenge_table import (
    CHALLENGES,
    Challenge,
    ChallengeFields,
    ChallengeNew,
    ChallengePatch,
    ChallengeStatus,
    ChallengeText,
    ChallengeType,
)
from agents.families.points.visitor_challenge_table import VISITOR_CHALLENGES
from agents.families.translations import translated
from agents.operation import Operations, operation
from schemas.faults import Conflict
from schemas.model import Model, NoFields
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import Flag, Instant, Int64, Omittable, PcCode
from storage.lists import Filter
from storage.table import locked
from storage.tx import Tx

AT_ONCE = 1_000
"""Winners unlocked with one statement, so that none takes long whatever winnerNumber is."""


class ChallengePath(Model):
    challenge_id: Int64


class Termination(Model):
    ignore_end_date: Flag


class ChallengeQuery(PageQuery):
    """`startDate` and `endDate` bound the challenges' own: those that start at or after the one and end at or before
    the other."""

    pc_code: Omittable[PcCode] = None
    type: Omittable[ChallengeType] = None
    start_date: Annotated[Omittable[Instant], Filter(lambda c, moment: c.start_date >= moment)] = None
    end_date: Annotated[Omittable[Instant], Filter(lambda c, moment: c.end_date <= moment)] = None
    status: Omittable[ChallengeStatus] = None


class ParticipantQuery(PageQuery):
    reward_unlocked: Omittable[Flag] = None


_TEXTS = {"display_name": "displayName", "description": "description", "reward_detail": "rewardDetail"}
"""The wire names of the lists of texts, which their texts have as their type."""


@operation(
    "challenges.create", "POST /challenges", summary="Add a challenge",
    body=ChallengeNew, reply=Challenge, partition_key=("pcCode",),
)  # fmt: skip
async def create(tx: Tx, request: Request[NoFields, NoFields, ChallengeNew]) -> Challenge:
    """Raises Invalid for an unknown center."""
    body = request.body
    texts = {
        name: translated(tx, ChallengeText, [], getattr(body, name), field=kind, type=kind)
        for name, kind in _TEXTS.items()
    }
    return await CHALLENGES.insert(tx, {name: getattr(body, name) for name in ChallengeFields.model_fields} | texts)


@operation(
    "challenges.update", "PATCH /challenges/{challengeId}", summary="Update a challenge",
    path=ChallengePath, body=ChallengePatch, reply=None,
)  # fmt: skip
async def update(tx: Tx, request: Request[ChallengePath, NoFields, ChallengePatch]) -> None:
    """Texts are replaced by locale; locales that are not sent keep theirs. Raises NotFound, and Invalid for an unknown
    center and too many texts."""
    where, values = vars(request.path), request.body.sent_fields()
    old = await CHALLENGES.lock(tx, **where)
    texts = {
        name: translated(tx, ChallengeText, getattr(old, name), values[name], field=kind, type=kind)
        for name, kind in _TEXTS.items()
        if name in values
    }
    await CHALLENGES.update(tx, values | texts, **where)


_C, _V = CHALLENGES.columns, VISITOR_CHALLENGES.columns
_FIRST_END = (
    sa.update(CHALLENGES.sql)
    .where(_C.challenge_id == sa.bindparam("challenge"), _C.terminated_at.is_(None))
    .values(terminated_at=sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True)))
    .returning(_C.challenge_id)
)
_WINNERS = (
    sa.select(_V.visitor_challenge_id)
    .where(_V.challenge_id == sa.bindparam("challenge"))
    .order_by(_V.points.desc(), _V.precedence.desc())
    .limit(sa.bindparam("count"))
)
_IN_ORDER = locked(VISITOR_CHALLENGES, "ids")
_UNLOCK = (
    sa.update(VISITOR_CHALLENGES.sql)
    .where(_V.visitor_challenge_id == _IN_ORDER.c.visitor_challenge_id, ~_V.reward_unlocked)
    .values(
        reward_unlocked=True,
        update_date=sa.func.greatest(_V.update_date, sa.bindparam("now", type_=_V.update_date.type)),
        revision=_V.revision + 1,
    )
    .returning(*_V)
)


@operation(
    "challenges.terminate", "POST /challenges/{challengeId}/terminate",
    summary="End a challenge and unlock its rewards", path=ChallengePath, body=Termination, reply=None,
)  # fmt: skip
async def terminate(tx: Tx, request: Request[ChallengePath, NoFields, Termination]) -> None:
    """The first winnerNumber of the ranking have their reward unlocked, once; a challenge that was terminated before
    stays as it is. Raises NotFound, and Conflict before the end date unless that is ignored."""
    challenge_id = request.path.challenge_id
    challenge = await CHALLENGES.lock(tx, challenge_id=challenge_id)
    if tx.cause.arrived < challenge.end_date and not request.body.ignore_end_date:
        raise Conflict("challenge_not_over", "The challenge has not reached its end date.")
    if await tx.first(_FIRST_END, {"challenge": challenge_id, "now": tx.now}) is None:
        return
    await CHALLENGES.update(tx, {"status": "ended"}, challenge_id=challenge_id)
    await _unlock(tx, challenge)


async def _unlock(tx: Tx, challenge: Challenge) -> None:
    count = max(challenge.winner_number, 0)
    found = await tx.all(_WINNERS, {"challenge": challenge.challenge_id, "count": count})
    # In one order over all statements, as each of them locks its rows.
    winners = sorted(row.visitor_challenge_id for row in found)
    for first in range(0, len(winners), AT_ONCE):
        for row in await tx.all(_UNLOCK, {"ids": winners[first : first + AT_ONCE], "now": tx.now}):
            VISITOR_CHALLENGES.changed(tx, row, "updated")


_ONE = "/challenges/{challengeId}"

OPERATIONS: Operations = (
    create,
    crud.lists(CHALLENGES, "challenges.list", "GET /challenges", "List challenges", ChallengeQuery),
    update,
    crud.gets(CHALLENGES, "challenges.get", f"GET {_ONE}", "Read a challenge", query=NoFields),
    crud.lists(
        VISITOR_CHALLENGES,
        "challenges.participants",
        f"GET {_ONE}/visitorChallenges",
        "List the participants of a challenge",
        ParticipantQuery,
    ),
    terminate,
)
