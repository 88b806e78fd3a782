"""Columns and indexes that erasing a visitor needs: the visitors of an answer in the inbox and of a change in the
outbox."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("inbox", sa.Column("visitor_id", sa.Uuid()))
    op.add_column("inbox", sa.Column("visitor_ids", postgresql.ARRAY(sa.Uuid())))
    op.create_index("inbox_visitor_id_idx", "inbox", ["visitor_id"], postgresql_where=sa.text("visitor_id is not null"))
    op.create_index(
        "inbox_visitor_ids_idx",
        "inbox",
        ["visitor_ids"],
        postgresql_using="gin",
        postgresql_where=sa.text("visitor_ids is not null"),
    )
    op.create_index("outbox_partition_key_idx", "outbox", ["partition_key"])
    # Nothing tells whose data the answers hold that were kept before: a repeated request gets its status only.
    op.execute("update inbox set body = null where status < 400 and body is not null")
