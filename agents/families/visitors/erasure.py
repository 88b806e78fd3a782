"""Erasure of visitors: every row about a visitor is deleted, in every table."""

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
from schemas.types import Omittable, PcCode, Text
from storage.statements import any_of
from storage.table import tables_with_column
from storage.tx import Tx


class Erasure(Model):
    analytics_id: Text
    """The external id of the type `analytics` of the visitor to erase."""
    pc_code: Omittable[PcCode] = None
    """The center of the external id. It is needed only if several centers have the same id."""


class Erased(Model):
    """`success` lists the analytics ids whose visitors were erased, `failed` those that no visitor has."""

    success: list[Text]
    """The analytics ids whose visitors were erased."""
    failed: list[Text]
    """The analytics ids that no visitor has."""


_C = EXTERNAL_IDS.columns
_SELECT_EXTERNAL_IDS = (
    sa.select(_C.external_id, _C.visitor_id, _C.pc_code)
    .where(_C.external_type == "analytics", any_of(_C.external_id, "ids"))
    .order_by(_C.pc_code.is_not(None), _C.pc_code)
)


@operation(
    "visitors.eraseByAnalyticsId", "POST /visitors/erase", summary="Erase visitors",
    body=ListOf[Erasure], reply=Erased, status=200,
)  # fmt: skip
async def erase(tx: Tx, request: Request[NoFields, NoFields, ListOf[Erasure]]) -> Erased:
    """Delete all rows about the visitors. Tombstones follow on the compacted change topics. The inbox keeps only the
    fact that the visitors' requests were answered. An id that no visitor has is listed as failed; so is an id that was
    erased earlier."""
    visitor_ids = await _visitor_ids_by_analytics_id(tx, request.body.root)
    erased = await _erase(tx, set[UUID]().union(*visitor_ids.values()))
    return Erased(
        success=[analytics_id for analytics_id, named in visitor_ids.items() if named & erased],
        failed=[analytics_id for analytics_id, named in visitor_ids.items() if not named & erased],
    )


async def _visitor_ids_by_analytics_id(tx: Tx, entries: Sequence[Erasure]) -> dict[str, set[UUID]]:
    """Map each analytics id to the visitors that its entries identify. Several entries may have the same id with
    different centers. An entry identifies at most one visitor."""
    visitor_ids: dict[str, set[UUID]] = {entry.analytics_id: set() for entry in entries}
    rows = await tx.all(_SELECT_EXTERNAL_IDS, {"ids": list(visitor_ids)})
    rows_by_id: dict[str, list[Any]] = {analytics_id: [] for analytics_id in visitor_ids}
    for row in rows:
        rows_by_id[row.external_id].append(row)
    for entry in entries:
        # The rows without a center come first, then the rows in the order of pc_code.
        matches = (row.visitor_id for row in rows_by_id[entry.analytics_id] if _is_in_center(row, entry.pc_code))
        visitor_ids[entry.analytics_id].update(islice(matches, 1))
    return visitor_ids


def _is_in_center(row: Any, pc_code: str | None) -> bool:
    """True if the entry has no center, or the external id belongs to that center or to no center."""
    return pc_code is None or row.pc_code in (None, pc_code)


async def _erase(tx: Tx, visitor_ids: Collection[UUID]) -> set[UUID]:
    """Erase the visitors and return the ids of those that existed. A visitor that another transaction erased at the
    same time is not included."""
    erased = sorted(await VISITORS.lock_all(tx, visitor_ids, for_removal=True))
    if not erased:
        return set()
    await checkins.delete_by_visitors(tx, erased)
    for visitor_id in erased:
        await visitor_challenges.remove_from_standings(tx, visitor_id)
    for table in tables_with_column("visitor_id"):
        await table.delete_by_parent(tx, "visitor_id", erased, emit_changes=not table.are_events)
    tx.erased.extend(erased)
    return set(erased)


OPERATIONS: Operations = (erase,)
