"""Finds rows of a file that exclude each other."""

import hashlib
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from runtime.bulk import Importable
from runtime.bulk.rows import Refusal, Row
from schemas.emails import mailbox
from schemas.faults import Conflict

_HASH_BYTES = 16
_CACHE_KIB = 64 * 1024


class _Unique(NamedTuple):
    """A field of which no two records of a resource may have the same value. Values are the same if their normal forms
    are. `code` is that of the fault."""

    field: str
    normal_form: Callable[[str], str]
    code: str


_UNIQUE = {Importable.visitors: _Unique("email", mailbox, "email_taken")}
"""A plate may belong to several vehicles, and a consent may be given again."""


class Duplicates:
    """Remembers the values of the rows in a temporary file, so that memory does not grow with their number. The file
    has hashes only, because the values are personal data."""

    def __init__(self, resource: Importable) -> None:
        self._unique = _UNIQUE.get(resource)
        self._lines = sqlite3.connect("")
        """SQLite deletes the file when this is closed."""
        self._lines.execute(f"pragma cache_size = -{_CACHE_KIB}")
        self._lines.execute("pragma journal_mode = off")
        self._lines.execute("create table lines (hash blob primary key, line integer not null) without rowid")

    def close(self) -> None:
        self._lines.close()

    def refusal(self, row: Row) -> Refusal | None:
        """Why a valid row cannot be applied if an earlier one is; None if it can."""
        if self._unique is None:
            return None
        field, normal_form, code = self._unique
        value_hash = hashlib.blake2b(normal_form(row.fields[field]).encode(), digest_size=_HASH_BYTES).digest()
        inserted = self._lines.execute("insert or ignore into lines values (?, ?)", (value_hash, row.line))
        if inserted.rowcount:
            return None
        (line,) = self._lines.execute("select line from lines where hash = ?", (value_hash,)).fetchone()
        message = f"Line {line} has the same {field}. Only one of these rows can be applied."
        return Refusal.by(Conflict(code, message, field=field), row.line, row.fields)
