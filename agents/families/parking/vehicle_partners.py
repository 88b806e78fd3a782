"""The ids that parking partners use for the vehicles of a visitor."""

from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS, ParkingPartner
from agents.families.parking.vehicles import VEHICLES
from agents.families.profile.visitor_centers import VISITOR_CENTERS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Invalid
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.requests import Request
from schemas.types import Identifier, Instant, Int64, Omittable, PcCode, Uuid
from storage.table import Table
from storage.tx import Tx


class VehiclePartnerFields(Model):
    vehicle_id: Int64
    partner_id: Identifier
    """The id of the vehicle in the partner's system."""
    parking_partner: ParkingPartner
    visitor_center_id: Omittable[Int64] = None
    """Id of the visitor center that names the center, instead of `pcCode` or beside it."""
    pc_code: Omittable[PcCode] = None
    """The code of the center in which the id is valid."""


class VehiclePartnerNew(VehiclePartnerFields):
    visitor_id: Omittable[Uuid] = None


class VehiclePartner(VehiclePartnerFields):
    vehicle_partner_id: Int64
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


VEHICLE_PARTNERS = Table(
    "vehicle_partners",
    VehiclePartner,
    family="parking",
    resource="vehiclePartner",
    key="vehicle_partner_id",
    parents={
        "visitor_id": VISITORS, "vehicle_id": VEHICLES, "visitor_center_id": VISITOR_CENTERS, "pc_code": CENTERS,
    },
    conflicts={
        "vehicle_partners_one": crud.already_exists(
            "vehicle_partner", "The vehicle already has an id of this partner for this center. Delete it first."
        )
    },
    hidden=[
        # The pcCode of the center, whether the request identifies it by pcCode or by visitorCenterId.
        sa.Column("center_key", sa.Text),
        sa.Index("vehicle_partners_visitor_id_idx", "visitor_id", "vehicle_partner_id"),
        # Erasure deletes visitorCenters; for each of them, PostgreSQL looks for rows that reference it.
        sa.Index("vehicle_partners_visitor_center_id_idx", "visitor_center_id"),
        sa.Index(
            "vehicle_partners_one",
            "vehicle_id", "parking_partner", "center_key",
            unique=True, postgresql_nulls_not_distinct=True,
        ),
    ],
)  # fmt: skip

_ALL = "/visitors/{visitorId}/vehiclePartners"


@operation(
    "vehiclePartners.create", f"POST {_ALL}", summary="Add a partner's id to a vehicle",
    path=VisitorPath, body=VehiclePartnerNew, reply=VehiclePartner,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, VehiclePartnerNew]) -> VehiclePartner:
    """Raises NotFound for the visitor, and Invalid for a vehicle or visitorCenter of another visitor or for two
    different centers."""
    crud.require_same_ids(request)
    visitor_id, body = request.path.visitor_id, request.body
    await VISITORS.require(tx, visitor_id)
    await crud.require_child(tx, VEHICLES, body, "vehicle_id", visitor_id=visitor_id)
    pc_code = await _center_pc_code(tx, visitor_id, body)
    return await VEHICLE_PARTNERS.insert(tx, vars(body) | {"visitor_id": visitor_id, "center_key": pc_code})


async def _center_pc_code(tx: Tx, visitor_id: UUID, body: VehiclePartnerNew) -> str | None:
    """The pcCode of the center that the body identifies by `pcCode`, by `visitorCenterId` or by both. None if it
    identifies no center. Raises Invalid."""
    if body.visitor_center_id is None:
        return body.pc_code
    await crud.require_child(tx, VISITOR_CENTERS, body, "visitor_center_id", visitor_id=visitor_id)
    visitor_center = await VISITOR_CENTERS.find(tx, visitor_center_id=body.visitor_center_id)
    if body.pc_code not in (None, visitor_center.pc_code):
        message = "The pcCode and the visitorCenterId name different centers. Send one of them."
        raise Invalid("centers_differ", message, field="pcCode")
    return visitor_center.pc_code


OPERATIONS: Operations = (
    create,
    crud.lists(VEHICLE_PARTNERS, "vehiclePartners.list", f"GET {_ALL}", "List the partners' ids of vehicles"),
    crud.deletes(
        VEHICLE_PARTNERS,
        "vehiclePartners.delete",
        f"DELETE {_ALL}/{{vehiclePartnerId}}",
        "Remove a partner's id from a vehicle",
    ),
)
