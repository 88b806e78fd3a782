"""The owner of each change topic: the worker that publishes its changes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "publishers",
        sa.Column("topic", sa.Text(), primary_key=True),
        sa.Column("owner", sa.Uuid(), nullable=False),
        sa.Column("renewed_at", sa.TIMESTAMP(timezone=True), nullable=False),
    )
