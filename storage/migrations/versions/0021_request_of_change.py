"""Let the outbox know the request of a change: its trace, and when Kafka stored it.

Both are null in rows of a release before this one, and in those that no request caused.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("traceparent", sa.Text()))
    op.add_column("outbox", sa.Column("requested_at", sa.TIMESTAMP(timezone=True)))
