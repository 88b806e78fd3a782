"""The challenge, a contest between the visitors of a center: its models, its table, and when it runs."""

from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from agents.families.centers.centers import CENTERS
from agents.families.translations import Translation, TranslationNew
from schemas.model import Model
from schemas.types import Instant, Int64, Omittable, PcCode, Text, Timezone, Url
from storage.table import Table

ChallengeType = Literal["step_counter"]
ChallengeStatus = Literal["draft", "active", "ended", "archived", "ready"]


class ChallengeText(Translation):
    type: Text


class ChallengeFields(Model):
    pc_code: PcCode
    generic_name: Text
    type: ChallengeType
    start_date: Instant
    end_date: Instant
    timezone: Omittable[Timezone] = None
    image_url: Url | None = None
    winner_number: Int64
    reward_expiration_seconds: Int64 | None = None
    status: ChallengeStatus


class ChallengeNew(ChallengeFields):
    display_name: list[TranslationNew]
    description: list[TranslationNew]
    reward_detail: list[TranslationNew]


class ChallengePatch(ChallengeNew, partial=True):
    pass


class Challenge(ChallengeFields):
    display_name: list[ChallengeText]
    description: list[ChallengeText]
    reward_detail: list[ChallengeText]
    challenge_id: Int64
    created_at: Instant
    updated_at: Instant

    def runs(self, moment: datetime) -> bool:
        """True if visitors can join and log points: active, and `moment` is between its dates (inclusive)."""
        return self.status == "active" and self.start_date <= moment <= self.end_date


CHALLENGES = Table(
    "challenges",
    Challenge,
    family="points",
    resource="challenge",
    key="challenge_id",
    parents={"pc_code": CENTERS},
    hidden=[
        sa.Column("terminated_at", sa.TIMESTAMP(timezone=True)),
        sa.Index("challenges_pc_code_idx", "pc_code", "challenge_id"),
    ],
)
