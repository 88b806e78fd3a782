"""Fold letters that Unicode does not decompose, fold emails with accents, and add indexes for listing visitors and
checkins by their dates."""

import sqlalchemy as sa
from alembic import op

from storage.folding import fill, fold, fold_beyond_mailbox

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("visitors", sa.Column("folded_email", sa.Text(collation="C")))
    fill(op.get_bind(), "external_ids", "external_id_key", {"folded_id": ("external_id", fold)})
    texts = {
        "first_name_key": ("first_name", fold),
        "last_name_key": ("last_name", fold),
        "folded_email": ("email", fold_beyond_mailbox),
    }
    fill(op.get_bind(), "visitors", "visitor_id", texts)
    op.create_index(
        "visitors_folded_email_idx",
        "visitors",
        ["folded_email"],
        postgresql_where=sa.text("folded_email is not null"),
    )
    op.create_index("visitors_update_date_idx", "visitors", ["update_date"])
    op.create_index("visitors_creation_date_idx", "visitors", ["creation_date"])
    op.create_index("visitors_registration_date_idx", "visitors", ["registration_date"])
    op.create_index("visitors_acquisition_pc_code_idx", "visitors", ["acquisition_pc_code", "visitor_id"])
    op.create_index("checkins_creation_date_idx", "checkins", ["creation_date"])
    op.create_index("checkins_service_id_creation_date_idx", "checkins", ["service_id", "creation_date"])
    op.create_index("checkins_pc_code_creation_date_idx", "checkins", ["pc_code", "creation_date"])
