"""Reads one page of a table with one bounded statement. The filters come from the fields of the query."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from schemas.model import Model
from schemas.replies import Page, PageQuery, PagingQuery, sort_steps
from storage.table import Table
from storage.tx import Tx

Row = TypeVar("Row", bound=Model)
Condition = sa.ColumnElement[bool]


FEW_ROWS = 100
"""The texts of a page with more rows may have tens of megabytes."""


@dataclass(frozen=True)
class Filter:
    """Annotation of a query field that needs a condition of its own. `condition` takes the columns of the table and the
    value of the field. Fields without a `Filter` are compared with the column of the same name."""

    condition: Callable[[Any, Any], Condition]


_COMPARISONS_BY_SUFFIX: dict[str, Callable[[Any, Any], Condition]] = {
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
    """One page of the rows that match the query, the conditions in `where`, and the values of the parents' columns in
    `within`. Fields of the query that are in `skip` are not filters. Rows that are equal in the sort fields are sorted
    by key. `shown` is the model of the reply if it is not the model of the row. Raises Invalid for an unknown sort
    field, and LoadsTooMuch."""
    in_parents = (table.columns[column] == value for column, value in (within or {}).items())
    order = order_of(shown or table.row, table.columns, query.sort or default_sort)
    wide = table.wanted(tx, many=query.limit > FEW_ROWS)
    statement = (
        sa.select(*table.columns_with(wide, many=query.limit > FEW_ROWS))
        .where(*where, *in_parents, *filters(table, query, skip))
        .order_by(*order, table.columns[table.key])
        .offset(query.offset or 0)
        .limit(query.limit + 1)  # One more row than the page has tells whether another page follows.
    )
    await table.note_wide(tx, statement, wide)
    rows = [table.to_row(sql_row) for sql_row in await tx.all(statement)]
    return Page(rows[: query.limit], more=len(rows) > query.limit)


def filters(table: Table[Any], query: Model, skip: Container[str] = ()) -> Iterable[Condition]:
    """The conditions of the query's fields, without the fields of paging and those in `skip`."""
    for name, field in type(query).model_fields.items():
        value = getattr(query, name)
        if name in PageQuery.model_fields or name in skip or value is None:
            continue
        own_filter = next((mark for mark in field.metadata if isinstance(mark, Filter)), None)
        if own_filter is None:
            yield _compare_by_name(table, name, value)
        else:
            yield own_filter.condition(table.columns, value)


def _compare_by_name(table: Table[Any], name: str, value: Any) -> Condition:
    for suffix, compare in _COMPARISONS_BY_SUFFIX.items():
        if name.endswith(suffix):
            return compare(table.columns[name.removesuffix(suffix)], value)
    equal: Condition = table.columns[name] == value
    return equal


def order_of(model: type[Model], columns: Any, sort: str | None) -> list[Any]:
    """The ORDER BY of a comma-separated list of reply fields. A `-` before a field means descending. Raises Invalid
    for each field that is not a column."""
    columns_by_field = {
        str(info.serialization_alias): columns[name] for name, info in model.model_fields.items() if name in columns
    }
    steps = sort_steps(sort, columns_by_field, "Sort by fields that /docs lists for this operation.")
    columns_in_order = ((columns_by_field[field], descending) for field, descending in steps)
    return [column.desc() if descending else column.asc() for column, descending in columns_in_order]
