"""Visitors, vehicles, visits, centers, and the inbox and outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "centers",
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("country", sa.Text(), nullable=False),
        sa.Column("is_westfield", sa.Boolean(), nullable=False),
        sa.Column("center_id", sa.Text(), nullable=True),
        sa.Column("center_code", sa.BigInteger(), nullable=True),
        sa.Column("has_worker", sa.Boolean(), nullable=False),
        sa.Column("has_multi_step", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("has_email_validation", sa.Boolean(), nullable=False),
        sa.Column("loyalty_start_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("has_basic_loyalty", sa.Boolean(), nullable=False),
        sa.Column("parking_partner", sa.Text(), nullable=True),
        sa.Column("wallet_context_id", sa.BigInteger(), nullable=True),
        sa.Column("urw_app_id", sa.Text(), nullable=True),
        sa.Column("has_registration", sa.Boolean(), nullable=False),
        sa.Column("has_loyalty", sa.Boolean(), nullable=True),
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pc_code", name="centers_pkey"),
    )
    op.create_table(
        "inbox",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="inbox_pkey"),
    )
    op.create_index("inbox_received_at_idx", "inbox", ["received_at"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("partition_key", sa.Text(), nullable=False),
        sa.Column("change_id", sa.Text(), nullable=False),
        sa.Column("change_type", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="outbox_pkey"),
    )
    op.create_index("outbox_topic_id_idx", "outbox", ["topic", "id"], unique=False)
    op.create_table(
        "visitors",
        sa.Column("last_visit_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("address_city", sa.Text(), nullable=True),
        sa.Column("address_street", sa.Text(), nullable=True),
        sa.Column("address_state", sa.Text(), nullable=True),
        sa.Column("last_name", sa.Text(), nullable=True),
        sa.Column("first_name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("gender", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("mobile_locale", sa.Text(), nullable=True),
        sa.Column("address_zip_code", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("billing_address", sa.Text(), nullable=True),
        sa.Column("billing_address2", sa.Text(), nullable=True),
        sa.Column("billing_zip_code", sa.Text(), nullable=True),
        sa.Column("billing_city", sa.Text(), nullable=True),
        sa.Column("billing_country_code", sa.Text(), nullable=True),
        sa.Column("birth_day", sa.BigInteger(), nullable=True),
        sa.Column("birth_month", sa.BigInteger(), nullable=True),
        sa.Column("birth_year", sa.BigInteger(), nullable=True),
        sa.Column("acquisition_pc_code", sa.Text(), nullable=True),
        sa.Column("email_verified", sa.Boolean(), nullable=True),
        sa.Column("email_invalid", sa.Boolean(), nullable=True),
        sa.Column("phone_verified", sa.Boolean(), nullable=True),
        sa.Column("phone_invalid", sa.Boolean(), nullable=True),
        sa.Column("country_code", sa.Text(), nullable=False),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("account_type", sa.Text(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("registration_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("barcode", sa.Text(), nullable=False),
        sa.Column("origin_type", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("upgrade_pc_code", sa.Text(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["acquisition_pc_code"], ["centers.pc_code"], name="visitors_acquisition_pc_code_fkey"),
        sa.ForeignKeyConstraint(["upgrade_pc_code"], ["centers.pc_code"], name="visitors_upgrade_pc_code_fkey"),
        sa.PrimaryKeyConstraint("visitor_id", name="visitors_pkey"),
        sa.UniqueConstraint("barcode", name="visitors_barcode_key"),
        sa.UniqueConstraint("email_key", name="visitors_email_key_key"),
    )
    op.create_table(
        "external_ids",
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("external_type", sa.Text(), nullable=False),
        sa.Column("pc_code", sa.Text(), nullable=True),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("external_id_key", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="external_ids_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="external_ids_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("external_id_key", name="external_ids_pkey"),
    )
    op.create_index(
        "external_ids_one_of_a_type",
        "external_ids",
        ["visitor_id", "external_type", "pc_code"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "external_ids_one_visitor",
        "external_ids",
        ["external_type", "external_id", "pc_code"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "optins",
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("send_id", sa.Text(), nullable=True),
        sa.Column("optin_channel", sa.Text(), nullable=False),
        sa.Column("optin_type", sa.Text(), nullable=False),
        sa.Column("legal_text_id", sa.BigInteger(), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("last_opened_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("context_id", sa.BigInteger(), nullable=True),
        sa.Column("optin_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("optout_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("optin_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="optins_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("optin_id", name="optins_pkey"),
    )
    op.create_index("optins_visitor_id_idx", "optins", ["visitor_id", "optin_id"], unique=False)
    op.create_table(
        "vehicles",
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("maker", sa.Text(), nullable=True),
        sa.Column("color", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("license_plate", sa.Text(), nullable=False),
        sa.Column("license_plate_country", sa.Text(), nullable=True),
        sa.Column("year_of_manufacture", sa.BigInteger(), nullable=True),
        sa.Column("last_parking_session", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("vehicle_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("deletion_date", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("creation_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("update_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("plate_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="vehicles_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("vehicle_id", name="vehicles_pkey"),
    )
    op.create_index(
        "vehicles_plate_key_idx",
        "vehicles",
        ["plate_key", sa.literal_column("update_date desc")],
        unique=False,
        postgresql_where="deletion_date is null",
    )
    op.create_index("vehicles_visitor_id_idx", "vehicles", ["visitor_id", "vehicle_id"], unique=False)
    op.create_table(
        "visits",
        sa.Column("visitor_id", sa.Uuid(), nullable=False),
        sa.Column("pc_code", sa.Text(), nullable=False),
        sa.Column("visit_date", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("visit_type", sa.Text(), nullable=False),
        sa.Column("license_plate", sa.Text(), nullable=True),
        sa.Column("visit_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("vehicle_id", sa.BigInteger(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pc_code"], ["centers.pc_code"], name="visits_pc_code_fkey"),
        sa.ForeignKeyConstraint(["visitor_id"], ["visitors.visitor_id"], name="visits_visitor_id_fkey"),
        sa.PrimaryKeyConstraint("visit_id", name="visits_pkey"),
    )
    op.create_index(
        "visits_visitor_id_idx", "visits", ["visitor_id", "pc_code", "visit_date", "visit_id"], unique=False
    )
