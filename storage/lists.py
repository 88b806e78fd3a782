"""One page of a table: filters from the query's fields, sort, offset and limit; one bounded statement."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from schemas.faults import Invalid
from schemas.model import Model
from schemas.replies import Page, PageQuery, PagingQuery
from storage.table import Table
from storage.tx import Tx

Row = TypeVar("Row", bound=Model)
Condition = sa.ColumnElement[bool]


@dataclass(frozen=True)
class Filter:
    """Mark of a query field that is not simply compared with the column of its name."""

    condition: Callable[[Any, Any], Condition]


_RANGES: dict[str, Callable[[Any, Any], Condition]] = {
    "_since": lambda column, value: column >= value,
    "_until": lambda column, value: column < value,
    "_gte": lambda column, value: column >= value,
    "_lt": lambda column, value: column < value,
}


async def page(
    tx: Tx,
    table: Table[Row],
    query: PagingQuery,
    *where: Condition,
    within: Mapping[str, Any] | None = None,
    skip: Container[str] = (),
    default_sort: str | None = None,
    shown: type[Model] | None = None,
) -> Page[Row]:
    """The rows of `table` under the parents in `within`; fields of the query in `skip` are no filters. `shown` is the
    reply where that is not the row. Raises Invalid for an unknown sort field."""
    conditions = [*where, *_parents(table, within or {}), *filters(table, query, skip)]
    statement = (
        sa.select(table.sql)
        .where(*conditions)
        .order_by(*order_of(shown or table.row, table.columns, query.sort or default_sort), table.columns[table.key])
        .offset(query.offset or 0)
        .limit(query.limit + 1)
    )
    rows = [table.to_row(found) for found in await tx.all(statement)]
    return Page(rows[: query.limit], more=len(rows) > query.limit)


def _parents(table: Table[Any], within: Mapping[str, Any]) -> Iterable[Condition]:
    return (table.columns[name] == value for name, value in within.items())


def filters(table: Table[Any], query: Model, skip: Container[str] = ()) -> Iterable[Condition]:
    """What the fields of a query ask for, those of paging aside."""
    for name, field in type(query).model_fields.items():
        value = getattr(query, name)
        if name in PageQuery.model_fields or name in skip or value is None:
            continue
        mark = next((mark for mark in field.metadata if isinstance(mark, Filter)), None)
        yield mark.condition(table.columns, value) if mark else _by_name(table, name, value)


def _by_name(table: Table[Any], name: str, value: Any) -> Condition:
    for suffix, compare in _RANGES.items():
        if name.endswith(suffix):
            return compare(table.columns[name.removesuffix(suffix)], value)
    condition: Condition = table.columns[name] == value
    return condition


def order_of(model: type[Model], columns: Any, sort: str | None) -> list[Any]:
    """What a comma list of reply fields means, `-` for descending. Raises Invalid for an unknown one."""
    fields = {info.serialization_alias: name for name, info in model.model_fields.items() if name in columns}
    order = []
    for part in sort.split(",") if sort else []:
        name = part.strip().removeprefix("-")
        if name not in fields:
            raise Invalid("unknown_sort_field", f"There is no field {name[:100]!r} to sort by.", field="sort")
        column = columns[fields[name]]
        order.append(column.desc() if part.strip().startswith("-") else column.asc())
    return order
