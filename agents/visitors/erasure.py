"""Erasing a visitor: every row that is about it goes, wherever it stands."""

from uuid import UUID

import sqlalchemy as sa

from agents.checkins import checkins
from agents.operation import Operations, operation
from agents.points import visitor_challenges
from agents.visitors.external_ids import EXTERNAL_IDS
from agents.visitors.visitor import VISITORS
from schemas.faults import NotFound
from schemas.model import ListOf, Model, NoFields
from schemas.requests import Request
from schemas.types import Identifier, Maybe, PcCode
from storage import inbox, outbox
from storage.table import with_children_first
from storage.tx import Tx
from topics import names


class Erasure(Model):
    analytics_id: Identifier
    pc_code: Maybe[PcCode] = None


class Erased(Model):
    """The analytics ids whose visitors are gone, and those that no visitor has."""

    success: list[Identifier]
    failed: list[Identifier]


_C = EXTERNAL_IDS.columns
_CENTER = sa.bindparam("center", type_=sa.Text)
_WHOSE = sa.select(_C.visitor_id).where(
    _C.external_type == "analytics",
    _C.external_id == sa.bindparam("id"),
    _CENTER.is_(None) | _C.pc_code.is_(None) | (_C.pc_code == _CENTER),
)


@operation(
    "visitors.eraseByAnalyticsId", "POST /visitors/erase", summary="Erase visitors",
    body=ListOf[Erasure], reply=Erased, status=200,
)  # fmt: skip
async def erase(tx: Tx, request: Request[NoFields, NoFields, ListOf[Erasure]]) -> Erased:
    """Rows go, and tombstones follow on the compacted change topics. What the inbox keeps of the visitors' requests is
    only that they were answered. An id that nobody has, also since it was erased before, has failed."""
    whose = {entry.analytics_id: await _whose(tx, entry) for entry in request.body.root}
    erased = set()
    for visitor_id in sorted({visitor_id for visitor_id in whose.values() if visitor_id is not None}):
        if await _erase(tx, visitor_id):
            erased.add(visitor_id)
    return Erased(
        success=[analytics_id for analytics_id, visitor_id in whose.items() if visitor_id in erased],
        failed=[analytics_id for analytics_id, visitor_id in whose.items() if visitor_id not in erased],
    )


async def _whose(tx: Tx, entry: Erasure) -> UUID | None:
    found = await tx.first(_WHOSE, {"id": entry.analytics_id, "center": entry.pc_code})
    return None if found is None else found.visitor_id


async def _erase(tx: Tx, visitor_id: UUID) -> bool:
    """False where another transaction erased the visitor meanwhile."""
    try:
        await VISITORS.lock(tx, for_removal=True, visitor_id=visitor_id)
    except NotFound:
        return False
    await outbox.forget(tx.conn, str(visitor_id))
    await checkins.forget(tx, visitor_id)
    await visitor_challenges.forget(tx, visitor_id)
    for table in with_children_first("visitor_id"):
        await table.delete_all(tx, told=table.family not in names.EVENT_FAMILIES, visitor_id=visitor_id)
    await inbox.forget(tx.conn, visitor_id)
    return True


OPERATIONS: Operations = (erase,)
