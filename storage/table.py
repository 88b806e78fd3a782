"""A table, derived from the model of its rows: its columns, keys and constraints, and the methods that read and write
its rows.

Each row has a `revision`, which is 1 at first and increases by 1 with each update. Each write records a change, which
carries the new revision. The engine publishes the recorded changes once the transaction is committed.

| method | row | revision | change |
| --- | --- | --- | --- |
| `insert`, `insert_many`, `insert_many_unless` | inserted | 1 | `created`, with the row |
| `update` | updated | old revision + 1 | `updated`, with the new row |
| `delete`, `delete_by_parent` | deleted | old revision + 1, in the change only | `deleted`, without the row |
| `lock`, `lock_all` | locked until the transaction ends | | |
| `find`, `by_key`, `by_parent`, `all`, `existing_keys`, `require` | read | | |

If you write a table with your own statement, add 1 to `revision` in the statement and call `record_change` or
`record_change_of`.
"""

import math
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, Generic, TypeVar, get_args
from uuid import UUID

import sqlalchemy as sa
from pydantic.alias_generators import to_snake
from pydantic.fields import FieldInfo
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from schemas.changes import Action
from schemas.faults import Conflict, NotFound, PreconditionFailed
from schemas.model import Model
from schemas.shapes import Shape, shape_of
from schemas.types import TEXT_LIMIT
from storage import constraints
from storage.allowance import COMPACT, content_size, least_size, least_size_of
from storage.statements import UPDATED, Statements, any_of, written_columns
from storage.tx import EntityChange, Tx

METADATA = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    }
)

Row = TypeVar("Row", bound=Model)

_COLUMN_TYPES: dict[type, Any] = {
    str: sa.Text(),
    int: sa.BigInteger(),
    bool: sa.Boolean(),
    datetime: sa.TIMESTAMP(timezone=True),
    UUID: sa.Uuid(),
    Decimal: sa.Numeric(),
}

_CREATED = ("creation_date", "created_at")


class Documents(sa.TypeDecorator[list[Model]]):
    """A column that stores a list of records as JSON."""

    impl = JSONB
    cache_ok = True

    def __init__(self, model: type[Model]) -> None:
        super().__init__()
        self.model = model

    def process_bind_param(self, value: list[Model] | None, dialect: sa.Dialect) -> Any:
        return None if value is None else [item.model_dump(mode="json") for item in value]

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> list[Model] | None:
        return None if value is None else [self.model.model_validate(item) for item in value]


_ALL: list["Table[Any]"] = []

TABLES: list["Table[Any]"] = []
"""The tables that emit changes."""


class Table(Generic[Row]):
    """The table of one resource.

    - `row` is the model of what the API answers. Each of its fields is a column.
    - `hidden` are further columns and indexes, which the API does not answer.
    - `key` is the primary key. A key of type int is an identity column.
    - `family` and `resource` name the change topic. `resource` is also the name in changes and fault codes
      (`<resource>_not_found`).
    - `parents` are the foreign keys: the table that each column refers to.
    - `derived` are columns that Python computes from another column: `{"email_key": ("email", mailbox)}`.
    - `computed` are columns that PostgreSQL computes: the SQL expression of each column.
    - `defaults` are the initial values of hidden columns. A column without a default starts with null.
    - `conflicts` are the faults that violated unique constraints raise, by the name of the constraint.
    - With `event_time`, each row is an event rather than an entity with a current state: the change topic deletes by
      time instead of compacting, and an erasure emits no changes. It names the column with the time of the event.
    - With `emit_changes=False`, writes record no changes.
    """

    def __init__(
        self,
        name: str,
        row: type[Row],
        *,
        family: str,
        resource: str,
        key: str,
        parents: Mapping[str, "Table[Any]"] | None = None,
        conflicts: Mapping[str, Callable[[], Conflict]] | None = None,
        derived: Mapping[str, tuple[str, Callable[[Any], Any]]] | None = None,
        computed: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        event_time: str | None = None,
        emit_changes: bool = True,
        hidden: Iterable[sa.schema.SchemaItem] = (),
    ) -> None:
        self.name, self.row, self.family, self.resource, self.key = name, row, family, resource, key
        self.parents = dict(parents or {})
        self._derived = dict(derived or {})
        self._computed = dict(computed or {})
        self.event_time = event_time
        self._emit_changes = emit_changes
        self.sql = sa.Table(
            name,
            METADATA,
            *(self._column(field, shape_of(info.annotation)) for field, info in row.model_fields.items()),
            sa.Column("revision", sa.BigInteger, nullable=False),
            *hidden,
        )
        self.columns = self.sql.c
        self._wide = [name for name, info in row.model_fields.items() if _longest(info) > TEXT_LIMIT]
        self._texts = [name for name, info in row.model_fields.items() if _longest(info) >= TEXT_LIMIT]
        self._fields = tuple(row.model_fields)
        self._field_values = itemgetter(*self._fields)
        self._generated = (key, *(column.name for column in self.sql.c if column.computed is not None))
        self._timestamps = tuple(name for name in _CREATED + UPDATED if name in row.model_fields)
        self._initial_values = dict.fromkeys(written_columns(self.sql)) | dict(defaults or {})
        self._statements = Statements(self.sql, self.sql.c[key], self._generated)
        _ALL.append(self)
        if emit_changes:
            TABLES.append(self)
        constraints.register(name, conflicts or {}, self.parents)

    def _column(self, name: str, shape: Shape) -> sa.Column[Any]:
        column_type = _column_type(shape)
        if name == self.key:
            identity = [sa.Identity()] if shape.base is int else []
            return sa.Column(name, column_type, *identity, primary_key=True)
        if name in self._computed:
            computed = sa.Computed(self._computed[name], persisted=True)
            return sa.Column(name, column_type, computed, nullable=shape.nullable)
        parent = self.parents.get(name)
        foreign_key = [sa.ForeignKey(parent.sql.c[parent.key])] if parent else []
        return sa.Column(name, column_type, *foreign_key, nullable=shape.nullable)

    @property
    def has_wide_columns(self) -> bool:
        """True if a single row may have megabytes: long texts, or lists."""
        return bool(self._wide)

    def wanted(self, tx: Tx, *, many: bool = False) -> list[str]:
        """The wide columns that the reply has. If it has `many` rows, all columns with texts count as wide."""
        fields = self.row.model_fields
        return [name for name in self._wide_columns(many) if tx.wants(str(fields[name].serialization_alias))]

    def columns_with(self, wide: Container[str], *, many: bool = False) -> list[Any]:
        """All columns, in their order. Of the wide ones, those that are not in `wide` are empty."""
        empty = {name for name in self._wide_columns(many) if name not in wide}
        return [_empty(column) if column.name in empty else column for column in self.sql.c]

    def _wide_columns(self, many: bool) -> Sequence[str]:
        return self._texts if many else self._wide

    async def note_wide(
        self, tx: Tx, rows: sa.Select[Any], wide: Collection[str], parameters: dict[str, Any] | None = None
    ) -> None:
        """Note the size of these wide columns of the rows that `rows` selects from the table. Call it before a read
        loads them. Raises LoadsTooMuch."""
        if tx.allowance is None or not wide:
            return
        columns = rows.with_only_columns(*(self.columns[name] for name in wide)).subquery().c
        sizes = [sa.func.coalesce(sa.func.octet_length(sa.cast(column, sa.Text)), 0) for column in columns]
        loaded = await tx.first(sa.select(sa.func.sum(sum(sizes[1:], start=sizes[0])).label("size")), parameters)
        assert loaded is not None
        tx.note_loaded(int((loaded.size or 0) * COMPACT))

    @property
    def are_events(self) -> bool:
        return self.event_time is not None

    def parse_key(self, text: str) -> Any:
        """The key of the row whose changes have the id `text`."""
        return self.columns[self.key].type.python_type(text)

    def not_found(self) -> NotFound:
        """The fault for a row that does not exist."""
        return NotFound(f"{to_snake(self.resource)}_not_found", f"There is no such {self.resource}.")

    async def find(self, tx: Tx, **where: Any) -> Row:
        """Read the row whose columns have the values in `where`, without a lock. Raises NotFound."""
        return self._observed(tx, await tx.first(self._statements.find(frozenset(where)), where))

    async def lock(self, tx: Tx, *, for_removal: bool = False, **where: Any) -> Row:
        """Read the row like `find`, and lock it until the transaction ends: no other transaction can update or delete
        it. With `for_removal`, no other transaction can insert a row that refers to it either. Raises NotFound."""
        statement = self._statements.lock_for_removal if for_removal else self._statements.lock
        return self._observed(tx, await tx.first(statement(frozenset(where)), where))

    async def lock_all(self, tx: Tx, keys: Iterable[Any], *, for_removal: bool = False) -> dict[Any, Row]:
        """Lock the rows with these keys like `lock`, with one statement. Returns the rows by their keys; a key without
        a row is not in the result. The rows are locked in the order of their keys, so that two transactions cannot wait
        for each other."""
        statement = self._statements.lock_all_for_removal if for_removal else self._statements.lock_all
        rows = await tx.all(statement, {"keys": sorted(set(keys))})
        return {getattr(row, self.key): self.to_row(row) for row in rows}

    async def existing_keys(self, tx: Tx, keys: Iterable[Any]) -> set[Any]:
        """The keys for which a row exists, without a lock."""
        return {row[0] for row in await tx.all(self._statements.existing_keys, {"keys": sorted(set(keys))})}

    async def by_key(self, tx: Tx, keys: Iterable[Any], *, with_wide: bool = True) -> dict[Any, Row]:
        """Read the rows with these keys without a lock. Returns the rows by their keys; a key without a row is not in
        the result. If not `with_wide`, wide columns are empty. Raises LoadsTooMuch."""
        wide, parameters = self._wide if with_wide else (), {"parents": sorted(set(keys))}
        statement = self._statements.by_parent(self.key)
        if len(wide) < len(self._wide):
            statement = statement.with_only_columns(*self.columns_with(wide))
        await self.note_wide(tx, statement, wide, parameters)
        rows_by_key: dict[Any, Row] = {}
        async with aclosing(tx.chunks(statement, parameters)) as chunks:
            async for sql_rows in chunks:
                rows = {getattr(sql_row, self.key): self.to_row(sql_row) for sql_row in sql_rows}
                if not self._wide:
                    # A reply may have a row several times, so the caller counts the rows.
                    tx.note_loaded(sum(map(content_size, rows.values())))
                rows_by_key |= rows
        return rows_by_key

    async def by_parent(
        self,
        tx: Tx,
        column: str,
        parents: Iterable[Any],
        *,
        without: str | None = None,
        shown: type[Model] | None = None,
    ) -> dict[Any, list[Row]]:
        """Read the rows whose `column` has one of the values `parents`, without a lock, with one statement, or two if
        the table has wide columns. Returns the rows of each parent in the order of their keys; a parent without rows
        has an empty list. `without` is a column that must be null, for example the date of a deletion. `shown` is the
        model that the reply has for each row, if it is not the model of the row. Raises LoadsTooMuch."""
        rows_by_parent: dict[Any, list[Row]] = {parent: [] for parent in parents}
        statement = self._statements.by_parent(column, without)
        parameters = {"parents": list(rows_by_parent)}
        await self.note_wide(tx, statement, self._wide, parameters)
        async with aclosing(tx.chunks(statement, parameters)) as chunks:
            async for sql_rows in chunks:
                rows = [self.to_row(sql_row) for sql_row in sql_rows]
                tx.note_loaded(len(rows) * least_size_of(shown or self.row))
                if not self._wide:
                    tx.note_loaded(sum(map(content_size, rows)))
                for sql_row, row in zip(sql_rows, rows, strict=True):
                    rows_by_parent[getattr(sql_row, column)].append(row)
        return rows_by_parent

    async def all(self, tx: Tx, statement: Any, parameters: dict[str, Any] | None = None) -> list[Row]:
        """The rows of a statement that may return any number of them. Its first columns are those of the table. Raises
        LoadsTooMuch."""
        rows: list[Row] = []
        async with aclosing(tx.chunks(statement, parameters)) as chunks:
            async for sql_rows in chunks:
                chunk = [self.to_row(sql_row) for sql_row in sql_rows]
                tx.note_loaded(sum(map(least_size, chunk)))
                rows += chunk
        return rows

    async def require(self, tx: Tx, key: Any) -> None:
        """Check that a row with this key exists. Raises NotFound."""
        if not await self.existing_keys(tx, [key]):
            raise self.not_found()

    async def insert(self, tx: Tx, values: Mapping[str, Any]) -> Row:
        """Insert a row with revision 1 and record a `created` change. creationDate and updateDate are `tx.now`; columns
        that are not in `values` get their defaults. A violated constraint raises an error of the database, which the
        engine turns into a fault with `constraints.fault_of`."""
        return self.record_change_of(tx, await tx.first(self._statements.insert, self._initial(tx, values)), "created")

    async def insert_many(
        self,
        items: Sequence[tuple[Tx, Mapping[str, Any]]],
        ctes: tuple[sa.CTE, ...] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> list[Row]:
        """Insert rows like `insert`, with one statement. The rows may be of several requests of one batch: each change
        is recorded in the `Tx` of its row. `ctes` are updates of other tables that the same statement makes, with
        `parameters`. Returns the rows in the order of `items`. Works for tables with an identity key only."""
        inserted = [self._initial(tx, values) for tx, values in items]
        columns = self._list_parameters(inserted)
        generated = await items[0][0].all(self._statements.insert_many(ctes), columns | dict(parameters or {}))
        # Identity values have the order of the select (PostgreSQL manual, INSERT), but RETURNING has no certain order.
        generated.sort(key=itemgetter(0))
        return [
            self._inserted(tx, values, generated_values)
            for (tx, _), values, generated_values in zip(items, inserted, generated, strict=True)
        ]

    async def insert_many_unless(
        self, items: Sequence[tuple[Tx, Mapping[str, Any]]], unique_column: str
    ) -> list[Row | None]:
        """Insert rows like `insert_many`, except those whose value in `unique_column` another row has: they are not
        written, no change is recorded, and their results are None. If another transaction is writing the same value,
        this one waits until that one ends. Works for tables whose keys are among the values only. Sort the items by the
        unique column, so that two such statements cannot wait for each other."""
        inserted = [self._initial(tx, values) for tx, values in items]
        rows = await items[0][0].all(
            self._statements.insert_many_unless(unique_column), self._list_parameters(inserted)
        )
        generated = {row[0]: row for row in rows}
        return [
            self._inserted(tx, values, generated[values[self.key]]) if values[self.key] in generated else None
            for (tx, _), values in zip(items, inserted, strict=True)
        ]

    def _list_parameters(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {f"new_{name}": [values[name] for values in rows] for name in written_columns(self.sql)}

    def _inserted(self, tx: Tx, values: dict[str, Any], generated_values: Any) -> Row:
        """Build a row of `insert_many` from the inserted values and the values that the database generated, and record
        its change."""
        values.update(zip(self._generated, generated_values, strict=True))
        row = self.row.from_values(dict(zip(self._fields, self._field_values(values), strict=True)))
        tx.note_revision(self, values, values["revision"])
        self.record_change(tx, row, values[self.key], values["revision"], "created")
        return row

    def _initial(self, tx: Tx, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all columns of a new row that the database does not generate."""
        timestamps = dict.fromkeys(self._timestamps, tx.now)
        return self._initial_values | timestamps | self._with_derived(values) | {"revision": 1}

    async def update(self, tx: Tx, values: Mapping[str, Any], **where: Any) -> Row:
        """Write `values` to the row whose columns have the values in `where`, add 1 to its revision, and record an
        `updated` change, even if the values are the same as before. updateDate becomes `tx.now`, unless it is later
        already. Lock the row first. Raises NotFound."""
        written = self._with_derived(values) | {name: tx.now for name in UPDATED if name in self._fields}
        statement = self._statements.update(frozenset(where), frozenset(written))
        old = {f"old_{name}": value for name, value in where.items()}
        new = {f"new_{name}": value for name, value in written.items()}
        return self.record_change_of(tx, await tx.first(statement, old | new), "updated")

    async def delete(self, tx: Tx, **where: Any) -> None:
        """Delete the row whose columns have the values in `where` and record a `deleted` change, whose revision is the
        row's last revision + 1. Lock the row first. Raises NotFound."""
        sql_row = await tx.first(self._statements.delete(frozenset(where)), where)
        self._record_deletion(tx, sql_row)

    async def delete_by_parent(self, tx: Tx, column: str, parents: Iterable[Any], *, emit_changes: bool) -> list[Row]:
        """Delete the rows whose `column` has one of the values `parents`, with one statement. With `emit_changes`,
        record the changes like `delete`. Returns the deleted rows."""
        deleted = await tx.all(self._statements.delete_by_parent(column), {"parents": list(parents)})
        if emit_changes:
            for sql_row in deleted:
                self._record_deletion(tx, sql_row)
        return [self.to_row(sql_row) for sql_row in deleted]

    def _with_derived(self, values: Mapping[str, Any]) -> dict[str, Any]:
        derived = {name: derive(values[source]) for name, (source, derive) in self._derived.items() if source in values}
        return dict(values) | derived

    def to_row(self, sql_row: Any) -> Row:
        """Convert a result of SQLAlchemy, whose first columns are those of the table, to the model. Raises NotFound if
        `sql_row` is None."""
        if sql_row is None:
            raise self.not_found()
        return self.row.from_values(dict(zip(self._fields, sql_row, strict=False)))

    def record_change(self, tx: Tx, row: Row, key: Any, revision: int, action: Action) -> None:
        """Record a change of a row. Call it after a statement of your own has written the row; the statement adds 1 to
        the revision. `revision` is the new one."""
        if self._emit_changes:
            tx.changes.append(self._change(row, key, revision, action))

    def _change(self, row: Row, key: Any, revision: int, action: Action) -> EntityChange:
        visitor_id = getattr(row, "visitor_id", None)
        after = None if action == "deleted" else row
        return EntityChange(self.family, self.resource, self.are_events, str(key), revision, action, visitor_id, after)

    def change_of(self, sql_row: Any, action: Action) -> EntityChange:
        """The change from the result of a statement that returned all columns of the table."""
        return self._change(self.to_row(sql_row), getattr(sql_row, self.key), sql_row.revision, action)

    def record_change_of(self, tx: Tx, sql_row: Any, action: Action) -> Row:
        """Record a change like `record_change`, from the result of a statement that returned all columns of the table.
        Returns the row. Raises NotFound if `sql_row` is None."""
        row = self._observed(tx, sql_row)
        self.record_change(tx, row, getattr(sql_row, self.key), sql_row.revision, action)
        return row

    def _observed(self, tx: Tx, sql_row: Any) -> Row:
        """Convert a result to the model like `to_row`. If it is the target of the request, note its revision. Raises
        NotFound if `sql_row` is None."""
        row = self.to_row(sql_row)
        tx.note_revision(self, sql_row._mapping, sql_row.revision)
        return row

    def _record_deletion(self, tx: Tx, sql_row: Any) -> None:
        row = self.to_row(sql_row)
        tx.note_revision(self, sql_row._mapping, sql_row.revision + 1)
        self.record_change(tx, row, getattr(sql_row, self.key), sql_row.revision + 1, "deleted")


async def require_revision(tx: Tx, revisions: Collection[int] | None) -> None:
    """Lock the target of the request, and check that it has one of these revisions. Does nothing if `revisions` is
    None. Raises NotFound, and PreconditionFailed if the row has changed since its sender has read it."""
    if revisions is None or tx.target is None:
        return
    await tx.target.table.lock(tx, **tx.target.values)
    if tx.target.revision not in revisions:
        raise PreconditionFailed(
            "revision_differs", "The record was changed after you read it. Read it again, and send a new request."
        )


def tables_with_column(column: str) -> list["Table[Any]"]:
    """All tables that have a column of this name. A table comes before the tables that it refers to."""
    positions = {table.name: position for position, table in enumerate(METADATA.sorted_tables)}
    tables = [table for table in _ALL if column in table.columns]
    return sorted(tables, key=lambda table: positions[table.name], reverse=True)


def locked(table: Table[Any], name: str) -> sa.CTE:
    """A CTE that locks the rows whose keys are in the list parameter `name`. Join it to an update: the update itself
    locks rows in any order, while the CTE locks them in the order of their keys, so that two transactions cannot wait
    for each other."""
    key = table.columns[table.key]
    rows = sa.select(key).where(any_of(key, name)).order_by(key)
    return rows.with_for_update(key_share=True).cte(f"locked_{table.name}")


def _longest(field: FieldInfo) -> float:
    """How many characters a value may have; 0 if it has no such limit."""
    items = shape_of(field.annotation).items
    if items is not None and (items.base is str or issubclass(items.base, Model)):
        return math.inf
    return max((getattr(mark, "max_length", 0) for mark in _marks(field)), default=0)


def _marks(field: FieldInfo) -> Iterator[Any]:
    """The annotations of a field, also those of the type that may be null."""
    yield from field.metadata
    for option in get_args(field.annotation):
        for mark in getattr(option, "__metadata__", ()):
            yield from mark.metadata if isinstance(mark, FieldInfo) else [mark]


def _empty(column: sa.Column[Any]) -> Any:
    """An empty list or text in place of a column."""
    value = {Documents: "'[]'::jsonb", ARRAY: "'{}'"}.get(type(column.type), "''")
    return sa.literal_column(value, column.type).label(column.name)


def _column_type(shape: Shape) -> Any:
    if shape.base is list and shape.items is not None:
        if issubclass(shape.items.base, Model):
            return Documents(shape.items.base)
        return ARRAY(_COLUMN_TYPES[shape.items.base])
    return _COLUMN_TYPES[shape.base]
