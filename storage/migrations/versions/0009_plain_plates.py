"""A column with the plates that have accents, without the accents, for searching."""

import sqlalchemy as sa
from alembic import op

from storage.folding import fill, fold

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("vehicles", sa.Column("plain_plate", sa.Text(collation="C")))
    fill(op.get_bind(), "vehicles", "vehicle_id", {"plain_plate": ("plate_key", _plain)})
    op.create_index(
        "vehicles_plain_plate_idx",
        "vehicles",
        ["plain_plate"],
        postgresql_where=sa.text("plain_plate is not null"),
    )


def _plain(key: str) -> str | None:
    found = (fold(key) or "").upper()
    return None if found == key else found
