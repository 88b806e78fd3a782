"""Targets, and their links to services."""

from collections.abc import Sequence

import sqlalchemy as sa

from agents import crud
from agents.families.services.service_table import SERVICES
from agents.operation import Operations
from schemas.model import Model
from schemas.types import Instant, Int64, Text
from storage.table import Table
from storage.tx import Tx


class ServiceTargetNew(Model):
    value: Text
    """The name of the target, a group of visitors for whom the service is."""


class ServiceTargetPatch(ServiceTargetNew, partial=True):
    pass


class ServiceTarget(ServiceTargetNew):
    service_target_id: Int64
    creation_date: Instant
    update_date: Instant


SERVICE_TARGETS = Table(
    "service_targets", ServiceTarget, family="services", resource="serviceTarget", key="service_target_id"
)


class TargetLinkNew(Model):
    service_target_id: Int64


class TargetLink(TargetLinkNew):
    service_service_target_id: Int64
    """Id of the link between the service and the target."""
    service_id: Int64
    creation_date: Instant
    update_date: Instant


class TargetLinkReply(TargetLink, title="TargetLink"):
    service_target: ServiceTarget
    """The target."""


TARGET_LINKS = Table(
    "service_target_links",
    TargetLink,
    family="services",
    resource="serviceTargetLink",
    key="service_service_target_id",
    parents={"service_id": SERVICES, "service_target_id": SERVICE_TARGETS},
    conflicts={
        "service_target_links_service_id_key": crud.already_exists(
            "target_link", "The service has this target already.", "serviceTargetId"
        )
    },
    hidden=[sa.UniqueConstraint("service_id", "service_target_id")],
)


async def _with_target(tx: Tx, links: Sequence[TargetLink]) -> Sequence[TargetLinkReply]:
    targets = await SERVICE_TARGETS.by_key(tx, (link.service_target_id for link in links))
    return [TargetLinkReply.widened(link, service_target=targets[link.service_target_id]) for link in links]


_VIEW = crud.View(TargetLinkReply, _with_target)
_ONE = "/serviceTargets/{serviceTargetId}"
_PATH = "/services/{serviceId}/targets"

OPERATIONS: Operations = (
    crud.creates(SERVICE_TARGETS, "serviceTargets.create", "POST /serviceTargets", "Create a target", ServiceTargetNew),
    crud.lists(SERVICE_TARGETS, "serviceTargets.list", "GET /serviceTargets", "List targets"),
    crud.updates(SERVICE_TARGETS, "serviceTargets.update", f"PATCH {_ONE}", "Update a target", ServiceTargetPatch),
    crud.lists(TARGET_LINKS, "serviceTargetLinks.list", f"GET {_PATH}", "List the targets of a service", view=_VIEW),
    crud.creates(
        TARGET_LINKS, "serviceTargetLinks.add", f"POST {_PATH}", "Link a target to a service", TargetLinkNew, view=_VIEW
    ),
    crud.deletes(
        TARGET_LINKS,
        "serviceTargetLinks.remove",
        f"DELETE {_PATH}/{{serviceTargetId}}",
        "Unlink a target from a service",
    ),
)
