"""All operations, by family. Everything else (routes, topics, schemas, documents) is derived from this at start."""

from collections.abc import Mapping

from agents.centers import centers
from agents.operation import Catalogue as Catalogue
from agents.operation import Operation as Operation
from agents.operation import Operations
from agents.parking import vehicles
from agents.visitors import visitors
from agents.visits import visits

FAMILIES: Mapping[str, Operations] = {
    "visits": visits.OPERATIONS,
    "centers": centers.OPERATIONS,
    "visitors": visitors.OPERATIONS,
    "parking": vehicles.OPERATIONS,
}


CATALOGUE = Catalogue(FAMILIES)
