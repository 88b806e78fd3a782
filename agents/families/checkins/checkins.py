"""Checkins of visitors at the services of a center."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.services.service_table import SERVICES, Service
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, apply_each, batch_operation
from schemas.faults import Conflict, Invalid, NotFound, refuse
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import Instant, Int64, Omittable, PcCode, Uuid
from storage.lists import Filter
from storage.statements import any_of, unnest_rows
from storage.table import Table, locked
from storage.tx import Tx


class CheckinNew(Model):
    pc_code: PcCode
    service_id: Int64
    origin: Literal["partner", "dashboard"]
    """Who reports the check-in."""


class CheckinByBarcode(CheckinNew):
    barcode: Uuid


class Checkin(CheckinNew):
    checkin_id: Int64
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


class VisitorCheckinQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    """Only check-ins in the center with this code."""


class CheckinQuery(VisitorCheckinQuery):
    service_id: Omittable[Int64] = None
    """Only check-ins at this service."""
    checked_in_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.creation_date >= moment)] = None
    """Only check-ins at or after this time."""
    checked_in_until: Annotated[Omittable[Instant], Filter(lambda c, moment: c.creation_date < moment)] = None
    """Only check-ins before this time."""


CHECKINS = Table(
    "checkins",
    Checkin,
    family="checkins",
    resource="checkin",
    key="checkin_id",
    event_time="creation_date",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS, "service_id": SERVICES},
    hidden=[
        sa.Index("checkins_visitor_id_idx", "visitor_id", "checkin_id"),
        sa.Index("checkins_service_id_idx", "service_id", "checkin_id"),
        sa.Index("checkins_pc_code_idx", "pc_code", "checkin_id"),
        sa.Index("checkins_creation_date_idx", "creation_date"),
        sa.Index("checkins_service_id_creation_date_idx", "service_id", "creation_date"),
        sa.Index("checkins_pc_code_creation_date_idx", "pc_code", "creation_date"),
    ],
)

_SELECT_BY_BARCODE = sa.select(VISITORS.columns.barcode, VISITORS.columns.visitor_id).where(
    any_of(VISITORS.columns.barcode, "barcodes")
)


def _update_counts() -> Any:
    """UPDATE checkin_count of the services in the list parameter `ids`: add their number in `deltas`, which may be
    negative. A CTE locks the services in the order of their ids first, so that concurrent batches cannot deadlock.
    The statement touches only the services in `ids`."""
    services = SERVICES.columns
    locked_rows = locked(SERVICES, "ids")
    added = unnest_rows(ids=sa.BigInteger(), deltas=sa.BigInteger())
    return (
        sa.update(SERVICES.sql)
        .where(services.service_id == locked_rows.c.service_id, services.service_id == added.c.ids)
        .values(checkin_count=services.checkin_count + added.c.deltas)
    )


_UPDATE_COUNTS = _update_counts()


async def _add_to_counts(tx: Tx, deltas: Mapping[int, int]) -> None:
    """Add `deltas`, a number for each service id, to the checkinCount of the services."""
    await tx.execute(_UPDATE_COUNTS, {"ids": list(deltas), "deltas": list(deltas.values())})


class _References:
    """The existing centers and services that a batch of requests refers to."""

    def __init__(self, pc_codes: Collection[str], services: Mapping[int, Service]) -> None:
        self._pc_codes = pc_codes
        self._services = services

    @classmethod
    async def read(cls, tx: Tx, bodies: Sequence[CheckinNew]) -> "_References":
        """Read the centers and services with two statements."""
        pc_codes = await CENTERS.existing_keys(tx, (body.pc_code for body in bodies))
        return cls(pc_codes, await SERVICES.by_key(tx, (body.service_id for body in bodies)))

    def checkin_values(self, tx: Tx, visitor_id: UUID | None, body: CheckinNew) -> dict[str, Any]:
        """Return the column values of a new checkin. `visitor_id` is None if the visitor does not exist. Raises
        NotFound, Invalid, Conflict."""
        if visitor_id is None:
            raise VISITORS.not_found()
        service = self._service_of(body)
        if service.pc_code != body.pc_code:
            raise Invalid("service_of_another_center", "The service belongs to another center.", field="serviceId")
        if not _is_available(service, tx.cause.arrived):
            raise Conflict("service_not_available", "The service is not available at this time.", field="serviceId")
        return {
            "visitor_id": visitor_id, "pc_code": body.pc_code, "service_id": body.service_id, "origin": body.origin,
        }  # fmt: skip

    def _service_of(self, body: CheckinNew) -> Service:
        """Raises Invalid with an entry for the center and for the service if they do not exist."""
        faults = []
        if body.pc_code not in self._pc_codes:
            faults.append(Invalid("center_not_found", "There is no such center.", field="pcCode"))
        if body.service_id not in self._services:
            faults.append(Invalid("service_not_found", "There is no such service.", field="serviceId"))
        refuse(faults)
        return self._services[body.service_id]


def _is_available(service: Service, moment: datetime) -> bool:
    if service.start_date is not None and moment < service.start_date:
        return False
    return service.end_date is None or moment <= service.end_date


async def _store(new_checkins: Sequence[tuple[Tx, dict[str, Any]]]) -> list[Checkin]:
    tx = new_checkins[0][0]
    checkins = await CHECKINS.insert_many(new_checkins)
    # Every transaction locks in this order: visitor, checkin, service. Erasures and deletes do so too.
    await _add_to_counts(tx, _count_by_service(checkins))
    return checkins


@batch_operation(
    "checkins.create", "POST /visitors/{visitorId}/checkins", summary="Check a visitor in at a service",
    path=VisitorPath, body=CheckinNew, reply=Checkin,
)  # fmt: skip
async def create(calls: Sequence[tuple[Tx, Request[VisitorPath, NoFields, CheckinNew]]]) -> Sequence[Any]:
    """Check a visitor in at a service. Raises NotFound for the visitor, Invalid for the center and the service, and
    Conflict outside the dates of the service."""
    tx = calls[0][0]
    visitor_ids = await VISITORS.existing_keys(tx, (request.path.visitor_id for _, request in calls))
    references = await _References.read(tx, [request.body for _, request in calls])

    def checkin_values(tx: Tx, request: Request[VisitorPath, NoFields, CheckinNew]) -> dict[str, Any]:
        visitor_id = request.path.visitor_id if request.path.visitor_id in visitor_ids else None
        return references.checkin_values(tx, visitor_id, request.body)

    return await apply_each(calls, checkin_values, _store)


@batch_operation(
    "checkins.createByBarcode", "POST /checkins", summary="Check in the visitor with a barcode at a service",
    body=CheckinByBarcode, reply=Checkin, partition_key=("barcode",), faults=(NotFound,),
)  # fmt: skip
async def create_by_barcode(calls: Sequence[tuple[Tx, Request[NoFields, NoFields, CheckinByBarcode]]]) -> Sequence[Any]:
    """Like checkins.create, but the visitor is named by its barcode. Raises NotFound, Invalid, Conflict."""
    tx = calls[0][0]
    barcodes = sorted({str(request.body.barcode) for _, request in calls})
    rows = await tx.all(_SELECT_BY_BARCODE, {"barcodes": barcodes})
    visitor_ids = {row.barcode: row.visitor_id for row in rows}
    references = await _References.read(tx, [request.body for _, request in calls])

    def checkin_values(tx: Tx, request: Request[NoFields, NoFields, CheckinByBarcode]) -> dict[str, Any]:
        return references.checkin_values(tx, visitor_ids.get(str(request.body.barcode)), request.body)

    return await apply_each(calls, checkin_values, _store)


async def delete_by_visitors(tx: Tx, visitor_ids: Collection[UUID]) -> None:
    """Delete the checkins of visitors that are being erased, and lower the counts by the deleted checkins only."""
    deleted = await CHECKINS.delete_by_parent(tx, "visitor_id", visitor_ids, emit_changes=False)
    if deleted:
        counts = _count_by_service(deleted)
        await _add_to_counts(tx, {service_id: -count for service_id, count in counts.items()})


def _count_by_service(checkins: Iterable[Checkin]) -> Counter[int]:
    return Counter(checkin.service_id for checkin in checkins)


async def _lower_count(tx: Tx, checkin: Checkin) -> None:
    await _add_to_counts(tx, {checkin.service_id: -1})


_ONE = "/visitors/{visitorId}/checkins/{checkinId}"

OPERATIONS: Operations = (
    create,
    create_by_barcode,
    crud.lists(
        CHECKINS,
        "checkins.listForVisitor",
        "GET /visitors/{visitorId}/checkins",
        "List the checkins of a visitor",
        VisitorCheckinQuery,
    ),
    crud.lists(CHECKINS, "checkins.list", "GET /checkins", "List checkins", CheckinQuery),
    crud.gets(CHECKINS, "checkins.get", f"GET {_ONE}", "Read a checkin"),
    crud.deletes(CHECKINS, "checkins.delete", f"DELETE {_ONE}", "Remove a checkin", then=_lower_count),
)
