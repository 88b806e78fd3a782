"""What a change topic carries."""

from typing import Any, Generic, Literal, TypeVar

from schemas.model import Model
from schemas.types import Identifier, Instant, Int64, Uuid

After = TypeVar("After")

Action = Literal["created", "updated", "deleted"]


class Change(Model, Generic[After]):
    """One change of one entity; `after` is the entity as the API would have answered it then, null once it is deleted.

    `revision` counts up for each entity from 1. A consumer that sees a revision it already has ignores it: changes are
    delivered at least once. `causedBy` is the id of the request that made the change.
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
