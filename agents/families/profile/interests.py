"""What a visitor is interested in."""

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
    label: Text


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
        "interests_visitor_id_key": crud.already_exists("interest", "The visitor has this interest.", "externalId")
    },
    hidden=[sa.UniqueConstraint("visitor_id", "external_id")],
)

_ALL = "/visitors/{visitorId}/interests"
_ONE = f"{_ALL}/{{interestId}}"


_C = INTERESTS.columns
_OF_VISITOR = (
    sa.select(INTERESTS.sql)
    .where(_C.visitor_id == sa.bindparam("visitor"))
    .order_by(_C.interest_id)
    .with_for_update(key_share=True)
)
_NEW = unnest_rows(ids=_C.interest_id.type, labels=_C.label.type)
_RENAME = (
    sa.update(INTERESTS.sql)
    .where(_C.interest_id == _NEW.c.ids)
    .values(
        label=_NEW.c.labels,
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
    # A replacement at the same time comes before or after.
    await VISITORS.lock(tx, visitor_id=request.path.visitor_id)
    return await INTERESTS.insert(tx, vars(request.body) | vars(request.path))


@operation(
    "interests.replace", f"PUT {_ALL}", summary="Make a visitor's interests exactly these",
    path=VisitorPath, body=ListOf[InterestNew], reply=None,
)  # fmt: skip
async def replace(tx: Tx, request: Request[VisitorPath, NoFields, ListOf[InterestNew]]) -> None:
    """Interests that stay keep their id; of two with one externalId the later counts. Raises NotFound."""
    visitor_id = request.path.visitor_id
    await VISITORS.lock(tx, visitor_id=visitor_id)
    wanted = {interest.external_id: interest.label for interest in request.body.root}
    known = {row.external_id: row for row in await tx.all(_OF_VISITOR, {"visitor": visitor_id})}
    gone = [row.interest_id for key, row in known.items() if key not in wanted]
    await INTERESTS.delete_by_parent(tx, "interest_id", gone, emit_changes=True)
    renamed = {row.interest_id: wanted[key] for key, row in known.items() if row.label != wanted.get(key, row.label)}
    await _rename(tx, renamed)
    new = [
        (tx, {"visitor_id": visitor_id, "external_id": key, "label": label})
        for key, label in wanted.items()
        if key not in known
    ]
    if new:
        await INTERESTS.insert_many(new)


async def _rename(tx: Tx, labels: Mapping[int, str]) -> None:
    """The interests with these ids, which are locked."""
    parameters = {"ids": list(labels), "labels": list(labels.values()), "now": tx.now}
    for row in await tx.all(_RENAME, parameters):
        INTERESTS.changed(tx, row, "updated")


OPERATIONS: Operations = (
    create,
    crud.lists(INTERESTS, "interests.list", f"GET {_ALL}", "List the interests of a visitor"),
    replace,
    crud.gets(INTERESTS, "interests.get", f"GET {_ONE}", "Read an interest"),
    crud.deletes(INTERESTS, "interests.delete", f"DELETE {_ONE}", "Remove an interest"),
)
