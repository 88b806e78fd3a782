"""Search that ignores case, accents, and the kinds of quotes, dashes and blanks.

A searched text is stored folded in a column of its own, with an ordinary index. These columns have the collation "C",
in which all texts with the same prefix are next to each other.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from schemas.emails import mailbox, readable
from schemas.invisible import without_invisible
from schemas.plates import plate_key

_UNDECOMPOSED = str.maketrans(
    {
        "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "ð": "d", "þ": "th", "ħ": "h", "ŧ": "t",
    }
)  # fmt: skip
"""Letters that Unicode does not decompose into a letter and an accent, with their usual replacements."""

_PAGE = 5_000
"""Rows that `fill` reads and updates at once."""


def _replacements(characters: str, replacement: str) -> dict[int, str]:
    return dict.fromkeys(map(ord, characters), replacement)


_QUOTES_AND_DASHES = (
    _replacements("`\xb4\u02b9\u02bb\u02bc\u02bd\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a\ua78c", "'")
    | _replacements("\xab\xbb\u201c\u201d\u201e\u201f\u2033\u2036\u301d\u301e\u301f", '"')
    | _replacements("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63", "-")
)
"""Quotes and dashes that word processors and phones insert, with the ones on a keyboard."""

_ALL_REPLACEMENTS = _UNDECOMPOSED | _QUOTES_AND_DASHES


def fold(text: str | None) -> str | None:
    """Remove case and accents (`Éloïse ` and `ELOISE` become `eloise`, `Łódź` becomes `lodz`), use the quotes and
    dashes of a keyboard, and collapse blanks."""
    if text is None:
        return None
    if text.isascii():  # What follows would take ten times as long.
        return " ".join(text.replace("`", "'").lower().split())
    # Replace before the decomposition too: it would make a blank and an accent of some quotes.
    decomposed = unicodedata.normalize("NFKD", without_invisible(text).translate(_QUOTES_AND_DASHES))
    without_accents = "".join(character for character in decomposed if not unicodedata.combining(character))
    return " ".join(without_accents.casefold().translate(_ALL_REPLACEMENTS).split())


def fold_beyond_mailbox(address: str) -> str | None:
    """The folded email address; None if it equals the mailbox, which another column holds."""
    folded_address = fold(readable(address))
    return None if folded_address == mailbox(address) else folded_address


def plain_plate(plate: str) -> str:
    """The key of a licence plate without accents. A search uses it to ignore accents; plates that differ in accents are
    still different plates."""
    return (fold(plate_key(plate)) or "").upper()


def plain_beyond_key(plate: str) -> str | None:
    """The plain plate; None if it equals the key, which another column holds."""
    plain = plain_plate(plate)
    return None if plain == plate_key(plate) else plain


def folded(name: str, *, nullable: bool = False) -> sa.Column[str]:
    """A column of folded texts."""
    return sa.Column(name, sa.Text(collation="C"), nullable=nullable)


def starts_with(column: Any, prefix: str) -> sa.ColumnElement[bool]:
    """The condition that `column` starts with `prefix`. It is a range, because an index supports LIKE only if the
    pattern is known when the query is planned. An empty prefix matches nothing: the searched text had no characters to
    search for."""
    if not prefix:
        return sa.false()
    return sa.and_(column >= prefix, column < prefix + "\U0010ffff")


Columns = Mapping[str, tuple[str, Callable[[Any], str | None]]]


def fill(connection: sa.Connection, name: str, key: str, columns: Columns) -> None:
    """Compute derived columns again for all rows of a table. `columns` maps a column to its source column and the
    function that computes it. Migrations use it, because PostgreSQL cannot fold texts without extensions. The rows are
    read in pages, so the memory in use does not depend on the size of the table."""
    sources = {source for source, _ in columns.values()}
    table = sa.table(name, *map(sa.column, {key, *columns, *sources}))
    update = (
        sa.update(table)
        .where(table.c[key] == sa.bindparam("row_key"))
        .values({column: sa.bindparam(f"new_{column}") for column in columns})
    )
    for page in pages(connection, sa.select(table), table.c[key]):
        parameters = []
        for row in page:
            values = {column: derive(row[source]) for column, (source, derive) in columns.items()}
            if any(row[column] != value for column, value in values.items()):
                new_values = {f"new_{column}": value for column, value in values.items()}
                parameters.append({"row_key": row[key]} | new_values)
        if parameters:
            connection.execute(update, parameters)


def pages(
    connection: sa.Connection, rows: sa.Select[Any], key: sa.ColumnClause[Any]
) -> Iterator[Sequence[sa.RowMapping]]:
    """The rows of a select in pages, in the order of the unique column `key`."""
    ordered = rows.order_by(key).limit(_PAGE)
    page = connection.execute(ordered).mappings().all()
    while page:
        yield page
        page = connection.execute(ordered.where(key > page[-1][key])).mappings().all()
