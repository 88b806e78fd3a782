"""Who calls, and what the caller may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from schemas.faults import Forbidden

CENTER_OF: Mapping[str, Literal["path", "query", "body"]] = {
    "centers.get": "path",
    "centers.update": "path",
    "centerCompanies.create": "path",
    "centerCompanies.list": "path",
    "centerCompanies.get": "path",
    "centerCompanies.update": "path",
    "centerCompanies.delete": "path",
    "visitorCenters.get": "path",
    "visits.list": "query",
    "checkins.list": "query",
    "checkins.listForVisitor": "query",
    "rewards.list": "query",
    "challenges.list": "query",
    "visitorChallenges.list": "query",
    "services.list": "query",
    "operationSessions.list": "query",
    "parkingHistories.summary": "query",
    "visits.create": "body",
    "checkins.create": "body",
    "checkins.createByBarcode": "body",
    "rewards.create": "body",
    "challenges.create": "body",
    "services.create": "body",
    "bookmarks.create": "body",
    "operationSessions.create": "body",
    "parkingHistories.create": "body",
}
"""The operations that callers with a territory may call, and the part of the request whose `pcCode` says which center
they are about. Each reads or writes records of this center only. The others are about records of several centers, or
of none, or name a record by an id that does not tell its center."""


@dataclass(frozen=True)
class Territory:
    """Centers by their codes, and all centers of countries: the part of a code before the first dash."""

    centers: frozenset[str]
    countries: frozenset[str]

    def __contains__(self, pc_code: str) -> bool:
        return pc_code in self.centers or pc_code.partition("-")[0] in self.countries


@dataclass(frozen=True)
class Identity:
    """A caller.

    - `name` is unique within a `source`. `source` goes into the message as its ce_source.
    - `scopes` has no wildcards.
    - `rate` is the limit of calls per second, None if there is none.
    - `territory` are the centers whose records the caller may see and change, None if there is no restriction.
    - `expires` is a Unix time.
    """

    name: str
    source: str
    scopes: frozenset[str]
    rate: int | None = None
    territory: Territory | None = None
    expires: float | None = None

    def require_scopes(self, required: frozenset[str]) -> None:
        """Raises Forbidden if the caller lacks one of the scopes."""
        if not required <= self.scopes:
            missing = " and ".join(sorted(required - self.scopes))
            raise Forbidden("forbidden", f"The caller needs the scope {missing}.")

    def require_center(self, operation: str, parts: Mapping[str, Any]) -> None:
        """Raises Forbidden if the request may be about records outside the caller's territory."""
        if self.territory is None:
            return
        part = CENTER_OF.get(operation)
        if part is None:
            raise Forbidden("not_restricted", f"Callers that are restricted to centers may not call {operation}.")
        pc_code = parts.get(part, {}).get("pcCode")
        if pc_code is None or pc_code not in self.territory:
            raise Forbidden(
                "other_center", "Send the code of a center to which the caller is restricted.", field="pcCode"
            )
