"""Finding visitors by what is known of them."""

from collections.abc import Callable, Iterator, Mapping
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


def _parks(columns: Any, yes: bool) -> sa.ColumnElement[bool]:
    parking = sa.exists(
        sa.select(sa.literal(1)).where(PARKINGS.columns.visitor_id == columns.visitor_id, PARKINGS.columns.is_active)
    )
    return parking if yes else ~parking


class VisitorQuery(PageQuery):
    """`query` is a prefix of what `queryBy` names, without regard to case and accents. Only an externalId may have the
    digits of a card number."""

    country_code: Omittable[CountryCode] = None
    barcode: Omittable[Identifier] = None
    email: Annotated[Omittable[Email], Filter(lambda c, email: c.email_key == mailbox(email))] = None
    acquisition_pc_code: Omittable[PcCode] = None
    account_type: Omittable[AccountType] = None
    origin_type: Omittable[Text] = None
    is_smartparker: Annotated[Omittable[Flag], Filter(_parks)] = None
    updated_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.update_date >= moment)] = None
    created_since: Annotated[Omittable[Instant], Filter(lambda c, moment: c.creation_date >= moment)] = None
    query: Omittable[Identifier] = None
    query_by: Omittable[QueryBy] = None


def _of_children(found: Any) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = _C.visitor_id.in_(found)
    return condition


def _by_email(text: str) -> sa.ColumnElement[bool]:
    folded = fold(text) or ""
    # The text can be the prefix of a mailbox that has accents or a domain in A-labels.
    ways = [starts_with(_C.email_key, prefix) for prefix in {folded, mailbox(text.strip())}]
    return sa.or_(*ways, starts_with(_C.folded_email, folded))


def _by_plate(text: str) -> sa.ColumnElement[bool]:
    columns, plain = VEHICLES.columns, plain_plate(text)
    matching = starts_with(columns.plate_key, plain) | starts_with(columns.plain_plate, plain)
    return _of_children(sa.select(columns.visitor_id).where(matching, columns.deletion_date.is_(None)))


def _by_external_id(text: str) -> sa.ColumnElement[bool]:
    columns = EXTERNAL_IDS.columns
    return _of_children(sa.select(columns.visitor_id).where(starts_with(columns.folded_id, fold(text) or "")))


def _by_full_name(text: str) -> sa.ColumnElement[bool]:
    """ "first last" and "last first": wherever the text can be split, one part is a whole name and the other begins
    one; and the whole text may begin either."""
    words = (fold(text) or "").split()
    first, last = _C.first_name_key, _C.last_name_key
    ways = [starts_with(first, " ".join(words)), starts_with(last, " ".join(words))]
    for place in range(1, len(words)):
        whole, begun = " ".join(words[:place]), " ".join(words[place:])
        ways += [(first == whole) & starts_with(last, begun), (last == whole) & starts_with(first, begun)]
    return sa.or_(*ways)


SEARCHES: Mapping[QueryBy, Callable[[str], sa.ColumnElement[bool]]] = {
    "email": _by_email,
    "firstName": lambda text: starts_with(_C.first_name_key, fold(text) or ""),
    "lastName": lambda text: starts_with(_C.last_name_key, fold(text) or ""),
    "licensePlate": _by_plate,
    "externalId": _by_external_id,
    "fullname": _by_full_name,
}


@operation("visitors.list", "GET /visitors", summary="List visitors", query=VisitorQuery, reply=Visitor, shape="page")
async def list_visitors(tx: Tx, request: Request[NoFields, VisitorQuery, NoFields]) -> Page[Visitor]:
    """Raises Invalid where only one of query and queryBy is there, or the query is a card number."""
    return await page(tx, VISITORS, request.query, *_searched(request.query), skip=("query", "query_by"))


def _searched(query: VisitorQuery) -> Iterator[sa.ColumnElement[bool]]:
    text, by = query.query, query.query_by
    if text is None and by is None:
        return
    if text is None or by is None:
        missing = "query" if text is None else "queryBy"
        raise Invalid("required", "query and queryBy need each other.", field=missing)
    if by != "externalId":
        _refuse_card_number(text)
    yield SEARCHES[by](text)


def _refuse_card_number(text: str) -> None:
    try:
        _TEXT.validate_python(text)
    except ValidationError:
        raise Invalid("card_number_refused", "A card number is never accepted here.", field="query") from None


OPERATIONS: Operations = (list_visitors,)
