"""Replace the three indexes of the outbox by one, because each change is inserted into all of them and deleted again.
Erasing a visitor scans the outbox, which has few rows unless Kafka is unavailable."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_index("outbox_topic_id_idx")
    op.drop_index("outbox_partition_key_idx")
    op.drop_constraint("outbox_pkey", "outbox")
    op.create_primary_key("outbox_pkey", "outbox", ["topic", "id"])
