"""The value of a request message. The edge translates an HTTP call to the same value."""

from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, model_validator

from schemas.model import Model, NoFields

Path = TypeVar("Path", bound=Model)
Query = TypeVar("Query", bound=Model)
Body = TypeVar("Body", bound=BaseModel)

SECTIONS = ("path", "query", "body")


class Request(Model, Generic[Path, Query, Body]):
    """The value of a request message: `{"path": …, "query": …, "body": …}`. A part without fields may be left out."""

    path: Path
    query: Query
    body: Body

    @model_validator(mode="before")
    @classmethod
    def _add_missing_parts(cls, value: Any) -> Any:
        """Treat a part that was left out as an empty object."""
        if not isinstance(value, dict):
            return value
        return {name: value.get(name, {}) for name in SECTIONS} | value

    @classmethod
    @cache
    def parts(cls) -> dict[str, type[BaseModel]]:
        """The models of the parts that have fields, by the name of the part."""
        models: dict[str, Any] = {name: cls.model_fields[name].annotation for name in SECTIONS}
        return {name: model for name, model in models.items() if model is not NoFields}
