"""Folded columns to search visitors by, see storage.folding."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from storage.folding import fold

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute('alter table visitors alter column email_key type text collate "C"')
    op.execute('alter table vehicles alter column plate_key type text collate "C"')
    op.add_column("external_ids", sa.Column("folded_id", sa.Text(collation="C")))
    op.add_column("visitors", sa.Column("first_name_key", sa.Text(collation="C")))
    op.add_column("visitors", sa.Column("last_name_key", sa.Text(collation="C")))
    _fill("external_ids", "external_id_key", {"folded_id": "external_id"})
    _fill("visitors", "visitor_id", {"first_name_key": "first_name", "last_name_key": "last_name"})
    op.alter_column("external_ids", "folded_id", nullable=False)
    op.alter_column("visitors", "first_name_key", nullable=False)
    op.create_index("external_ids_folded_id_idx", "external_ids", ["folded_id"])
    op.create_index("visitors_first_name_idx", "visitors", ["first_name_key", "last_name_key"])
    op.create_index("visitors_last_name_idx", "visitors", ["last_name_key", "first_name_key"])


def _fill(name: str, key: str, columns: dict[str, str]) -> None:
    """Fold what the rows hold already; PostgreSQL without extensions cannot."""
    table: Any = sa.table(name, sa.column(key), *(sa.column(each) for pair in columns.items() for each in pair))
    connection = op.get_bind()
    for row in connection.execute(sa.select(table)).all():
        values = {target: fold(getattr(row, source)) for target, source in columns.items()}
        connection.execute(sa.update(table).where(table.c[key] == getattr(row, key)).values(values))
