"""Rewards: a visitor collects a balance until it reaches a threshold."""

from typing import Literal

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations
from schemas.model import Model
from schemas.replies import PageQuery
from schemas.types import Amount, Flag, Instant, Int64, Omittable, PcCode, Uuid
from storage.table import Table


class RewardFields(Model):
    start_date: Instant
    """From when on the visitor collects."""
    end_date: Instant | None = None
    """Until when the visitor collects; null without a limit."""
    balance: Amount
    """What the visitor has collected."""
    is_scan: Omittable[Flag] = None
    """Whether the visitor scans receipts."""
    is_bank: Omittable[Flag] = None
    """Whether the visitor has linked a bank account."""
    is_restaurant: Omittable[Flag] = None
    """Whether the reward is for restaurants."""
    outside_optin: Flag
    """Whether the visitor consented that purchases outside the center count."""
    threshold: Int64
    """The balance at which the reward is earned."""
    last_purchase_date: Instant | None = None
    """When the last purchase was counted."""
    external_id: Omittable[Uuid] = None
    """Id of the reward in the system that defines it."""
    upgraded_from: Omittable[Literal["android", "ios", "web", "partner", "other"]] = None
    """Where the visitor joined."""


class RewardNew(RewardFields):
    pc_code: PcCode


class RewardPatch(RewardFields, partial=True, required=("outside_optin",)):
    pass


class Reward(RewardNew):
    reward_id: Int64
    visitor_id: Uuid
    is_converted: Flag
    """Whether the balance has reached the threshold."""
    creation_date: Instant
    update_date: Instant


class RewardQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    """Only rewards of the center with this code."""


REWARDS = Table(
    "rewards",
    Reward,
    family="points",
    resource="reward",
    key="reward_id",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    computed={"is_converted": "balance >= threshold"},
    hidden=[sa.Index("rewards_visitor_id_idx", "visitor_id", "reward_id")],
)

_ALL = "/visitors/{visitorId}/rewards"
_ONE = f"{_ALL}/{{rewardId}}"

OPERATIONS: Operations = (
    crud.creates(REWARDS, "rewards.create", f"POST {_ALL}", "Add a reward for a visitor", RewardNew),
    crud.lists(REWARDS, "rewards.list", f"GET {_ALL}", "List the rewards of a visitor", RewardQuery),
    crud.updates(REWARDS, "rewards.update", f"PATCH {_ONE}", "Update a reward", RewardPatch),
    crud.gets(REWARDS, "rewards.get", f"GET {_ONE}", "Read a reward"),
)
