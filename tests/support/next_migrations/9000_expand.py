"""A migration of a possible next release, which only adds."""

import sqlalchemy as sa
from alembic import op

from storage import migrate

revision = "9000"
down_revision = migrate.newest()


def upgrade() -> None:
    op.add_column("visitors", sa.Column("nickname", sa.Text()))
    op.add_column("inbox", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    op.create_table("notes", sa.Column("id", sa.BigInteger(), primary_key=True))
