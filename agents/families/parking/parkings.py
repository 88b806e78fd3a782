"""Subscriptions of a visitor to the parking of partners, one active for each; and the map of partners by center."""

from contextlib import aclosing

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS, ParkingPartner
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.model import MapOf, Model, NoFields
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import Flag, Instant, Int64, Omittable, Uuid
from storage.table import Table
from storage.tx import Tx


class ParkingNew(Model):
    parking_partner: ParkingPartner


class Parking(ParkingNew):
    visitor_id: Uuid
    parking_id: Int64
    is_active: Flag
    """Whether the visitor is subscribed."""
    subscription_date: Instant
    """When the visitor subscribed."""
    unsubscribed_at: Instant | None
    """When the visitor unsubscribed; null while the parking is active."""
    creation_date: Instant
    update_date: Instant


class ParkingQuery(PageQuery):
    parking_partner: Omittable[ParkingPartner] = None
    """Only parkings of this partner."""


class PartnersByCenter(MapOf[dict[str, list[ParkingPartner]]]):
    """The parking partners of the active centers. The keys are the country and then the `pcCode`."""


PARKINGS = Table(
    "parkings",
    Parking,
    family="parking",
    resource="parking",
    key="parking_id",
    parents={"visitor_id": VISITORS},
    conflicts={
        "parkings_one_active": crud.already_exists(
            "parking", "The visitor already has an active parking with this partner. Delete it first.", "parkingPartner"
        )
    },
    hidden=[
        sa.Index("parkings_visitor_id_idx", "visitor_id", "parking_id"),
        sa.Index("parkings_one_active", "visitor_id", "parking_partner", unique=True, postgresql_where="is_active"),
    ],
)

_ALL = "/visitors/{visitorId}/parkings"
_ONE = f"{_ALL}/{{parkingId}}"
_CENTERS_WITH_PARTNER = (
    sa.select(CENTERS.columns.country, CENTERS.columns.pc_code, CENTERS.columns.parking_partner)
    .where(CENTERS.columns.is_active, CENTERS.columns.parking_partner.is_not(None))
    .order_by(CENTERS.columns.country, CENTERS.columns.pc_code)
)


@operation(
    "parkings.create", f"POST {_ALL}", summary="Subscribe to a partner's parking",
    path=crud.path_of(PARKINGS, "parkings.create", _ALL), body=ParkingNew, reply=Parking,
)  # fmt: skip
async def create(tx: Tx, request: Request[Model, NoFields, ParkingNew]) -> Parking:
    subscription = {"is_active": True, "subscription_date": tx.now}
    return await PARKINGS.insert(tx, vars(request.path) | vars(request.body) | subscription)


@operation(
    "parkingPartners.map", "GET /parkingPartners", summary="Map the active centers to their parking partners",
    reply=PartnersByCenter,
)  # fmt: skip
async def partners(tx: Tx, request: Request[NoFields, NoFields, NoFields]) -> PartnersByCenter:
    """The keys are the country and then the `pcCode`. Raises LoadsTooMuch."""
    partners_by_country: dict[str, dict[str, list[ParkingPartner]]] = {}
    async with aclosing(tx.chunks(_CENTERS_WITH_PARTNER)) as chunks:
        async for rows in chunks:
            for row in rows:
                partners_by_country.setdefault(row.country, {})[row.pc_code] = [row.parking_partner]
                tx.note_loaded(len(f'"{row.pc_code}":["{row.parking_partner}"]'))
    return PartnersByCenter(partners_by_country)


OPERATIONS: Operations = (
    create,
    crud.lists(PARKINGS, "parkings.list", f"GET {_ALL}", "List the parkings of a visitor", ParkingQuery),
    crud.gets(PARKINGS, "parkings.get", f"GET {_ONE}", "Read a parking"),
    crud.soft_deletes(
        PARKINGS,
        "parkings.delete",
        f"DELETE {_ONE}",
        "Unsubscribe from a partner's parking",
        is_deleted=lambda parking: not parking.is_active,
        values=lambda tx: {"is_active": False, "unsubscribed_at": tx.now},
    ),
    partners,
)
