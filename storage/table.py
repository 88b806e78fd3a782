"""A table from the model of its rows: columns, keys, constraints with their faults, and the four things done to a row.

Every write of an entity moves its `revision` and records a change; there is no way around that in here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from pydantic.alias_generators import to_snake
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from schemas.changes import Action
from schemas.faults import Conflict, NotFound
from schemas.model import Model
from schemas.shapes import Shape, shape_of
from storage import constraints
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
    """A list of records inside a row, as JSON."""

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
"""Every entity whose changes are told."""


class Table(Generic[Row]):
    """`row` holds what the API answers of an entity; `hidden` are columns beside that. `key` is the primary key.

    `family` decides the change topic, `resource` is the entity's name in changes and fault codes
    (`<resource>_not_found`). By column: `parents` are foreign keys, `derived` follow another column in Python
    (`{"email_key": ("email", mailbox)}`), `computed` others of the row in SQL, `defaults` are what a hidden one
    starts with. `conflicts` says, by the constraint's name, what breaking a unique one means. Rows of a table that is
    not `emit_changes` make no changes.
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
        emit_changes: bool = True,
        hidden: Iterable[sa.schema.SchemaItem] = (),
    ) -> None:
        self.name, self.row, self.family, self.resource, self.key = name, row, family, resource, key
        self.parents = dict(parents or {})
        self._derived = dict(derived or {})
        self._computed = dict(computed or {})
        self._emit_changes = emit_changes
        self.sql = sa.Table(
            name,
            METADATA,
            *(self._column(field, shape_of(info.annotation)) for field, info in row.model_fields.items()),
            sa.Column("revision", sa.BigInteger, nullable=False),
            *hidden,
        )
        self.columns = self.sql.c
        self._fields = tuple(row.model_fields)
        self._values = itemgetter(*self._fields)
        self._made = (key, *(column.name for column in self.sql.c if column.computed is not None))
        self._stamps = tuple(name for name in _CREATED + UPDATED if name in row.model_fields)
        self._empty = dict.fromkeys(written_columns(self.sql)) | dict(defaults or {})
        self._statements = Statements(self.sql, self.sql.c[key], self._made)
        _ALL.append(self)
        if emit_changes:
            TABLES.append(self)
        constraints.register(name, conflicts or {}, self.parents)

    def _column(self, name: str, shape: Shape) -> sa.Column[Any]:
        kind = _column_type(shape)
        if name == self.key:
            identity = (sa.Identity(),) if shape.base is int else ()
            return sa.Column(name, kind, *identity, primary_key=True)
        if name in self._computed:
            return sa.Column(name, kind, sa.Computed(self._computed[name], persisted=True), nullable=shape.nullable)
        parent = self.parents.get(name)
        reference = [sa.ForeignKey(parent.sql.c[parent.key])] if parent else []
        return sa.Column(name, kind, *reference, nullable=shape.nullable)

    def missing(self) -> NotFound:
        return NotFound(f"{to_snake(self.resource)}_not_found", f"There is no such {self.resource}.")

    async def find(self, tx: Tx, **where: Any) -> Row:
        """The one row that has these values in these columns. Raises NotFound."""
        return self.to_row(await tx.first(self._statements.find(frozenset(where)), where))

    async def lock(self, tx: Tx, *, for_removal: bool = False, **where: Any) -> Row:
        """Like find; nobody else changes the row until the transaction ends, nor, with `for_removal`, refers to it."""
        statement = self._statements.remove if for_removal else self._statements.lock
        return self.to_row(await tx.first(statement(frozenset(where)), where))

    async def lock_all(self, tx: Tx, keys: Iterable[Any], *, for_removal: bool = False) -> dict[Any, Row]:
        """Like lock, the rows with these keys, with one statement; in one order everywhere."""
        statement = self._statements.remove_all if for_removal else self._statements.lock_all
        rows = await tx.all(statement, {"keys": sorted(set(keys))})
        return {getattr(row, self.key): self.to_row(row) for row in rows}

    async def existing_keys(self, tx: Tx, keys: Iterable[Any]) -> set[Any]:
        """Which of the keys there are."""
        return {row[0] for row in await tx.all(self._statements.existing_keys, {"keys": sorted(set(keys))})}

    async def by_key(self, tx: Tx, keys: Iterable[Any]) -> dict[Any, Row]:
        """The rows with these keys, with one statement."""
        rows = await tx.all(self._statements.by_parent(self.key), {"parents": sorted(set(keys))})
        return {getattr(row, self.key): self.to_row(row) for row in rows}

    async def by_parent(self, tx: Tx, column: str, parents: Iterable[Any]) -> dict[Any, list[Row]]:
        """The rows of each parent, whole, with one statement."""
        found: dict[Any, list[Row]] = {parent: [] for parent in parents}
        for row in await tx.all(self._statements.by_parent(column), {"parents": list(found)}):
            found[getattr(row, column)].append(self.to_row(row))
        return found

    async def require(self, tx: Tx, key: Any) -> None:
        """Raises NotFound where there is no row with this key."""
        if not await self.existing_keys(tx, [key]):
            raise self.missing()

    async def insert(self, tx: Tx, values: Mapping[str, Any]) -> Row:
        """A new row, with creationDate and updateDate. Broken constraints are turned into faults by `fault_of`."""
        return self.changed(tx, await tx.first(self._statements.insert, self._new(tx, values)), "created")

    async def insert_unless(self, tx: Tx, values: Mapping[str, Any], taken: str) -> Row | None:
        """Like insert; None where another row has the same in the unique column `taken`. Who writes one at the same
        time is waited for."""
        found = await tx.first(self._statements.insert_unless(taken), self._new(tx, values))
        return None if found is None else self.changed(tx, found, "created")

    async def insert_many(self, items: Sequence[tuple[Tx, Mapping[str, Any]]]) -> list[Row]:
        """New rows of several requests with one statement, in their order; for tables with an identity key."""
        rows = [self._new(tx, values) for tx, values in items]
        columns = {name: [row[name] for row in rows] for name in written_columns(self.sql)}
        found = await items[0][0].all(self._statements.insert_many, columns)
        # Identity values follow the order of the select (PostgreSQL manual, INSERT), RETURNING promises none.
        found.sort(key=itemgetter(0))
        return [self._created(tx, row, made) for (tx, _), row, made in zip(items, rows, found, strict=True)]

    def _created(self, tx: Tx, written: dict[str, Any], made: Any) -> Row:
        """A row from what was written and what the database made of it, its key first."""
        written.update(zip(self._made, made, strict=True))
        row = self.row.from_values(dict(zip(self._fields, self._values(written), strict=True)))
        self.record(tx, row, made[0], written["revision"], "created")
        return row

    def _new(self, tx: Tx, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._empty | dict.fromkeys(self._stamps, tx.now) | self._full(values) | {"revision": 1}

    async def update(self, tx: Tx, values: Mapping[str, Any], **where: Any) -> Row:
        """Write `values` over the one row that has those of `where`, which was locked before; the revision moves, and
        updateDate does, never back. Raises NotFound."""
        full = self._full(values) | {name: tx.now for name in UPDATED if name in self._fields}
        statement = self._statements.update(frozenset(where), frozenset(full))
        old = {f"old_{name}": value for name, value in where.items()}
        parameters = old | {f"new_{name}": value for name, value in full.items()}
        return self.changed(tx, await tx.first(statement, parameters), "updated")

    async def delete(self, tx: Tx, **where: Any) -> None:
        """Remove the one row that has these values, which was locked before. Raises NotFound."""
        found: Any = await tx.first(self._statements.delete(frozenset(where)), where)
        self.record(tx, self.to_row(found), getattr(found, self.key), found.revision + 1, "deleted")

    async def delete_by_parent(self, tx: Tx, column: str, parents: Iterable[Any], *, emit_changes: bool) -> list[Row]:
        """Remove the rows of these parents with one statement, with their changes or without; which it removed."""
        removed = await tx.all(self._statements.delete_by_parent(column), {"parents": list(parents)})
        for found in removed if emit_changes else ():
            self.record(tx, self.to_row(found), getattr(found, self.key), found.revision + 1, "deleted")
        return [self.to_row(found) for found in removed]

    def _full(self, values: Mapping[str, Any]) -> dict[str, Any]:
        derived = {name: make(values[source]) for name, (source, make) in self._derived.items() if source in values}
        return dict(values) | derived

    def to_row(self, found: Any) -> Row:
        """A database row, which begins with the table's columns, as its model. Raises NotFound for none."""
        if found is None:
            raise self.missing()
        return self.row.from_values(dict(zip(self._fields, found, strict=False)))

    def record(self, tx: Tx, row: Row, key: Any, revision: int, action: Action) -> None:
        """Keep a change of a row that was written by a statement of one's own."""
        if not self._emit_changes:
            return
        visitor, after = getattr(row, "visitor_id", None), None if action == "deleted" else row
        tx.changes.append(EntityChange(self.family, self.resource, str(key), revision, action, visitor, after))

    def changed(self, tx: Tx, found: Any, action: Action) -> Row:
        """A database row that a statement of one's own returned, as its model, with its change kept."""
        row = self.to_row(found)
        self.record(tx, row, getattr(found, self.key), found.revision, action)
        return row


def with_children_first(column: str) -> list["Table[Any]"]:
    """All tables that have a column of this name, each before those that it refers to."""
    places = {table.name: place for place, table in enumerate(METADATA.sorted_tables)}
    found = [table for table in _ALL if column in table.columns]
    return sorted(found, key=lambda table: places[table.name], reverse=True)


def locked(table: Table[Any], name: str) -> sa.CTE:
    """The keys in the list parameter `name`, their rows locked in one order everywhere; to be joined to an update."""
    key = table.columns[table.key]
    return sa.select(key).where(any_of(key, name)).order_by(key).with_for_update(key_share=True).cte("locked")


def _column_type(shape: Shape) -> Any:
    if shape.base is list and shape.items is not None:
        if issubclass(shape.items.base, Model):
            return Documents(shape.items.base)
        return ARRAY(_COLUMN_TYPES[shape.items.base])
    return _COLUMN_TYPES[shape.base]
