"""Bound the scans of the outbox from below, and vacuum inbox and outbox early.

By default, PostgreSQL vacuums a table when a fifth of its rows is dead. The outbox is mostly empty, and its scans
become slower with each dead row; the inbox has tens of millions of rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    for name in ("after_id", "checkpoint_id", "checkpoint_xid"):
        op.add_column("publishers", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(
        "alter table outbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,"
        " autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000)"
    )
    op.execute(
        "alter table inbox set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0,"
        " autovacuum_analyze_scale_factor = 0.02)"
    )
