"""The record and the table of a service, which is something that a center offers."""

import sqlalchemy as sa

from agents.families.centers.centers import CENTERS
from schemas.model import Model
from schemas.types import Flag, Instant, Int64, Omittable, PcCode, Text
from storage.table import Table


class ServiceNew(Model):
    pc_code: PcCode
    name: Text
    """The name of the service."""
    category: Text
    """The kind of service."""
    use_rate: Text
    """What the service costs."""
    days_of_use: list[Int64]
    """The days of the week on which the service is offered."""
    color_code: Text
    """The colour in which the service is shown, for example #336699."""
    is_premium: Omittable[Flag] = None
    """Whether the service is for premium visitors."""
    undeletable: Omittable[Flag] = None
    """Whether users must not delete the service. It is stored and has no effect."""
    start_date: Instant | None = None
    """From when on visitors can check in; null without a limit."""
    end_date: Instant | None = None
    """Until when visitors can check in; null without a limit."""


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
