"""Parking sessions of a visitor with their costs, and their summary by month."""

from typing import Annotated, Any, Literal

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS, missing_center
from agents.families.parking.cards import CARDS
from agents.families.parking.parkings import PARKINGS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Invalid, refuse
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import Page, PageQuery, PagingQuery
from schemas.requests import Request
from schemas.types import Amount, Flag, Identifier, Instant, Int64, Omittable, PcCode, Text, Timezone, Uuid
from storage.lists import Filter, filters, order_of
from storage.table import Table
from storage.tx import Tx

Currency = Literal["AUD", "EUR", "GBP", "NZD", "USD"]
PaymentStatus = Literal["failed", "partial_refunded", "pending", "refunded", "succeeded"]


class HistoryFields(Model):
    parking_session_start: Omittable[Instant] = None
    """When the vehicle entered."""
    parking_session_end: Omittable[Instant] = None
    """When the vehicle left."""
    parking_session_id: Int64 | None = None
    """Id of the session in the partner's system."""
    amount: Omittable[Int64] = None
    """The price of the session."""
    currency: Currency
    """The currency of all amounts."""
    access_device: Text
    """Licence plate or barcode at the entry."""
    exit_access_device: Text | None = None
    """Licence plate or barcode at the exit."""
    formatted_total_time: Omittable[Text] = None
    """The duration as a text for people."""
    paid_at: Omittable[Instant] = None
    """When the session was paid."""
    paid_at_kiosk: Flag | None = None
    """Whether the session was paid at a kiosk."""
    refunded_amount: Amount | None = None
    """The amount that was refunded."""
    payment_status: Omittable[PaymentStatus] = None
    """The state of the payment."""
    total_time: Omittable[Int64] = None
    """The duration of the session, in the unit of the partner."""
    transaction_full_amount: Amount | None = None
    """The amount of the transaction with tax."""
    transaction_id: Identifier | None = None
    """Id of the transaction at the payment provider."""
    transaction_pretax_amount: Amount | None = None
    """The amount of the transaction without tax."""
    transaction_tax_amount: Amount | None = None
    """The tax of the transaction."""
    validation_amount: Amount | None = None
    """The amount that validations took off the price."""
    vendor_id: Omittable[Text] = None
    """Id of the vendor."""


class HistoryNew(HistoryFields):
    parking_id: Int64
    card_id: Int64
    pc_code: PcCode


class HistoryPatch(HistoryFields, partial=True):
    pass


class History(HistoryNew):
    parking_history_id: Int64
    creation_date: Instant
    update_date: Instant


class StoredHistory(History):
    visitor_id: Uuid


def _uses_device(columns: Any, device: str) -> sa.ColumnElement[bool]:
    matches: sa.ColumnElement[bool] = (columns.access_device == device) | (columns.exit_access_device == device)
    return matches


class HistoryQuery(PageQuery):
    access_device: Annotated[Omittable[Text], Filter(_uses_device)] = None
    """Only sessions with this licence plate or barcode, as `accessDevice` or as `exitAccessDevice`."""
    parking_id: Omittable[Int64] = None
    """Only sessions of this parking."""
    start_date: Annotated[Omittable[Instant], Filter(lambda c, moment: c.parking_session_start >= moment)] = None
    """Only sessions that started at or after this time."""
    end_date: Annotated[Omittable[Instant], Filter(lambda c, moment: c.parking_session_start <= moment)] = None
    """Only sessions that started at or before this time."""
    parking_session_id: Int64 | None = None
    """Only the session with this id in the partner's system."""


class SummaryQuery(PagingQuery):
    timezone: Timezone
    """The time zone in which months begin."""
    parking_id: Omittable[Int64] = None
    """Only sessions of this parking."""
    access_device: Annotated[Omittable[Text], Filter(_uses_device)] = None
    """Only sessions with this licence plate or barcode, as `accessDevice` or as `exitAccessDevice`."""
    pc_code: Omittable[PcCode] = None
    """Only sessions in the center with this code."""


class MonthSummary(Model):
    year: Int64
    """The year."""
    month: Int64
    """The month, from 1 to 12."""
    total_amount: Amount
    """The sum of the amounts."""
    currency: Currency
    """The currency of the sum."""
    total_histories: Int64
    """The number of sessions."""


HISTORIES = Table(
    "parking_histories",
    StoredHistory,
    family="parking",
    resource="parkingHistory",
    key="parking_history_id",
    parents={"visitor_id": VISITORS, "parking_id": PARKINGS, "card_id": CARDS, "pc_code": CENTERS},
    hidden=[
        sa.Index("parking_histories_visitor_id_idx", "visitor_id", "parking_history_id"),
        # Erasure deletes parkings and cards; for each of them, PostgreSQL looks for rows that reference it.
        sa.Index("parking_histories_parking_id_idx", "parking_id"),
        sa.Index("parking_histories_card_id_idx", "card_id"),
    ],
)

_ALL = "/visitors/{visitorId}/parkingHistories"
_ONE = f"{_ALL}/{{parkingHistoryId}}"
_VIEW = crud.View[StoredHistory](History)


@operation(
    "parkingHistories.create", f"POST {_ALL}", summary="Add a parking session",
    path=VisitorPath, body=HistoryNew, reply=History,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, HistoryNew]) -> StoredHistory:
    """Raises NotFound for the visitor, and Invalid for a parking or card of another visitor or an unknown center."""
    visitor_id, body = request.path.visitor_id, request.body
    await VISITORS.require(tx, visitor_id)
    parking = await crud.find_child(tx, PARKINGS, body, "parking_id", visitor_id=visitor_id)
    card = await crud.find_child(tx, CARDS, body, "card_id", visitor_id=visitor_id)
    faults = [child for child in (parking, card) if isinstance(child, Invalid)]
    if faults:
        refuse([*faults, *await missing_center(tx, body.pc_code)])
    return await HISTORIES.insert(tx, vars(body) | {"visitor_id": visitor_id})


_ZONES = {"CET": "Europe/Brussels", "EET": "Europe/Athens", "MET": "Europe/Brussels", "WET": "Europe/Lisbon"}
"""Time zones that PostgreSQL reads as abbreviations of a fixed offset, without summer time. Each is mapped to the zone
that the IANA database links it to."""

_COLUMNS = HISTORIES.columns
_IS_COUNTED = _COLUMNS.payment_status.is_(None) | _COLUMNS.payment_status.not_in(("failed", "pending"))


@operation(
    "parkingHistories.summary", f"GET {_ALL}/summary", summary="Sum up parking costs by month and currency",
    path=VisitorPath, query=SummaryQuery, reply=MonthSummary, shape="page",
)  # fmt: skip
async def summary(tx: Tx, request: Request[VisitorPath, SummaryQuery, NoFields]) -> Page[MonthSummary]:
    """Months begin in the given time zone. Failed and pending payments are not counted. Raises NotFound, Invalid."""
    query = request.query
    await VISITORS.require(tx, request.path.visitor_id)
    zone = _ZONES.get(query.timezone, query.timezone)
    conditions = filters(HISTORIES, query, skip=("timezone",))
    months = _months(zone, _COLUMNS.visitor_id == request.path.visitor_id, _IS_COUNTED, *conditions).subquery()
    rows = await tx.all(
        sa.select(months)
        .order_by(*order_of(MonthSummary, months.c, query.sort), months.c.year, months.c.month, months.c.currency)
        .offset(query.offset or 0)
        .limit(query.limit + 1)
    )
    summaries = [MonthSummary.model_construct(**row._mapping) for row in rows]
    return Page(summaries[: query.limit], more=len(summaries) > query.limit)


def _months(zone: str, *conditions: sa.ColumnElement[bool]) -> Any:
    """One row for each month in `zone` and currency: the sum of the amounts and the number of the sessions. Bounded by
    the sessions of one visitor, which an index finds."""
    local_time = sa.func.timezone(zone, sa.func.coalesce(_COLUMNS.parking_session_start, _COLUMNS.creation_date))
    return (
        sa.select(
            sa.cast(sa.extract("year", local_time), sa.BigInteger).label("year"),
            sa.cast(sa.extract("month", local_time), sa.BigInteger).label("month"),
            sa.func.coalesce(sa.func.sum(_COLUMNS.amount), 0).label("total_amount"),
            _COLUMNS.currency.label("currency"),
            sa.func.count().label("total_histories"),
        )
        .where(*conditions)
        .group_by(sa.text("1"), sa.text("2"), _COLUMNS.currency)
    )


OPERATIONS: Operations = (
    create,
    crud.lists(
        HISTORIES,
        "parkingHistories.list",
        f"GET {_ALL}",
        "List a visitor's parking sessions",
        HistoryQuery,
        view=_VIEW,
    ),
    crud.updates(HISTORIES, "parkingHistories.update", f"PATCH {_ONE}", "Update a parking session", HistoryPatch),
    crud.gets(HISTORIES, "parkingHistories.get", f"GET {_ONE}", "Read a parking session", view=_VIEW),
    crud.deletes(HISTORIES, "parkingHistories.delete", f"DELETE {_ONE}", "Remove a parking session"),
    summary,
)
