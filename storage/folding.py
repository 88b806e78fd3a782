"""Search that ignores case, accents and the kind of quotes, dashes and spaces, with plain indexes: the folded form of a
searched text is stored in a column of its own.

Such columns have the collation "C", in which all texts with a prefix lie side by side.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from schemas.emails import mailbox, readable
from schemas.invisible import without_invisible
from schemas.plates import plate_key

_WHOLE = str.maketrans(
    {
        "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "ð": "d", "þ": "th", "ħ": "h", "ŧ": "t",
    }
)  # fmt: skip
"""Letters that Unicode does not take apart into a plain one and an accent, and what people without them write."""

_PAGE = 5_000
"""Rows of a table that are made anew at once."""


def _of_one_kind(characters: str, as_typed: str) -> dict[int, str]:
    return dict.fromkeys(map(ord, characters), as_typed)


_KINDS = (
    _of_one_kind("`\xb4\u02b9\u02bb\u02bc\u02bd\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a\ua78c", "'")
    | _of_one_kind("\xab\xbb\u201c\u201d\u201e\u201f\u2033\u2036\u301d\u301e\u301f", '"')
    | _of_one_kind("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63", "-")
)
"""Quotes and dashes of typography, by those on a keyboard."""

_TYPED = _WHOLE | _KINDS


def fold(text: str | None) -> str | None:
    """`Éloïse ` and `ELOISE` as `eloise`, `Łódź` as `lodz`, typographic quotes and dashes as those on a keyboard,
    several spaces as one."""
    if text is None:
        return None
    compatible = unicodedata.normalize("NFKD", without_invisible(text).translate(_KINDS))
    plain = "".join(c for c in compatible if not unicodedata.combining(c))
    return " ".join(plain.casefold().translate(_TYPED).split())


def fold_beyond_mailbox(address: str) -> str | None:
    """The folded email address; None if it equals the mailbox, which has a column of its own."""
    folded_address = fold(readable(address))
    return None if folded_address == mailbox(address) else folded_address


def plain_plate(plate: str) -> str:
    """The key of a licence plate without accents, for searches; an accent makes a different plate otherwise."""
    return (fold(plate_key(plate)) or "").upper()


def plain_beyond_key(plate: str) -> str | None:
    """The plain plate; None if it equals the key, which has a column of its own."""
    plain = plain_plate(plate)
    return None if plain == plate_key(plate) else plain


def folded(name: str, *, nullable: bool = False) -> sa.Column[str]:
    """A column of folded texts."""
    return sa.Column(name, sa.Text(collation="C"), nullable=nullable)


def starts_with(column: Any, prefix: str) -> sa.ColumnElement[bool]:
    """A range rather than LIKE, which an index serves only where the pattern is known when the plan is made. An empty
    prefix matches nothing: the caller searched for a text of which folding left nothing."""
    if not prefix:
        return sa.false()
    return sa.and_(column >= prefix, column < prefix + "\U0010ffff")


Columns = Mapping[str, tuple[str, Callable[[Any], str | None]]]


def fill(connection: sa.Connection, name: str, key: str, columns: Columns) -> None:
    """Make derived columns anew, `{column: (source, how)}`, for what a table holds already; for migrations, since
    PostgreSQL without extensions cannot. In pages, so that memory holds them whatever the size of the table."""
    sources = {source for source, _ in columns.values()}
    table = sa.table(name, *map(sa.column, {key, *columns, *sources}))
    update = (
        sa.update(table)
        .where(table.c[key] == sa.bindparam("of"))
        .values({column: sa.bindparam(f"new_{column}") for column in columns})
    )
    for page in pages(connection, sa.select(table), table.c[key]):
        changed = [
            {"of": row[key]} | {f"new_{column}": value for column, value in made.items()}
            for row in page
            if (made := _made(row, columns)) != {column: row[column] for column in columns}
        ]
        if changed:
            connection.execute(update, changed)


def _made(row: sa.RowMapping, columns: Columns) -> dict[str, str | None]:
    return {column: how(row[source]) for column, (source, how) in columns.items()}


def pages(
    connection: sa.Connection, rows: sa.Select[Any], key: sa.ColumnClause[Any]
) -> Iterator[Sequence[sa.RowMapping]]:
    """The selected rows in pages, ordered by the unique column `key`."""
    ordered = rows.order_by(key).limit(_PAGE)
    page = connection.execute(ordered).mappings().all()
    while page:
        yield page
        page = connection.execute(ordered.where(key > page[-1][key])).mappings().all()
