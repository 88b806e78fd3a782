"""Entries and exits of visitors, as gateways and applications report them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.dialects.postgresql import distinct_on

from agents.families.centers.centers import CENTERS
from agents.families.parking.vehicles import VEHICLES
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, apply_each, batch_operation, operation
from schemas.faults import Conflict, Fault, Invalid, NotFound
from schemas.marks import MessageOnly
from schemas.model import Model, NoFields
from schemas.plates import plate_key
from schemas.replies import Page, PageQuery
from schemas.requests import Request
from schemas.types import Identifier, Instant, Int64, Omittable, PcCode, Text, Uuid, uuid_of
from storage.lists import Filter, page
from storage.statements import any_of, unnest_rows
from storage.table import Table, locked
from storage.tx import Tx

VisitType = Literal["entry", "exit"]

AHEAD = timedelta(minutes=5)
"""How far a gateway's clock may be ahead of the broker's."""


class Identification(Model):
    """Who it is: at least one of the three; where several are given, all name one visitor."""

    visitor_id: Omittable[Text] = None
    barcode: Omittable[Identifier] = None
    license_plate: Omittable[Text] = None

    @model_validator(mode="after")
    def _at_least_one(self) -> "Identification":
        if self.visitor_id is None and self.barcode is None and self.license_plate is None:
            raise PydanticCustomError(
                "identification_required", "At least one of visitorId, barcode and licensePlate is needed."
            )
        return self


class VisitPath(Model):
    visit_type: VisitType


class VisitNew(Identification):
    """`visitDate` is the gateway's own time; without it, the time of arrival."""

    pc_code: PcCode
    visit_date: Annotated[Omittable[Instant], MessageOnly()] = None


class Visit(Model):
    visitor_id: Uuid
    pc_code: PcCode
    visit_date: Instant
    visit_type: VisitType
    license_plate: Text | None


class VisitEvent(Visit):
    """What a change tells beside the visit: the vehicle whose lastParkingSession an entry moves."""

    visit_id: Int64
    vehicle_id: Int64 | None


class VisitQuery(Identification, PageQuery):
    pc_code: PcCode
    visit_date_since: Annotated[Instant | None, Filter(lambda c, moment: c.visit_date >= moment)] = None
    visit_date_until: Annotated[Instant | None, Filter(lambda c, moment: c.visit_date <= moment)] = None
    visit_type: Omittable[VisitType] = None


VISITS = Table(
    "visits",
    VisitEvent,
    family="visits",
    resource="visit",
    key="visit_id",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    hidden=[sa.Index("visits_visitor_id_idx", "visitor_id", "pc_code", "visit_date", "visit_id")],
)


@dataclass
class _Resolved:
    """What a batch of identifications was resolved to: visitors by id, barcode and plate, and the centers there are."""

    centers: set[str]
    by_id: dict[str, UUID] = field(default_factory=dict)
    by_barcode: dict[str, UUID] = field(default_factory=dict)
    by_plate: dict[str, tuple[UUID, int]] = field(default_factory=dict)


_VISITORS = sa.select(VISITORS.columns.visitor_id, VISITORS.columns.barcode).where(
    any_of(VISITORS.columns.visitor_id, "ids") | any_of(VISITORS.columns.barcode, "barcodes")
)
_PLATES = (
    sa.select(VEHICLES.columns.plate_key, VEHICLES.columns.visitor_id, VEHICLES.columns.vehicle_id)
    .ext(distinct_on(VEHICLES.columns.plate_key))
    .where(any_of(VEHICLES.columns.plate_key, "plates"), VEHICLES.columns.deletion_date.is_(None))
    .order_by(VEHICLES.columns.plate_key, VEHICLES.columns.update_date.desc(), VEHICLES.columns.vehicle_id.desc())
)


async def _resolve(tx: Tx, identifications: Iterable[Identification], codes: set[str]) -> _Resolved:
    given = list(identifications)
    ids = _uuids(item.visitor_id for item in given)
    barcodes = {item.barcode for item in given if item.barcode is not None}
    plates = {plate_key(item.license_plate) for item in given if item.license_plate is not None} - {""}
    known = _Resolved(await CENTERS.existing_keys(tx, codes))
    if ids or barcodes:
        found = await tx.all(_VISITORS, {"ids": sorted(ids.values()), "barcodes": sorted(barcodes)})
        present = {row.visitor_id for row in found}
        known.by_id = {text: visitor for text, visitor in ids.items() if visitor in present}
        known.by_barcode = {row.barcode: row.visitor_id for row in found}
    if plates:
        found = await tx.all(_PLATES, {"plates": sorted(plates)})
        known.by_plate = {row.plate_key: (row.visitor_id, row.vehicle_id) for row in found}
    return known


def _uuids(texts: Iterable[str | None]) -> dict[str, UUID]:
    """Of these texts those that are UUIDs."""
    found = {text: uuid_of(text) for text in texts if text is not None}
    return {text: visitor for text, visitor in found.items() if visitor is not None}


def _identify(known: _Resolved, given: Identification) -> tuple[UUID, int | None]:
    """The one visitor that all given fields name, and the vehicle of a given plate. Raises NotFound, Conflict."""
    visitors: list[UUID | None] = []
    vehicle = None
    if given.visitor_id is not None:
        visitors.append(known.by_id.get(given.visitor_id))
    if given.barcode is not None:
        visitors.append(known.by_barcode.get(given.barcode))
    if given.license_plate is not None:
        owner, vehicle = known.by_plate.get(plate_key(given.license_plate), (None, None))
        visitors.append(owner)
    named = set(visitors)
    if None in named:
        raise VISITORS.missing()
    if len(named) > 1:
        raise Conflict("ids_mismatch", "visitorId, barcode and licensePlate name different visitors.")
    visitor = visitors[0]
    assert visitor is not None
    return visitor, vehicle


def _values(known: _Resolved, tx: Tx, request: Request[VisitPath, NoFields, VisitNew]) -> dict[str, Any]:
    """Raises Invalid, NotFound, Conflict."""
    body = request.body
    if body.pc_code not in known.centers:
        raise Invalid("center_not_found", "There is no such center.", field="pcCode")
    if body.visit_date is not None and body.visit_date > tx.cause.arrived + AHEAD:
        raise Invalid("visit_date_ahead", "The visit lies more than 5 minutes ahead of our clock.", field="visitDate")
    visitor, vehicle = _identify(known, body)
    return {
        "visitor_id": visitor,
        "pc_code": body.pc_code,
        "visit_date": body.visit_date or tx.cause.arrived,
        "visit_type": request.path.visit_type,
        "license_plate": body.license_plate,
        "vehicle_id": vehicle,
    }


def _move_forward(table: Table[Any], column: str) -> Any:
    """Set a date to a later one, never back. The rows are locked in the order of their ids first."""
    key, date = table.columns[table.key], table.columns[column]
    rows = locked(table, "keys")
    later = unnest_rows(keys=key.type, dates=date.type)
    return (
        sa.update(table.sql)
        .where(key == rows.c[table.key], key == later.c["keys"], date.is_(None) | (date < later.c.dates))
        .values({column: later.c.dates})
    )


_MOVE_VISITORS = _move_forward(VISITORS, "last_visit_date")
_MOVE_VEHICLES = _move_forward(VEHICLES, "last_parking_session")


@batch_operation(
    "visits.create",
    "POST /visits/{visitType}",
    summary="Report an entry or an exit",
    path=VisitPath,
    body=VisitNew,
    reply=Visit,
    shape="object",
    at_least_one=tuple(str(field.serialization_alias) for field in Identification.model_fields.values()),
    partition_key=("visitorId", "barcode", "licensePlate"),
)
async def create(calls: Sequence[tuple[Tx, Request[VisitPath, NoFields, VisitNew]]]) -> list[VisitEvent | Fault]:
    """Keep visits. An entry moves the visitor's lastVisitDate and the vehicle's lastParkingSession forward; that is
    told by the visit's own change and not by changes of those two."""
    bodies = [request.body for _, request in calls]
    known = await _resolve(calls[0][0], bodies, {body.pc_code for body in bodies})
    return await apply_each(calls, lambda tx, request: _values(known, tx, request), _store)


async def _store(accepted: Sequence[tuple[Tx, dict[str, Any]]]) -> list[VisitEvent]:
    conn = accepted[0][0]
    entries = [values for _, values in accepted if values["visit_type"] == "entry"]
    await _move(conn, _MOVE_VISITORS, ((entry["visitor_id"], entry["visit_date"]) for entry in entries))
    await _move(conn, _MOVE_VEHICLES, ((entry["vehicle_id"], entry["visit_date"]) for entry in entries))
    return await VISITS.insert_many(accepted)


async def _move(conn: Tx, statement: Any, dated: Iterable[tuple[Any, datetime]]) -> None:
    latest: dict[Any, datetime] = {}
    for key, date in dated:
        if key is not None:
            latest[key] = max(date, latest.get(key, date))
    if latest:
        await conn.conn.execute(statement, {"keys": list(latest), "dates": list(latest.values())})


@operation(
    "visits.list", "GET /visits", summary="List the visits of a visitor to a center",
    query=VisitQuery, reply=Visit, shape="array", faults=(NotFound, Conflict),
)  # fmt: skip
async def list_visits(tx: Tx, request: Request[NoFields, VisitQuery, NoFields]) -> Page[VisitEvent]:
    """The visits of one visitor to one center, found by the same rules as when a visit is reported."""
    query = request.query
    known = await _resolve(tx, [query], {query.pc_code})
    if query.pc_code not in known.centers:
        raise Invalid("center_not_found", "There is no such center.", field="pcCode")
    visitor, _ = _identify(known, query)
    within, named = {"visitor_id": visitor}, Identification.model_fields
    return await page(tx, VISITS, query, within=within, skip=named, default_sort="visitDate", shown=Visit)


OPERATIONS: Operations = (create, list_visits)
