"""Say which releases can use the schema, so that a program can start on the schema of a later release."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table("compatibility", sa.Column("oldest_revision", sa.Text(), primary_key=True))
    op.execute("insert into compatibility values ('0017')")
