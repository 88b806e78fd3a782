"""What a request holds, as a message and after an HTTP call was translated into one."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, model_validator

from schemas.model import Model, NoFields

Path = TypeVar("Path", bound=Model)
Query = TypeVar("Query", bound=Model)
Body = TypeVar("Body", bound=BaseModel)

SECTIONS = ("path", "query", "body")


class Request(Model, Generic[Path, Query, Body]):
    """The value of a request message: `{"path": …, "query": …, "body": …}`; a part with no fields may be left out."""

    path: Path
    query: Query
    body: Body

    @model_validator(mode="before")
    @classmethod
    def _all_parts(cls, value: Any) -> Any:
        return {name: value.get(name, {}) for name in SECTIONS} | value if isinstance(value, dict) else value

    @classmethod
    def parts(cls) -> dict[str, type[BaseModel]]:
        """The parts that have fields, by name."""
        models: dict[str, Any] = {name: cls.model_fields[name].annotation for name in SECTIONS}
        return {name: model for name, model in models.items() if model is not NoFields}
