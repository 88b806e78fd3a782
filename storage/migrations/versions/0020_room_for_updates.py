"""Leave room in the pages of visitors and vehicles for their next versions.

Each entry updates a date of a visitor and of a vehicle. No index has these dates, so PostgreSQL need not touch the
indexes if the new version of the row fits into the page of the old one. Pages that are full already get room when some
of their rows are updated.
"""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute("alter table visitors set (fillfactor = 85)")
    op.execute("alter table vehicles set (fillfactor = 85)")
