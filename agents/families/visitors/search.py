"""The search for visitors, by filters and by a prefix in one field."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from agents.families.parking.parkings import PARKINGS
from agents.families.parking.vehicles import VEHICLES
from agents.families.visitors.external_ids import EXTERNAL_IDS
from agents.families.visitors.visitor_table import VISITORS, AccountType, Visitor
from agents.operation import Operations, operation
from schemas.emails import mailbox
from schemas.faults import Invalid
from schemas.model import NoFields
from schemas.replies import Page, PageQuery
from schemas.requests import Request
from schemas.types import CountryCode, Email, Flag, Identifier, Instant, Omittable, PcCode, Text
from storage.folding import fold, plain_plate, starts_with
from storage.lists import Filter, page
from storage.tx import Tx

QueryBy = Literal["email", "firstName", "lastName", "licensePlate", "externalId", "fullname"]

_C = VISITORS.columns
_TEXT = TypeAdapter[str](Text)


def _is_smartparker(columns: Any, value: bool) -> sa.ColumnElement[bool]:
    """The visitor has an active parking, or has none if `value` is False."""
    has_active_parking = sa.exists(
        sa.select(sa.literal(1)).where(PARKINGS.columns.visitor_id == columns.visitor_id, PARKINGS.columns.is_active)
    )
    return has_active_parking if value else ~has_active_parking


class VisitorQuery(PageQuery):
    country_code: Omittable[CountryCode] = None
    barcode: Omittable[Identifier] = None
    email: Annotated[Omittable[Email], Filter(lambda c, email: c.email_key == mailbox(email))] = None
    acquisition_pc_code: Omittable[PcCode] = None
    account_type: Omittable[AccountType] = None
    origin_type: Omittable[Text] = None
    is_smartparker: Annotated[Omittable[Flag], Filter(_is_smartparker)] = None
    """Only visitors with an active parking, or with `false` only those without one."""
    updated_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.update_date >= moment)] = None
    """Only visitors who were changed at or after this time."""
    created_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.creation_date >= moment)] = None
    """Only visitors who were created at or after this time."""
    query: Omittable[Identifier] = None
    """A prefix of the field that `queryBy` names. Case and accents are ignored. Digits that look like a card number
    are refused, unless `queryBy` is `externalId`."""
    query_by: Omittable[QueryBy] = None
    """The field that `query` searches."""


def _has_id_in(visitor_ids: sa.Select[Any]) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = _C.visitor_id.in_(visitor_ids)
    return condition


def _email_starts_with(text: str) -> sa.ColumnElement[bool]:
    """Compare with email_key as the text is typed and as a mailbox, since email_key has its domain in A-labels; and
    with folded_email, which is set for emails with accents."""
    folded_text = fold(text) or ""
    prefixes = {folded_text, mailbox(text.strip())}
    return sa.or_(
        *(starts_with(_C.email_key, prefix) for prefix in prefixes), starts_with(_C.folded_email, folded_text)
    )


def _plate_starts_with(text: str) -> sa.ColumnElement[bool]:
    columns, prefix = VEHICLES.columns, plain_plate(text)
    condition = starts_with(columns.plate_key, prefix) | starts_with(columns.plain_plate, prefix)
    return _has_id_in(sa.select(columns.visitor_id).where(condition, columns.deletion_date.is_(None)))


def _external_id_starts_with(text: str) -> sa.ColumnElement[bool]:
    columns = EXTERNAL_IDS.columns
    return _has_id_in(sa.select(columns.visitor_id).where(starts_with(columns.folded_id, fold(text) or "")))


def _full_name_starts_with(text: str) -> sa.ColumnElement[bool]:
    """Match "first last" and "last first".

    The whole text may be a prefix of the first or the last name. For each split of its words into two parts, the head
    may also be equal to one name while the tail is a prefix of the other. Each alternative is a range of an index on
    both names, and their number grows with the words of the text only.
    """
    words = (fold(text) or "").split()
    first_name, last_name = _C.first_name_key, _C.last_name_key
    alternatives = [starts_with(first_name, " ".join(words)), starts_with(last_name, " ".join(words))]
    for index in range(1, len(words)):
        head, tail = " ".join(words[:index]), " ".join(words[index:])
        alternatives.append((first_name == head) & starts_with(last_name, tail))
        alternatives.append((last_name == head) & starts_with(first_name, tail))
    return sa.or_(*alternatives)


SEARCHES: Mapping[QueryBy, Callable[[str], sa.ColumnElement[bool]]] = {
    "email": _email_starts_with,
    "firstName": lambda text: starts_with(_C.first_name_key, fold(text) or ""),
    "lastName": lambda text: starts_with(_C.last_name_key, fold(text) or ""),
    "licensePlate": _plate_starts_with,
    "externalId": _external_id_starts_with,
    "fullname": _full_name_starts_with,
}


@operation("visitors.list", "GET /visitors", summary="List visitors", query=VisitorQuery, reply=Visitor, shape="page")
async def list_visitors(tx: Tx, request: Request[NoFields, VisitorQuery, NoFields]) -> Page[Visitor]:
    """List visitors by filters, and by a prefix if `query` and `queryBy` are sent. Raises Invalid if only one of the
    two is sent, or if the query looks like a card number."""
    conditions = _search_conditions(request.query)
    return await page(tx, VISITORS, request.query, *conditions, skip=("query", "query_by"))


def _search_conditions(query: VisitorQuery) -> list[sa.ColumnElement[bool]]:
    text, query_by = query.query, query.query_by
    if text is None and query_by is None:
        return []
    if text is None or query_by is None:
        missing_field = "query" if text is None else "queryBy"
        raise Invalid("required", "Send query and queryBy together.", field=missing_field)
    if query_by != "externalId":
        _refuse_card_number(text)
    return [SEARCHES[query_by](text)]


def _refuse_card_number(text: str) -> None:
    try:
        _TEXT.validate_python(text)
    except ValidationError:
        raise Invalid("card_number_refused", "A card number is never accepted here.", field="query") from None


OPERATIONS: Operations = (list_visitors,)
