"""Identify a request by topic, source and id. The inbox identified it by its id only.

Existing entries get an empty topic and source (`storage.inbox.RequestKey.legacy`), so that their requests are
recognised when they are delivered again. The new columns intentionally have no default: a worker of release 0.1.0 that
still runs cannot insert an entry without them. It rolls its batches back and retries them until a newer worker takes
over its partitions. So no request is applied by both workers.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for name in ("topic", "source"):
        # With a default the rows need not be written again; it goes once the column is there.
        op.add_column("inbox", sa.Column(name, sa.Text(), nullable=False, server_default=""))
        op.alter_column("inbox", name, server_default=None)
    op.drop_constraint("inbox_pkey", "inbox")
    op.create_primary_key("inbox_pkey", "inbox", ["topic", "source", "request_id"])
