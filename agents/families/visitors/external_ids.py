"""The ids that other systems know a visitor by."""

from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import sqlalchemy as sa
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Invalid
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import FieldsQuery, Page, PageQuery
from schemas.requests import Request
from schemas.types import Identifier, Instant, Omittable, PcCode, Uuid
from storage.folding import fold, folded
from storage.statements import any_of
from storage.table import Table
from storage.tx import Tx

DeletedType = Literal["designa", "facebook", "google", "cognito", "partner", "crm_id", "wifi_device_id"]
CreatedType = Literal[
    "designa", "facebook", "google", "cognito", "partner", "crm_id", "pas", "fid", "wifi_device_id"
]  # fmt: skip
ExternalType = Literal[
    "designa", "facebook", "google", "cognito", "pas", "pas_barcode", "fid", "fid_barcode", "partner", "crm_id",
    "analytics", "wifi_device_id",
]  # fmt: skip
BATCH_LIMIT = 500
"""Ids in one comma list of externalIds.batch."""


class ExternalIdNew(Model):
    external_id: Identifier
    pc_code: PcCode | None = None
    external_type: CreatedType


class ExternalId(Model):
    external_id: Identifier
    visitor_id: Uuid
    external_type: ExternalType
    pc_code: PcCode | None
    creation_date: Instant
    update_date: Instant


class ResolvePath(Model):
    external_type: ExternalType
    external_id: Identifier


class OfTypePath(VisitorPath):
    external_type: ExternalType


class DeletePath(VisitorPath):
    external_type: DeletedType


class CenterQuery(Model):
    """Without pcCode, the id that is for no center; else the first by pcCode."""

    pc_code: Omittable[PcCode] = None


class OfTypeQuery(FieldsQuery, CenterQuery):
    pass


class ExternalIdQuery(PageQuery):
    pc_code: Omittable[PcCode] = None


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _each(kind: Any, code: str, what: str) -> AfterValidator:
    """Each part of a comma list is of this type."""
    part = TypeAdapter[Any](kind)

    def checked(text: str) -> str:
        try:
            for each in _parts(text):
                part.validate_python(each)
        except ValidationError:
            raise PydanticCustomError(code, f"Input should be a comma list of {what}.") from None
        return text

    return AfterValidator(checked)


_List = Annotated[str, Field(max_length=BATCH_LIMIT * len(f"{UUID(int=0)}, "), coerce_numbers_to_str=True)]
"""Not Text: the digits of several UUIDs in a row are no card number, and 500 of them are more than a text holds."""

Visitors = Annotated[_List, _each(Uuid, "wrong_format", "UUIDs")]
ExternalTypes = Annotated[_List, _each(ExternalType, "not_allowed", "types of external ids")]
PcCodes = Annotated[_List, _each(PcCode, "wrong_format", "pcCodes")]


class BatchQuery(Model):
    """Comma lists."""

    visitor_id: Visitors
    external_type: Omittable[ExternalTypes] = None
    pc_code: Omittable[PcCodes] = None


EXTERNAL_IDS = Table(
    "external_ids",
    ExternalId,
    family="visitors",
    resource="externalId",
    key="external_id_key",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    conflicts={
        "external_ids_one_of_a_type": crud.already_exists(
            "external_id", "The visitor has an id of this type.", "externalType"
        ),
        "external_ids_one_visitor": crud.already_exists("external_id", "Another visitor has this id.", "externalId"),
    },
    derived={"folded_id": ("external_id", fold)},
    hidden=[
        folded("folded_id"),
        sa.Index("external_ids_folded_id_idx", "folded_id"),
        sa.Column("external_id_key", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Index(
            "external_ids_one_of_a_type",
            "visitor_id", "external_type", "pc_code",
            unique=True, postgresql_nulls_not_distinct=True,
        ),
        sa.Index(
            "external_ids_one_visitor",
            "external_type", "external_id", "pc_code",
            unique=True, postgresql_nulls_not_distinct=True,
        ),
    ],
)  # fmt: skip

_C = EXTERNAL_IDS.columns
_CENTER = sa.bindparam("center", type_=sa.Text)
_IN_CENTER = (_CENTER.is_(None)) | (_C.pc_code == _CENTER)
_NO_CENTER_FIRST = (_C.pc_code.is_not(None), _C.pc_code)
_OF_TYPE = (
    sa.select(EXTERNAL_IDS.sql)
    .where(_C.visitor_id == sa.bindparam("visitor"), _C.external_type == sa.bindparam("type"), _IN_CENTER)
    .order_by(*_NO_CENTER_FIRST)
    .limit(1)
)
_RESOLVE = (
    sa.select(EXTERNAL_IDS.sql)
    .where(_C.external_type == sa.bindparam("type"), _C.external_id == sa.bindparam("id"), _IN_CENTER)
    .order_by(*_NO_CENTER_FIRST)
    .limit(1)
)
_BATCH = sa.select(EXTERNAL_IDS.sql).where(any_of(_C.visitor_id, "visitors")).order_by(_C.external_id_key)


async def add_analytics(tx: Tx, visitor_id: UUID) -> ExternalId:
    """The id by which analytics know a visitor, given to each one."""
    return await EXTERNAL_IDS.insert(
        tx, {"external_id": str(uuid4()), "visitor_id": visitor_id, "external_type": "analytics"}
    )


@operation(
    "externalIds.get", "GET /visitors/{visitorId}/externalIds/{externalType}", summary="Read an external id",
    path=OfTypePath, query=OfTypeQuery, reply=ExternalId,
)  # fmt: skip
async def get(tx: Tx, request: Request[OfTypePath, OfTypeQuery, NoFields]) -> ExternalId:
    """Raises NotFound."""
    path, center = request.path, request.query.pc_code
    given = {"visitor": path.visitor_id, "type": path.external_type, "center": center}
    return EXTERNAL_IDS.to_row(await tx.first(_OF_TYPE, given))


@operation(
    "externalIds.delete", "DELETE /visitors/{visitorId}/externalIds/{externalType}", summary="Remove an external id",
    path=DeletePath, query=CenterQuery, reply=None,
)  # fmt: skip
async def delete(tx: Tx, request: Request[DeletePath, CenterQuery, NoFields]) -> None:
    """Raises NotFound."""
    path, center = request.path, request.query.pc_code
    given = {"visitor": path.visitor_id, "type": path.external_type, "center": center}
    found = await tx.first(_OF_TYPE, given)
    if found is None:
        raise EXTERNAL_IDS.missing()
    await EXTERNAL_IDS.lock(tx, external_id_key=found.external_id_key)
    await EXTERNAL_IDS.delete(tx, external_id_key=found.external_id_key)


@operation(
    "externalIds.resolve", "GET /externalIds/{externalType}/{externalId}", summary="Find whose an external id is",
    path=ResolvePath, query=CenterQuery, reply=ExternalId,
)  # fmt: skip
async def resolve(tx: Tx, request: Request[ResolvePath, CenterQuery, NoFields]) -> ExternalId:
    """Raises NotFound."""
    path, center = request.path, request.query.pc_code
    given = {"type": path.external_type, "id": path.external_id, "center": center}
    return EXTERNAL_IDS.to_row(await tx.first(_RESOLVE, given))


@operation(
    "externalIds.batch", "GET /externalIds", summary="List the external ids of several visitors",
    query=BatchQuery, reply=ExternalId, shape="page",
)  # fmt: skip
async def batch(tx: Tx, request: Request[NoFields, BatchQuery, NoFields]) -> Page[ExternalId]:
    """All of them; ids that are no visitor's are left out. Raises Invalid."""
    query = request.query
    visitors = [UUID(part) for part in _parts(query.visitor_id)]
    if len(visitors) > BATCH_LIMIT:
        raise Invalid("too_many", f"At most {BATCH_LIMIT} visitors at once.", field="visitorId")
    kinds, centers = set(_parts(query.external_type)), set(_parts(query.pc_code))
    found = [EXTERNAL_IDS.to_row(row) for row in await tx.all(_BATCH, {"visitors": visitors})]
    wanted = [
        row for row in found
        if (not kinds or row.external_type in kinds) and (not centers or row.pc_code in centers)
    ]  # fmt: skip
    return Page(wanted, more=False)


_ALL = "/visitors/{visitorId}/externalIds"

OPERATIONS: Operations = (
    batch,
    resolve,
    crud.creates(EXTERNAL_IDS, "externalIds.create", f"POST {_ALL}", "Add an external id", ExternalIdNew),
    crud.lists(EXTERNAL_IDS, "externalIds.list", f"GET {_ALL}", "List the external ids of a visitor", ExternalIdQuery),
    get,
    delete,
)
