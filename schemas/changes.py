"""The value of a message on a change topic."""

from typing import Any, Generic, Literal, TypeVar

from schemas.model import Model
from schemas.types import Identifier, Instant, Int64, Uuid

After = TypeVar("After")

Action = Literal["created", "updated", "deleted", "republished"]


class Change(Model, Generic[After]):
    """One change of one entity. `after` is the entity after the change, in the form in which the API answers it; it is
    null if the entity was deleted.

    `revision` starts at 1 for each entity and increases with every change. Changes are delivered at least once, so a
    consumer ignores a revision that it already has. `causedBy` is the id of the request that caused the change.

    `republished` repeats the current state with its revision. Nothing has changed; `visitor republish` wrote it.
    """

    resource: Identifier
    id: Identifier
    revision: Int64
    action: Action
    visitor_id: Uuid | None
    occurred_at: Instant
    caused_by: Identifier
    after: After | None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}Change"
