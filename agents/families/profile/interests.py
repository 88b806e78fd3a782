"""The interests of a visitor."""

from collections.abc import Mapping

import sqlalchemy as sa

from agents import crud
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.model import ListOf, Model, NoFields
from schemas.paths import VisitorPath
from schemas.requests import Request
from schemas.types import Identifier, Instant, Int64, Text, Uuid
from storage.statements import unnest_rows
from storage.table import Table
from storage.tx import Tx


class InterestNew(Model):
    external_id: Identifier
    """The id of the interest in the system that defines it."""
    label: Text
    """The name of the interest."""


class Interest(InterestNew):
    interest_id: Int64
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


INTERESTS = Table(
    "interests",
    Interest,
    family="profile",
    resource="interest",
    key="interest_id",
    parents={"visitor_id": VISITORS},
    conflicts={
        "interests_visitor_id_key": crud.already_exists(
            "interest", "The visitor has this interest already.", "externalId"
        )
    },
    hidden=[sa.UniqueConstraint("visitor_id", "external_id")],
)

_ALL = "/visitors/{visitorId}/interests"
_ONE = f"{_ALL}/{{interestId}}"


_C = INTERESTS.columns
_LOCK_INTERESTS = (
    sa.select(INTERESTS.sql)
    .where(_C.visitor_id == sa.bindparam("visitor"))
    .order_by(_C.interest_id)
    .with_for_update(key_share=True)
)
_LABELS = unnest_rows(ids=_C.interest_id.type, labels=_C.label.type)
_RENAME = (
    sa.update(INTERESTS.sql)
    .where(_C.interest_id == _LABELS.c.ids)
    .values(
        label=_LABELS.c.labels,
        update_date=sa.func.greatest(_C.update_date, sa.bindparam("now", type_=_C.update_date.type)),
        revision=_C.revision + 1,
    )
    .returning(*_C)
)


@operation(
    "interests.create", f"POST {_ALL}", summary="Add an interest",
    path=VisitorPath, body=InterestNew, reply=Interest,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, InterestNew]) -> Interest:
    """Raises NotFound."""
    # The lock serializes this insert with `interests.replace`.
    await VISITORS.lock(tx, visitor_id=request.path.visitor_id)
    return await INTERESTS.insert(tx, vars(request.body) | vars(request.path))


@operation(
    "interests.replace", f"PUT {_ALL}", summary="Replace the interests of a visitor",
    path=VisitorPath, body=ListOf[InterestNew], reply=None,
)  # fmt: skip
async def replace(tx: Tx, request: Request[VisitorPath, NoFields, ListOf[InterestNew]]) -> None:
    """The visitor's interests become exactly those of the body. An interest whose externalId is in the body keeps its
    id. If an externalId is in the body twice, the later label is used. Raises NotFound."""
    visitor_id = request.path.visitor_id
    await VISITORS.lock(tx, visitor_id=visitor_id)
    labels = {interest.external_id: interest.label for interest in request.body.root}
    rows = {row.external_id: row for row in await tx.all(_LOCK_INTERESTS, {"visitor": visitor_id})}
    removed_ids = [row.interest_id for external_id, row in rows.items() if external_id not in labels]
    await INTERESTS.delete_by_parent(tx, "interest_id", removed_ids, emit_changes=True)
    new_labels = {
        row.interest_id: labels[external_id]
        for external_id, row in rows.items()
        if external_id in labels and labels[external_id] != row.label
    }
    await _update_labels(tx, new_labels)
    new_rows = [
        (tx, {"visitor_id": visitor_id, "external_id": external_id, "label": label})
        for external_id, label in labels.items()
        if external_id not in rows
    ]
    if new_rows:
        await INTERESTS.insert_many(new_rows)


async def _update_labels(tx: Tx, labels: Mapping[int, str]) -> None:
    """Write the labels, by interest id, with one statement. The caller has locked the rows."""
    parameters = {"ids": list(labels), "labels": list(labels.values()), "now": tx.now}
    for row in await tx.all(_RENAME, parameters):
        INTERESTS.record_change_of(tx, row, "updated")


OPERATIONS: Operations = (
    create,
    crud.lists(INTERESTS, "interests.list", f"GET {_ALL}", "List the interests of a visitor"),
    replace,
    crud.gets(INTERESTS, "interests.get", f"GET {_ONE}", "Read an interest"),
    crud.deletes(INTERESTS, "interests.delete", f"DELETE {_ONE}", "Remove an interest"),
)
