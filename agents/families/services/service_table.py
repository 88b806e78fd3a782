"""The record and the table of a service, which is something that a center offers."""

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


# checkin_count is hidden, because a checkin emits a change of its own and needs no change of the service.
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
