"""The visitorChallenge, the participation of a visitor in a challenge: its models and its table."""

import sqlalchemy as sa

from agents import crud
from agents.families.points.challenge_table import CHALLENGES
from agents.families.visitors.visitor_table import VISITORS
from schemas.model import Model
from schemas.types import Flag, Instant, Int64, Omittable, Uuid
from storage.table import Table


class ProgressFields(Model):
    points: Int64
    """The points of the participant."""
    total_entry_count: Int64
    """How many times points were added."""
    bonus_entry_count: Int64
    """How many bonuses were activated."""
    last_entry_date: Instant | None
    """When points were last added; null if never."""
    reward_unlocked: Flag
    reward_received: Flag
    """Whether the participant has received the reward."""


class VisitorChallengePatch(ProgressFields, partial=True):
    pass


class VisitorChallengeNew(Model):
    challenge_id: Int64
    registered_at: Omittable[Instant] = None
    """When the visitor joined. By default it is the time of arrival."""


class VisitorChallenge(ProgressFields):
    visitor_id: Uuid
    challenge_id: Int64
    registered_date: Instant
    """When the visitor joined."""
    creation_date: Instant
    update_date: Instant
    visitor_challenge_id: Int64


VISITOR_CHALLENGES = Table(
    "visitor_challenges",
    VisitorChallenge,
    family="points",
    resource="visitorChallenge",
    key="visitor_challenge_id",
    parents={"visitor_id": VISITORS, "challenge_id": CHALLENGES},
    conflicts={
        "visitor_challenges_visitor_id_key": crud.already_exists(
            "visitor_challenge", "The visitor has already joined this challenge.", "challengeId"
        )
    },
    hidden=[
        # Higher means earlier, so that one index scan in one direction returns the order of the ranking.
        sa.Column("precedence", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("visitor_id", "challenge_id"),
        sa.Index("visitor_challenges_challenge_id_idx", "challenge_id", "visitor_challenge_id"),
        sa.Index("visitor_challenges_standing_idx", "challenge_id", "points", "precedence"),
        # Finds the few winners among very many participants.
        sa.Index(
            "visitor_challenges_unlocked_idx",
            "challenge_id",
            "visitor_challenge_id",
            postgresql_where="reward_unlocked",
        ),
    ],
)
