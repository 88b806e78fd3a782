"""The ids that other systems know a visitor by."""

from typing import Literal
from uuid import UUID, uuid4

import sqlalchemy as sa

from agents.centers.centers import CENTERS
from agents.visitors.visitor import VISITORS
from schemas.model import Model
from schemas.types import Identifier, Instant, PcCode, Uuid
from storage.table import Table
from storage.tx import Tx

ExternalType = Literal[
    "analytics", "designa", "facebook", "google", "cognito", "partner", "crm_id", "pas", "fid", "wifi_device_id"
]


class ExternalId(Model):
    external_id: Identifier
    visitor_id: Uuid
    external_type: ExternalType
    pc_code: PcCode | None
    creation_date: Instant
    update_date: Instant


EXTERNAL_IDS = Table(
    "external_ids",
    ExternalId,
    family="visitors",
    resource="externalId",
    key="external_id_key",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    hidden=[
        sa.Column("external_id_key", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Index(
            "external_ids_one_of_a_type",
            "visitor_id", "external_type", "pc_code",
            unique=True, postgresql_nulls_not_distinct=True,
        ),
        sa.Index(
            "external_ids_one_visitor",
            "external_type", "external_id", "pc_code",
            unique=True, postgresql_nulls_not_distinct=True,
        ),
    ],
)  # fmt: skip


async def add_analytics(tx: Tx, visitor_id: UUID) -> ExternalId:
    """The id by which analytics know a visitor, given to each one."""
    return await EXTERNAL_IDS.insert(
        tx, {"external_id": str(uuid4()), "visitor_id": visitor_id, "external_type": "analytics"}
    )
