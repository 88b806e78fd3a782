"""Creating, reading and changing visitors."""

from typing import Annotated, Any
from uuid import uuid4

import sqlalchemy as sa

from agents import crud
from agents.centers.centers import CENTERS
from agents.operation import Operations, operation
from agents.optins import optins
from agents.optins.optins import OptinNew
from agents.profile import visitor_centers
from agents.profile.visitor_centers import VisitorCenterNew
from agents.visitors.external_ids import add_analytics
from agents.visitors.visitor import (
    VISITORS,
    AccountType,
    Gender,
    Visitor,
    VisitorFields,
    VisitorPatch,
    email_taken,
)
from schemas.faults import Invalid
from schemas.model import ListOf, Model, NoFields
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import CountryCode, Email, Flag, Identifier, Instant, Int64, Maybe, PcCode, Text, Uuid
from storage.lists import Filter, filters
from storage.tx import Tx


class VisitorNew(VisitorFields):
    optins: list[OptinNew]


class PartialFields(Model):
    last_name: Text | None = None
    first_name: Text
    email: Email
    gender: Gender | None = None
    phone: Text | None = None
    mobile_locale: Text | None = None
    timezone: Text | None = None
    country_code: CountryCode


class PartialVisitorNew(PartialFields):
    preferred_center: PcCode
    optins: list[OptinNew]


class ContactFlags(Model):
    email_invalid: Maybe[Flag] = None
    phone_invalid: Maybe[Flag] = None


class VisitorContact(ContactFlags):
    visitor_id: Uuid


class ContactFlagsPatch(VisitorContact, partial=True, required=("visitor_id",)):
    pass


class CountQuery(Model):
    registered_since: Annotated[Maybe[Instant], Filter(lambda c, moment: c.registration_date >= moment)] = None
    registered_until: Annotated[Maybe[Instant], Filter(lambda c, moment: c.registration_date < moment)] = None
    acquisition_pc_code: Maybe[PcCode] = None
    account_type: Maybe[AccountType] = None
    origin_type: Maybe[Identifier] = None


class VisitorCount(Model):
    count: Int64


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


@operation(
    "visitors.createPartial", "POST /visitors/partial", summary="Add a visitor of whom little is known",
    body=PartialVisitorNew, reply=Visitor,
)  # fmt: skip
async def create_partial(tx: Tx, request: Request[NoFields, NoFields, PartialVisitorNew]) -> Visitor:
    """The preferredCenter becomes its favourite center. Raises Conflict for an email that a visitor has, and Invalid
    for an unknown center."""
    body = request.body
    if not await CENTERS.present(tx, [body.preferred_center]):
        raise Invalid("center_not_found", "There is no such center.", field="preferredCenter")
    fields = {name: getattr(body, name) for name in PartialFields.model_fields}
    visitor = await _add(tx, fields | {"account_type": "partial"})
    favorite = VisitorCenterNew.model_construct(pc_code=body.preferred_center, is_favorite=True)
    await visitor_centers.add(tx, visitor.visitor_id, favorite)
    for optin in body.optins:
        await optins.store(tx, visitor.visitor_id, optin)
    return visitor


@operation(
    "visitors.flagContacts", "PATCH /visitors", summary="Flag emails and phones of several visitors",
    body=ListOf[ContactFlagsPatch], reply=VisitorContact, shape="page", status=200,
)  # fmt: skip
async def flag_contacts(tx: Tx, request: Request[NoFields, NoFields, ListOf[ContactFlagsPatch]]) -> Page[Visitor]:
    """All or none. Raises Invalid for a visitor that is not there."""
    flags = request.body.root
    known = await VISITORS.present(tx, (flag.visitor_id for flag in flags))
    for place, flag in enumerate(flags):
        if flag.visitor_id not in known:
            raise Invalid("visitor_not_found", "There is no such visitor.", field=f"[{place}].visitorId")
    # Locked in the order of their ids, as everywhere.
    for visitor_id in sorted(known):
        await VISITORS.lock(tx, visitor_id=visitor_id)
    changed = []
    for flag in flags:
        values = {name: value for name, value in flag.given().items() if name != "visitor_id"}
        changed.append(await VISITORS.update(tx, values, visitor_id=flag.visitor_id))
    return Page(changed, more=False)


@operation("visitors.count", "GET /visitors/count", summary="Count visitors", query=CountQuery, reply=VisitorCount)
async def count(tx: Tx, request: Request[NoFields, CountQuery, NoFields]) -> VisitorCount:
    """Reads all that it counts: some tenths of a second for a million."""
    counted = sa.select(sa.func.count().label("number")).select_from(VISITORS.sql)
    found = await tx.first(counted.where(*filters(VISITORS, request.query)))
    assert found is not None
    return VisitorCount.model_construct(count=found.number)


OPERATIONS: Operations = (
    create,
    create_partial,
    flag_contacts,
    count,
    crud.updates(VISITORS, "visitors.update", "PATCH /visitors/{visitorId}", "Update a visitor", VisitorPatch),
    crud.gets(VISITORS, "visitors.get", "GET /visitors/{visitorId}", "Read a visitor"),
)
