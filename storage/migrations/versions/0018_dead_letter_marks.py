"""Which dead letters were replayed or discarded."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "dead_letter_marks",
        sa.Column("partition", sa.Integer(), primary_key=True),
        sa.Column("offset", sa.BigInteger(), primary_key=True),
        sa.Column("written_at", sa.TIMESTAMP(timezone=True), primary_key=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("marked_at", sa.TIMESTAMP(timezone=True), nullable=False),
    )
