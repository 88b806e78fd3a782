"""Turns a handler's return value or fault into the status and the body of an answer."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

from agents.operation import Existing, Operation
from schemas.faults import Fault, refuse, unknown_fields
from schemas.model import Model
from schemas.replies import Page, PagingQuery, envelope, page_links, selected_fields
from schemas.requests import Request
from topics.envelope import MORE, REVISION, Headers


class Answer(NamedTuple):
    """`body` is plain data that may hold times, UUIDs and decimals; None if the reply is empty. `revision` is that of
    the record that was read or written. `more` tells whether the next page of a list has records. An answer that the
    inbox stored has neither."""

    status: int
    body: Any = None
    revision: int | None = None
    more: bool | None = None

    def headers(self) -> Headers:
        """The headers of the message with this answer that tell what the body does not."""
        headers = []
        if self.revision is not None:
            headers.append((REVISION, str(self.revision).encode()))
        if self.more is not None:
            headers.append((MORE, b"true" if self.more else b"false"))
        return headers


def of_fault(fault: Fault) -> Answer:
    return Answer(fault.status, fault.body())


def of_value(operation: Operation, request: Request[Any, Any, Any], raw_query: dict[str, Any], value: Any) -> Answer:
    """The answer with `value`, which a handler returned. `raw_query` is the query before validation; the page links
    repeat it. Raises Invalid if the `fields` parameter names a field that the reply does not have."""
    if isinstance(value, Existing):
        return of_value(operation, request, raw_query, value.value)._replace(status=HTTPStatus.OK)
    match operation.shape:
        case "empty":
            return Answer(operation.status)
        case "object":
            return Answer(operation.status, operation.to_reply_data(value))
        case "array":
            return Answer(operation.status, _selected(operation, request, value.items), more=value.more)
        case "record":
            data = _selected(operation, request, [value])[0]
            return Answer(operation.status, envelope(data))
    links = _links(operation, request, raw_query, value)
    return Answer(operation.status, envelope(_selected(operation, request, value.items), links), more=value.more)


def _links(
    operation: Operation, request: Request[Any, Any, Any], raw_query: dict[str, Any], page: Page[Any]
) -> dict[str, str]:
    path_params = {name: quote(str(value), safe="") for name, value in request.path.model_dump().items()}
    url = operation.path.format(**path_params)
    query = request.query
    if not isinstance(query, PagingQuery):
        return page_links(url, raw_query, offset=0, limit=0, more=False)
    return page_links(url, raw_query, offset=query.offset or 0, limit=query.limit, more=page.more)


def _selected(operation: Operation, request: Request[Any, Any, Any], items: Sequence[Model]) -> list[dict[str, Any]]:
    """The items with the fields that the `fields` parameter lists, or with all fields."""
    selected = selected_fields(request.query)
    if selected is None:
        return [operation.to_reply_data(item) for item in items]
    assert operation.item is not None
    reply_fields = {field.serialization_alias for field in operation.item.model_fields.values()}
    unknown = sorted(selected - reply_fields)
    refuse(unknown_fields("unknown_reply_field", "fields", unknown, "`fields` may list only fields of the reply."))
    return [
        {name: value for name, value in operation.to_reply_data(item).items() if name in selected} for item in items
    ]
