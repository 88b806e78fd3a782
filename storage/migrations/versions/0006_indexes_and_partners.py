"""Indexes for erasing visitors and listing winners, and the center of a vehicle's partner."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index("parking_histories_parking_id_idx", "parking_histories", ["parking_id"])
    op.create_index("parking_histories_card_id_idx", "parking_histories", ["card_id"])
    op.create_index("vehicle_partners_visitor_center_id_idx", "vehicle_partners", ["visitor_center_id"])
    op.create_index(
        "visitor_challenges_unlocked_idx",
        "visitor_challenges",
        ["challenge_id", "visitor_challenge_id"],
        postgresql_where=sa.text("reward_unlocked"),
    )
    op.add_column("vehicle_partners", sa.Column("center_key", sa.Text()))
    _fill_center_key()
    op.drop_index("vehicle_partners_one", "vehicle_partners")
    op.create_index(
        "vehicle_partners_one",
        "vehicle_partners",
        ["vehicle_id", "parking_partner", "center_key"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )


def _fill_center_key() -> None:
    """Fill center_key from pc_code, or from the visitorCenter. If two rows already name the same center, one by its
    pcCode and one by a visitorCenter, both stay, and the second one keeps a center_key of null."""
    op.execute("update vehicle_partners set center_key = pc_code")
    op.execute(
        "update vehicle_partners as one set center_key = named.pc_code from visitor_centers as named"
        " where named.visitor_center_id = one.visitor_center_id and one.pc_code is null and not exists ("
        "select from vehicle_partners as other where other.vehicle_id = one.vehicle_id"
        " and other.parking_partner = one.parking_partner and other.pc_code = named.pc_code)"
    )
