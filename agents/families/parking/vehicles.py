"""Vehicles of a visitor. A deleted vehicle keeps its row, with a deletionDate."""

from collections.abc import Sequence
from typing import Annotated, Any

import sqlalchemy as sa

from agents import crud
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, apply_each, batch_operation, operation
from schemas.faults import Fault
from schemas.marks import Whole
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.plates import plate_key
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import CountryCode, Flag, Instant, Int64, Omittable, Plate, Text, Uuid
from storage.folding import folded, plain_beyond_key
from storage.lists import Filter
from storage.table import Table
from storage.tx import Tx


def _has_plate(columns: Any, plate: str) -> sa.ColumnElement[bool]:
    key = plate_key(plate)
    if not key:
        # Old vehicles with a plate without letters and digits have no key either; they must not match.
        return sa.false()
    matches: sa.ColumnElement[bool] = columns.plate_key == key
    return matches


class VehicleFields(Model):
    name: Text | None = None
    """A name for the vehicle, which the visitor chooses."""
    maker: Omittable[Text] = None
    """The maker of the vehicle."""
    color: Omittable[Text] = None
    """The colour of the vehicle."""
    model: Omittable[Text] = None
    """The model of the vehicle."""
    license_plate: Plate
    """The licence plate."""
    license_plate_country: Omittable[CountryCode] = None
    """The country of the licence plate, as ISO 3166-1 alpha-2 code."""
    year_of_manufacture: Omittable[Annotated[int, Whole(ge=1800, le=2500)]] = None
    """The year in which the vehicle was built."""
    last_parking_session: Omittable[Instant] = None
    """When the vehicle last entered a center."""


class VehiclePatch(VehicleFields, partial=True):
    vehicle_id: Int64
    """Id of the vehicle. It must be that of the path."""
    deletion_date: Instant
    """When the vehicle was deleted. A vehicle with this date counts as deleted."""


class Vehicle(VehicleFields):
    license_plate: Text  # Not Plate: old rows may have plates without letters and digits, which were accepted once.
    """The licence plate, as it was sent."""
    vehicle_id: Int64
    visitor_id: Uuid
    deletion_date: Instant | None
    creation_date: Instant
    update_date: Instant


class VehicleQuery(PageQuery):
    include_deleted: Annotated[Flag, Filter(lambda c, include: sa.true() if include else c.deletion_date.is_(None))] = (
        False
    )
    license_plate: Annotated[Text | None, Filter(_has_plate)] = None
    """Only vehicles with this licence plate."""


VEHICLES = Table(
    "vehicles",
    Vehicle,
    family="parking",
    resource="vehicle",
    key="vehicle_id",
    parents={"visitor_id": VISITORS},
    derived={"plate_key": ("license_plate", plate_key), "plain_plate": ("license_plate", plain_beyond_key)},
    hidden=[
        folded("plate_key"),
        folded("plain_plate", nullable=True),
        sa.Index("vehicles_plain_plate_idx", "plain_plate", postgresql_where="plain_plate is not null"),
        sa.Index(
            "vehicles_plate_key_idx", "plate_key", sa.text("update_date desc"), postgresql_where="deletion_date is null"
        ),
        sa.Index("vehicles_visitor_id_idx", "visitor_id", "vehicle_id"),
    ],
)

_ALL = "/visitors/{visitorId}/vehicles"
_ONE = f"{_ALL}/{{vehicleId}}"


class VehiclePath(VisitorPath):
    vehicle_id: Int64


async def _refresh_now(tx: Tx, old: Vehicle, patch: VehiclePatch) -> None:
    """Read the clock after the row is locked. A plate identifies the vehicle that was updated last, so two updates of
    one batch must not have the same time."""
    await tx.refresh_now()


@batch_operation(
    "vehicles.create", f"POST {_ALL}", summary="Create a new vehicle",
    path=VisitorPath, body=VehicleFields, reply=Vehicle,
)  # fmt: skip
async def create(calls: Sequence[tuple[Tx, Request[VisitorPath, NoFields, VehicleFields]]]) -> list[Vehicle | Fault]:
    """Raises NotFound for the visitor."""
    txs = [tx for tx, _ in calls]
    visitor_ids = await VISITORS.existing_keys(txs[0], (request.path.visitor_id for _, request in calls))

    def vehicle_values(tx: Tx, request: Request[VisitorPath, NoFields, VehicleFields]) -> dict[str, Any]:
        if request.path.visitor_id not in visitor_ids:
            raise VISITORS.not_found()
        return vars(request.body) | vars(request.path)

    # See _refresh_now. Of vehicles with the same time, the one with the highest id counts as updated last.
    await Tx.refresh_all(txs)
    return await apply_each(calls, vehicle_values, VEHICLES.insert_many)


@operation("vehicles.delete", f"DELETE {_ONE}", summary="Delete a vehicle", path=VehiclePath, reply=None)
async def delete(tx: Tx, request: Request[VehiclePath, NoFields, NoFields]) -> None:
    """A vehicle that is already deleted gives 404. Raises NotFound."""
    where = vars(request.path)
    if (await VEHICLES.lock(tx, **where)).deletion_date is not None:
        raise VEHICLES.not_found()
    await tx.refresh_now()
    await VEHICLES.update(tx, {"deletion_date": tx.now}, **where)


OPERATIONS: Operations = (
    create,
    crud.lists(VEHICLES, "vehicles.list", f"GET {_ALL}", "Retrieve the vehicles of a visitor", VehicleQuery),
    crud.updates(VEHICLES, "vehicles.update", f"PATCH {_ONE}", "Update a vehicle", VehiclePatch, _refresh_now),
    crud.gets(VEHICLES, "vehicles.get", f"GET {_ONE}", "Read a vehicle"),
    delete,
)
