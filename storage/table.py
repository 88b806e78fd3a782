"""A table from the model of its rows: columns, keys, constraints with their faults, and the four things done to a row.

Every write of an entity moves its `revision` and records a change; there is no way around that in here.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

import sqlalchemy as sa
from pydantic.alias_generators import to_camel, to_snake
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import IntegrityError

from schemas.changes import Action
from schemas.faults import Conflict, Fault, Invalid, NotFound
from schemas.model import Model
from schemas.shapes import Shape, shape_of
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

TABLES: list["Table[Any]"] = []
"""Every entity's table."""

CONFLICTS: dict[str, Callable[[], Conflict]] = {}
"""What breaking a unique constraint or index means, by its name."""

REFERENCES: dict[str, tuple[str, "Table[Any]"]] = {}
"""Which field and which table a foreign key is about, by its name."""


class Table(Generic[Row]):
    """`row` holds what the API answers of an entity; `hidden` are columns beside that. `key` is the primary key.

    `family` decides the change topic, `resource` is the entity's name in changes and fault codes
    (`<resource>_not_found`). `parents` are foreign keys by column; `conflicts` what breaking a unique constraint means,
    by its name; `derived` hidden columns that follow another one: `{"email_key": ("email", str.casefold)}`.
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
        hidden: Iterable[sa.schema.SchemaItem] = (),
    ) -> None:
        self.name, self.row, self.family, self.resource, self.key = name, row, family, resource, key
        self.parents = dict(parents or {})
        self._derived = dict(derived or {})
        self.sql = sa.Table(
            name,
            METADATA,
            *(self._column(field, shape_of(info.annotation)) for field, info in row.model_fields.items()),
            sa.Column("revision", sa.BigInteger, nullable=False),
            *hidden,
        )
        self.columns = self.sql.c
        self._fields = tuple(row.model_fields)
        self._empty = dict.fromkeys(column.name for column in self.sql.c if column.identity is None)
        self._statements = _Statements(self.sql, self.sql.c[key])
        TABLES.append(self)
        CONFLICTS.update(conflicts or {})
        for column, parent in self.parents.items():
            REFERENCES[f"{name}_{column}_fkey"] = (to_camel(column), parent)

    def _column(self, name: str, shape: Shape) -> sa.Column[Any]:
        kind = _column_type(shape)
        if name == self.key:
            identity = (sa.Identity(),) if shape.base is int else ()
            return sa.Column(name, kind, *identity, primary_key=True)
        parent = self.parents.get(name)
        reference = [sa.ForeignKey(parent.sql.c[parent.key])] if parent else []
        return sa.Column(name, kind, *reference, nullable=shape.nullable)

    def missing(self) -> NotFound:
        return NotFound(f"{to_snake(self.resource)}_not_found", f"There is no such {self.resource}.")

    async def find(self, tx: Tx, key: Any, **within: Any) -> Row:
        """The row with this key, under its parents given in `within`. Raises NotFound."""
        return self.to_row(await tx.first(self._statements.get, {"key": key}), within)

    async def lock(self, tx: Tx, key: Any, **within: Any) -> Row:
        """Like find; nobody else changes the row until the transaction ends."""
        return self.to_row(await tx.first(self._statements.lock, {"key": key}), within)

    async def require(self, tx: Tx, key: Any) -> None:
        """Raises NotFound where there is no row with this key."""
        if await tx.first(self._statements.exists, {"key": key}) is None:
            raise self.missing()

    async def insert(self, tx: Tx, values: Mapping[str, Any]) -> Row:
        """A new row, with creationDate and updateDate. Broken constraints are turned into faults by `fault_of`."""
        stamps = {name: tx.now for name in ("creation_date", "update_date") if name in self._fields}
        found = await tx.first(self._statements.insert, self._empty | stamps | self._full(values) | {"revision": 1})
        return self._changed(tx, found, "created")

    async def update(self, tx: Tx, key: Any, values: Mapping[str, Any]) -> Row:
        """Write `values` over a row that was locked before; updateDate and the revision move. Raises NotFound."""
        stamps = {"update_date": tx.now} if "update_date" in self._fields else {}
        full = self._full(values) | stamps
        parameters = {f"new_{name}": value for name, value in full.items()}
        return self._changed(
            tx, await tx.first(self._statements.update(frozenset(full)), parameters | {"key": key}), "updated"
        )

    def _full(self, values: Mapping[str, Any]) -> dict[str, Any]:
        derived = {name: make(values[source]) for name, (source, make) in self._derived.items() if source in values}
        return dict(values) | derived

    def to_row(self, found: Any, within: Mapping[str, Any] | None = None) -> Row:
        """A database row as its model. Raises NotFound for none, and for one under another parent."""
        if found is None or any(getattr(found, name) != value for name, value in (within or {}).items()):
            raise self.missing()
        return cast(Row, self.row.model_construct(**{name: getattr(found, name) for name in self._fields}))

    def record(self, tx: Tx, row: Row, key: Any, revision: int, action: Action) -> None:
        """Keep a change of a row that was written by a statement of one's own."""
        visitor = getattr(row, "visitor_id", None)
        tx.changes.append(EntityChange(self.family, self.resource, str(key), revision, action, visitor, row))

    def _changed(self, tx: Tx, found: Any, action: Action) -> Row:
        row = self.to_row(found)
        self.record(tx, row, getattr(found, self.key), found.revision, action)
        return row


class _Statements:
    """The statements of a table, each made once, so that SQLAlchemy compiles and PostgreSQL plans it once."""

    def __init__(self, table: sa.Table, key: sa.Column[Any]) -> None:
        self._table = table
        self._where = key == sa.bindparam("key", type_=key.type)
        self.get = sa.select(table).where(self._where)
        self.lock = self.get.with_for_update(key_share=True)
        self.exists = sa.select(key).where(self._where)
        written = {column.name for column in table.c if column.identity is None}
        self.insert = sa.insert(table).values(self._parameters(written)).returning(*table.c)
        self._updates: dict[frozenset[str], Any] = {}

    def update(self, names: frozenset[str]) -> Any:
        if names not in self._updates:
            values = self._parameters(names, "new_") | {"revision": self._table.c.revision + 1}
            statement = sa.update(self._table).where(self._where).values(values)
            self._updates[names] = statement.returning(*self._table.c)
        return self._updates[names]

    def _parameters(self, names: Iterable[str], prefix: str = "") -> dict[str, Any]:
        return {name: sa.bindparam(prefix + name, type_=self._table.c[name].type) for name in sorted(names)}


def _column_type(shape: Shape) -> Any:
    if shape.base is list and shape.items is not None:
        if issubclass(shape.items.base, Model):
            return JSONB()
        return ARRAY(_COLUMN_TYPES[shape.items.base])
    return _COLUMN_TYPES[shape.base]


def fault_of(error: IntegrityError, in_path: Container[str]) -> Fault | None:
    """What breaking a constraint means to the caller; None where it is a bug. A missing parent is not found where the
    path names it, and an invalid field where the body does."""
    cause = error.orig.__cause__ if error.orig else None
    name = getattr(cause, "constraint_name", None) or ""
    if name in CONFLICTS:
        return CONFLICTS[name]()
    if name not in REFERENCES:
        return None
    field, parent = REFERENCES[name]
    missing = parent.missing()
    return missing if field in in_path else Invalid(missing.code, f"There is no such {parent.resource}.", field=field)
