"""Recent deletions, and the progress of republications."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "deletions",
        sa.Column("topic", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("partition_key", sa.Text(), nullable=False),
        sa.Column("change_id", sa.Text(), nullable=False),
        sa.Column("change_type", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=False),
    )
    op.create_index("deletions_deleted_at_idx", "deletions", ["deleted_at"])
    op.create_table(
        "republications",
        sa.Column("resource", sa.Text(), primary_key=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("last_key", sa.Text()),
        sa.Column("rows_finished", sa.Boolean(), nullable=False),
        sa.Column("last_deleted_key", sa.Text()),
        sa.Column("published_rows", sa.BigInteger(), nullable=False),
        sa.Column("published_deletions", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
    )
