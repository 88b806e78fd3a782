"""A request is identified by topic, source and id; the inbox knew it by its id alone.

Entries that are there keep an empty topic and source (`storage.inbox.RequestKey.before_sources`), so that their
requests are recognised when they are delivered again. The new columns have no default on purpose: a worker of release
0.1.0 that still runs cannot write an entry without them. It rolls its batches back and retries them until a newer
worker takes its partitions over, so nothing is applied by both.
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
