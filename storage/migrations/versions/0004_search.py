"""Folded columns to search visitors by, see storage.folding."""

import sqlalchemy as sa
from alembic import op

from storage.folding import fill, fold

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute('alter table visitors alter column email_key type text collate "C"')
    op.execute('alter table vehicles alter column plate_key type text collate "C"')
    op.add_column("external_ids", sa.Column("folded_id", sa.Text(collation="C")))
    op.add_column("visitors", sa.Column("first_name_key", sa.Text(collation="C")))
    op.add_column("visitors", sa.Column("last_name_key", sa.Text(collation="C")))
    fill(op.get_bind(), "external_ids", "external_id_key", {"folded_id": ("external_id", fold)})
    names = {"first_name_key": ("first_name", fold), "last_name_key": ("last_name", fold)}
    fill(op.get_bind(), "visitors", "visitor_id", names)
    op.alter_column("external_ids", "folded_id", nullable=False)
    op.alter_column("visitors", "first_name_key", nullable=False)
    op.create_index("external_ids_folded_id_idx", "external_ids", ["folded_id"])
    op.create_index("visitors_first_name_idx", "visitors", ["first_name_key", "last_name_key"])
    op.create_index("visitors_last_name_idx", "visitors", ["last_name_key", "first_name_key"])
