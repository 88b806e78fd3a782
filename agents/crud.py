"""Plain create, read, update, delete and list lines. What needs more than one check is an `@operation` of its own."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from pydantic import create_model
from pydantic.alias_generators import to_camel, to_snake

from agents.operation import Operation, declare, pascal_case
from schemas.faults import Conflict, Invalid, NotFound
from schemas.model import Model
from schemas.replies import FieldsQuery, Page, PageQuery, PagingQuery
from schemas.requests import Request
from storage import lists as storage_lists
from storage.table import Table
from storage.tx import Tx

Row = TypeVar("Row", bound=Model)
Fields = TypeVar("Fields", bound=Model)
Check = Callable[[Tx, Row, Fields], Awaitable[None]]


@dataclass(frozen=True)
class View(Generic[Row]):
    """A reply that is not the row. `build` makes the replies of all rows of a page at once, so that a list takes a
    bounded number of statements; without it, the reply has some of the row's fields."""

    reply: type[Model]
    build: Callable[[Tx, Sequence[Row]], Awaitable[Sequence[Model]]] | None = None


def gets(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    *,
    query: type[Model] = FieldsQuery,
    view: View[Row] | None = None,
) -> Operation:
    async def get(tx: Tx, request: Request[Any, Any, Any]) -> Model:
        return (await viewed(tx, view, [await table.find(tx, **_values(request.path))]))[0]

    path, reply = path_of(table, name, route), view.reply if view else table.row
    return declare(name, route, summary=summary, path=path, query=query, reply=reply, handler=get)


def lists(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    query: type[PagingQuery] = PageQuery,
    *,
    view: View[Row] | None = None,
) -> Operation:
    """`query` has the filters: a field is compared with its column, `…Since` and `…Gte` are inclusive, `…Until` and
    `…Lt` exclusive; what differs carries a `storage.lists.Filter`."""

    async def list_page(tx: Tx, request: Request[Any, Any, Any]) -> Page[Model]:
        within = _values(request.path)
        for column, value in within.items():
            await table.parents[column].require(tx, value)
        found = await storage_lists.page(tx, table, request.query, within=within, shown=sortable)
        return Page(await viewed(tx, view, found.items), found.more)

    path, reply = path_of(table, name, route), view.reply if view else table.row
    # A reply made of other records is sorted by the row's fields.
    sortable = reply if issubclass(table.row, reply) or issubclass(reply, table.row) else table.row
    return declare(
        name, route, summary=summary, path=path, query=query, reply=reply, sorted_by=sortable, shape="page",
        handler=list_page,
    )  # fmt: skip


def creates(
    table: Table[Row], name: str, route: str, summary: str, body: type[Model], *, view: View[Row] | None = None
) -> Operation:
    async def create(tx: Tx, request: Request[Any, Any, Any]) -> Model:
        require_same_ids(request)
        return (await viewed(tx, view, [await table.insert(tx, _values(request.body) | _values(request.path))]))[0]

    path, reply = path_of(table, name, route), view.reply if view else table.row
    # Under a path without parameters, records with the same key or the same parent stay in order.
    references = tuple(to_camel(column) for column in (table.key, *table.parents) if column in body.model_fields)
    return declare(
        name, route, summary=summary, path=path, body=body, reply=reply, handler=create,
        partition_key=() if path.model_fields else references,
    )  # fmt: skip


def already_exists(what: str, message: str, field: str | None = None) -> Callable[[], Conflict]:
    """What breaking a unique constraint means: 409 `<what>_exists`."""
    return partial(Conflict, f"{what}_exists", message, field=field)


async def viewed(tx: Tx, view: View[Row] | None, rows: Sequence[Row]) -> Sequence[Model]:
    return rows if view is None or view.build is None else await view.build(tx, rows)


def updates(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    body: type[Fields],
    check: Check[Row, Fields] | None = None,
) -> Operation:
    async def update(tx: Tx, request: Request[Any, Any, Any]) -> None:
        require_same_ids(request)
        where = _values(request.path)
        old = await table.lock(tx, **where)
        if check is not None:
            await check(tx, old, request.body)
        await table.update(tx, request.body.sent_fields(), **where)

    path = path_of(table, name, route)
    return declare(name, route, summary=summary, path=path, body=body, reply=None, handler=update)


def deletes(
    table: Table[Row], name: str, route: str, summary: str, then: Callable[[Tx, Row], Awaitable[None]] | None = None
) -> Operation:
    async def delete(tx: Tx, request: Request[Any, Any, Any]) -> None:
        where = _values(request.path)
        old = await table.lock(tx, **where)
        await table.delete(tx, **where)
        if then is not None:
            await then(tx, old)

    return declare(name, route, summary=summary, path=path_of(table, name, route), reply=None, handler=delete)


def soft_deletes(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    *,
    over: Callable[[Row], bool],
    values: Callable[[Tx], dict[str, Any]],
) -> Operation:
    """A delete that keeps the row, with these values. What is over already is not found."""

    async def end(tx: Tx, request: Request[Any, Any, Any]) -> None:
        where = _values(request.path)
        if over(await table.lock(tx, **where)):
            raise table.missing()
        await table.update(tx, values(tx), **where)

    return declare(name, route, summary=summary, path=path_of(table, name, route), reply=None, handler=end)


async def require_child(tx: Tx, table: Table[Any], body: Model, name: str, **parent: Any) -> None:
    """Raises Invalid where what the body names in a field is not there, or not under this parent."""
    try:
        await table.find(tx, **{name: getattr(body, name)}, **parent)
    except NotFound as fault:
        raise Invalid(fault.code, f"There is no such {table.resource} here.", field=_wire(body, name)) from None


def require_same_ids(request: Request[Any, Any, Any]) -> None:
    """Raises Invalid where an id in the body differs from the path's."""
    path, body = _values(request.path), request.body.sent_fields()
    for name in path.keys() & body.keys():
        if path[name] != body[name]:
            raise Invalid("ids_differ", "This id differs from the one in the path.", field=_wire(request.body, name))


def _wire(model: Model, name: str) -> str | None:
    return type(model).model_fields[name].serialization_alias


def _values(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def path_of(table: Table[Any], name: str, route: str) -> type[Model]:
    """A route's places are columns of the table, and have their types."""
    columns = [to_snake(place) for place in re.findall(r"{(\w+)}", route)]
    fields: dict[str, Any] = {column: (_declared(table, column), ...) for column in columns}
    return create_model(f"{pascal_case(name)}Path", __base__=Model, **fields)


def _declared(table: Table[Any], column: str) -> Any:
    return table.row.__annotations__.get(column) or next(
        base.__annotations__[column] for base in table.row.__mro__ if column in getattr(base, "__annotations__", {})
    )
