"""Checkins of visitors at services."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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


class CheckinByBarcode(CheckinNew):
    barcode: Uuid


class Checkin(CheckinNew):
    checkin_id: Int64
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


class VisitorCheckinQuery(PageQuery):
    pc_code: Omittable[PcCode] = None


class CheckinQuery(VisitorCheckinQuery):
    service_id: Omittable[Int64] = None
    checked_in_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.creation_date >= moment)] = None
    checked_in_until: Annotated[Omittable[Instant], Filter(lambda c, moment: c.creation_date < moment)] = None


CHECKINS = Table(
    "checkins",
    Checkin,
    family="checkins",
    resource="checkin",
    key="checkin_id",
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

_BY_BARCODE = sa.select(VISITORS.columns.barcode, VISITORS.columns.visitor_id).where(
    any_of(VISITORS.columns.barcode, "barcodes")
)


def _count() -> Any:
    """Add to the checkinCount of services."""
    services = SERVICES.columns
    rows = locked(SERVICES, "ids")
    added = unnest_rows(ids=sa.BigInteger(), numbers=sa.BigInteger())
    return (
        sa.update(SERVICES.sql)
        .where(services.service_id == rows.c.service_id, services.service_id == added.c.ids)
        .values(checkin_count=services.checkin_count + added.c.numbers)
    )


_COUNT = _count()


async def _add(tx: Tx, numbers: Counter[int]) -> None:
    await tx.conn.execute(_COUNT, {"ids": list(numbers), "numbers": list(numbers.values())})


class _References:
    """Which centers and services there are of those that a batch names."""

    def __init__(self, centers: Collection[str], services: dict[int, Service]) -> None:
        self._centers = centers
        self._services = services

    @classmethod
    async def of(cls, tx: Tx, bodies: Sequence[CheckinNew]) -> "_References":
        centers = await CENTERS.existing_keys(tx, (body.pc_code for body in bodies))
        return cls(centers, await SERVICES.by_key(tx, (body.service_id for body in bodies)))

    def values(self, tx: Tx, visitor_id: UUID | None, body: CheckinNew) -> dict[str, Any]:
        """The row of a checkin. Raises NotFound, Invalid, Conflict."""
        if visitor_id is None:
            raise VISITORS.missing()
        service = self._service(body)
        if service.pc_code != body.pc_code:
            raise Invalid("service_of_another_center", "The service is one of another center.", field="serviceId")
        if not _available(service, tx.cause.arrived):
            raise Conflict("service_not_available", "The service is not available at this time.", field="serviceId")
        return {
            "visitor_id": visitor_id, "pc_code": body.pc_code, "service_id": body.service_id, "origin": body.origin,
        }  # fmt: skip

    def _service(self, body: CheckinNew) -> Service:
        """Raises Invalid for all that is not there."""
        absent = []
        if body.pc_code not in self._centers:
            absent.append(Invalid("center_not_found", "There is no such center.", field="pcCode"))
        if body.service_id not in self._services:
            absent.append(Invalid("service_not_found", "There is no such service.", field="serviceId"))
        refuse(absent)
        return self._services[body.service_id]


def _available(service: Service, moment: datetime) -> bool:
    begun = service.start_date is None or service.start_date <= moment
    return begun and (service.end_date is None or moment <= service.end_date)


async def _store(accepted: Sequence[tuple[Tx, dict[str, Any]]]) -> list[Checkin]:
    made = await CHECKINS.insert_many(accepted)
    # Visitor, checkin, service: who erases or removes takes their locks in this order too.
    await _add(accepted[0][0], _by_service(made))
    return made


@batch_operation(
    "checkins.create", "POST /visitors/{visitorId}/checkins", summary="Check a visitor in at a service",
    path=VisitorPath, body=CheckinNew, reply=Checkin,
)  # fmt: skip
async def create(calls: Sequence[tuple[Tx, Request[VisitorPath, NoFields, CheckinNew]]]) -> Sequence[Any]:
    """Raises NotFound for the visitor, Invalid for the center and service, Conflict outside the service's dates."""
    tx = calls[0][0]
    visitors = await VISITORS.existing_keys(tx, (request.path.visitor_id for _, request in calls))
    known = await _References.of(tx, [request.body for _, request in calls])

    def values(tx: Tx, request: Request[VisitorPath, NoFields, CheckinNew]) -> dict[str, Any]:
        visitor_id = request.path.visitor_id
        return known.values(tx, visitor_id if visitor_id in visitors else None, request.body)

    return await apply_each(calls, values, _store)


@batch_operation(
    "checkins.createByBarcode", "POST /checkins", summary="Check in the visitor with a barcode at a service",
    body=CheckinByBarcode, reply=Checkin, partition_key=("barcode",), faults=(NotFound,),
)  # fmt: skip
async def create_by_barcode(calls: Sequence[tuple[Tx, Request[NoFields, NoFields, CheckinByBarcode]]]) -> Sequence[Any]:
    """As checkins.create, for the visitor with this barcode."""
    tx = calls[0][0]
    barcodes = sorted({str(request.body.barcode) for _, request in calls})
    visitors = {row.barcode: row.visitor_id for row in await tx.all(_BY_BARCODE, {"barcodes": barcodes})}
    known = await _References.of(tx, [request.body for _, request in calls])

    def values(tx: Tx, request: Request[NoFields, NoFields, CheckinByBarcode]) -> dict[str, Any]:
        return known.values(tx, visitors.get(str(request.body.barcode)), request.body)

    return await apply_each(calls, values, _store)


async def delete_by_visitors(tx: Tx, visitors: Collection[UUID]) -> None:
    """Remove the checkins of visitors who are being erased, and lower the counts by exactly these."""
    removed = await CHECKINS.delete_by_parent(tx, "visitor_id", visitors, emit_changes=False)
    if removed:
        await _add(tx, Counter({number: -count for number, count in _by_service(removed).items()}))


def _by_service(checkins: Iterable[Checkin]) -> Counter[int]:
    return Counter(checkin.service_id for checkin in checkins)


async def _lower(tx: Tx, checkin: Checkin) -> None:
    await _add(tx, Counter({checkin.service_id: -1}))


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
    crud.deletes(CHECKINS, "checkins.delete", f"DELETE {_ONE}", "Remove a checkin", then=_lower),
)
