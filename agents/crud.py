"""Plain create, read, update and list lines. What needs more than one check is an `@operation` of its own."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import create_model
from pydantic.alias_generators import to_snake

from agents.operation import Operation, declare
from schemas.faults import Invalid
from schemas.model import Model
from schemas.replies import FieldsQuery, Page, PageQuery
from schemas.requests import Request
from storage import lists as storage_lists
from storage.table import Table
from storage.tx import Tx

Row = TypeVar("Row", bound=Model)
Fields = TypeVar("Fields", bound=Model)
Check = Callable[[Tx, Row, Fields], Awaitable[None]]


def gets(table: Table[Row], name: str, route: str, summary: str) -> Operation:
    async def get(tx: Tx, request: Request[Any, FieldsQuery, Any]) -> Row:
        key, within = _key_and_parents(table, request.path)
        return await table.find(tx, key, **within)

    path = _path_model(table, name, route)
    return declare(name, route, summary=summary, path=path, query=FieldsQuery, reply=table.row, handler=get)


def lists(table: Table[Row], name: str, route: str, summary: str, query: type[PageQuery] = PageQuery) -> Operation:
    """`query` has the filters: a field is compared with its column, `…Since` and `…Gte` are inclusive, `…Until` and
    `…Lt` exclusive; what differs carries a `storage.lists.Filter`."""

    async def list_page(tx: Tx, request: Request[Any, Any, Any]) -> Page[Row]:
        within = _values(request.path)
        for column, value in within.items():
            await table.parents[column].require(tx, value)
        return await storage_lists.page(tx, table, request.query, within=within)

    path = _path_model(table, name, route)
    return declare(
        name, route, summary=summary, path=path, query=query, reply=table.row, shape="page", handler=list_page
    )


def creates(table: Table[Row], name: str, route: str, summary: str, body: type[Model]) -> Operation:
    async def create(tx: Tx, request: Request[Any, Any, Any]) -> Row:
        agree(request)
        return await table.insert(tx, _values(request.body) | _values(request.path))

    path = _path_model(table, name, route)
    return declare(name, route, summary=summary, path=path, body=body, reply=table.row, handler=create)


def updates(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    body: type[Fields],
    check: Check[Row, Fields] | None = None,
) -> Operation:
    async def update(tx: Tx, request: Request[Any, Any, Any]) -> None:
        agree(request)
        key, within = _key_and_parents(table, request.path)
        old = await table.lock(tx, key, **within)
        if check is not None:
            await check(tx, old, request.body)
        await table.update(tx, key, request.body.given())

    path = _path_model(table, name, route)
    return declare(name, route, summary=summary, path=path, body=body, reply=None, handler=update)


def agree(request: Request[Any, Any, Any]) -> None:
    """Raises Invalid where an id in the body differs from the path's."""
    path, body = _values(request.path), request.body.given()
    for name in path.keys() & body.keys():
        if path[name] != body[name]:
            raise Invalid("ids_differ", "This id differs from the one in the path.", field=_wire(request.body, name))


def _wire(model: Model, name: str) -> str | None:
    return type(model).model_fields[name].serialization_alias


def _values(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def _key_and_parents(table: Table[Any], path: Model) -> tuple[Any, Mapping[str, Any]]:
    values = _values(path)
    return values.pop(table.key), values


def _path_model(table: Table[Any], name: str, route: str) -> type[Model]:
    """A route's places are columns of the table, and have their types."""
    columns = [to_snake(place) for place in re.findall(r"{(\w+)}", route)]
    fields: dict[str, Any] = {column: (_declared(table, column), ...) for column in columns}
    title = "".join(part[0].upper() + part[1:] for part in name.split("."))
    return create_model(f"{title}Path", __base__=Model, **fields)


def _declared(table: Table[Any], column: str) -> Any:
    return table.row.__annotations__.get(column) or next(
        base.__annotations__[column] for base in table.row.__mro__ if column in getattr(base, "__annotations__", {})
    )
