"""Visitors with all their records. The number of SQL statements does not depend on the size of the page."""

from collections.abc import Sequence

from agents import crud
from agents.families.optins.optins import OPTINS, Optin
from agents.families.parking.cards import CARDS, Card
from agents.families.parking.vehicles import VEHICLES, Vehicle
from agents.families.points.rewards import REWARDS, Reward
from agents.families.profile.visitor_centers import VISITOR_CENTERS, VisitorCenter
from agents.families.visitors.external_ids import EXTERNAL_IDS, ExternalId
from agents.families.visitors.visitor_table import VISITORS, Visitor
from agents.operation import Operations
from schemas.replies import PagingQuery
from schemas.types import Instant, Omittable, Uuid
from storage.tx import Tx


class DetailsQuery(PagingQuery):
    visitor_id: Omittable[Uuid] = None
    creation_date_gte: Omittable[Instant] = None
    """Only visitors who were created at or after this time."""
    creation_date_lt: Omittable[Instant] = None
    """Only visitors who were created before this time."""


class VisitorDetails(Visitor):
    """A visitor with all its records. Deleted cards and vehicles are left out."""

    external_ids: list[ExternalId]
    """The ids that other systems have for the visitor."""
    optins: list[Optin]
    rewards: list[Reward]
    """The rewards of the visitor."""
    visitor_centers: list[VisitorCenter]
    """The centers of the visitor."""
    vehicles: list[Vehicle]
    """The vehicles of the visitor that are not deleted."""
    credit_cards: list[Card]
    """The credit cards of the visitor that are not deleted."""


async def _with_records(tx: Tx, visitors: Sequence[Visitor]) -> Sequence[VisitorDetails]:
    ids = [visitor.visitor_id for visitor in visitors]
    external_ids = await EXTERNAL_IDS.by_parent(tx, "visitor_id", ids)
    optins = await OPTINS.by_parent(tx, "visitor_id", ids)
    rewards = await REWARDS.by_parent(tx, "visitor_id", ids)
    centers = await VISITOR_CENTERS.by_parent(tx, "visitor_id", ids)
    vehicles = await VEHICLES.by_parent(tx, "visitor_id", ids, without="deletion_date")
    cards = await CARDS.by_parent(tx, "visitor_id", ids, without="deletion_date")
    return [
        VisitorDetails.widened(
            visitor,
            external_ids=external_ids[visitor.visitor_id],
            optins=optins[visitor.visitor_id],
            rewards=rewards[visitor.visitor_id],
            visitor_centers=centers[visitor.visitor_id],
            vehicles=vehicles[visitor.visitor_id],
            credit_cards=cards[visitor.visitor_id],
        )
        for visitor in visitors
    ]


OPERATIONS: Operations = (
    crud.lists(
        VISITORS,
        "visitors.details",
        "GET /visitors/details",
        "List visitors with all their records",
        DetailsQuery,
        view=crud.View(VisitorDetails, _with_records),
    ),
)
