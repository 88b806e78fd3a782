"""External ids: the ids that other systems have for a visitor."""

from collections.abc import Sequence
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
from schemas.types import Identifier, Instant, Omittable, PcCode, Uuid, refuse_card_number
from storage.folding import fold, folded
from storage.statements import any_of
from storage.table import Table
from storage.tx import Tx

DeletableType = Literal["designa", "facebook", "google", "cognito", "partner", "crm_id", "wifi_device_id"]
CreatableType = Literal[
    "designa", "facebook", "google", "cognito", "partner", "crm_id", "pas", "fid", "wifi_device_id"
]  # fmt: skip
ExternalType = Literal[
    "designa", "facebook", "google", "cognito", "pas", "pas_barcode", "fid", "fid_barcode", "partner", "crm_id",
    "analytics", "wifi_device_id",
]  # fmt: skip
MAX_VISITORS = 500
"""Visitors in one request of externalIds.batch."""


class ExternalIdNew(Model):
    external_id: Identifier
    """The id of the visitor in the other system."""
    pc_code: PcCode | None = None
    """The code of the center in which the id is valid; null if it is valid in all centers."""
    external_type: CreatableType


class ExternalId(Model):
    external_id: Identifier
    """The id of the visitor in the other system."""
    visitor_id: Uuid
    external_type: ExternalType
    pc_code: PcCode | None
    """The code of the center in which the id is valid; null if it is valid in all centers."""
    creation_date: Instant
    update_date: Instant


class ResolvePath(Model):
    external_type: ExternalType
    external_id: Identifier
    """The id of the visitor in the other system."""


class OfTypePath(VisitorPath):
    external_type: ExternalType


class DeletePath(VisitorPath):
    external_type: DeletableType


class CenterQuery(Model):
    pc_code: Omittable[PcCode] = None
    """The code of the center whose id is meant. Without it, the id that has no center, or else the first one by
    pcCode."""


class OfTypeQuery(FieldsQuery, CenterQuery):
    pass


class ExternalIdQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    """Only ids of the center with this code."""


def _split(comma_list: str | None) -> list[str]:
    """Return the items of a comma list without surrounding spaces. Empty items are left out."""
    items = (item.strip() for item in (comma_list or "").split(","))
    return [item for item in items if item]


def _items_are(item_type: Any, code: str, items: str) -> AfterValidator:
    """A validator of comma lists: each item must have `item_type`. `code` and `items` are for the error."""
    adapter = TypeAdapter[Any](item_type)

    def validate(comma_list: str) -> str:
        invalid_items = [item for item in _split(comma_list) if not _is_valid(adapter, item)]
        # A valid UUID may have the digits of a card number.
        for item in invalid_items:
            refuse_card_number(item)
        if invalid_items:
            raise PydanticCustomError(code, f"Input should be a comma list of {items}.")
        return comma_list

    return AfterValidator(validate)


def _is_valid(adapter: TypeAdapter[Any], item: str) -> bool:
    try:
        adapter.validate_python(item)
    except ValidationError:
        return False
    return True


_CommaList = Annotated[str, Field(max_length=MAX_VISITORS * len(f"{UUID(int=0)}, "), coerce_numbers_to_str=True)]
"""Not a Text: Text refuses digits that look like a card number, and neighbouring UUIDs may have such digits. Text is
also too short for 500 UUIDs."""

VisitorIdList = Annotated[_CommaList, _items_are(Uuid, "wrong_format", "UUIDs")]
ExternalTypeList = Annotated[_CommaList, _items_are(ExternalType, "not_allowed", "types of external ids")]
PcCodeList = Annotated[_CommaList, _items_are(PcCode, "wrong_format", "pcCodes")]


class BatchQuery(Model):
    visitor_id: VisitorIdList
    """Comma-separated list of ids of visitors."""
    external_type: Omittable[ExternalTypeList] = None
    """Comma-separated list of types of external ids."""
    pc_code: Omittable[PcCodeList] = None
    """Comma-separated list of codes of centers."""


EXTERNAL_IDS = Table(
    "external_ids",
    ExternalId,
    family="visitors",
    resource="externalId",
    key="external_id_key",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    conflicts={
        "external_ids_one_of_a_type": crud.already_exists(
            "external_id", "The visitor already has an id of this type.", "externalType"
        ),
        "external_ids_one_visitor": crud.already_exists(
            "external_id", "Another visitor already has this id.", "externalId"
        ),
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


def _select_one(*conditions: sa.ColumnElement[bool]) -> Any:
    """SELECT at most one external id that meets the conditions. If the parameter `center` is null, the id that has no
    center, or else the first one by pc_code; otherwise the id of that center."""
    center = sa.bindparam("center", type_=sa.Text)
    return (
        sa.select(EXTERNAL_IDS.sql)
        .where(*conditions, center.is_(None) | (_C.pc_code == center))
        .order_by(_C.pc_code.is_not(None), _C.pc_code)
        .limit(1)
    )


_SELECT_OF_VISITOR = _select_one(_C.visitor_id == sa.bindparam("visitor"), _C.external_type == sa.bindparam("type"))
_SELECT_BY_ID = _select_one(_C.external_type == sa.bindparam("type"), _C.external_id == sa.bindparam("id"))
_SELECT_OF_VISITORS = sa.select(EXTERNAL_IDS.sql).where(any_of(_C.visitor_id, "visitors")).order_by(_C.external_id_key)


async def add_analytics_ids(visitors: Sequence[tuple[Tx, UUID]]) -> None:
    """Insert the ids that analytics systems have for visitors. Each new visitor gets one."""
    await EXTERNAL_IDS.insert_many(
        [
            (tx, {"external_id": str(uuid4()), "visitor_id": visitor_id, "external_type": "analytics"})
            for tx, visitor_id in visitors
        ]
    )


async def _find_of_visitor(tx: Tx, path: OfTypePath | DeletePath, query: CenterQuery) -> Any:
    """Return the row of a visitor's external id. Raises NotFound."""
    parameters = {"visitor": path.visitor_id, "type": path.external_type, "center": query.pc_code}
    row = await tx.first(_SELECT_OF_VISITOR, parameters)
    if row is None:
        raise EXTERNAL_IDS.not_found()
    return row


@operation(
    "externalIds.get", "GET /visitors/{visitorId}/externalIds/{externalType}", summary="Read an external id",
    path=OfTypePath, query=OfTypeQuery, reply=ExternalId,
)  # fmt: skip
async def get(tx: Tx, request: Request[OfTypePath, OfTypeQuery, NoFields]) -> ExternalId:
    """Raises NotFound."""
    return EXTERNAL_IDS.to_row(await _find_of_visitor(tx, request.path, request.query))


@operation(
    "externalIds.delete", "DELETE /visitors/{visitorId}/externalIds/{externalType}", summary="Remove an external id",
    path=DeletePath, query=CenterQuery, reply=None,
)  # fmt: skip
async def delete(tx: Tx, request: Request[DeletePath, CenterQuery, NoFields]) -> None:
    """Raises NotFound."""
    row = await _find_of_visitor(tx, request.path, request.query)
    await EXTERNAL_IDS.lock(tx, external_id_key=row.external_id_key)
    await EXTERNAL_IDS.delete(tx, external_id_key=row.external_id_key)


@operation(
    "externalIds.resolve", "GET /externalIds/{externalType}/{externalId}", summary="Find the visitor of an external id",
    path=ResolvePath, query=CenterQuery, reply=ExternalId,
)  # fmt: skip
async def resolve(tx: Tx, request: Request[ResolvePath, CenterQuery, NoFields]) -> ExternalId:
    """Raises NotFound."""
    path = request.path
    parameters = {"type": path.external_type, "id": path.external_id, "center": request.query.pc_code}
    return EXTERNAL_IDS.to_row(await tx.first(_SELECT_BY_ID, parameters))


@operation(
    "externalIds.batch", "GET /externalIds", summary="List the external ids of several visitors",
    query=BatchQuery, reply=ExternalId, shape="page",
)  # fmt: skip
async def batch(tx: Tx, request: Request[NoFields, BatchQuery, NoFields]) -> Page[ExternalId]:
    """List all matching external ids in one page. Ids of visitors that do not exist are ignored. Raises Invalid,
    LoadsTooMuch."""
    query = request.query
    visitor_ids = [UUID(item) for item in _split(query.visitor_id)]
    if len(visitor_ids) > MAX_VISITORS:
        raise Invalid("too_many", f"Send at most {MAX_VISITORS} visitors in one request.", field="visitorId")
    statement, parameters = _SELECT_OF_VISITORS, dict[str, Any](visitors=visitor_ids)
    for column, values in ((_C.external_type, _split(query.external_type)), (_C.pc_code, _split(query.pc_code))):
        if values:
            statement = statement.where(any_of(column, column.name))
            parameters[column.name] = values
    return Page(await EXTERNAL_IDS.all(tx, statement, parameters), more=False)


_ALL = "/visitors/{visitorId}/externalIds"

OPERATIONS: Operations = (
    batch,
    resolve,
    crud.creates(EXTERNAL_IDS, "externalIds.create", f"POST {_ALL}", "Add an external id", ExternalIdNew),
    crud.lists(EXTERNAL_IDS, "externalIds.list", f"GET {_ALL}", "List the external ids of a visitor", ExternalIdQuery),
    get,
    delete,
)
