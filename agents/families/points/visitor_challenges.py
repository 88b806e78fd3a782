"""Taking part in challenges: joining, points, and what an administrator corrects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.points import standings
from agents.families.points.challenge_table import CHALLENGES, Challenge, ChallengeType
from agents.families.points.histories import HISTORIES, step
from agents.families.points.visitor_challenge_table import (
    VISITOR_CHALLENGES,
    VisitorChallenge,
    VisitorChallengeNew,
    VisitorChallengePatch,
)
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, apply_each, batch_operation, operation
from schemas.faults import Conflict, Invalid
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import INT64, Instant, Int64, Omittable, PcCode
from storage.lists import Filter
from storage.statements import any_of, unnest_rows
from storage.tx import Tx


class VisitorChallengePath(VisitorPath):
    visitor_challenge_id: Int64


class Points(Model):
    points: Int64


def _challenge_with(name: str) -> Filter:
    def condition(columns: Any, value: Any) -> sa.ColumnElement[bool]:
        matching = sa.select(CHALLENGES.columns.challenge_id).where(CHALLENGES.columns[name] == value)
        found: sa.ColumnElement[bool] = columns.challenge_id.in_(matching)
        return found

    return Filter(condition)


class VisitorChallengeQuery(PageQuery):
    pc_code: Annotated[Omittable[PcCode], _challenge_with("pc_code")] = None
    type: Annotated[Omittable[ChallengeType], _challenge_with("type")] = None
    register_date_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registered_date >= moment)] = None
    register_date_until: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registered_date < moment)] = None


def _running(challenge: Challenge, tx: Tx) -> None:
    """Raises Conflict. The time of arrival counts, not that of the work."""
    if not challenge.runs(tx.cause.arrived):
        raise Conflict("challenge_not_running", "The challenge is not active, or this is not between its dates.")


# Not ended while one joins or points are added: challenges.terminate waits for us, or we see that it has ended.
_CHALLENGE = (
    sa.select(CHALLENGES.sql)
    .where(CHALLENGES.columns.challenge_id == sa.bindparam("challenge"))
    .with_for_update(read=True)
)


@operation(
    "visitorChallenges.create", "POST /visitors/{visitorId}/visitorChallenges", summary="Join a challenge",
    path=VisitorPath, body=VisitorChallengeNew, reply=VisitorChallenge,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, VisitorChallengeNew]) -> VisitorChallenge:
    """Raises NotFound for the visitor, Invalid for an unknown challenge, Conflict where it does not run or the visitor
    has joined already."""
    body = request.body
    await VISITORS.require(tx, request.path.visitor_id)
    challenge = await tx.first(_CHALLENGE, {"challenge": body.challenge_id})
    if challenge is None:
        raise Invalid("challenge_not_found", "There is no such challenge.", field="challengeId")
    _running(CHALLENGES.to_row(challenge), tx)
    arrival = (await standings.arrivals(tx, 1))[0]
    values = {
        "visitor_id": request.path.visitor_id,
        "challenge_id": body.challenge_id,
        "registered_date": body.registered_at or tx.cause.arrived,
        "points": 0,
        "total_entry_count": 0,
        "bonus_entry_count": 0,
        "reward_unlocked": False,
        "reward_received": False,
        "precedence": -arrival,
    }
    return await VISITOR_CHALLENGES.insert(tx, values)


@operation(
    "visitorChallenges.update", "PATCH /visitors/{visitorId}/visitorChallenges/{visitorChallengeId}",
    summary="Correct a participant", path=VisitorChallengePath, body=VisitorChallengePatch, reply=None,
)  # fmt: skip
async def update(tx: Tx, request: Request[VisitorChallengePath, NoFields, VisitorChallengePatch]) -> None:
    """Other points move the standing, and they and a raised bonusEntryCount go into the history. Raises NotFound, and
    Invalid for points below zero."""
    where = vars(request.path)
    old = await VISITOR_CHALLENGES.lock(tx, **where)
    values = request.body.sent_fields()
    points = values.get("points", old.points)
    if points < 0:
        raise Invalid("points_below_zero", "The points would be below zero.", field="points")
    if points != old.points:
        values["precedence"] = -(await standings.arrivals(tx, 1))[0]
        await standings.move(tx, [(old.challenge_id, old.points, points)])
    new = await VISITOR_CHALLENGES.update(tx, values, **where)
    bonus = new.bonus_entry_count > old.bonus_entry_count
    if bonus or points != old.points:
        action = "bonus" if bonus else "update"
        await HISTORIES.insert(tx, step(tx, new, points=points - old.points, action=action, bonus=bonus))


@dataclass
class _Participant:
    """A locked participant, as the points of a batch change it one after the other."""

    row: VisitorChallenge
    revision: int
    before: int
    precedence: int

    def add(self, tx: Tx, points: int) -> None:
        """Raises Invalid for a sum below zero or beyond 64 bits."""
        total, entries = self.row.points + points, self.row.total_entry_count + 1
        if total < 0:
            raise Invalid("points_below_zero", "The points would be below zero.", field="points")
        if max(total, entries) > INT64:
            raise Invalid("out_of_range", "The sum would be beyond a 64-bit number.", field="points")
        changed = {
            "points": total, "total_entry_count": entries,
            "last_entry_date": max(tx.cause.arrived, self.row.last_entry_date or tx.cause.arrived),
            "update_date": max(tx.now, self.row.update_date),
        }  # fmt: skip
        self.row = self.row.model_copy(update=changed)
        self.revision += 1


_V = VISITOR_CHALLENGES.columns
_ITS_CHALLENGES = sa.select(_V.challenge_id).where(any_of(_V.visitor_challenge_id, "ids"))
_CHALLENGES = (
    sa.select(CHALLENGES.sql)
    .where(CHALLENGES.columns.challenge_id.in_(_ITS_CHALLENGES))
    .order_by(CHALLENGES.columns.challenge_id)
    .with_for_update(read=True)
)
_PARTICIPANTS = (
    sa.select(VISITOR_CHALLENGES.sql)
    .where(any_of(_V.visitor_challenge_id, "ids"))
    .order_by(_V.visitor_challenge_id)
    .with_for_update(key_share=True)
)
_MOVED = (
    "visitor_challenge_id", "points", "total_entry_count", "last_entry_date", "update_date", "precedence", "revision",
)  # fmt: skip
_NEW = unnest_rows(**{f"new_{name}": _V[name].type for name in _MOVED})
_WRITE = (
    sa.update(VISITOR_CHALLENGES.sql)
    .where(_V.visitor_challenge_id == _NEW.c.new_visitor_challenge_id)
    .values({name: _NEW.c[f"new_{name}"] for name in _MOVED[1:]})
)
_Step = tuple[VisitorChallenge, int, int]


@batch_operation(
    "visitorChallenges.addPoints", "POST /visitors/{visitorId}/visitorChallenges/{visitorChallengeId}/points",
    summary="Add points to a participant", path=VisitorChallengePath, body=Points, reply=None,
)  # fmt: skip
async def add_points(calls: Sequence[tuple[Tx, Request[VisitorChallengePath, NoFields, Points]]]) -> Sequence[Any]:
    """Each counts an entry, moves lastEntryDate and goes into the history. Raises NotFound, Conflict where the
    challenge does not run, and Invalid for a sum below zero."""
    tx = calls[0][0]
    ids = sorted({request.path.visitor_challenge_id for _, request in calls})
    challenges = {row.challenge_id: CHALLENGES.to_row(row) for row in await tx.all(_CHALLENGES, {"ids": ids})}
    participants = {
        row.visitor_challenge_id: _Participant(VISITOR_CHALLENGES.to_row(row), row.revision, row.points, row.precedence)
        for row in await tx.all(_PARTICIPANTS, {"ids": ids})
    }

    def added(tx: Tx, request: Request[VisitorChallengePath, NoFields, Points]) -> _Step:
        participant = participants.get(request.path.visitor_challenge_id)
        if participant is None or participant.row.visitor_id != request.path.visitor_id:
            raise VISITOR_CHALLENGES.missing()
        _running(challenges[participant.row.challenge_id], tx)
        participant.add(tx, request.body.points)
        return participant.row, participant.revision, request.body.points

    async def store(accepted: Sequence[tuple[Tx, _Step]]) -> Sequence[None]:
        arrivals = await standings.arrivals(tx, len(accepted))
        for (one, (row, revision, points)), arrival in zip(accepted, arrivals, strict=True):
            if points:
                participants[row.visitor_challenge_id].precedence = -arrival
            VISITOR_CHALLENGES.record(one, row, row.visitor_challenge_id, revision, "updated")
        changed = [participants[key] for key in sorted({row.visitor_challenge_id for _, (row, _, _) in accepted})]
        await _write(tx, changed)
        await HISTORIES.insert_many(
            [(one, step(one, row, points=points, action="increment")) for one, (row, _, points) in accepted]
        )
        return [None] * len(accepted)

    return await apply_each(calls, added, store)


async def _write(tx: Tx, changed: Sequence[_Participant]) -> None:
    columns = {f"new_{name}": [getattr(each.row, name, None) for each in changed] for name in _MOVED}
    columns["new_precedence"] = [each.precedence for each in changed]
    columns["new_revision"] = [each.revision for each in changed]
    await tx.conn.execute(_WRITE, columns)
    await standings.move(tx, [(each.row.challenge_id, each.before, each.row.points) for each in changed])


_OF_VISITOR = (
    sa.select(_V.challenge_id, _V.points)
    .where(_V.visitor_id == sa.bindparam("visitor"))
    .order_by(_V.visitor_challenge_id)
    .with_for_update()
)


async def remove_from_standings(tx: Tx, visitor_id: UUID) -> None:
    """Take a visitor who is being erased out of the standings. What is left or gets points at the same time is waited
    for, so that exactly what the erasure removes is taken away."""
    parts = await tx.all(_OF_VISITOR, {"visitor": visitor_id})
    await standings.move(tx, [(part.challenge_id, part.points, 0) for part in parts])


async def _leave(tx: Tx, left: VisitorChallenge) -> None:
    await standings.move(tx, [(left.challenge_id, left.points, 0)])


_ALL = "/visitors/{visitorId}/visitorChallenges"

OPERATIONS: Operations = (
    create,
    crud.lists(
        VISITOR_CHALLENGES,
        "visitorChallenges.list",
        f"GET {_ALL}",
        "List a visitor's challenges",
        VisitorChallengeQuery,
    ),
    update,
    add_points,
    crud.deletes(
        VISITOR_CHALLENGES,
        "visitorChallenges.delete",
        f"DELETE {_ALL}/{{visitorChallengeId}}",
        "Leave a challenge",
        then=_leave,
    ),
)
