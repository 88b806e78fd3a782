"""Which tombstones were repeated."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("deletions", sa.Column("repeated_at", sa.TIMESTAMP(timezone=True)))
    op.create_index(
        "deletions_unrepeated_idx", "deletions", ["deleted_at"], postgresql_where=sa.text("repeated_at is null")
    )
