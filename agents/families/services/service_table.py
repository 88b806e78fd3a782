"""The service: something that a center offers. The record, and its table."""

import sqlalchemy as sa

from agents.families.centers.centers import CENTERS
from schemas.model import Model
from schemas.types import Flag, Instant, Int64, Omittable, PcCode, Text
from storage.table import Table


class ServiceNew(Model):
    pc_code: PcCode
    name: Text
    category: Text
    use_rate: Text
    days_of_use: list[Int64]
    color_code: Text
    is_premium: Omittable[Flag] = None
    undeletable: Omittable[Flag] = None
    start_date: Instant | None = None
    end_date: Instant | None = None


class ServicePatch(ServiceNew, partial=True):
    pass


class Service(ServiceNew):
    service_id: Int64
    creation_date: Instant
    update_date: Instant


# checkinCount is hidden: the checkins tell it, a change of the service for each of them would say no more.
SERVICES = Table(
    "services",
    Service,
    family="services",
    resource="service",
    key="service_id",
    parents={"pc_code": CENTERS},
    defaults={"checkin_count": 0},
    hidden=[
        sa.Column("checkin_count", sa.BigInteger, nullable=False),
        sa.Index("services_pc_code_idx", "pc_code", "service_id"),
    ],
)
