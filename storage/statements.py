"""The SQL statements of a table, and expressions for statements that handle many rows."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

UPDATED = ("update_date", "updated_at")
"""Columns that hold the time of the last update."""


STATEMENTS = 500
"""Updates of one table that are kept: 8 MB."""


class Statements:
    """The statements of a table. `generated` are the columns that the database generates, the key first.

    Each statement is built once for each set of column names (`where`, `values`) and cached. Building an update and
    finding it in SQLAlchemy's cache of compiled statements takes 0.2 ms, 0.03 to 0.07 ms for the other statements; a
    cached object takes 0.002 ms. The parameters have the names of the columns. In an update, the parameters of `where`
    start with `old_` and those of `values` with `new_`.
    """

    def __init__(self, table: sa.Table, key: sa.Column[Any], generated: Sequence[str]) -> None:
        self._table = table
        self._generated = generated
        self.insert = sa.insert(table).values(self._parameters(written_columns(table))).returning(*table.c)
        self.existing_keys = sa.select(key).where(any_of(key, "keys"))
        by_key = sa.select(table).where(any_of(key, "keys")).order_by(key)
        self.lock_all = by_key.with_for_update(key_share=True)
        self.lock_all_for_removal = by_key.with_for_update()
        self.find = cache(self._find)
        self.lock = cache(self._lock)
        self.lock_for_removal = cache(self._lock_for_removal)
        self.by_parent = cache(self._by_parent)
        # By the fields that a PATCH sends, of which there are many combinations.
        self.update = lru_cache(STATEMENTS)(self._update)
        self.delete = cache(self._delete)
        self.delete_by_parent = cache(self._delete_by_parent)
        self.insert_many = cache(self._insert_many)
        self.insert_many_unless = cache(self._insert_many_unless)

    def _insert_many(self, ctes: tuple[sa.CTE, ...]) -> Any:
        return self._insert_rows().returning(*self._generated_columns()).add_cte(*ctes)

    def _insert_many_unless(self, unique_column: str) -> Any:
        statement = self._insert_rows().on_conflict_do_nothing(index_elements=[unique_column])
        return statement.returning(*self._generated_columns())

    def _insert_rows(self) -> Any:
        """Insert one row for each position of the list parameters, in their order. The parameter `new_<column>` has the
        values of a column. (SQLAlchemy would add a parameter with the name of a column to updates in CTEs.)"""
        names = written_columns(self._table)
        parameters = (
            sa.func.unnest(*(sa.bindparam(f"new_{name}", type_=ARRAY(self._table.c[name].type)) for name in names))
            .table_valued(*names, with_ordinality="position")
            .render_derived()
        )
        rows = sa.select(*(parameters.c[name] for name in names)).order_by(parameters.c.position)
        return insert(self._table).from_select(names, rows)

    def _generated_columns(self) -> list[Any]:
        return [self._table.c[name] for name in self._generated]

    def _find(self, where: frozenset[str]) -> Any:
        return sa.select(self._table).where(*self._equal(where))

    def _lock(self, where: frozenset[str]) -> Any:
        """FOR NO KEY UPDATE: other transactions can insert rows that refer to this one."""
        return self._find(where).with_for_update(key_share=True)

    def _lock_for_removal(self, where: frozenset[str]) -> Any:
        """FOR UPDATE: an insert of a row that refers to this one waits."""
        return self._find(where).with_for_update()

    def _by_parent(self, column: str, without: str | None = None) -> Any:
        rows = sa.select(self._table).where(any_of(self._table.c[column], "parents"))
        if without is not None:
            rows = rows.where(self._table.c[without].is_(None))
        return rows.order_by(*self._table.primary_key)

    def _update(self, where: frozenset[str], values: frozenset[str]) -> Any:
        new = self._parameters(values, "new_") | {"revision": self._table.c.revision + 1}
        # A transaction that waited for the row's lock may have an earlier `now` than the one that held the lock.
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
    """The condition that `column` has one of the values of the list parameter `name`."""
    return column == sa.any_(sa.bindparam(name, type_=ARRAY(column.type)))


def unnest_rows(**columns: Any) -> sa.TableValuedAlias:
    """A table from list parameters, one for each column. `columns` maps the name of a column, which is also the name of
    its parameter, to its type."""
    arrays = (sa.bindparam(name, type_=ARRAY(column_type)) for name, column_type in columns.items())
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived()


def written_columns(table: sa.Table) -> list[str]:
    """The columns that an insert writes; the database generates the others."""
    return [column.name for column in table.c if column.identity is None and column.computed is None]
