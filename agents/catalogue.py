"""All operations, by family. Everything else (routes, topics, schemas, documents) is derived from this at start."""

from collections.abc import Iterable, Mapping

from agents.centers import centers
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


class Catalogue:
    """Operations by name and by family. Raises ValueError, at start, where two share a name or a route."""

    def __init__(self, families: Mapping[str, Operations]) -> None:
        self.families = families
        self.operations: list[Operation] = [operation for group in families.values() for operation in group]
        self.by_name = {operation.name: operation for operation in self.operations}
        self.family_of = {operation.name: family for family, group in families.items() for operation in group}
        _unique("name", [operation.name for operation in self.operations])
        _unique("route", [f"{operation.method} {operation.path}" for operation in self.operations])


def _unique(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two operations have the {kind} {name}")
        seen.add(name)


CATALOGUE = Catalogue(FAMILIES)
