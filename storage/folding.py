"""Search without regard to case and accents, by plain indexes: what is searched is kept folded in a column of its own.

Such columns have the collation "C", in which all texts with a prefix lie side by side.
"""

import unicodedata
from typing import Any

import sqlalchemy as sa


def fold(text: str | None) -> str | None:
    """`Éloïse ` and `ELOISE` as `eloise`."""
    if text is None:
        return None
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


def folded(name: str, *, nullable: bool = False) -> sa.Column[str]:
    """A column of folded texts."""
    return sa.Column(name, sa.Text(collation="C"), nullable=nullable)


def starts_with(column: Any, prefix: str) -> sa.ColumnElement[bool]:
    """A range rather than LIKE, which an index serves only where the pattern is known when the plan is made."""
    return sa.and_(column >= prefix, column < prefix + "\U0010ffff")
