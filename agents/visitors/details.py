"""Whole visitors, with what belongs to them, in a number of statements that does not grow with the page."""

from collections.abc import Sequence

from agents import crud
from agents.operation import Operations
from agents.optins.optins import OPTINS, Optin
from agents.parking.cards import CARDS, Card
from agents.parking.vehicles import VEHICLES, Vehicle
from agents.points.rewards import REWARDS, Reward
from agents.profile.visitor_centers import VISITOR_CENTERS, VisitorCenter
from agents.visitors.external_ids import EXTERNAL_IDS, ExternalId
from agents.visitors.visitor import VISITORS, Visitor
from schemas.replies import PagingQuery
from schemas.types import Instant, Maybe, Uuid
from storage.tx import Tx


class DetailsQuery(PagingQuery):
    visitor_id: Maybe[Uuid] = None
    creation_date_gte: Maybe[Instant] = None
    creation_date_lt: Maybe[Instant] = None


class VisitorDetails(Visitor):
    """Cards and vehicles are those that are not deleted."""

    external_ids: list[ExternalId]
    optins: list[Optin]
    rewards: list[Reward]
    visitor_centers: list[VisitorCenter]
    vehicles: list[Vehicle]
    credit_cards: list[Card]


async def _whole(tx: Tx, visitors: Sequence[Visitor]) -> Sequence[VisitorDetails]:
    ids = [visitor.visitor_id for visitor in visitors]
    external_ids = await EXTERNAL_IDS.under(tx, "visitor_id", ids)
    optins = await OPTINS.under(tx, "visitor_id", ids)
    rewards = await REWARDS.under(tx, "visitor_id", ids)
    centers = await VISITOR_CENTERS.under(tx, "visitor_id", ids)
    vehicles = await VEHICLES.under(tx, "visitor_id", ids)
    cards = await CARDS.under(tx, "visitor_id", ids)
    return [
        VisitorDetails.widened(
            visitor,
            external_ids=external_ids[key],
            optins=optins[key],
            rewards=rewards[key],
            visitor_centers=centers[key],
            vehicles=[vehicle for vehicle in vehicles[key] if vehicle.deletion_date is None],
            credit_cards=[card for card in cards[key] if card.deletion_date is None],
        )
        for key, visitor in zip(ids, visitors, strict=True)
    ]


OPERATIONS: Operations = (
    crud.lists(
        VISITORS,
        "visitors.details",
        "GET /visitors/details",
        "List whole visitors",
        DetailsQuery,
        view=crud.View(VisitorDetails, _whole),
    ),
)
