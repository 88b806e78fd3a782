"""Entries and exits of visitors, as gateways and applications report them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on

from agents.centers.centers import CENTERS
from agents.operation import Operations, batch_operation, operation
from agents.parking.vehicles import VEHICLES, plate_key
from agents.visitors.visitor import VISITORS
from schemas.faults import Conflict, Fault, Invalid
from schemas.marks import MessageOnly
from schemas.model import Model, NoFields
from schemas.replies import Page, PageQuery
from schemas.requests import Request
from schemas.types import Identifier, Instant, Int64, LeftOut, PcCode, Text, Uuid
from storage.lists import Filter, page
from storage.table import Table
from storage.tx import Tx

VisitType = Literal["entry", "exit"]

AHEAD = timedelta(minutes=5)
"""How far a gateway's clock may be ahead of the broker's."""


class Identification(Model):
    """Who it is: at least one of the three; where several are given, all name one visitor."""

    visitor_id: Annotated[Identifier | None, LeftOut] = None
    barcode: Annotated[Identifier | None, LeftOut] = None
    license_plate: Annotated[Text | None, LeftOut] = None

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
    visit_date: Annotated[Instant | None, LeftOut, MessageOnly()] = None


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
    visit_type: Annotated[VisitType | None, LeftOut] = None


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
class _Known:
    """What a batch of identifications was resolved to: visitors by id, barcode and plate, and the centers there are."""

    centers: set[str]
    by_id: dict[str, UUID] = field(default_factory=dict)
    by_barcode: dict[str, UUID] = field(default_factory=dict)
    by_plate: dict[str, tuple[UUID, int]] = field(default_factory=dict)


def _any(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    return column == sa.any_(sa.bindparam(name, type_=ARRAY(column.type)))


_CENTERS = sa.select(CENTERS.columns.pc_code).where(_any(CENTERS.columns.pc_code, "codes"))
_VISITORS = sa.select(VISITORS.columns.visitor_id, VISITORS.columns.barcode).where(
    _any(VISITORS.columns.visitor_id, "ids") | _any(VISITORS.columns.barcode, "barcodes")
)
_PLATES = (
    sa.select(VEHICLES.columns.plate_key, VEHICLES.columns.visitor_id, VEHICLES.columns.vehicle_id)
    .ext(distinct_on(VEHICLES.columns.plate_key))
    .where(_any(VEHICLES.columns.plate_key, "plates"), VEHICLES.columns.deletion_date.is_(None))
    .order_by(VEHICLES.columns.plate_key, VEHICLES.columns.update_date.desc(), VEHICLES.columns.vehicle_id.desc())
)


async def _resolve(tx: Tx, identifications: Iterable[Identification], codes: set[str]) -> _Known:
    given = list(identifications)
    ids = {item.visitor_id: UUID(item.visitor_id) for item in given if item.visitor_id and _is_uuid(item.visitor_id)}
    barcodes = {item.barcode for item in given if item.barcode is not None}
    plates = {plate_key(item.license_plate) for item in given if item.license_plate is not None}
    known = _Known({row.pc_code for row in await tx.all(_CENTERS, {"codes": sorted(codes)})})
    if ids or barcodes:
        found = await tx.all(_VISITORS, {"ids": sorted(ids.values()), "barcodes": sorted(barcodes)})
        present = {row.visitor_id for row in found}
        known.by_id = {text: visitor for text, visitor in ids.items() if visitor in present}
        known.by_barcode = {row.barcode: row.visitor_id for row in found}
    if plates:
        found = await tx.all(_PLATES, {"plates": sorted(plates)})
        known.by_plate = {row.plate_key: (row.visitor_id, row.vehicle_id) for row in found}
    return known


def _is_uuid(text: str) -> bool:
    try:
        return len(text) == 36 and UUID(text) is not None
    except ValueError:
        return False


def _identify(known: _Known, given: Identification) -> tuple[UUID, int | None]:
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


def _row(known: _Known, tx: Tx, request: Request[VisitPath, NoFields, VisitNew]) -> VisitEvent:
    body = request.body
    if body.pc_code not in known.centers:
        raise Invalid("center_not_found", "There is no such center.", field="pcCode")
    if body.visit_date is not None and body.visit_date > tx.cause.arrived + AHEAD:
        raise Invalid("visit_date_ahead", "The visit lies more than 5 minutes ahead of our clock.", field="visitDate")
    visitor, vehicle = _identify(known, body)
    return VisitEvent.model_construct(
        visitor_id=visitor,
        pc_code=body.pc_code,
        visit_date=body.visit_date or tx.cause.arrived,
        visit_type=request.path.visit_type,
        license_plate=body.license_plate,
        visit_id=0,
        vehicle_id=vehicle,
    )


_COLUMNS = ("visitor_id", "pc_code", "visit_date", "visit_type", "license_plate", "vehicle_id")
_GIVEN = (
    sa.func.unnest(*(sa.bindparam(name, type_=ARRAY(VISITS.columns[name].type)) for name in _COLUMNS))
    .table_valued(*_COLUMNS, with_ordinality="place")
    .render_derived()
)
_INSERT = (
    sa.insert(VISITS.sql)
    .from_select(
        (*_COLUMNS, "revision"),
        sa.select(*(_GIVEN.c[name] for name in _COLUMNS), sa.literal_column("1")).order_by(_GIVEN.c.place),
    )
    .returning(VISITS.columns.visit_id)
)


def _move_forward(table: Table[Any], column: str) -> Any:
    """Set a date to a later one, never back. The rows are locked in the order of their ids first."""
    key, date = table.columns[table.key], table.columns[column]
    locked = sa.select(key).where(_any(key, "keys")).order_by(key).with_for_update(key_share=True).cte("locked")
    given = (
        sa.func.unnest(sa.bindparam("keys", type_=ARRAY(key.type)), sa.bindparam("dates", type_=ARRAY(date.type)))
        .table_valued("key", "date")
        .render_derived()
    )
    return (
        sa.update(table.sql)
        .where(key == locked.c[table.key], key == given.c.key, date.is_(None) | (date < given.c.date))
        .values({column: given.c.date})
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
)
async def create(calls: Sequence[tuple[Tx, Request[VisitPath, NoFields, VisitNew]]]) -> list[VisitEvent | Fault]:
    """Keep visits. An entry moves the visitor's lastVisitDate and the vehicle's lastParkingSession forward; that is
    told by the visit's own change and not by changes of those two."""
    first = calls[0][0]
    bodies = [request.body for _, request in calls]
    known = await _resolve(first, bodies, {body.pc_code for body in bodies})
    outcomes: list[VisitEvent | Fault] = []
    for tx, request in calls:
        try:
            outcomes.append(_row(known, tx, request))
        except Fault as fault:
            outcomes.append(fault)
    accepted = [(tx, row) for (tx, _), row in zip(calls, outcomes, strict=True) if isinstance(row, VisitEvent)]
    if accepted:
        await _store(first, accepted)
    return outcomes


async def _store(conn: Tx, accepted: Sequence[tuple[Tx, VisitEvent]]) -> None:
    rows = [row for _, row in accepted]
    await _move(conn, _MOVE_VISITORS, ((row.visitor_id, row.visit_date) for row in rows if row.visit_type == "entry"))
    await _move(conn, _MOVE_VEHICLES, ((row.vehicle_id, row.visit_date) for row in rows if row.visit_type == "entry"))
    found = await conn.all(_INSERT, {name: [getattr(row, name) for row in rows] for name in _COLUMNS})
    # Identity values follow the order of the select (PostgreSQL manual, INSERT), RETURNING promises none.
    for (tx, row), visit_id in zip(accepted, sorted(found_row.visit_id for found_row in found), strict=True):
        row.visit_id = visit_id
        VISITS.record(tx, row, visit_id, 1, "created")


async def _move(conn: Tx, statement: Any, dated: Iterable[tuple[Any, datetime]]) -> None:
    latest: dict[Any, datetime] = {}
    for key, date in dated:
        if key is not None:
            latest[key] = max(date, latest.get(key, date))
    if latest:
        await conn.conn.execute(statement, {"keys": list(latest), "dates": list(latest.values())})


@operation(
    "visits.list", "GET /visits", summary="List the visits of a visitor to a center",
    query=VisitQuery, reply=Visit, shape="array",
)  # fmt: skip
async def list_visits(tx: Tx, request: Request[NoFields, VisitQuery, NoFields]) -> Page[VisitEvent]:
    """The visits of one visitor to one center, found by the same rules as when a visit is reported."""
    query = request.query
    known = await _resolve(tx, [query], {query.pc_code})
    if query.pc_code not in known.centers:
        raise Invalid("center_not_found", "There is no such center.", field="pcCode")
    visitor, _ = _identify(known, query)
    named = Identification.model_fields
    return await page(tx, VISITS, query, within={"visitor_id": visitor}, skip=named, default_sort="visitDate")


OPERATIONS: Operations = (create, list_visits)
