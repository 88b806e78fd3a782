"""From what a handler returned to the status and body that travel."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

from agents.operation import Existing, Operation
from schemas.faults import Fault, Invalid
from schemas.model import Model
from schemas.replies import Page, PagingQuery, envelope, page_links
from schemas.requests import Request


class Answer(NamedTuple):
    """`body` is the reply as plain data with times, UUIDs and decimals as such; None for an empty one."""

    status: int
    body: Any = None


def of_fault(fault: Fault) -> Answer:
    return Answer(fault.status, fault.body())


def of_value(operation: Operation, request: Request[Any, Any, Any], raw_query: dict[str, Any], value: Any) -> Answer:
    """Raises Invalid where `fields` names one that the reply does not have. `raw_query` is what the caller wrote."""
    if isinstance(value, Existing):
        return of_value(operation, request, raw_query, value.value)._replace(status=HTTPStatus.OK)
    match operation.shape:
        case "empty":
            return Answer(operation.status)
        case "object":
            return Answer(operation.status, operation.dump(value))
        case "array":
            return Answer(operation.status, _selected(operation, request, value.items))
        case "record":
            data = _selected(operation, request, [value])[0]
            return Answer(operation.status, envelope(data))
    links = _links(operation, request, raw_query, value)
    return Answer(operation.status, envelope(_selected(operation, request, value.items), links))


def _links(
    operation: Operation, request: Request[Any, Any, Any], raw_query: dict[str, Any], page: Page[Any]
) -> dict[str, str]:
    places = {key: quote(str(value), safe="") for key, value in request.path.model_dump().items()}
    url = operation.path.format(**places)
    query = request.query
    if not isinstance(query, PagingQuery):
        return page_links(url, raw_query, offset=0, limit=0, more=False)
    return page_links(url, raw_query, offset=query.offset or 0, limit=query.limit, more=page.more)


def _selected(operation: Operation, request: Request[Any, Any, Any], items: Sequence[Model]) -> list[dict[str, Any]]:
    wanted = getattr(request.query, "fields", None)
    if not wanted:
        return [operation.dump(item) for item in items]
    assert operation.item is not None
    known = {field.serialization_alias for field in operation.item.model_fields.values()}
    names = {name.strip() for name in wanted.split(",")}
    for name in sorted(names - known):
        raise Invalid("unknown_reply_field", f"The reply has no field {name[:100]!r}.", field="fields")
    return [{name: value for name, value in operation.dump(item).items() if name in names} for item in items]
