"""The centers of a visitor. At most one of them is the favourite."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.centers.companies import COMPANIES
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.requests import Request
from schemas.types import Flag, Instant, Int64, Omittable, PcCode, Uuid
from storage.table import Table
from storage.tx import Tx


class VisitorCenterFields(Model):
    is_tlp: Omittable[Flag] = None
    """Whether the visitor takes part in the loyalty programme of the center."""
    is_favorite: Flag
    """Whether this is the favourite center of the visitor."""
    is_smartparker: Omittable[Flag] = None
    """Whether the visitor uses smart parking in the center."""
    center_company_id: Int64 | None = None


class VisitorCenterNew(VisitorCenterFields):
    pc_code: PcCode


class VisitorCenterPatch(VisitorCenterFields, partial=True):
    pass


class VisitorCenterPut(VisitorCenterPatch):
    """A PUT replaces the record: an omitted field gets its default, and `isFavorite` becomes false."""

    pc_code: PcCode


class VisitorCenterPath(VisitorPath):
    pc_code: PcCode


class VisitorCenter(VisitorCenterNew):
    visitor_center_id: Int64
    visitor_id: Uuid
    favorite_date: Instant | None
    """When the center became the favourite; null if it is not."""
    creation_date: Instant
    update_date: Instant


VISITOR_CENTERS = Table(
    "visitor_centers",
    VisitorCenter,
    family="profile",
    resource="visitorCenter",
    key="visitor_center_id",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS, "center_company_id": COMPANIES},
    conflicts={
        "visitor_centers_visitor_id_key": crud.already_exists(
            "visitor_center", "The visitor has this center already.", "pcCode"
        )
    },
    hidden=[
        sa.UniqueConstraint("visitor_id", "pc_code"),
        sa.Index("visitor_centers_one_favorite", "visitor_id", unique=True, postgresql_where="is_favorite"),
        sa.Index("visitor_centers_center_company_id_idx", "center_company_id"),
    ],
)

_C = VISITOR_CENTERS.columns
_FAVORITE = sa.select(_C.pc_code).where(_C.visitor_id == sa.bindparam("visitor"), _C.is_favorite)
_BY_CENTER = sa.select(VISITOR_CENTERS.sql).where(
    _C.visitor_id == sa.bindparam("visitor"), _C.pc_code == sa.bindparam("center")
)


async def _set_favorite(
    tx: Tx, visitor_id: UUID, pc_code: str, values: dict[str, Any], *, was_favorite: bool
) -> dict[str, Any]:
    """Return `values` with the favoriteDate that follows from them. If they make this center the favourite, the former
    favourite is cleared. The caller has locked the visitor, so concurrent requests cannot leave two favourites."""
    await tx.refresh_now()
    if values.get("is_favorite", was_favorite) == was_favorite:
        return values
    if was_favorite:
        return values | {"favorite_date": None}
    favorite = await tx.first(_FAVORITE, {"visitor": visitor_id})
    if favorite is not None and favorite.pc_code != pc_code:
        cleared = {"is_favorite": False, "favorite_date": None}
        await VISITOR_CENTERS.update(tx, cleared, visitor_id=visitor_id, pc_code=favorite.pc_code)
    return values | {"favorite_date": tx.now}


async def _require_company(tx: Tx, pc_code: str, body: VisitorCenterFields) -> None:
    """Raises Invalid if the body has a company that is not in this center."""
    if body.center_company_id is not None:
        await crud.require_child(tx, COMPANIES, body, "center_company_id", pc_code=pc_code)


async def add(tx: Tx, visitor_id: UUID, body: VisitorCenterNew) -> VisitorCenter:
    """Raises NotFound for an unknown visitor, Conflict if the visitor has the center, and Invalid for an unknown center
    and for a company that is not in the center."""
    await VISITORS.lock(tx, visitor_id=visitor_id)
    await crud.require_child(tx, CENTERS, body, "pc_code")
    await _require_company(tx, body.pc_code, body)
    values = await _set_favorite(tx, visitor_id, body.pc_code, dict(vars(body)), was_favorite=False)
    return await VISITOR_CENTERS.insert(tx, values | {"visitor_id": visitor_id})


_ALL = "/visitors/{visitorId}/centers"
_ONE = f"{_ALL}/{{pcCode}}"


@operation(
    "visitorCenters.create", f"POST {_ALL}", summary="Add a center to a visitor",
    path=VisitorPath, body=VisitorCenterNew, reply=VisitorCenter,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, VisitorCenterNew]) -> VisitorCenter:
    return await add(tx, request.path.visitor_id, request.body)


@operation(
    "visitorCenters.put", f"PUT {_ALL}", summary="Add or replace a center of a visitor",
    path=VisitorPath, body=VisitorCenterPut, reply=VisitorCenter,
)  # fmt: skip
async def put(tx: Tx, request: Request[VisitorPath, NoFields, VisitorCenterPut]) -> VisitorCenter:
    """Raises NotFound for an unknown visitor, and Invalid for an unknown center and for a company that is not in the
    center."""
    visitor_id, body = request.path.visitor_id, request.body
    await VISITORS.lock(tx, visitor_id=visitor_id)
    fields = {name: getattr(body, name) for name in VisitorCenterFields.model_fields}
    fields |= {"pc_code": body.pc_code, "is_favorite": bool(body.is_favorite)}
    new = VisitorCenterNew.model_construct(**fields)
    old = await tx.first(_BY_CENTER, {"visitor": visitor_id, "center": body.pc_code})
    if old is None:
        return await add(tx, visitor_id, new)
    await _require_company(tx, body.pc_code, new)
    values = await _set_favorite(tx, visitor_id, body.pc_code, dict(vars(new)), was_favorite=old.is_favorite)
    return await VISITOR_CENTERS.update(tx, values, visitor_id=visitor_id, pc_code=body.pc_code)


@operation(
    "visitorCenters.update", f"PATCH {_ONE}", summary="Update a center of a visitor",
    path=VisitorCenterPath, body=VisitorCenterPatch, reply=None,
)  # fmt: skip
async def update(tx: Tx, request: Request[VisitorCenterPath, NoFields, VisitorCenterPatch]) -> None:
    """Raises NotFound, and Invalid for a company that is not in the center."""
    where = vars(request.path)
    await VISITORS.lock(tx, visitor_id=request.path.visitor_id)
    old = await VISITOR_CENTERS.lock(tx, **where)
    await _require_company(tx, old.pc_code, request.body)
    sent = request.body.sent_fields()
    values = await _set_favorite(tx, old.visitor_id, old.pc_code, sent, was_favorite=old.is_favorite)
    await VISITOR_CENTERS.update(tx, values, **where)


OPERATIONS: Operations = (
    create,
    crud.lists(VISITOR_CENTERS, "visitorCenters.list", f"GET {_ALL}", "List the centers of a visitor"),
    put,
    crud.gets(VISITOR_CENTERS, "visitorCenters.get", f"GET {_ONE}", "Read a center of a visitor"),
    update,
)
