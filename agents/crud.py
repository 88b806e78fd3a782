"""Plain create, read, update, delete and list operations. An operation with more than one rule is an `@operation`.

`gets`, `lists`, `creates`, `updates`, `deletes` and `soft_deletes` read and write nothing themselves. Each returns an
`Operation`, whose handler later reads or writes the rows of `table`.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from pydantic import create_model
from pydantic.alias_generators import to_camel, to_snake

from agents.operation import Operation, declare, pascal_case, path_params
from schemas.faults import Conflict, Invalid, NotFound
from schemas.model import Model
from schemas.replies import FieldsQuery, Page, PageQuery, PagingQuery
from schemas.requests import Request
from storage import lists as storage_lists
from storage.table import Table
from storage.tx import Tx

Row = TypeVar("Row", bound=Model)
Fields = TypeVar("Fields", bound=Model)
BeforeUpdate = Callable[[Tx, Row, Fields], Awaitable[None]]


@dataclass(frozen=True)
class View(Generic[Row]):
    """A reply that differs from the row. `build` makes the replies of all rows of a page together, so that a list takes
    a bounded number of statements. Without `build`, the reply has some of the row's fields."""

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
        where = _field_values(request.path)
        conditions = (table.columns[column] == value for column, value in where.items())
        await table.note_wide(tx, sa.select(table.sql).where(*conditions), table.wanted(tx))
        row = await table.find(tx, **where)
        return (await _replies(tx, view, [row]))[0]

    path, reply = path_of(table, name, route), _reply_model(table, view)
    return declare(
        name, route, summary=summary, path=path, query=query, reply=reply, table=table, handler=get,
        one_statement=(view is None or view.build is None) and not table.has_wide_columns,
    )  # fmt: skip


def lists(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    query: type[PagingQuery] = PageQuery,
    *,
    view: View[Row] | None = None,
) -> Operation:
    """The fields of `query` are the filters. A filter compares the column of its name. `…Since` and `…Gte` are
    inclusive, `…Until` and `…Lt` exclusive. Any other comparison is a `storage.lists.Filter`."""

    async def list_page(tx: Tx, request: Request[Any, Any, Any]) -> Page[Model]:
        parent_keys = _field_values(request.path)
        for column, key in parent_keys.items():
            await table.parents[column].require(tx, key)
        page = await storage_lists.page(tx, table, request.query, within=parent_keys, shown=sortable)
        return Page(await _replies(tx, view, page.items), page.more)

    path, reply = path_of(table, name, route), _reply_model(table, view)
    # A reply that is neither a part nor an extension of the row is sorted by the row's fields.
    sortable = reply if issubclass(table.row, reply) or issubclass(reply, table.row) else table.row
    return declare(
        name, route, summary=summary, path=path, query=query, reply=reply, sorted_by=sortable, shape="page",
        handler=list_page,
        one_statement=not path.model_fields and (view is None or view.build is None) and not table.has_wide_columns,
    )  # fmt: skip


def creates(
    table: Table[Row], name: str, route: str, summary: str, body: type[Model], *, view: View[Row] | None = None
) -> Operation:
    async def create(tx: Tx, request: Request[Any, Any, Any]) -> Model:
        require_same_ids(request)
        row = await table.insert(tx, _field_values(request.body) | _field_values(request.path))
        return (await _replies(tx, view, [row]))[0]

    path, reply = path_of(table, name, route), _reply_model(table, view)
    # If the path has no parameters, requests for the same key or the same parent go to one partition.
    references = tuple(to_camel(column) for column in (table.key, *table.parents) if column in body.model_fields)
    return declare(
        name, route, summary=summary, path=path, body=body, reply=reply, table=table, handler=create,
        partition_key=() if path.model_fields else references,
    )  # fmt: skip


def already_exists(resource: str, message: str, field: str | None = None) -> Callable[[], Conflict]:
    """The fault of a violated unique constraint: 409 `<resource>_exists`."""
    return partial(Conflict, f"{resource}_exists", message, field=field)


def _reply_model(table: Table[Row], view: View[Row] | None) -> type[Model]:
    return table.row if view is None else view.reply


async def _replies(tx: Tx, view: View[Row] | None, rows: Sequence[Row]) -> Sequence[Model]:
    if view is None or view.build is None:
        return rows
    return await view.build(tx, rows)


def updates(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    body: type[Fields],
    before_update: BeforeUpdate[Row, Fields] | None = None,
) -> Operation:
    """`before_update` is called with the locked row and the request's body, before the row is updated. It may raise a
    Fault."""

    async def update(tx: Tx, request: Request[Any, Any, Any]) -> None:
        require_same_ids(request)
        where = _field_values(request.path)
        old = await table.lock(tx, **where)
        if before_update is not None:
            await before_update(tx, old, request.body)
        await table.update(tx, request.body.sent_fields(), **where)

    path = path_of(table, name, route)
    return declare(name, route, summary=summary, path=path, body=body, reply=None, table=table, handler=update)


def deletes(
    table: Table[Row], name: str, route: str, summary: str, then: Callable[[Tx, Row], Awaitable[None]] | None = None
) -> Operation:
    """`then` is called with the deleted row."""

    async def delete(tx: Tx, request: Request[Any, Any, Any]) -> None:
        where = _field_values(request.path)
        old = await table.lock(tx, **where)
        await table.delete(tx, **where)
        if then is not None:
            await then(tx, old)

    path = path_of(table, name, route)
    return declare(name, route, summary=summary, path=path, reply=None, table=table, handler=delete)


def soft_deletes(
    table: Table[Row],
    name: str,
    route: str,
    summary: str,
    *,
    is_deleted: Callable[[Row], bool],
    values: Callable[[Tx], dict[str, Any]],
) -> Operation:
    """A delete that keeps the row and writes `values` to it. If `is_deleted` is true for the row, the answer is 404."""

    async def soft_delete(tx: Tx, request: Request[Any, Any, Any]) -> None:
        where = _field_values(request.path)
        if is_deleted(await table.lock(tx, **where)):
            raise table.not_found()
        await table.update(tx, values(tx), **where)

    path = path_of(table, name, route)
    return declare(name, route, summary=summary, path=path, reply=None, table=table, handler=soft_delete)


async def require_child(tx: Tx, table: Table[Any], body: Model, name: str, **parent: Any) -> None:
    """Raises Invalid if no row of `table` has the key that the body's field `name` holds, under this parent."""
    child = await find_child(tx, table, body, name, **parent)
    if isinstance(child, Invalid):
        raise child


async def find_child(tx: Tx, table: Table[Row], body: Model, name: str, **parent: Any) -> Row | Invalid:
    """The row of `table` with the key that the body's field `name` holds, under this parent. If there is none, the
    fault is returned and not raised, so that a handler can report it together with others."""
    try:
        return await table.find(tx, **{name: getattr(body, name)}, **parent)
    except NotFound as fault:
        message = f"There is no {table.resource} with this id here. Send the id of an existing one."
        return Invalid(fault.code, message, field=_json_name(body, name))


def require_same_ids(request: Request[Any, Any, Any]) -> None:
    """Raises Invalid if an id in the body differs from the same id in the path."""
    path, body = _field_values(request.path), request.body.sent_fields()
    for name in path.keys() & body.keys():
        if path[name] != body[name]:
            message = "This id differs from the id in the path. Send the same id."
            raise Invalid("ids_differ", message, field=_json_name(request.body, name))


def _json_name(model: Model, name: str) -> str | None:
    return type(model).model_fields[name].serialization_alias


def _field_values(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def path_of(table: Table[Any], name: str, route: str) -> type[Model]:
    """The path model of a route. Each path parameter is a column of the table and has its type."""
    columns = [to_snake(param) for param in path_params(route)]
    fields: dict[str, Any] = {column: (_column_annotation(table, column), ...) for column in columns}
    return create_model(f"{pascal_case(name)}Path", __base__=Model, **fields)


def _column_annotation(table: Table[Any], column: str) -> Any:
    """The annotation with its constraints, from the class that declares the field. `FieldInfo.annotation` has no
    constraints."""
    for base in table.row.__mro__:
        annotations = inspect.get_annotations(base)
        if column in annotations:
            return annotations[column]
    raise KeyError(column)
