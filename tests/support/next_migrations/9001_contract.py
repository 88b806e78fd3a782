"""A migration of the release after the next one, which removes what the next release does not use any more."""

from alembic import op

revision = "9001"
down_revision = "9000"


def upgrade() -> None:
    op.execute("update compatibility set oldest_revision = '9000'")
    op.drop_column("visitors", "nickname")
