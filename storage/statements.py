"""The statements of one table, and expressions that statements about many rows share."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

UPDATED = ("update_date", "updated_at")
"""Columns that hold the time of the last update."""


class Statements:
    """The statements of a table, each made once, so that SQLAlchemy compiles and PostgreSQL plans it once. `where` and
    `values` are names of columns, and so are the parameters; an update has `old_` and `new_` before them."""

    def __init__(self, table: sa.Table, key: sa.Column[Any], made: Sequence[str]) -> None:
        self._table = table
        self._made = made
        self.insert = sa.insert(table).values(self._parameters(written_columns(table))).returning(*table.c)
        self.existing_keys = sa.select(key).where(any_of(key, "keys"))
        every = sa.select(table).where(any_of(key, "keys")).order_by(key)
        self.lock_all, self.remove_all = every.with_for_update(key_share=True), every.with_for_update()
        self.find = cache(self._find)
        self.lock = cache(self._lock)
        self.remove = cache(self._remove)
        self.by_parent = cache(self._under)
        self.update = cache(self._update)
        self.delete = cache(self._delete)
        self.delete_by_parent = cache(self._delete_by_parent)
        self.insert_unless = cache(self._insert_unless)

    @cached_property
    def insert_many(self) -> Any:
        names = written_columns(self._table)
        given = (
            sa.func.unnest(*(sa.bindparam(name, type_=ARRAY(self._table.c[name].type)) for name in names))
            .table_valued(*names, with_ordinality="place")
            .render_derived()
        )
        rows = sa.select(*(given.c[name] for name in names)).order_by(given.c.place)
        return sa.insert(self._table).from_select(names, rows).returning(*(self._table.c[name] for name in self._made))

    def _insert_unless(self, taken: str) -> Any:
        row = insert(self._table).values(self._parameters(written_columns(self._table)))
        return row.on_conflict_do_nothing(index_elements=[taken]).returning(*self._table.c)

    def _find(self, where: frozenset[str]) -> Any:
        return sa.select(self._table).where(*self._equal(where))

    def _lock(self, where: frozenset[str]) -> Any:
        return self._find(where).with_for_update(key_share=True)

    def _remove(self, where: frozenset[str]) -> Any:
        return self._find(where).with_for_update()

    def _under(self, column: str) -> Any:
        rows = sa.select(self._table).where(any_of(self._table.c[column], "parents"))
        return rows.order_by(*self._table.primary_key)

    def _update(self, where: frozenset[str], values: frozenset[str]) -> Any:
        new = self._parameters(values, "new_") | {"revision": self._table.c.revision + 1}
        # Who waited for the row's lock may have an older time than who had it.
        new |= {name: sa.func.greatest(self._table.c[name], new[name]) for name in UPDATED if name in new}
        return sa.update(self._table).where(*self._equal(where, "old_")).values(new).returning(*self._table.c)

    def _delete(self, where: frozenset[str]) -> Any:
        return sa.delete(self._table).where(*self._equal(where)).returning(*self._table.c)

    def _delete_by_parent(self, column: str) -> Any:
        return sa.delete(self._table).where(any_of(self._table.c[column], "parents")).returning(*self._table.c)

    def _equal(self, where: Iterable[str], prefix: str = "") -> Iterator[sa.ColumnElement[bool]]:
        return (self._table.c[name] == value for name, value in self._parameters(where, prefix).items())

    def _parameters(self, names: Iterable[str], prefix: str = "") -> dict[str, Any]:
        return {name: sa.bindparam(prefix + name, type_=self._table.c[name].type) for name in sorted(names)}


def any_of(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """The column is one of the values of the list parameter `name`."""
    return column == sa.any_(sa.bindparam(name, type_=ARRAY(column.type)))


def unnest_rows(**columns: Any) -> sa.TableValuedAlias:
    """Rows from list parameters of the columns' names and types, for one statement about many."""
    arrays = (sa.bindparam(name, type_=ARRAY(kind)) for name, kind in columns.items())
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived()


def written_columns(table: sa.Table) -> list[str]:
    """The columns that we fill; the database fills the others."""
    return [column.name for column in table.c if column.identity is None and column.computed is None]
