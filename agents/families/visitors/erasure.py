"""Erasing a visitor: every row that is about it goes, wherever it stands."""

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from agents.families.checkins import checkins
from agents.families.points import visitor_challenges
from agents.families.visitors.external_ids import EXTERNAL_IDS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.model import ListOf, Model, NoFields
from schemas.requests import Request
from schemas.types import Identifier, Omittable, PcCode
from storage.statements import any_of
from storage.table import with_children_first
from storage.tx import Tx
from topics import names


class Erasure(Model):
    analytics_id: Identifier
    pc_code: Omittable[PcCode] = None


class Erased(Model):
    """The analytics ids whose visitors are gone, and those that no visitor has."""

    success: list[Identifier]
    failed: list[Identifier]


_C = EXTERNAL_IDS.columns
_WHOSE = (
    sa.select(_C.external_id, _C.visitor_id, _C.pc_code)
    .where(_C.external_type == "analytics", any_of(_C.external_id, "ids"))
    .order_by(_C.pc_code.is_not(None), _C.pc_code)
)


@operation(
    "visitors.eraseByAnalyticsId", "POST /visitors/erase", summary="Erase visitors",
    body=ListOf[Erasure], reply=Erased, status=200,
)  # fmt: skip
async def erase(tx: Tx, request: Request[NoFields, NoFields, ListOf[Erasure]]) -> Erased:
    """Rows go, and tombstones follow on the compacted change topics. What the inbox keeps of the visitors' requests is
    only that they were answered. An id that nobody has, also since it was erased before, has failed."""
    whose = await _whose(tx, request.body.root)
    erased = await _erase(tx, {visitor_id for visitors in whose.values() for visitor_id in visitors})
    return Erased(
        success=[analytics_id for analytics_id, visitors in whose.items() if visitors & erased],
        failed=[analytics_id for analytics_id, visitors in whose.items() if not visitors & erased],
    )


async def _whose(tx: Tx, entries: Sequence[Erasure]) -> dict[str, set[UUID]]:
    """The visitors that the entries with one id name; an id may stand in several entries, with another center."""
    whose: dict[str, set[UUID]] = {entry.analytics_id: set() for entry in entries}
    known = await tx.all(_WHOSE, {"ids": list(whose)})
    for entry in entries:
        # Without pcCode, the id that is for no center; else the first by pcCode.
        named = (row.visitor_id for row in known if row.external_id == entry.analytics_id and _at(row, entry.pc_code))
        whose[entry.analytics_id].update(islice(named, 1))
    return whose


def _at(row: Any, pc_code: str | None) -> bool:
    return pc_code is None or row.pc_code in (None, pc_code)


async def _erase(tx: Tx, visitors: Collection[UUID]) -> set[UUID]:
    """Whom of them it erased: not whom another transaction did meanwhile."""
    erased = sorted(await VISITORS.lock_all(tx, visitors, for_removal=True))
    if not erased:
        return set()
    await checkins.delete_of_visitors(tx, erased)
    for visitor_id in erased:
        await visitor_challenges.remove_from_standings(tx, visitor_id)
    for table in with_children_first("visitor_id"):
        await table.delete_by_parent(tx, "visitor_id", erased, emit_changes=table.family not in names.EVENT_FAMILIES)
    tx.erased.extend(erased)
    return set(erased)


OPERATIONS: Operations = (erase,)
