"""Profiles, the rest of parking, companies and articles."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "articles",
        sa.Column("generic_name", sa.Text(), nullable=False),
        sa.Column("main_image_url", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("publish_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("article_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("title", postgresql.JSONB(), nullable=False),
        sa.Column("content", postgresql.JSONB(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("article_id", name="articles_pkey"),
    )
    op.create_index("articles_publish_date_idx", "articles", ["publish_date", "article_id"], unique=False)
    op.create_table(
        "center_companies",
        sa.Column("company_name", sa.Text(), nullable=False),
        sa.Column("center_company_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="center_companies_pc_code_fkey"),
        sa.PrimaryKeyConstraint("center_company_id", name="center_companies_pkey"),
    )
    op.create_index("center_companies_pc_code_idx", "center_companies", ["pc_code", "center_company_id"], unique=False)
    op.create_table(
        "bookmarks",
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("bookmark_type", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("bookmark_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="bookmarks_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="bookmarks_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("bookmark_id", name="bookmarks_pkey"),
        sa.UniqueConstraint("visitor_id", "bookmark_type", "external_id", "pc_code", name="bookmarks_visitor_id_key"),
    )
    op.create_table(
        "credit_cards",
        sa.Column("first_name", sa.Text(), nullable=False),
        sa.Column("last_name", sa.Text(), nullable=False),
        sa.Column("postal_code", sa.Text(), nullable=True),
        sa.Column("service_types", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("year", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("card_type", sa.Text(), nullable=False),
        sa.Column("first_six_digits", sa.Text(), nullable=False),
        sa.Column("last_four_digits", sa.Text(), nullable=False),
        sa.Column("payment_method_token", sa.Text(), nullable=False),
        sa.Column("card_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column(
            "good_thru",
            sa.Text(),
            sa.Computed("lpad(month::text, 2, '0') || '/' || year::text", persisted=True),
            nullable=False,
        ),
        sa.Column("deletion_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="credit_cards_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("card_id", name="credit_cards_pkey"),
    )
    op.create_index("credit_cards_visitor_id_idx", "credit_cards", ["visitor_id", "card_id"], unique=False)
    op.create_table(
        "devices",
        sa.Column("maker", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("os_version", sa.Text(), nullable=True),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("mobile_carrier", sa.Text(), nullable=True),
        sa.Column("notification_token", sa.Text(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="devices_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("device_id", name="devices_pkey"),
        sa.UniqueConstraint("token", name="devices_token_key"),
    )
    op.create_index("devices_visitor_id_idx", "devices", ["visitor_id", "device_id"], unique=False)
    op.create_table(
        "interests",
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("interest_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="interests_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("interest_id", name="interests_pkey"),
        sa.UniqueConstraint("visitor_id", "external_id", name="interests_visitor_id_key"),
    )
    op.create_table(
        "operation_sessions",
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("guid", sa.Text(), nullable=False),
        sa.Column("game_id", sa.Text(), nullable=False),
        sa.Column("game_name", sa.Text(), nullable=False),
        sa.Column("optin", sa.Boolean(), nullable=True),
        sa.Column("is_contest", sa.Boolean(), nullable=True),
        sa.Column("is_welcome_journey", sa.Boolean(), nullable=True),
        sa.Column("is_welcome_offer", sa.Boolean(), nullable=True),
        sa.Column("is_wifit", sa.Boolean(), nullable=True),
        sa.Column("is_synchronized", sa.Boolean(), nullable=True),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("session_key", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="operation_sessions_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="operation_sessions_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("session_key", name="operation_sessions_pkey"),
        sa.UniqueConstraint("visitor_id", "guid", name="operation_sessions_visitor_id_key"),
    )
    op.create_table(
        "parkings",
        sa.Column("parking_partner", sa.Text(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("parking_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("subscription_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("unsubscribed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="parkings_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("parking_id", name="parkings_pkey"),
    )
    op.create_index(
        "parkings_one_active", "parkings", ["visitor_id", "parking_partner"], unique=True, postgresql_where="is_active"
    )
    op.create_index("parkings_visitor_id_idx", "parkings", ["visitor_id", "parking_id"], unique=False)
    op.create_table(
        "visitor_centers",
        sa.Column("is_tlp", sa.Boolean(), nullable=True),
        sa.Column("is_favorite", sa.Boolean(), nullable=False),
        sa.Column("is_smartparker", sa.Boolean(), nullable=True),
        sa.Column("center_company_id", sa.BigInteger(), nullable=True),
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("visitor_center_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("favorite_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["center_company_id"], ["center_companies.center_company_id"], name="visitor_centers_center_company_id_fkey"
        ),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="visitor_centers_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="visitor_centers_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("visitor_center_id", name="visitor_centers_pkey"),
        sa.UniqueConstraint("visitor_id", "pc_code", name="visitor_centers_visitor_id_key"),
    )
    op.create_index("visitor_centers_center_company_id_idx", "visitor_centers", ["center_company_id"], unique=False)
    op.create_index(
        "visitor_centers_one_favorite", "visitor_centers", ["visitor_id"], unique=True, postgresql_where="is_favorite"
    )
    op.create_table(
        "visitor_locales",
        sa.Column("locale_code", sa.Text(), nullable=False),
        sa.Column("locale_label", sa.Text(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("visitor_locale_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="visitor_locales_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("visitor_locale_id", name="visitor_locales_pkey"),
        sa.UniqueConstraint("visitor_id", "locale_code", name="visitor_locales_visitor_id_key"),
    )
    op.create_table(
        "device_apps",
        sa.Column("app_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.Column("urw_app_id", sa.Text(), nullable=False),
        sa.Column("notification_token", sa.Text(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="device_apps_device_id_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="device_apps_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("app_id", name="device_apps_pkey"),
        sa.UniqueConstraint("device_id", "urw_app_id", name="device_apps_device_id_key"),
    )
    op.create_index("device_apps_visitor_id_idx", "device_apps", ["visitor_id"], unique=False)
    op.create_table(
        "operation_segments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("session_key", sa.BigInteger(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("entry_key", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_key"], ["operation_sessions.session_key"], name="operation_segments_session_key_fkey"
        ),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="operation_segments_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("entry_key", name="operation_segments_pkey"),
        sa.UniqueConstraint("session_key", "id", name="operation_segments_session_key_key"),
    )
    op.create_index("operation_segments_visitor_id_idx", "operation_segments", ["visitor_id"], unique=False)
    op.create_table(
        "operation_stores",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("session_key", sa.BigInteger(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("entry_key", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_key"], ["operation_sessions.session_key"], name="operation_stores_session_key_fkey"
        ),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="operation_stores_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("entry_key", name="operation_stores_pkey"),
        sa.UniqueConstraint("session_key", "id", name="operation_stores_session_key_key"),
    )
    op.create_index("operation_stores_visitor_id_idx", "operation_stores", ["visitor_id"], unique=False)
    op.create_table(
        "parking_histories",
        sa.Column("parking_session_start", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("parking_session_end", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("parking_session_id", sa.BigInteger(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("access_device", sa.Text(), nullable=False),
        sa.Column("exit_access_device", sa.Text(), nullable=True),
        sa.Column("formatted_total_time", sa.Text(), nullable=True),
        sa.Column("paid_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("paid_at_kiosk", sa.Boolean(), nullable=True),
        sa.Column("refunded_amount", sa.Numeric(), nullable=True),
        sa.Column("payment_status", sa.Text(), nullable=True),
        sa.Column("total_time", sa.BigInteger(), nullable=True),
        sa.Column("transaction_full_amount", sa.Numeric(), nullable=True),
        sa.Column("transaction_id", sa.Text(), nullable=True),
        sa.Column("transaction_pretax_amount", sa.Numeric(), nullable=True),
        sa.Column("transaction_tax_amount", sa.Numeric(), nullable=True),
        sa.Column("validation_amount", sa.Numeric(), nullable=True),
        sa.Column("vendor_id", sa.Text(), nullable=True),
        sa.Column("parking_id", sa.BigInteger(), nullable=False),
        sa.Column("card_id", sa.BigInteger(), nullable=False),
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("parking_history_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["card_id"], ["credit_cards.card_id"], name="parking_histories_card_id_fkey"),
        sa.ForeignKeyConstraint(["parking_id"], ["parkings.parking_id"], name="parking_histories_parking_id_fkey"),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="parking_histories_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="parking_histories_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("parking_history_id", name="parking_histories_pkey"),
    )
    op.create_index(
        "parking_histories_visitor_id_idx", "parking_histories", ["visitor_id", "parking_history_id"], unique=False
    )
    op.create_table(
        "vehicle_partners",
        sa.Column("vehicle_id", sa.BigInteger(), nullable=False),
        sa.Column("partner_id", sa.Text(), nullable=False),
        sa.Column("parking_partner", sa.Text(), nullable=False),
        sa.Column("visitor_center_id", sa.BigInteger(), nullable=True),
        sa.Column("pc_code", sa.Text(), nullable=True),
        sa.Column("vehicle_partner_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="vehicle_partners_pc_code_fkey"),
        sa.ForeignKeyConstraint(["vehicle_id"], ["vehicles.vehicle_id"], name="vehicle_partners_vehicle_id_fkey"),
        sa.ForeignKeyConstraint(
            ["visitor_center_id"], ["visitor_centers.visitor_center_id"], name="vehicle_partners_visitor_center_id_fkey"
        ),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="vehicle_partners_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("vehicle_partner_id", name="vehicle_partners_pkey"),
    )
    op.create_index(
        "vehicle_partners_one",
        "vehicle_partners",
        ["vehicle_id", "parking_partner", "pc_code"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "vehicle_partners_visitor_id_idx", "vehicle_partners", ["visitor_id", "vehicle_partner_id"], unique=False
    )
    op.create_index(
        "visitor_challenges_challenge_id_idx",
        "visitor_challenges",
        ["challenge_id", "visitor_challenge_id"],
        unique=False,
    )
