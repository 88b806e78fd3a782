"""Creating, reading and changing visitors."""

from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from agents import crud
from agents.operation import Operations, operation
from agents.optins import optins
from agents.optins.optins import OptinNew
from agents.visitors.external_ids import add_analytics
from agents.visitors.visitor import VISITORS, Visitor, VisitorFields, VisitorPatch, email_taken
from schemas.model import NoFields
from schemas.requests import Request
from storage.tx import Tx


class VisitorNew(VisitorFields):
    optins: list[OptinNew]


_WITH_EMAIL = (
    sa.select(VISITORS.sql)
    .where(VISITORS.columns.email_key == sa.bindparam("email_key"))
    .with_for_update(key_share=True)
)


@operation("visitors.create", "POST /visitors", summary="Add a new visitor", body=VisitorNew, reply=Visitor)
async def create(tx: Tx, request: Request[NoFields, NoFields, VisitorNew]) -> Visitor:
    """A new full visitor. Where the email is a partial visitor's, that visitor is upgraded instead and keeps its
    visitorId and barcode. Raises Conflict where it is a full visitor's."""
    body = request.body
    fields = {name: getattr(body, name) for name in VisitorFields.model_fields}
    fields |= {"account_type": "full", "registration_date": tx.now}
    known = await tx.first(_WITH_EMAIL, {"email_key": body.email.casefold()})
    visitor = await (_add(tx, fields) if known is None else _upgrade(tx, known, fields))
    for optin in body.optins:
        await optins.store(tx, visitor.visitor_id, optin)
    return visitor


async def _add(tx: Tx, fields: dict[str, Any]) -> Visitor:
    identity = {
        "visitor_id": uuid4(),
        "barcode": str(uuid4()),
        "origin_type": tx.cause.caller.origin_type,
        "origin": tx.cause.caller.origin,
    }
    visitor = await VISITORS.insert(tx, fields | identity)
    await add_analytics(tx, visitor.visitor_id)
    return visitor


async def _upgrade(tx: Tx, known: Any, fields: dict[str, Any]) -> Visitor:
    if known.account_type != "partial":
        raise email_taken()
    given = {name: value for name, value in fields.items() if value is not None}
    given["upgrade_pc_code"] = given.pop("acquisition_pc_code")
    return await VISITORS.update(tx, given, visitor_id=known.visitor_id)


OPERATIONS: Operations = (
    create,
    crud.updates(VISITORS, "visitors.update", "PATCH /visitors/{visitorId}", "Update a visitor", VisitorPatch),
    crud.gets(VISITORS, "visitors.get", "GET /visitors/{visitorId}", "Read a visitor"),
)
