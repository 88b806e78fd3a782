"""Payment cards of a visitor, identified by the token of the payment provider. A card number is never accepted.

A deleted card keeps its row, with a deletionDate.
"""

from typing import Annotated, Literal

import sqlalchemy as sa
from pydantic import Field, WithJsonSchema

from agents import crud
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations
from schemas.marks import Whole
from schemas.model import Model
from schemas.replies import PageQuery
from schemas.types import Flag, Identifier, Instant, Int64, Omittable, Text, Uuid
from storage.lists import Filter
from storage.table import Table

ServiceTypes = list[Literal["parking"]]

# The documented patterns are ECMA-262, where \d is an ASCII digit. In Python, \d matches digits of any script.
SixDigits = Annotated[
    str,
    Field(pattern=r"^[0-9]{6}$", coerce_numbers_to_str=True),
    WithJsonSchema({"type": "string", "pattern": r"^\d{6}$"}),
]
FourDigits = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}$", coerce_numbers_to_str=True),
    WithJsonSchema({"type": "string", "pattern": r"^\d{4}$"}),
]


class CardFields(Model):
    first_name: Text
    """First name of the cardholder."""
    last_name: Text
    """Last name of the cardholder."""
    postal_code: Omittable[Text] = None
    """Postal code of the billing address."""
    service_types: Omittable[ServiceTypes] = None
    """The services that are paid with the card."""
    year: Annotated[int, Whole(ge=1000, le=9999)]
    """The year in which the card expires."""
    month: Annotated[int, Whole(ge=1, le=12)]
    """The month in which the card expires."""


class CardNew(CardFields):
    fingerprint: Identifier
    """The fingerprint of the card number at the payment provider. It is the same for the same card."""
    card_type: Literal["american_express", "jcb", "visa", "master", "maestro", "discover"]
    """The brand of the card."""
    first_six_digits: SixDigits
    """The first six digits of the card number."""
    last_four_digits: FourDigits
    """The last four digits of the card number."""
    payment_method_token: Text
    """The token of the card at the payment provider."""


class CardPatch(CardFields, partial=True):
    pass


class Card(CardNew):
    card_id: Int64
    visitor_id: Uuid
    good_thru: Text
    """The end of validity, as MM/YYYY."""
    deletion_date: Instant | None
    creation_date: Instant
    update_date: Instant


class CardQuery(PageQuery):
    include_deleted: Annotated[Flag, Filter(lambda c, include: sa.true() if include else c.deletion_date.is_(None))] = (
        False
    )


CARDS = Table(
    "credit_cards",
    Card,
    family="parking",
    resource="creditCard",
    key="card_id",
    parents={"visitor_id": VISITORS},
    computed={"good_thru": "lpad(month::text, 2, '0') || '/' || year::text"},
    hidden=[sa.Index("credit_cards_visitor_id_idx", "visitor_id", "card_id")],
)

_ALL = "/visitors/{visitorId}/creditCards"
_ONE = f"{_ALL}/{{cardId}}"

OPERATIONS: Operations = (
    crud.creates(CARDS, "creditCards.create", f"POST {_ALL}", "Add a card", CardNew),
    crud.lists(CARDS, "creditCards.list", f"GET {_ALL}", "List the cards of a visitor", CardQuery),
    crud.gets(CARDS, "creditCards.get", f"GET {_ONE}", "Read a card"),
    crud.updates(CARDS, "creditCards.update", f"PATCH {_ONE}", "Update a card", CardPatch),
    crud.soft_deletes(
        CARDS,
        "creditCards.delete",
        f"DELETE {_ONE}",
        "Delete a card",
        is_deleted=lambda card: card.deletion_date is not None,
        values=lambda tx: {"deletion_date": tx.now},
    ),
)
