"""All operations, by family. Everything else (routes, topics, schemas, documents) is derived from this at start."""

from collections.abc import Mapping

from agents.centers import centers
from agents.checkins import checkins
from agents.operation import Catalogue as Catalogue
from agents.operation import Operation as Operation
from agents.operation import Operations
from agents.optins import consents, legal_texts, optins
from agents.parking import vehicles
from agents.points import challenges, histories, rankings, rewards, visitor_challenges
from agents.services import segments, services, stores, targets, themes
from agents.visitors import visitors
from agents.visits import visits

FAMILIES: Mapping[str, Operations] = {
    "visits": visits.OPERATIONS,
    "centers": centers.OPERATIONS,
    "visitors": visitors.OPERATIONS,
    "parking": vehicles.OPERATIONS,
    "checkins": checkins.OPERATIONS,
    "optins": (*optins.OPERATIONS, *legal_texts.OPERATIONS, *consents.OPERATIONS),
    "points": (
        *rewards.OPERATIONS,
        *challenges.OPERATIONS,
        *visitor_challenges.OPERATIONS,
        *rankings.OPERATIONS,
        *histories.OPERATIONS,
    ),
    "services": (
        *services.OPERATIONS,
        *stores.OPERATIONS,
        *segments.OPERATIONS,
        *themes.OPERATIONS,
        *targets.OPERATIONS,
    ),
}


CATALOGUE = Catalogue(FAMILIES)
