"""Participants of challenges: joining, adding points, corrections by an administrator, and leaving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.points import standings
from agents.families.points.challenge_table import CHALLENGES, Challenge, ChallengeType
from agents.families.points.histories import HISTORIES, history_row
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
    """How many points to add. A negative number takes points away."""


def _challenge_with(name: str) -> Filter:
    def condition(columns: Any, value: Any) -> sa.ColumnElement[bool]:
        challenge_ids = sa.select(CHALLENGES.columns.challenge_id).where(CHALLENGES.columns[name] == value)
        matches: sa.ColumnElement[bool] = columns.challenge_id.in_(challenge_ids)
        return matches

    return Filter(condition)


class VisitorChallengeQuery(PageQuery):
    pc_code: Annotated[Omittable[PcCode], _challenge_with("pc_code")] = None
    """Only participations in challenges of the center with this code."""
    type: Annotated[Omittable[ChallengeType], _challenge_with("type")] = None
    """Only participations in challenges of this type."""
    register_date_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registered_date >= moment)] = None
    """Only participations that began at or after this time."""
    register_date_until: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registered_date < moment)] = None
    """Only participations that began before this time."""


def _require_running(challenge: Challenge, tx: Tx) -> None:
    """Raises Conflict. The time at which the request arrived counts, not the time at which it is applied."""
    if not challenge.runs(tx.cause.arrived):
        message = "The challenge does not run: it must be active, and the request must arrive between its dates."
        raise Conflict("challenge_not_running", message)


# FOR SHARE: challenges.terminate waits for this transaction, or this transaction sees the ended challenge.
_LOCK_CHALLENGE = (
    sa.select(CHALLENGES.sql)
    .where(CHALLENGES.columns.challenge_id == sa.bindparam("challenge"))
    .with_for_update(read=True)
)


@operation(
    "visitorChallenges.create", "POST /visitors/{visitorId}/visitorChallenges", summary="Join a challenge",
    path=VisitorPath, body=VisitorChallengeNew, reply=VisitorChallenge, table=VISITOR_CHALLENGES,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, VisitorChallengeNew]) -> VisitorChallenge:
    """Raises NotFound for the visitor, Invalid for an unknown challenge, and Conflict if the challenge does not run or
    the visitor has already joined it."""
    body = request.body
    await VISITORS.require(tx, request.path.visitor_id)
    challenge = await tx.first(_LOCK_CHALLENGE, {"challenge": body.challenge_id})
    if challenge is None:
        raise Invalid("challenge_not_found", "There is no such challenge.", field="challengeId")
    _require_running(CHALLENGES.to_row(challenge), tx)
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
    table=VISITOR_CHALLENGES,
)  # fmt: skip
async def update(tx: Tx, request: Request[VisitorChallengePath, NoFields, VisitorChallengePatch]) -> None:
    """Changed points change the ranking. Changed points and a higher `bonusEntryCount` add a history row. Raises
    NotFound, and Invalid for points below zero."""
    where = vars(request.path)
    old = await VISITOR_CHALLENGES.lock(tx, **where)
    values = request.body.sent_fields()
    points = values.get("points", old.points)
    if points < 0:
        raise Invalid("points_below_zero", "The points must not be below zero.", field="points")
    if points != old.points:
        values["precedence"] = -(await standings.arrivals(tx, 1))[0]
        await standings.move(tx, [(old.challenge_id, old.points, points)])
    new = await VISITOR_CHALLENGES.update(tx, values, **where)
    bonus = new.bonus_entry_count > old.bonus_entry_count
    if bonus or points != old.points:
        action = "bonus" if bonus else "update"
        await HISTORIES.insert(tx, history_row(tx, new, points=points - old.points, action=action, bonus=bonus))


@dataclass
class _Participant:
    """A locked participant. The requests of a batch change `row` and `revision` one after the other; `stored_points`
    are the points in the database."""

    row: VisitorChallenge
    revision: int
    stored_points: int
    precedence: int

    def add(self, tx: Tx, points: int) -> None:
        """Raises Invalid for a total below zero or above the largest 64-bit integer."""
        total, entries = self.row.points + points, self.row.total_entry_count + 1
        if total < 0:
            raise Invalid("points_below_zero", "The total must not be below zero.", field="points")
        if max(total, entries) > INT64:
            raise Invalid("out_of_range", "The total and the count must fit into a 64-bit integer.", field="points")
        values = {
            "points": total, "total_entry_count": entries,
            "last_entry_date": max(tx.cause.arrived, self.row.last_entry_date or tx.cause.arrived),
            "update_date": max(tx.now, self.row.update_date),
        }  # fmt: skip
        self.row = self.row.model_copy(update=values)
        self.revision += 1


class _Addition(NamedTuple):
    """The points that one request added, and the participant after it."""

    points: int
    row: VisitorChallenge
    revision: int


_COLUMNS = VISITOR_CHALLENGES.columns
_CHALLENGE_IDS = sa.select(_COLUMNS.challenge_id).where(any_of(_COLUMNS.visitor_challenge_id, "ids"))
_LOCK_CHALLENGES = (
    sa.select(CHALLENGES.sql)
    .where(CHALLENGES.columns.challenge_id.in_(_CHALLENGE_IDS))
    .order_by(CHALLENGES.columns.challenge_id)
    .with_for_update(read=True)
)
_LOCK_PARTICIPANTS = (
    sa.select(VISITOR_CHALLENGES.sql)
    .where(any_of(_COLUMNS.visitor_challenge_id, "ids"))
    .order_by(_COLUMNS.visitor_challenge_id)
    .with_for_update(key_share=True)
)
_UPDATED = ("points", "total_entry_count", "last_entry_date", "update_date", "precedence", "revision")


@batch_operation(
    "visitorChallenges.addPoints", "POST /visitors/{visitorId}/visitorChallenges/{visitorChallengeId}/points",
    summary="Add points to a participant", path=VisitorChallengePath, body=Points, reply=None,
)  # fmt: skip
async def add_points(calls: Sequence[tuple[Tx, Request[VisitorChallengePath, NoFields, Points]]]) -> Sequence[Any]:
    """Each call counts an entry, updates `lastEntryDate` and adds a history row. Raises NotFound, Conflict if the
    challenge does not run, and Invalid for a total below zero."""
    tx = calls[0][0]
    ids = sorted({request.path.visitor_challenge_id for _, request in calls})
    challenges = {row.challenge_id: CHALLENGES.to_row(row) for row in await tx.all(_LOCK_CHALLENGES, {"ids": ids})}
    participants = {
        row.visitor_challenge_id: _Participant(VISITOR_CHALLENGES.to_row(row), row.revision, row.points, row.precedence)
        for row in await tx.all(_LOCK_PARTICIPANTS, {"ids": ids})
    }

    def add(tx: Tx, request: Request[VisitorChallengePath, NoFields, Points]) -> _Addition:
        participant = participants.get(request.path.visitor_challenge_id)
        if participant is None or participant.row.visitor_id != request.path.visitor_id:
            raise VISITOR_CHALLENGES.not_found()
        _require_running(challenges[participant.row.challenge_id], tx)
        participant.add(tx, request.body.points)
        return _Addition(request.body.points, participant.row, participant.revision)

    return await apply_each(calls, add, partial(_store_additions, participants))


async def _store_additions(
    participants: Mapping[int, _Participant], additions: Sequence[tuple[Tx, _Addition]]
) -> Sequence[None]:
    """Record one change and one history row for each request, and write each participant once."""
    batch_tx = additions[0][0]
    arrivals = await standings.arrivals(batch_tx, len(additions))
    for (tx, addition), arrival in zip(additions, arrivals, strict=True):
        participant_id = addition.row.visitor_challenge_id
        if addition.points:
            participants[participant_id].precedence = -arrival
        VISITOR_CHALLENGES.record_change(tx, addition.row, participant_id, addition.revision, "updated")
    updated_ids = sorted({addition.row.visitor_challenge_id for _, addition in additions})
    await _write(batch_tx, [participants[participant_id] for participant_id in updated_ids])
    await HISTORIES.insert_many(
        [(tx, history_row(tx, addition.row, points=addition.points, action="increment")) for tx, addition in additions]
    )
    return [None] * len(additions)


async def _write(tx: Tx, participants: Sequence[_Participant]) -> None:
    keys = [participant.row.visitor_challenge_id for participant in participants]
    values = {
        f"new_{name}": [getattr(participant.row, name, None) for participant in participants] for name in _UPDATED
    }
    values["new_precedence"] = [participant.precedence for participant in participants]
    values["new_revision"] = [participant.revision for participant in participants]
    await tx.execute(_UPDATE_PARTICIPANTS, {"new_visitor_challenge_id": keys, **values})
    await standings.move(
        tx,
        [
            (participant.row.challenge_id, participant.stored_points, participant.row.points)
            for participant in participants
        ],
    )


def _update_participants_statement() -> Any:
    """Update many participants, each with its own values, which are the rows of list parameters."""
    new = unnest_rows(**{f"new_{name}": _COLUMNS[name].type for name in ("visitor_challenge_id", *_UPDATED)})
    return (
        sa.update(VISITOR_CHALLENGES.sql)
        .where(_COLUMNS.visitor_challenge_id == new.c.new_visitor_challenge_id)
        .values({name: new.c[f"new_{name}"] for name in _UPDATED})
    )


_UPDATE_PARTICIPANTS = _update_participants_statement()


async def remove_from_standings(tx: Tx, visitor_id: UUID) -> None:
    """Remove a visitor who is being erased from the standings. The rows are locked first: a concurrent deletion or
    addition of points is then finished or waits, so the counts that are removed are those of the erased rows."""
    statement = (
        sa.select(_COLUMNS.challenge_id, _COLUMNS.points)
        .where(_COLUMNS.visitor_id == visitor_id)
        .order_by(_COLUMNS.visitor_challenge_id)
        .with_for_update()
    )
    rows = await tx.all(statement)
    await standings.move(tx, [(row.challenge_id, row.points, 0) for row in rows])


async def _remove_points(tx: Tx, deleted: VisitorChallenge) -> None:
    await standings.move(tx, [(deleted.challenge_id, deleted.points, 0)])


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
        then=_remove_points,
    ),
)
