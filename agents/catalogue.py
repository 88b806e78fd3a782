"""All operations, by family. Routes, topics, schemas and the OpenAPI document are derived from this list at start."""

from collections.abc import Mapping

from agents import schema_query, stored_answers
from agents.families.articles import articles
from agents.families.centers import centers, companies
from agents.families.checkins import checkins
from agents.families.optins import consents, legal_texts, optins
from agents.families.parking import cards, parkings, vehicle_partners, vehicles
from agents.families.parking import histories as parking_histories
from agents.families.points import challenges, histories, rankings, rewards, visitor_challenges
from agents.families.profile import bookmarks, devices, interests, locales, operation_sessions, visitor_centers
from agents.families.services import segments, services, stores, targets, themes
from agents.families.visitors import details, erasure, event_token, external_ids, search, visitors
from agents.families.visits import visits
from agents.operation import Catalogue as Catalogue
from agents.operation import Operation as Operation
from agents.operation import Operations
from storage.table import TABLES

FAMILIES: Mapping[str, Operations] = {
    "visits": visits.OPERATIONS,
    "checkins": checkins.OPERATIONS,
    "optins": (*optins.OPERATIONS, *legal_texts.OPERATIONS, *consents.OPERATIONS),
    "points": (
        *rewards.OPERATIONS,
        *challenges.OPERATIONS,
        *visitor_challenges.OPERATIONS,
        *rankings.OPERATIONS,
        *histories.OPERATIONS,
    ),
    "visitors": (
        *visitors.OPERATIONS,
        *search.OPERATIONS,
        *details.OPERATIONS,
        *erasure.OPERATIONS,
        *event_token.OPERATIONS,
        *external_ids.OPERATIONS,
    ),
    "profile": (
        *bookmarks.OPERATIONS,
        *visitor_centers.OPERATIONS,
        *devices.OPERATIONS,
        *operation_sessions.OPERATIONS,
        *locales.OPERATIONS,
        *interests.OPERATIONS,
    ),
    "parking": (
        *vehicles.OPERATIONS,
        *vehicle_partners.OPERATIONS,
        *cards.OPERATIONS,
        *parkings.OPERATIONS,
        *parking_histories.OPERATIONS,
    ),
    "services": (
        *services.OPERATIONS,
        *stores.OPERATIONS,
        *segments.OPERATIONS,
        *themes.OPERATIONS,
        *targets.OPERATIONS,
    ),
    "centers": (*centers.OPERATIONS, *companies.OPERATIONS),
    "articles": articles.OPERATIONS,
}
"""In the order in which README and /docs list them."""

INTERNAL: Mapping[str, Operations] = {"visitors": (*schema_query.OPERATIONS, *stored_answers.OPERATIONS)}

CATALOGUE = Catalogue(FAMILIES, TABLES, INTERNAL)
