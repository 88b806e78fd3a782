"""Creating, reading and changing visitors."""

from typing import Annotated, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from pydantic.alias_generators import to_camel

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.optins import optins
from agents.families.optins.optins import OptinNew
from agents.families.profile import visitor_centers
from agents.families.profile.visitor_centers import VisitorCenterNew
from agents.families.visitors.external_ids import add_analytics
from agents.families.visitors.visitor_table import (
    VISITORS,
    AccountType,
    Gender,
    Visitor,
    VisitorFields,
    VisitorPatch,
    email_taken,
)
from agents.operation import Operations, operation
from schemas.emails import mailbox
from schemas.faults import Invalid, NotFound, refuse
from schemas.model import ListOf, Model, NoFields
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import CountryCode, Email, Flag, Instant, Int64, Omittable, PcCode, Phone, Several, Text, Uuid
from storage.lists import Filter, filters
from storage.statements import unnest_rows
from storage.tx import Tx


class VisitorNew(VisitorFields):
    optins: Several[OptinNew]


class PartialFields(Model):
    last_name: Text | None = None
    first_name: Text
    email: Email
    gender: Gender | None = None
    phone: Phone | None = None
    mobile_locale: Text | None = None
    timezone: Text | None = None
    country_code: CountryCode


class PartialVisitorNew(PartialFields):
    preferred_center: PcCode
    optins: Several[OptinNew]


class ContactFlags(Model):
    email_invalid: Omittable[Flag] = None
    phone_invalid: Omittable[Flag] = None


class VisitorContact(ContactFlags):
    visitor_id: Uuid


class ContactFlagsPatch(VisitorContact, partial=True, required=("visitor_id",)):
    pass


class CountQuery(Model):
    registered_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registration_date >= moment)] = None
    registered_until: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registration_date < moment)] = None
    acquisition_pc_code: Omittable[PcCode] = None
    account_type: Omittable[AccountType] = None
    origin_type: Omittable[Text] = None


class VisitorCount(Model):
    count: Int64


_C = VISITORS.columns
_NEW = unnest_rows(**{f"new_{name}": _C[name].type for name in VisitorContact.model_fields})
_FLAG = (
    sa.update(VISITORS.sql)
    .where(_C.visitor_id == _NEW.c.new_visitor_id)
    .values(
        {name: sa.func.coalesce(_NEW.c[f"new_{name}"], _C[name]) for name in ContactFlags.model_fields}
        | {
            "update_date": sa.func.greatest(_C.update_date, sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True))),
            "revision": _C.revision + 1,
        }
    )
    .returning(*_C)
)
_WITH_EMAIL = sa.select(VISITORS.sql).where(_C.email_key == sa.bindparam("email_key")).with_for_update(key_share=True)


_REPEATED_AFTER_ERASURE = (NotFound,)


@operation(
    "visitors.create", "POST /visitors", summary="Add a new visitor",
    body=VisitorNew, reply=Visitor, partition_key=("email",), faults=_REPEATED_AFTER_ERASURE,
)  # fmt: skip
async def create(tx: Tx, request: Request[NoFields, NoFields, VisitorNew]) -> Visitor:
    """A new full visitor. Where the email is a partial visitor's, that visitor is upgraded instead and keeps its
    visitorId and barcode. Raises Conflict where it is a full visitor's."""
    body = request.body
    await _require_references(tx, body, "acquisition_pc_code")
    visitor = await _add_or_upgrade(tx, {name: getattr(body, name) for name in VisitorFields.model_fields})
    await optins.add(tx, visitor.visitor_id, body.optins)
    return visitor


async def _require_references(tx: Tx, body: VisitorNew | PartialVisitorNew, center: str) -> None:
    """Raises Invalid for all that the body names and that is not there."""
    known = await CENTERS.existing_keys(tx, [getattr(body, center)])
    nowhere = [] if known else [Invalid("center_not_found", "There is no such center.", field=to_camel(center))]
    refuse([*nowhere, *await optins.absent_texts(tx, body.optins)])


async def _add_or_upgrade(tx: Tx, fields: dict[str, Any]) -> Visitor:
    """Raises Conflict for the email of a full visitor."""
    while True:
        known = await tx.first(_WITH_EMAIL, {"email_key": mailbox(fields["email"])})
        if known is not None:
            await tx.refresh_now()
            return await _upgrade(tx, known, fields)
        made = await _add(tx, fields | {"account_type": "full", "registration_date": tx.now})
        if made is not None:
            return made
        # Another transaction added one with this email, and committed, after we had looked: there is one now.


async def _add(tx: Tx, fields: dict[str, Any]) -> Visitor | None:
    """None where a visitor has the email."""
    identity = {
        "visitor_id": uuid4(),
        "barcode": str(uuid4()),
        "origin_type": tx.cause.caller.origin_type,
        "origin": tx.cause.caller.origin,
    }
    visitor = await VISITORS.insert_unless(tx, fields | identity, "email_key")
    if visitor is not None:
        await add_analytics(tx, visitor.visitor_id)
    return visitor


async def _upgrade(tx: Tx, known: Any, fields: dict[str, Any]) -> Visitor:
    if known.account_type != "partial":
        raise email_taken()
    values = {name: value for name, value in fields.items() if value is not None}
    values["upgrade_pc_code"] = values.pop("acquisition_pc_code")
    values |= {"account_type": "full", "registration_date": tx.now}
    return await VISITORS.update(tx, values, visitor_id=known.visitor_id)


@operation(
    "visitors.createPartial", "POST /visitors/partial", summary="Add a visitor of whom little is known",
    body=PartialVisitorNew, reply=Visitor, partition_key=("email",), faults=_REPEATED_AFTER_ERASURE,
)  # fmt: skip
async def create_partial(tx: Tx, request: Request[NoFields, NoFields, PartialVisitorNew]) -> Visitor:
    """The preferredCenter becomes its favourite center. Raises Conflict for an email that a visitor has, and Invalid
    for an unknown center or legal text."""
    body = request.body
    await _require_references(tx, body, "preferred_center")
    fields = {name: getattr(body, name) for name in PartialFields.model_fields}
    visitor = await _add(tx, fields | {"account_type": "partial"})
    if visitor is None:
        raise email_taken()
    favorite = VisitorCenterNew.model_construct(pc_code=body.preferred_center, is_favorite=True)
    await visitor_centers.add(tx, visitor.visitor_id, favorite)
    await optins.add(tx, visitor.visitor_id, body.optins)
    return visitor


@operation(
    "visitors.flagContacts", "PATCH /visitors", summary="Flag emails and phones of several visitors",
    body=ListOf[ContactFlagsPatch], reply=VisitorContact, shape="page", status=200, faults=_REPEATED_AFTER_ERASURE,
)  # fmt: skip
async def flag_contacts(tx: Tx, request: Request[NoFields, NoFields, ListOf[ContactFlagsPatch]]) -> Page[Visitor]:
    """All or none. Of several entries about one visitor, the later one counts where both set a flag; each is answered
    with what holds in the end. Raises Invalid for all visitors that are not there."""
    flags = request.body.root
    known = await VISITORS.lock_all(tx, (flag.visitor_id for flag in flags))
    refuse(
        Invalid("visitor_not_found", "There is no such visitor.", field=f"[{place}].visitorId")
        for place, flag in enumerate(flags)
        if flag.visitor_id not in known
    )
    new: dict[UUID, dict[str, Any]] = {flag.visitor_id: {} for flag in flags}
    for flag in flags:
        new[flag.visitor_id] |= flag.sent_fields()
    columns = {f"new_{name}": [values.get(name) for values in new.values()] for name in VisitorContact.model_fields}
    found = await tx.all(_FLAG, columns | {"now": tx.now})
    changed = {row.visitor_id: VISITORS.changed(tx, row, "updated") for row in found}
    return Page([changed[flag.visitor_id] for flag in flags], more=False)


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
