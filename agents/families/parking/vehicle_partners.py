"""The ids that parking partners use for the vehicles of a visitor."""

from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS, ParkingPartner, missing_center
from agents.families.parking.vehicles import VEHICLES
from agents.families.profile.visitor_centers import VISITOR_CENTERS, VisitorCenter
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Invalid, refuse
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
    """Raises NotFound for the visitor, and Invalid for a vehicle or visitorCenter of another visitor, an unknown center
    or two different centers."""
    crud.require_same_ids(request)
    visitor_id, body = request.path.visitor_id, request.body
    await VISITORS.require(tx, visitor_id)
    vehicle = await crud.find_child(tx, VEHICLES, body, "vehicle_id", visitor_id=visitor_id)
    visitor_center = await _visitor_center(tx, visitor_id, body)
    faults = [child for child in (vehicle, visitor_center) if isinstance(child, Invalid)]
    if isinstance(visitor_center, VisitorCenter) and body.pc_code not in (None, visitor_center.pc_code):
        message = "The pcCode and the visitorCenterId name different centers. Send one of them."
        faults.append(Invalid("centers_differ", message, field="pcCode"))
    elif faults and body.pc_code is not None:
        faults += await missing_center(tx, body.pc_code)
    refuse(faults)
    pc_code = visitor_center.pc_code if isinstance(visitor_center, VisitorCenter) else body.pc_code
    return await VEHICLE_PARTNERS.insert(tx, vars(body) | {"visitor_id": visitor_id, "center_key": pc_code})


async def _visitor_center(tx: Tx, visitor_id: UUID, body: VehiclePartnerNew) -> VisitorCenter | Invalid | None:
    """The visitor center that the body names, or the fault if there is none; None if the body names none."""
    if body.visitor_center_id is None:
        return None
    return await crud.find_child(tx, VISITOR_CENTERS, body, "visitor_center_id", visitor_id=visitor_id)


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
