"""The history of a participant's points: one row for each change, with its points and the new totalPoints."""

from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import Flag, Instant, Int64, Omittable, Text, Uuid
from storage.table import Table
from storage.tx import Tx


class ChallengeHistory(Model):
    visitor_challenge_history_id: Int64
    """Id of the entry in the history."""
    challenge_id: Int64
    visitor_id: Uuid
    visitor_challenge_id: Int64
    points: Int64
    """How many points were added."""
    bonus_activated: Flag
    """Whether a bonus was activated."""
    total_points: Int64
    """The points of the participant after it."""
    participation_date: Instant
    """When the request arrived."""
    origin: Text
    """The caller that sent the request."""
    action: Literal["increment", "update", "bonus"]
    """What changed the points."""


class HistoryQuery(Model):
    challenge_id: Omittable[Int64] = None
    """Only the history in this challenge."""


# Histories emit no changes: the change of the visitorChallenge has the new points, and its causedBy identifies the
# request.
HISTORIES = Table(
    "challenge_histories",
    ChallengeHistory,
    family="points",
    resource="challengeHistory",
    key="visitor_challenge_history_id",
    parents={"visitor_id": VISITORS},
    emit_changes=False,
    hidden=[
        sa.ForeignKeyConstraint(
            ["visitor_challenge_id"],
            ["visitor_challenges.visitor_challenge_id"],
            name="challenge_histories_visitor_challenge_id_fkey",
            ondelete="CASCADE",
        ),
        sa.Index("challenge_histories_visitor_id_idx", "visitor_id", "visitor_challenge_history_id"),
        sa.Index("challenge_histories_participation_idx", "visitor_challenge_id", "participation_date"),
    ],
)

_COLUMNS = HISTORIES.columns


def history_row(tx: Tx, participant: Any, *, points: int, action: str, bonus: bool = False) -> dict[str, Any]:
    """The history row for a change of this participant. `participant` already has the new points."""
    return {
        "challenge_id": participant.challenge_id,
        "visitor_id": participant.visitor_id,
        "visitor_challenge_id": participant.visitor_challenge_id,
        "points": points,
        "bonus_activated": bonus,
        "total_points": participant.points,
        "participation_date": tx.cause.arrived,
        "origin": tx.cause.caller.origin,
        "action": action,
    }


@operation(
    "challengeHistories.list", "GET /visitors/{visitorId}/challengeHistories",
    summary="List the history of a visitor's points", path=VisitorPath, query=HistoryQuery,
    reply=ChallengeHistory, shape="array",
)  # fmt: skip
async def list_histories(tx: Tx, request: Request[VisitorPath, HistoryQuery, NoFields]) -> Page[ChallengeHistory]:
    """Returns all rows, oldest first. Raises NotFound, LoadsTooMuch."""
    visitor_id, challenge_id = request.path.visitor_id, request.query.challenge_id
    await VISITORS.require(tx, visitor_id)
    statement = (
        sa.select(HISTORIES.sql)
        .where(_COLUMNS.visitor_id == visitor_id)
        .order_by(_COLUMNS.visitor_challenge_history_id)
    )
    if challenge_id is not None:
        statement = statement.where(_COLUMNS.challenge_id == challenge_id)
    return Page(await HISTORIES.all(tx, statement), more=False)


def day_start(moment: datetime, zone: Any) -> datetime:
    """Midnight at the start of the day of `moment` in this time zone."""
    return moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)


OPERATIONS: Operations = (list_histories,)
