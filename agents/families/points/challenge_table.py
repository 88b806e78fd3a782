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
    """The name of the list that has the text."""


class ChallengeFields(Model):
    pc_code: PcCode
    generic_name: Text
    type: ChallengeType
    """What the participants do."""
    start_date: Instant
    """The start of the challenge, inclusive."""
    end_date: Instant
    """The end of the challenge, inclusive."""
    timezone: Omittable[Timezone] = None
    """The time zone of the challenge, in which its days begin."""
    image_url: Url | None = None
    """URL of an image."""
    winner_number: Int64
    """How many participants win the reward."""
    reward_expiration_seconds: Int64 | None = None
    """For how many seconds an unlocked reward can be received."""
    status: ChallengeStatus
    """The state of the challenge. Only an active one can be joined and gains points."""


class ChallengeNew(ChallengeFields):
    display_name: list[TranslationNew]
    """The name of the challenge, in several locales."""
    description: list[TranslationNew]
    """What the challenge is about, in several locales."""
    reward_detail: list[TranslationNew]
    """What the winners get, in several locales."""


class ChallengePatch(ChallengeNew, partial=True):
    pass


class Challenge(ChallengeFields):
    display_name: list[ChallengeText]
    """The name of the challenge, in several locales."""
    description: list[ChallengeText]
    """What the challenge is about, in several locales."""
    reward_detail: list[ChallengeText]
    """What the winners get, in several locales."""
    challenge_id: Int64
    created_at: Instant
    """When the challenge was created."""
    updated_at: Instant
    """When the challenge was changed last."""

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
