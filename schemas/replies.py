"""The envelope of replies (data, metadata and links), and the query parameters of lists."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import Field

from schemas.faults import refuse, unknown_fields
from schemas.marks import Whole
from schemas.model import Model
from schemas.types import INT64, Omittable, Text

Item = TypeVar("Item")


class Metadata(Model):
    version: Literal[1] = 1
    """The version of the envelope."""
    links: dict[str, str] = Field(default={}, alias="_links", serialization_alias="_links")
    """URLs of this page and of its neighbours, by relation. Empty for a single record."""


def _title(model: type[Model]) -> str:
    """The name of a record for callers."""
    return model.model_config.get("title") or model.__name__


def envelope(data: Any, links: dict[str, str] | None = None) -> dict[str, Any]:
    """A `Record` or `Listing` as a dict."""
    return {"data": data, "metadata": {"version": 1, "_links": links or {}}}


class Record(Model, Generic[Item]):
    """The reply with one record."""

    data: Item
    """The record."""
    metadata: Metadata
    """The version of the envelope, without links."""

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{_title(params[0])}Reply"


class Listing(Model, Generic[Item]):
    """The reply with a page of records; `_links` has the URLs of other pages."""

    data: list[Item]
    """The records of this page."""
    metadata: Metadata
    """The version of the envelope, and the links to other pages."""

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{_title(params[0])}ListReply"


class FieldsQuery(Model):
    """The query parameter of every read."""

    fields: Annotated[Omittable[Text], Field(description="Comma-separated list of the fields to answer.")] = None


class PagingQuery(Model):
    """The query parameters of a page."""

    offset: Omittable[Annotated[int, Whole(ge=1, le=INT64)]] = None
    """Number of records to skip."""
    limit: Annotated[int, Whole(ge=1, le=500)] = 25
    """Maximum number of records of the page."""
    sort: Annotated[
        Omittable[Text],
        Field(description="Comma-separated list of the fields to sort by. `-` before a field sorts it descending."),
    ] = None


class PageQuery(FieldsQuery, PagingQuery):
    """The query parameters of nearly every paged list."""


def selected_fields(query: Model) -> set[str] | None:
    """The fields that the `fields` parameter lists; None for all fields."""
    fields = getattr(query, "fields", None)
    return {name.strip() for name in fields.split(",")} if fields else None


def sort_steps(sort: str | None, fields: Container[str], hint: str) -> list[tuple[str, bool]]:
    """The fields that the `sort` parameter lists, each with whether it is sorted descending. Raises Invalid for each
    one that is not in `fields`; `hint` says which ones are."""
    parts = [part.strip() for part in sort.split(",")] if sort else []
    steps = [(part.removeprefix("-"), part.startswith("-")) for part in parts]
    unknown = (field for field, _ in steps if field not in fields)
    refuse(unknown_fields("unknown_sort_field", "sort", unknown, hint))
    return steps


@dataclass(frozen=True)
class Page(Generic[Item]):
    """The rows of one page; `more` is true if the next page has rows."""

    items: Sequence[Item]
    more: bool


def page_links(path: str, query: dict[str, Any], *, offset: int, limit: int, more: bool) -> dict[str, str]:
    """The links `self` and `first`, and `prev` and `next` if these pages exist. Each link repeats the parameters of the
    caller's query."""

    def link(page_offset: int) -> str:
        parameters = {name: value for name, value in query.items() if name != "offset"}
        if page_offset:
            parameters["offset"] = page_offset
        return path + _query_string(parameters)

    links = {"self": path + _query_string(query), "first": link(0)}
    if offset:
        links["prev"] = link(max(offset - limit, 0))
    if more:
        links["next"] = link(offset + limit)
    return links


def _query_string(query: dict[str, Any]) -> str:
    if not query:
        return ""
    return "?" + urlencode({name: _parameter_text(value) for name, value in query.items()})


def _parameter_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
