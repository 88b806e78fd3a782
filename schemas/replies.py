"""The envelope around records and lists, and what lists take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import Field

from schemas.marks import Whole
from schemas.model import Model
from schemas.types import INT64, Omittable, Text

Item = TypeVar("Item")


class Metadata(Model):
    version: Literal[1] = 1
    links: dict[str, str] = Field(default={}, alias="_links", serialization_alias="_links")


def envelope(data: Any, links: dict[str, str] | None = None) -> dict[str, Any]:
    """The plain data of a `Record` or `Listing`."""
    return {"data": data, "metadata": {"version": 1, "_links": links or {}}}


class Record(Model, Generic[Item]):
    """The reply about one record."""

    data: Item
    metadata: Metadata

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}Reply"


class Listing(Model, Generic[Item]):
    """The reply with a page of records; `_links` leads to the other pages."""

    data: list[Item]
    metadata: Metadata

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}ListReply"


class FieldsQuery(Model):
    """What every read takes."""

    fields: Annotated[Omittable[Text], Field(description="Comma list of the fields to answer.")] = None


class PagingQuery(Model):
    """`offset` is how many to skip, `sort` a comma list, `-` for descending."""

    offset: Omittable[Annotated[int, Whole(ge=1, le=INT64)]] = None
    limit: Annotated[int, Whole(ge=1, le=500)] = 25
    sort: Annotated[Omittable[Text], Field(description="Comma list of fields; `-` before one for descending.")] = None


class PageQuery(FieldsQuery, PagingQuery):
    """What nearly every paged list takes."""


@dataclass(frozen=True)
class Page(Generic[Item]):
    """The rows of one page and whether more follow."""

    items: Sequence[Item]
    more: bool


def page_links(path: str, query: dict[str, Any], *, offset: int, limit: int, more: bool) -> dict[str, str]:
    """`self` and `first`, and `prev` and `next` where they exist, each with the caller's own query kept."""

    def link(skip: int) -> str:
        kept = {name: value for name, value in query.items() if name != "offset"}
        return path + _encoded(kept | ({"offset": skip} if skip else {}))

    links = {"self": path + _encoded(query), "first": link(0)}
    if offset:
        links["prev"] = link(max(offset - limit, 0))
    if more:
        links["next"] = link(offset + limit)
    return links


def _encoded(query: dict[str, Any]) -> str:
    if not query:
        return ""
    return "?" + urlencode({name: _as_text(value) for name, value in query.items()})


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
