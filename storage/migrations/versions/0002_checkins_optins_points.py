"""Services, checkins, legal texts and consents, rewards, challenges and their rankings."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("create sequence challenge_arrivals")
    op.create_table(
        "legal_texts",
        sa.Column("release_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("require_consent", sa.Boolean(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("legal_text_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("legal_text_id", name="legal_texts_pkey"),
        sa.UniqueConstraint("type", "version", name="legal_texts_type_key"),
    )
    op.create_table(
        "service_targets",
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("service_target_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service_target_id", name="service_targets_pkey"),
    )
    op.create_table(
        "service_themes",
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("deprecated", sa.Boolean(), nullable=True),
        sa.Column("service_theme_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service_theme_id", name="service_themes_pkey"),
    )
    op.create_table(
        "challenges",
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("generic_name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("start_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("end_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("image_url", sa.Text(), nullable=True),
        sa.Column("winner_number", sa.BigInteger(), nullable=False),
        sa.Column("reward_expiration_seconds", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("display_name", postgresql.JSONB(), nullable=False),
        sa.Column("description", postgresql.JSONB(), nullable=False),
        sa.Column("reward_detail", postgresql.JSONB(), nullable=False),
        sa.Column("challenge_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("terminated_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="challenges_pc_code_fkey"),
        sa.PrimaryKeyConstraint("challenge_id", name="challenges_pkey"),
    )
    op.create_index("challenges_pc_code_idx", "challenges", ["pc_code", "challenge_id"], unique=False)
    op.create_table(
        "legal_text_locales",
        sa.Column("optin_display_text", sa.Text(), nullable=True),
        sa.Column("optin_header_text", sa.Text(), nullable=True),
        sa.Column("document_text", sa.Text(), nullable=True),
        sa.Column("legal_text_id", sa.BigInteger(), nullable=False),
        sa.Column("locale_code", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("legal_text_locale_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["legal_text_id"], ["legal_texts.legal_text_id"], name="legal_text_locales_legal_text_id_fkey"
        ),
        sa.PrimaryKeyConstraint("legal_text_locale_id", name="legal_text_locales_pkey"),
        sa.UniqueConstraint("legal_text_id", "locale_code", name="legal_text_locales_legal_text_id_key"),
    )
    op.create_table(
        "services",
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("use_rate", sa.Text(), nullable=False),
        sa.Column("days_of_use", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("color_code", sa.Text(), nullable=False),
        sa.Column("is_premium", sa.Boolean(), nullable=True),
        sa.Column("undeletable", sa.Boolean(), nullable=True),
        sa.Column("start_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("end_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("service_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("checkin_count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="services_pc_code_fkey"),
        sa.PrimaryKeyConstraint("service_id", name="services_pkey"),
    )
    op.create_index("services_pc_code_idx", "services", ["pc_code", "service_id"], unique=False)
    op.create_table(
        "checkins",
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("checkin_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="checkins_pc_code_fkey"),
        sa.ForeignKeyConstraint(["service_id"], ["services.service_id"], name="checkins_service_id_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="checkins_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("checkin_id", name="checkins_pkey"),
    )
    op.create_index("checkins_pc_code_idx", "checkins", ["pc_code", "checkin_id"], unique=False)
    op.create_index("checkins_service_id_idx", "checkins", ["service_id", "checkin_id"], unique=False)
    op.create_index("checkins_visitor_id_idx", "checkins", ["visitor_id", "checkin_id"], unique=False)
    op.create_table(
        "ranking_counts",
        sa.Column("challenge_id", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("participants", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["challenge_id"], ["challenges.challenge_id"], name="ranking_counts_challenge_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("challenge_id", "level", "bucket", name="ranking_counts_pkey"),
    )
    op.create_table(
        "rewards",
        sa.Column("start_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("end_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("balance", sa.Numeric(), nullable=False),
        sa.Column("is_scan", sa.Boolean(), nullable=True),
        sa.Column("is_bank", sa.Boolean(), nullable=True),
        sa.Column("is_restaurant", sa.Boolean(), nullable=True),
        sa.Column("outside_optin", sa.Boolean(), nullable=False),
        sa.Column("threshold", sa.BigInteger(), nullable=False),
        sa.Column("last_purchase_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("external_id", sa.Uuid(), nullable=True),
        sa.Column("upgraded_from", sa.Text(), nullable=True),
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("reward_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("is_converted", sa.Boolean(), sa.Computed("balance >= threshold", persisted=True), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="rewards_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="rewards_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("reward_id", name="rewards_pkey"),
    )
    op.create_index("rewards_visitor_id_idx", "rewards", ["visitor_id", "reward_id"], unique=False)
    op.create_table(
        "service_segments",
        sa.Column("segment_id", sa.BigInteger(), nullable=False),
        sa.Column("segment_name", sa.Text(), nullable=False),
        sa.Column("service_segment_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["service_id"], ["services.service_id"], name="service_segments_service_id_fkey"),
        sa.PrimaryKeyConstraint("service_segment_id", name="service_segments_pkey"),
        sa.UniqueConstraint("service_id", "segment_id", name="service_segments_service_id_key"),
    )
    op.create_table(
        "service_stores",
        sa.Column("store_id", sa.BigInteger(), nullable=False),
        sa.Column("store_name", sa.Text(), nullable=False),
        sa.Column("service_store_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["service_id"], ["services.service_id"], name="service_stores_service_id_fkey"),
        sa.PrimaryKeyConstraint("service_store_id", name="service_stores_pkey"),
        sa.UniqueConstraint("service_id", "store_id", name="service_stores_service_id_key"),
    )
    op.create_table(
        "service_target_links",
        sa.Column("service_target_id", sa.BigInteger(), nullable=False),
        sa.Column("service_service_target_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["service_id"], ["services.service_id"], name="service_target_links_service_id_fkey"),
        sa.ForeignKeyConstraint(
            ["service_target_id"],
            ["service_targets.service_target_id"],
            name="service_target_links_service_target_id_fkey",
        ),
        sa.PrimaryKeyConstraint("service_service_target_id", name="service_target_links_pkey"),
        sa.UniqueConstraint("service_id", "service_target_id", name="service_target_links_service_id_key"),
    )
    op.create_table(
        "service_theme_links",
        sa.Column("service_theme_id", sa.BigInteger(), nullable=False),
        sa.Column("service_service_theme_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("service_id", sa.BigInteger(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["service_id"], ["services.service_id"], name="service_theme_links_service_id_fkey"),
        sa.ForeignKeyConstraint(
            ["service_theme_id"], ["service_themes.service_theme_id"], name="service_theme_links_service_theme_id_fkey"
        ),
        sa.PrimaryKeyConstraint("service_service_theme_id", name="service_theme_links_pkey"),
        sa.UniqueConstraint("service_id", "service_theme_id", name="service_theme_links_service_id_key"),
    )
    op.create_table(
        "visitor_challenges",
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("total_entry_count", sa.BigInteger(), nullable=False),
        sa.Column("bonus_entry_count", sa.BigInteger(), nullable=False),
        sa.Column("last_entry_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("reward_unlocked", sa.Boolean(), nullable=False),
        sa.Column("reward_received", sa.Boolean(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("challenge_id", sa.BigInteger(), nullable=False),
        sa.Column("registered_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("visitor_challenge_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("precedence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["challenge_id"], ["challenges.challenge_id"], name="visitor_challenges_challenge_id_fkey"
        ),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="visitor_challenges_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("visitor_challenge_id", name="visitor_challenges_pkey"),
        sa.UniqueConstraint("visitor_id", "challenge_id", name="visitor_challenges_visitor_id_key"),
    )
    op.create_index(
        "visitor_challenges_standing_idx", "visitor_challenges", ["challenge_id", "points", "precedence"], unique=False
    )
    op.create_table(
        "challenge_histories",
        sa.Column("visitor_challenge_history_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("challenge_id", sa.BigInteger(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("visitor_challenge_id", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("bonus_activated", sa.Boolean(), nullable=False),
        sa.Column("total_points", sa.BigInteger(), nullable=False),
        sa.Column("participation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["visitor_challenge_id"],
            ["visitor_challenges.visitor_challenge_id"],
            name="challenge_histories_visitor_challenge_id_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="challenge_histories_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("visitor_challenge_history_id", name="challenge_histories_pkey"),
    )
    op.create_index(
        "challenge_histories_participation_idx",
        "challenge_histories",
        ["visitor_challenge_id", "participation_date"],
        unique=False,
    )
    op.create_index(
        "challenge_histories_visitor_id_idx",
        "challenge_histories",
        ["visitor_id", "visitor_challenge_history_id"],
        unique=False,
    )
    op.create_index(
        "optins_one_active",
        "optins",
        ["visitor_id", "optin_type", "optin_channel", "context_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where="is_active",
    )
    op.create_foreign_key("optins_legal_text_id_fkey", "optins", "legal_texts", ["legal_text_id"], ["legal_text_id"])
