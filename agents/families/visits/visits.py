"""Entries and exits of visitors, as gateways and applications report them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

import sqlalchemy as sa
from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.dialects.postgresql import distinct_on

from agents.families.centers.centers import CENTERS
from agents.families.parking.vehicles import VEHICLES
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, apply_each, batch_operation, operation
from schemas.faults import Conflict, Fault, Invalid, NotFound, with_error
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

MAX_CLOCK_AHEAD = timedelta(minutes=5)
"""How far the clock of a gateway may be ahead of the broker's clock."""

_IDENTIFICATION_FIELDS = ("visitorId", "barcode", "licensePlate")


def _identification_required() -> PydanticCustomError:
    return PydanticCustomError("identification_required", "Send at least one of visitorId, barcode and licensePlate.")


class Identification(Model):
    """Identifies one visitor by at least one field. If several fields are sent, all of them must identify the same
    visitor."""

    visitor_id: Omittable[Text] = None
    """Id of the visitor: one of the three fields that identify the visitor. At least one of them is required. If
    several are sent, they must identify the same visitor."""
    barcode: Omittable[Identifier] = None
    """Barcode of the visitor: one of the three fields that identify the visitor. At least one of them is required. If
    several are sent, they must identify the same visitor."""
    license_plate: Omittable[Text] = None
    """Licence plate of a vehicle of the visitor: one of the three fields that identify the visitor. At least one of
    them is required. If several are sent, they must identify the same visitor. Of several vehicles with this plate, the
    one that was updated last counts; deleted ones do not count."""

    @model_validator(mode="wrap")
    @classmethod
    def _require_one_field(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report the missing identification beside the faults of single fields: an `after` validator would not run if
        there are any."""
        has_no_identification = isinstance(data, dict) and data.keys().isdisjoint(_IDENTIFICATION_FIELDS)
        try:
            identification = handler(data)
        except ValidationError as error:
            if has_no_identification:
                raise with_error(error, _identification_required()) from None
            raise
        if has_no_identification:
            raise _identification_required()
        return identification


class VisitPath(Model):
    visit_type: VisitType
    """The type of the visit, either entry or exit."""


class VisitNew(Identification):
    """An entry or an exit. Send at least one of `visitorId`, `barcode` and `licensePlate`. If several are sent, all of
    them must identify the same visitor."""

    pc_code: PcCode
    """The code of the center (mall) that reports the visit."""
    visit_date: Annotated[Omittable[Instant], MessageOnly()] = None
    """The time of the visit by the gateway's clock. By default it is the time of arrival."""


class Visit(Model):
    visitor_id: Uuid
    pc_code: PcCode
    visit_date: Instant
    """When the visit took place."""
    visit_type: VisitType
    """The type of the visit, either entry or exit."""
    license_plate: Text | None
    """The licence plate as it was sent; null if none was sent."""


class VisitEvent(Visit):
    """A visit as its change shows it: with its id, and with the vehicle whose plate was sent."""

    visit_id: Int64
    """Id of the visit."""
    vehicle_id: Int64 | None
    """Id of the vehicle with the licence plate; null if no plate was sent."""


class VisitQuery(Identification, PageQuery):
    pc_code: PcCode
    visit_date_since: Annotated[Instant | None, Filter(lambda c, moment: c.visit_date >= moment)] = None
    """Only visits at or after this time."""
    visit_date_until: Annotated[Instant | None, Filter(lambda c, moment: c.visit_date <= moment)] = None
    """Only visits at or before this time."""
    visit_type: Omittable[VisitType] = None
    """Only visits of this type. By default, visits of both types are listed."""


VISITS = Table(
    "visits",
    VisitEvent,
    family="visits",
    resource="visit",
    key="visit_id",
    event_time="visit_date",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    hidden=[sa.Index("visits_visitor_id_idx", "visitor_id", "pc_code", "visit_date", "visit_id")],
)


class _Vehicle(NamedTuple):
    visitor_id: UUID
    vehicle_id: int


@dataclass
class _References:
    """The existing centers, visitors and vehicles that a batch of requests refers to."""

    pc_codes: set[str]
    visitors_by_id: dict[str, UUID]
    visitors_by_barcode: dict[str, UUID]
    vehicles_by_plate_key: dict[str, _Vehicle]


def _select_references() -> Any:
    """SELECT the centers, visitors and vehicles that the list parameters name. `kind` says what a row is, and `name` is
    its pcCode, barcode or plate key.

    Of several vehicles with the same plate key that are not deleted, only the one that was updated last is returned.
    DISTINCT ON keeps the first row of each plate key."""
    visitors, vehicles = VISITORS.columns, VEHICLES.columns
    center_rows = sa.select(
        sa.literal("center").label("kind"), CENTERS.columns.pc_code.label("name"),
        sa.null().cast(sa.Uuid).label("visitor_id"), sa.null().cast(sa.BigInteger).label("vehicle_id"),
    ).where(any_of(CENTERS.columns.pc_code, "pc_codes"))  # fmt: skip
    visitor_rows = sa.select(
        sa.literal("visitor"), visitors.barcode, visitors.visitor_id, sa.null().cast(sa.BigInteger)
    ).where(any_of(visitors.visitor_id, "visitor_ids") | any_of(visitors.barcode, "barcodes"))
    newest = (
        sa.select(vehicles.plate_key, vehicles.visitor_id, vehicles.vehicle_id)
        .ext(distinct_on(vehicles.plate_key))
        .where(any_of(vehicles.plate_key, "plate_keys"), vehicles.deletion_date.is_(None))
        .order_by(vehicles.plate_key, vehicles.update_date.desc(), vehicles.vehicle_id.desc())
        .subquery("newest")
    )
    return sa.union_all(center_rows, visitor_rows, sa.select(sa.literal("vehicle"), *newest.c))


_SELECT_REFERENCES = _select_references()


async def _read_references(tx: Tx, identifications: Sequence[Identification], pc_codes: set[str]) -> _References:
    """Read everything that the identifications and `pc_codes` refer to, with one statement."""
    visitor_ids = _parse_uuids(item.visitor_id for item in identifications if item.visitor_id is not None)
    barcodes = {item.barcode for item in identifications if item.barcode is not None}
    plate_keys = {plate_key(item.license_plate) for item in identifications if item.license_plate is not None} - {""}
    parameters = {
        "pc_codes": sorted(pc_codes),
        "visitor_ids": sorted(visitor_ids.values()),
        "barcodes": sorted(barcodes),
        "plate_keys": sorted(plate_keys),
    }
    rows_by_kind: dict[str, list[Any]] = {"center": [], "visitor": [], "vehicle": []}
    for row in await tx.all(_SELECT_REFERENCES, parameters):
        rows_by_kind[row.kind].append(row)
    existing_ids = {row.visitor_id for row in rows_by_kind["visitor"]}
    return _References(
        pc_codes={row.name for row in rows_by_kind["center"]},
        visitors_by_id={text: parsed for text, parsed in visitor_ids.items() if parsed in existing_ids},
        visitors_by_barcode={row.name: row.visitor_id for row in rows_by_kind["visitor"]},
        vehicles_by_plate_key={row.name: _Vehicle(row.visitor_id, row.vehicle_id) for row in rows_by_kind["vehicle"]},
    )


def _parse_uuids(texts: Iterable[str]) -> dict[str, UUID]:
    """Map each text that is a UUID to its UUID. Other texts are left out."""
    parsed = {text: uuid_of(text) for text in texts}
    return {text: visitor_id for text, visitor_id in parsed.items() if visitor_id is not None}


def _require_center(references: _References, pc_code: str) -> None:
    """Raises Invalid if the center does not exist."""
    if pc_code not in references.pc_codes:
        raise Invalid("center_not_found", "There is no such center.", field="pcCode")


def _identify(references: _References, identification: Identification) -> tuple[UUID, int | None]:
    """Return the id of the visitor that all sent fields identify, and the id of the vehicle if a plate was sent.

    Raises NotFound if a field identifies no visitor, and Conflict if the fields identify different visitors.
    """
    visitor_ids: list[UUID | None] = []
    vehicle_id = None
    if identification.visitor_id is not None:
        visitor_ids.append(references.visitors_by_id.get(identification.visitor_id))
    if identification.barcode is not None:
        visitor_ids.append(references.visitors_by_barcode.get(identification.barcode))
    if identification.license_plate is not None:
        vehicle = references.vehicles_by_plate_key.get(plate_key(identification.license_plate))
        visitor_ids.append(vehicle.visitor_id if vehicle else None)
        vehicle_id = vehicle.vehicle_id if vehicle else None
    visitor_id = visitor_ids[0]
    if visitor_id is None or None in visitor_ids:
        raise VISITORS.not_found()
    if len(set(visitor_ids)) > 1:
        raise Conflict("ids_mismatch", "visitorId, barcode and licensePlate must name the same visitor.")
    return visitor_id, vehicle_id


def _visit_values(references: _References, tx: Tx, request: Request[VisitPath, NoFields, VisitNew]) -> dict[str, Any]:
    """Return the column values of a new visit. Raises Invalid, NotFound, Conflict."""
    body = request.body
    _require_center(references, body.pc_code)
    if body.visit_date is not None and body.visit_date > tx.cause.arrived + MAX_CLOCK_AHEAD:
        raise Invalid(
            "visit_date_ahead", "visitDate is more than 5 minutes in the future. Check your clock.", field="visitDate"
        )
    visitor_id, vehicle_id = _identify(references, body)
    return {
        "visitor_id": visitor_id,
        "pc_code": body.pc_code,
        "visit_date": body.visit_date or tx.cause.arrived,
        "visit_type": request.path.visit_type,
        "license_plate": body.license_plate,
        "vehicle_id": vehicle_id,
    }


def _advance_date(table: Table[Any], column: str) -> sa.CTE:
    """UPDATE the date in `column` of the rows in the list parameter `<column>_keys`, each to its date in
    `<column>_dates`.

    Rows that have the same or a later date stay unchanged. A CTE locks the rows in key order first, so that concurrent
    batches cannot deadlock. The statement touches only the rows in the parameter.
    """
    key, date = table.columns[table.key], table.columns[column]
    keys, dates = f"{column}_keys", f"{column}_dates"
    locked_rows = locked(table, keys)
    new = unnest_rows(**{keys: key.type, dates: date.type})
    return (
        sa.update(table.sql)
        .where(key == locked_rows.c[table.key], key == new.c[keys], date.is_(None) | (date < new.c[dates]))
        .values({column: new.c[dates]})
        .cte(f"advanced_{column}")
    )


_ADVANCE_DATES = (_advance_date(VISITORS, "last_visit_date"), _advance_date(VEHICLES, "last_parking_session"))


@batch_operation(
    "visits.create",
    "POST /visits/{visitType}",
    summary="Report an entry or an exit",
    path=VisitPath,
    body=VisitNew,
    reply=Visit,
    shape="object",
    partition_key=_IDENTIFICATION_FIELDS,
)
async def create(calls: Sequence[tuple[Tx, Request[VisitPath, NoFields, VisitNew]]]) -> list[VisitEvent | Fault]:
    """Store a visit. An entry also moves the visitor's lastVisitDate and the vehicle's lastParkingSession forward. Only
    the visit emits a change; the visitor and the vehicle do not."""
    bodies = [request.body for _, request in calls]
    references = await _read_references(calls[0][0], bodies, {body.pc_code for body in bodies})
    return await apply_each(calls, lambda tx, request: _visit_values(references, tx, request), _store)


async def _store(visits: Sequence[tuple[Tx, dict[str, Any]]]) -> list[VisitEvent]:
    """Insert the visits and advance the dates, with one statement."""
    entries = [values for _, values in visits if values["visit_type"] == "entry"]
    last_visits = _latest((entry["visitor_id"], entry["visit_date"]) for entry in entries)
    last_sessions = _latest((entry["vehicle_id"], entry["visit_date"]) for entry in entries)
    parameters = {
        "last_visit_date_keys": list(last_visits),
        "last_visit_date_dates": list(last_visits.values()),
        "last_parking_session_keys": list(last_sessions),
        "last_parking_session_dates": list(last_sessions.values()),
    }
    return await VISITS.insert_many(visits, _ADVANCE_DATES, parameters)


def _latest(dates: Iterable[tuple[Any, datetime]]) -> dict[Any, datetime]:
    """The latest date of each key. Pairs whose key is None are skipped."""
    latest: dict[Any, datetime] = {}
    for key, date in dates:
        if key is not None:
            latest[key] = max(date, latest.get(key, date))
    return latest


@operation(
    "visits.list", "GET /visits", summary="List the visits of a visitor to a center",
    query=VisitQuery, reply=Visit, shape="array", faults=(NotFound, Conflict),
)  # fmt: skip
async def list_visits(tx: Tx, request: Request[NoFields, VisitQuery, NoFields]) -> Page[VisitEvent]:
    """List the visits of one visitor to one center. The visitor is identified by the same rules as in a reported
    visit. Raises Invalid, NotFound, Conflict."""
    query = request.query
    references = await _read_references(tx, [query], {query.pc_code})
    _require_center(references, query.pc_code)
    visitor_id, _ = _identify(references, query)
    return await page(
        tx, VISITS, query, within={"visitor_id": visitor_id}, skip=Identification.model_fields,
        default_sort="visitDate", shown=Visit,
    )  # fmt: skip


OPERATIONS: Operations = (create, list_visits)
