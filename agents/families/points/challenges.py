"""Challenges: their dates and texts, the list of their participants, and their termination."""

from typing import Annotated, Any

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

WINNERS_PER_STATEMENT = 1_000
"""Limit for one update, so that no statement takes long even if winnerNumber is very high."""


class ChallengePath(Model):
    challenge_id: Int64


class Termination(Model):
    ignore_end_date: Flag
    """Whether the challenge is terminated before its `endDate` as well."""


class ChallengeQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    """Only challenges of the center with this code."""
    type: Omittable[ChallengeType] = None
    """Only challenges of this type."""
    start_date: Annotated[Omittable[Instant], Filter(lambda c, moment: c.start_date >= moment)] = None
    """Only challenges that start at or after this time."""
    end_date: Annotated[Omittable[Instant], Filter(lambda c, moment: c.end_date <= moment)] = None
    """Only challenges that end at or before this time."""
    status: Omittable[ChallengeStatus] = None
    """Only challenges with this status."""


class ParticipantQuery(PageQuery):
    reward_unlocked: Omittable[Flag] = None
    """Only participants whose reward is unlocked, or with `false` only those whose reward is not."""


_TEXTS = {"display_name": "displayName", "description": "description", "reward_detail": "rewardDetail"}
"""The wire names of the lists of texts. Each text repeats the name of its list as its `type`."""


@operation(
    "challenges.create", "POST /challenges", summary="Add a challenge",
    body=ChallengeNew, reply=Challenge, partition_key=("pcCode",),
)  # fmt: skip
async def create(tx: Tx, request: Request[NoFields, NoFields, ChallengeNew]) -> Challenge:
    """Raises Invalid for an unknown center."""
    body = request.body
    texts = {
        name: translated(tx, ChallengeText, [], getattr(body, name), field=wire_name, type=wire_name)
        for name, wire_name in _TEXTS.items()
    }
    return await CHALLENGES.insert(tx, {name: getattr(body, name) for name in ChallengeFields.model_fields} | texts)


@operation(
    "challenges.update", "PATCH /challenges/{challengeId}", summary="Update a challenge",
    path=ChallengePath, body=ChallengePatch, reply=None,
)  # fmt: skip
async def update(tx: Tx, request: Request[ChallengePath, NoFields, ChallengePatch]) -> None:
    """Texts are replaced by locale; the texts of other locales stay. Raises NotFound, and Invalid for an unknown
    center or texts that are too long."""
    where, values = vars(request.path), request.body.sent_fields()
    old = await CHALLENGES.lock(tx, **where)
    texts = {
        name: translated(tx, ChallengeText, getattr(old, name), values[name], field=wire_name, type=wire_name)
        for name, wire_name in _TEXTS.items()
        if name in values
    }
    await CHALLENGES.update(tx, values | texts, **where)


_CHALLENGES, _PARTICIPANTS = CHALLENGES.columns, VISITOR_CHALLENGES.columns


@operation(
    "challenges.terminate", "POST /challenges/{challengeId}/terminate",
    summary="End a challenge and unlock its rewards", path=ChallengePath, body=Termination, reply=None,
)  # fmt: skip
async def terminate(tx: Tx, request: Request[ChallengePath, NoFields, Termination]) -> None:
    """Unlocks the rewards of the first `winnerNumber` participants of the ranking, once. A second call changes nothing.
    Points that arrived before it and are applied after it are refused, since the winners are known.
    Raises NotFound, and Conflict before the end date unless it is ignored."""
    challenge_id = request.path.challenge_id
    challenge = await CHALLENGES.lock(tx, challenge_id=challenge_id)
    if tx.cause.arrived < challenge.end_date and not request.body.ignore_end_date:
        message = "The challenge has not reached its end date. Wait for it, or set ignoreEndDate."
        raise Conflict("challenge_not_over", message)
    if await _mark_terminated(tx, challenge_id):
        await CHALLENGES.update(tx, {"status": "ended"}, challenge_id=challenge_id)
        await _unlock_rewards(tx, await _winners(tx, challenge))


async def _mark_terminated(tx: Tx, challenge_id: int) -> bool:
    """Set the time of termination. True for the first termination only, even if the status was changed after it."""
    statement = (
        sa.update(CHALLENGES.sql)
        .where(_CHALLENGES.challenge_id == challenge_id, _CHALLENGES.terminated_at.is_(None))
        .values(terminated_at=tx.now)
        .returning(_CHALLENGES.challenge_id)
    )
    return await tx.first(statement) is not None


async def _winners(tx: Tx, challenge: Challenge) -> list[int]:
    """The visitorChallengeIds of the first `winner_number` participants, ascending. The query walks the index
    `visitor_challenges_standing_idx` from its end and stops at the limit."""
    statement = (
        sa.select(_PARTICIPANTS.visitor_challenge_id)
        .where(_PARTICIPANTS.challenge_id == challenge.challenge_id)
        .order_by(_PARTICIPANTS.points.desc(), _PARTICIPANTS.precedence.desc())
        .limit(max(challenge.winner_number, 0))
    )
    return sorted(row.visitor_challenge_id for row in await tx.all(statement))


async def _unlock_rewards(tx: Tx, winners: list[int]) -> None:
    """`winners` are ascending, so that all statements lock their rows in the same order."""
    for start in range(0, len(winners), WINNERS_PER_STATEMENT):
        chunk = winners[start : start + WINNERS_PER_STATEMENT]
        for row in await tx.all(_UNLOCK, {"ids": chunk, "now": tx.now}):
            VISITOR_CHALLENGES.record_change_of(tx, row, "updated")


def _unlock_statement() -> Any:
    """Lock the participants in `ids` in the order of their ids, and unlock the rewards that are still locked."""
    ordered = locked(VISITOR_CHALLENGES, "ids")
    now = sa.bindparam("now", type_=_PARTICIPANTS.update_date.type)
    return (
        sa.update(VISITOR_CHALLENGES.sql)
        .where(_PARTICIPANTS.visitor_challenge_id == ordered.c.visitor_challenge_id, ~_PARTICIPANTS.reward_unlocked)
        .values(
            reward_unlocked=True,
            update_date=sa.func.greatest(_PARTICIPANTS.update_date, now),
            revision=_PARTICIPANTS.revision + 1,
        )
        .returning(*_PARTICIPANTS)
    )


_UNLOCK = _unlock_statement()
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
