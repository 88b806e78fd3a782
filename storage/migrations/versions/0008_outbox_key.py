"""One index of the outbox instead of three, since each change goes in and out of all of them. Erasing reads it whole:
what waits there is little, or Kafka is away."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_index("outbox_topic_id_idx")
    op.drop_index("outbox_partition_key_idx")
    op.drop_constraint("outbox_pkey", "outbox")
    op.create_primary_key("outbox_pkey", "outbox", ["topic", "id"])
