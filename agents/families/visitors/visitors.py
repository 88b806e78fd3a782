"""Operations that create, read, count and update visitors."""

from collections.abc import Container, Sequence
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
from agents.families.visitors.external_ids import add_analytics_ids
from agents.families.visitors.visitor_table import (
    VISITORS,
    AccountType,
    Gender,
    Visitor,
    VisitorFields,
    VisitorPatch,
    email_taken,
)
from agents.operation import Operations, apply_each, batch_operation, operation
from schemas.emails import mailbox
from schemas.faults import Conflict, Fault, Invalid, NotFound, refuse
from schemas.model import ListOf, Model, NoFields
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import CountryCode, Email, Flag, Instant, Int64, Omittable, PcCode, Phone, Several, Text, Uuid
from storage.lists import Filter, filters
from storage.statements import any_of, unnest_rows
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
    """The code of the visitor's favourite center."""
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
    """Only visitors who registered at or after this time."""
    registered_until: Annotated[Omittable[Instant], Filter(lambda c, moment: c.registration_date < moment)] = None
    """Only visitors who registered before this time."""
    acquisition_pc_code: Omittable[PcCode] = None
    account_type: Omittable[AccountType] = None
    origin_type: Omittable[Text] = None


class VisitorCount(Model):
    count: Int64
    """The number of matching visitors."""


_C = VISITORS.columns


def _update_contact_flags() -> Any:
    """UPDATE the contact flags of several visitors.

    The list parameters `new_visitor_id`, `new_email_invalid` and `new_phone_invalid` have one item for each visitor; a
    null flag keeps the stored one. `update_date` never moves back, since a transaction that waited for a row lock may
    have an older `now` than the one before it. The statement touches only the visitors in `new_visitor_id`.
    """
    new = unnest_rows(**{f"new_{name}": _C[name].type for name in VisitorContact.model_fields})
    flags = {name: sa.func.coalesce(new.c[f"new_{name}"], _C[name]) for name in ContactFlags.model_fields}
    now = sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True))
    return (
        sa.update(VISITORS.sql)
        .where(_C.visitor_id == new.c.new_visitor_id)
        .values(flags | {"update_date": sa.func.greatest(_C.update_date, now), "revision": _C.revision + 1})
        .returning(*_C)
    )


_UPDATE_CONTACT_FLAGS = _update_contact_flags()
_LOCK_BY_EMAIL = (
    sa.select(VISITORS.sql)
    .where(any_of(_C.email_key, "email_keys"))
    .order_by(_C.email_key)
    .with_for_update(key_share=True)
)

_REPEATED_AFTER_ERASURE = (NotFound,)
"""A repeated request whose visitor was erased in the meantime is 404."""


@batch_operation(
    "visitors.create", "POST /visitors", summary="Add a new visitor",
    body=VisitorNew, reply=Visitor, partition_key=("email",), faults=_REPEATED_AFTER_ERASURE,
)  # fmt: skip
async def create(calls: Sequence[tuple[Tx, Request[NoFields, NoFields, VisitorNew]]]) -> list[Visitor | Fault]:
    """Create a full visitor. If a partial visitor has the email, upgrade that visitor instead; it keeps its visitorId
    and barcode. Raises Conflict if a full visitor has the email, and Invalid for an unknown center or legal text."""
    tx = calls[0][0]
    bodies = [request.body for _, request in calls]
    pc_codes = await CENTERS.existing_keys(tx, (body.acquisition_pc_code for body in bodies))
    text_ids = await optins.existing_text_ids(tx, (optin for body in bodies for optin in body.optins))

    def checked(tx: Tx, request: Request[NoFields, NoFields, VisitorNew]) -> VisitorNew:
        _require_references(request.body, "acquisition_pc_code", pc_codes, text_ids)
        return request.body

    return await apply_each(calls, checked, _insert_or_upgrade)


def _require_references(
    body: VisitorNew | PartialVisitorNew, center_field: str, pc_codes: Container[str], text_ids: Container[int]
) -> None:
    """Raises Invalid with an entry for the center and for each legal text that is not among the existing ones."""
    faults = []
    if getattr(body, center_field) not in pc_codes:
        faults.append(Invalid("center_not_found", "There is no such center.", field=to_camel(center_field)))
    faults += optins.missing_text_faults(body.optins, text_ids)
    refuse(faults)


async def _insert_or_upgrade(new_visitors: Sequence[tuple[Tx, VisitorNew]]) -> list[Visitor | Fault]:
    """Insert visitors, or upgrade partial ones, and add the optins. The outcome is Conflict if a full visitor has the
    email."""
    first_by_key: dict[str, int] = {}
    for index, (_, body) in enumerate(new_visitors):
        first_by_key.setdefault(mailbox(body.email), index)
    # Of several with one email, only the first can succeed.
    outcomes: list[Visitor | Fault] = [email_taken() for _ in new_visitors]
    while first_by_key:
        for row in await new_visitors[0][0].all(_LOCK_BY_EMAIL, {"email_keys": sorted(first_by_key)}):
            index = first_by_key.pop(row.email_key)
            outcomes[index] = await _upgrade(row, *new_visitors[index])
        absent = sorted(first_by_key)
        inserted = await _insert([_full_visitor(*new_visitors[first_by_key[key]]) for key in absent])
        for key, visitor in zip(absent, inserted, strict=True):
            # If it is None, another transaction committed a visitor with this email after the SELECT. The next SELECT
            # will find it.
            if visitor is not None:
                outcomes[first_by_key.pop(key)] = visitor
    await optins.add([
        optins.NewOptin(tx, outcome.visitor_id, optin)
        for (tx, body), outcome in zip(new_visitors, outcomes, strict=True)
        if isinstance(outcome, Visitor)
        for optin in body.optins
    ])  # fmt: skip
    return outcomes


def _fields_of(body: VisitorNew) -> dict[str, Any]:
    return {name: getattr(body, name) for name in VisitorFields.model_fields}


def _full_visitor(tx: Tx, body: VisitorNew) -> tuple[Tx, dict[str, Any]]:
    return tx, _fields_of(body) | {"account_type": "full", "registration_date": tx.now}


async def _insert(new_visitors: Sequence[tuple[Tx, dict[str, Any]]]) -> list[Visitor | None]:
    """Insert visitors with their analytics ids. They are sorted by email. None if another visitor has the email."""
    if not new_visitors:
        return []
    rows = [(tx, fields | _new_identity(tx)) for tx, fields in new_visitors]
    visitors = await VISITORS.insert_many_unless(rows, "email_key")
    inserted = [(tx, visitor.visitor_id) for (tx, _), visitor in zip(rows, visitors, strict=True) if visitor]
    if inserted:
        await add_analytics_ids(inserted)
    return visitors


def _new_identity(tx: Tx) -> dict[str, Any]:
    caller = tx.cause.caller
    return {
        "visitor_id": uuid4(),
        "barcode": str(uuid4()),
        "origin_type": caller.origin_type,
        "origin": caller.origin,
    }


async def _upgrade(row: Any, tx: Tx, body: VisitorNew) -> Visitor | Conflict:
    """Turn a partial visitor into a full one. `row` is its locked row. The outcome is Conflict if it is a full
    visitor."""
    if row.account_type != "partial":
        return email_taken()
    await tx.refresh_now()
    values = {name: value for name, value in _fields_of(body).items() if value is not None}
    values["upgrade_pc_code"] = values.pop("acquisition_pc_code")
    values |= {"account_type": "full", "registration_date": tx.now}
    return await VISITORS.update(tx, values, visitor_id=row.visitor_id)


@operation(
    "visitors.createPartial", "POST /visitors/partial", summary="Add a partial visitor",
    body=PartialVisitorNew, reply=Visitor, partition_key=("email",), faults=_REPEATED_AFTER_ERASURE,
)  # fmt: skip
async def create_partial(tx: Tx, request: Request[NoFields, NoFields, PartialVisitorNew]) -> Visitor:
    """Create a partial visitor. Its preferredCenter becomes its favourite center. Raises Conflict if another visitor
    has the email, and Invalid for an unknown center or legal text."""
    body = request.body
    pc_codes = await CENTERS.existing_keys(tx, [body.preferred_center])
    _require_references(body, "preferred_center", pc_codes, await optins.existing_text_ids(tx, body.optins))
    fields = {name: getattr(body, name) for name in PartialFields.model_fields}
    (visitor,) = await _insert([(tx, fields | {"account_type": "partial"})])
    if visitor is None:
        raise email_taken()
    favorite = VisitorCenterNew.model_construct(pc_code=body.preferred_center, is_favorite=True)
    await visitor_centers.add(tx, visitor.visitor_id, favorite)
    await optins.add([optins.NewOptin(tx, visitor.visitor_id, optin) for optin in body.optins])
    return visitor


@operation(
    "visitors.flagContacts", "PATCH /visitors", summary="Flag emails and phones of several visitors",
    body=ListOf[ContactFlagsPatch], reply=VisitorContact, shape="page", status=200, faults=_REPEATED_AFTER_ERASURE,
)  # fmt: skip
async def flag_contacts(tx: Tx, request: Request[NoFields, NoFields, ListOf[ContactFlagsPatch]]) -> Page[Visitor]:
    """Set the flags of all visitors, or of none if an entry is refused. If several entries have the same visitor, a
    later entry overrides the flags of an earlier one, and each entry is answered with the final flags. Raises Invalid
    with an entry for each visitor that does not exist."""
    entries = request.body.root
    existing = await VISITORS.lock_all(tx, (entry.visitor_id for entry in entries))
    refuse(
        Invalid("visitor_not_found", "There is no such visitor.", field=f"[{index}].visitorId")
        for index, entry in enumerate(entries)
        if entry.visitor_id not in existing
    )
    fields_by_visitor: dict[UUID, dict[str, Any]] = {entry.visitor_id: {} for entry in entries}
    for entry in entries:
        fields_by_visitor[entry.visitor_id] |= entry.sent_fields()
    parameters: dict[str, Any] = {"now": tx.now}
    for name in VisitorContact.model_fields:
        parameters[f"new_{name}"] = [fields.get(name) for fields in fields_by_visitor.values()]
    rows = await tx.all(_UPDATE_CONTACT_FLAGS, parameters)
    updated = {row.visitor_id: VISITORS.record_change_of(tx, row, "updated") for row in rows}
    return Page([updated[entry.visitor_id] for entry in entries], more=False)


@operation("visitors.count", "GET /visitors/count", summary="Count visitors", query=CountQuery, reply=VisitorCount)
async def count(tx: Tx, request: Request[NoFields, CountQuery, NoFields]) -> VisitorCount:
    """Count the matching visitors. The database reads all of them, which takes some tenths of a second for a
    million."""
    statement = sa.select(sa.func.count().label("visitors")).select_from(VISITORS.sql)
    row = await tx.first(statement.where(*filters(VISITORS, request.query)))
    assert row is not None
    return VisitorCount.model_construct(count=row.visitors)


OPERATIONS: Operations = (
    create,
    create_partial,
    flag_contacts,
    count,
    crud.updates(VISITORS, "visitors.update", "PATCH /visitors/{visitorId}", "Update a visitor", VisitorPatch),
    crud.gets(VISITORS, "visitors.get", "GET /visitors/{visitorId}", "Read a visitor"),
)
