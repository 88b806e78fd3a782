"""The services of a center. A reply has the service's stores, targets, themes, segments and number of checkins."""

from collections.abc import Sequence

import sqlalchemy as sa

from agents import crud
from agents.families.services.segments import SERVICE_SEGMENTS, ServiceSegment
from agents.families.services.service_table import SERVICES, Service, ServiceNew, ServicePatch
from agents.families.services.stores import SERVICE_STORES, ServiceStore
from agents.families.services.targets import SERVICE_TARGETS, TARGET_LINKS, ServiceTarget
from agents.families.services.themes import SERVICE_THEMES, THEME_LINKS, ServiceTheme
from agents.operation import Operations
from schemas.replies import PageQuery
from schemas.types import Instant, Int64, Omittable, PcCode
from storage.statements import any_of
from storage.tx import Tx


class ServiceReply(Service, title="Service"):
    stores: list[ServiceStore]
    """The stores of the service."""
    targets: list[ServiceTarget]
    """The groups of visitors for whom the service is."""
    themes: list[ServiceTheme]
    """The themes of the service."""
    segments: list[ServiceSegment]
    """The segments of the service."""
    checkin_count: Int64
    """The number of check-ins at the service."""


class ServiceQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    """Only services of the center with this code."""
    end_date_since: Omittable[Instant] = None
    """Only services that end at or after this time."""
    end_date_until: Omittable[Instant] = None
    """Only services that end before this time."""


_COUNTS = sa.select(SERVICES.columns.service_id, SERVICES.columns.checkin_count).where(
    any_of(SERVICES.columns.service_id, "ids")
)


async def _with_links(tx: Tx, services: Sequence[Service]) -> Sequence[ServiceReply]:
    """The replies for these services, with up to seven statements for all services together."""
    ids = [service.service_id for service in services]

    def parents_of(field: str) -> list[int]:
        return ids if tx.wants(field) else []

    stores = await SERVICE_STORES.by_parent(tx, "service_id", parents_of("stores"))
    segments = await SERVICE_SEGMENTS.by_parent(tx, "service_id", parents_of("segments"))
    target_links = await TARGET_LINKS.by_parent(tx, "service_id", parents_of("targets"), shown=ServiceTarget)
    theme_links = await THEME_LINKS.by_parent(tx, "service_id", parents_of("themes"), shown=ServiceTheme)
    targets = await SERVICE_TARGETS.by_key(
        tx, (link.service_target_id for links in target_links.values() for link in links)
    )
    themes = await SERVICE_THEMES.by_key(
        tx, (link.service_theme_id for links in theme_links.values() for link in links)
    )
    counts = {row.service_id: row.checkin_count for row in await tx.all(_COUNTS, {"ids": ids})}
    return [
        ServiceReply.widened(
            service,
            stores=stores.get(service_id, []),
            segments=segments.get(service_id, []),
            targets=[targets[link.service_target_id] for link in target_links.get(service_id, [])],
            themes=[themes[link.service_theme_id] for link in theme_links.get(service_id, [])],
            checkin_count=counts[service_id],
        )
        for service_id, service in zip(ids, services, strict=True)
    ]


_VIEW = crud.View(ServiceReply, _with_links)

OPERATIONS: Operations = (
    crud.lists(SERVICES, "services.list", "GET /services", "List services", ServiceQuery, view=_VIEW),
    crud.creates(SERVICES, "services.create", "POST /services", "Create a service", ServiceNew, view=_VIEW),
    crud.gets(SERVICES, "services.get", "GET /services/{serviceId}", "Read a service", view=_VIEW),
    crud.updates(SERVICES, "services.update", "PATCH /services/{serviceId}", "Update a service", ServicePatch),
)
