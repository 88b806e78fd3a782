"""The record of a visitor and its table. Other resources refer to the table."""

from functools import partial
from typing import Annotated, Literal

import sqlalchemy as sa

from agents.families.centers.centers import CENTERS
from schemas.emails import mailbox
from schemas.faults import Conflict
from schemas.marks import Whole
from schemas.model import Model
from schemas.types import CountryCode, Email, Flag, Identifier, Instant, Int64, Omittable, PcCode, Phone, Text, Uuid
from storage.folding import fold, fold_beyond_mailbox, folded
from storage.table import Table

Gender = Literal["m", "f", "u"]
AccountType = Literal["full", "partial"]
BirthDay = Annotated[int, Whole(ge=1, le=31)]
BirthMonth = Annotated[int, Whole(ge=1, le=12)]


class Profile(Model):
    """The fields of a visitor that can be updated."""

    last_visit_date: Omittable[Instant] = None
    """When the visitor last entered a center."""
    address_city: Text | None = None
    """City of the address."""
    address_street: Text | None = None
    """Street and number of the address."""
    address_state: Text | None = None
    """State or region of the address."""
    last_name: Text
    first_name: Text
    email: Email
    gender: Gender
    phone: Phone | None = None
    mobile_locale: Text | None = None
    address_zip_code: Text | None = None
    """Postal code of the address."""
    timezone: Text | None = None
    billing_address: Text | None = None
    """First line of the billing address."""
    billing_address2: Text | None = None
    """Second line of the billing address."""
    billing_zip_code: Text | None = None
    """Postal code of the billing address."""
    billing_city: Text | None = None
    """City of the billing address."""
    billing_country_code: CountryCode | None = None
    """Country of the billing address, as ISO 3166-1 alpha-2 code."""
    birth_day: BirthDay | None = None
    """Day of birth."""
    birth_month: BirthMonth | None = None
    """Month of birth."""
    birth_year: Int64 | None = None
    """Year of birth."""


class VisitorPatch(Profile, partial=True):
    pass


class VisitorFields(Profile):
    """The fields of a new full visitor, without its optins. Parts of the birth date can be omitted, but not null."""

    acquisition_pc_code: PcCode
    email_verified: Omittable[Flag] = None
    """Whether the visitor confirmed the email address."""
    email_invalid: Omittable[Flag] = None
    phone_verified: Omittable[Flag] = None
    """Whether the visitor confirmed the phone number."""
    phone_invalid: Omittable[Flag] = None
    country_code: CountryCode
    birth_day: Omittable[BirthDay] = None
    """Day of birth."""
    birth_month: Omittable[BirthMonth] = None
    """Month of birth."""
    birth_year: Omittable[Int64] = None
    """Year of birth."""


class Visitor(VisitorFields):
    # Null is allowed, since a partial visitor may have no value.
    last_name: Text | None  # type: ignore[assignment]
    gender: Gender | None  # type: ignore[assignment]
    acquisition_pc_code: PcCode | None  # type: ignore[assignment]
    creation_date: Instant
    update_date: Instant
    account_type: AccountType
    visitor_id: Uuid
    registration_date: Instant | None
    """When the visitor got a full account; null for a partial visitor."""
    barcode: Identifier
    """The barcode of the visitor, a UUID that is shown at doors and services."""
    origin_type: Identifier
    origin: Identifier
    """The caller that created the visitor: its API key, or the source of its message."""
    upgrade_pc_code: PcCode | None
    """The code of the center at which a partial visitor became a full one."""


email_taken = partial(Conflict, "email_taken", "Another visitor has this email.", field="email")

VISITORS = Table(
    "visitors",
    Visitor,
    family="visitors",
    resource="visitor",
    key="visitor_id",
    parents={"acquisition_pc_code": CENTERS, "upgrade_pc_code": CENTERS},
    derived={
        "email_key": ("email", mailbox),
        "first_name_key": ("first_name", fold),
        "last_name_key": ("last_name", fold),
        "folded_email": ("email", fold_beyond_mailbox),
    },
    conflicts={"visitors_email_key_key": email_taken},
    hidden=[
        folded("email_key"),
        folded("first_name_key"),
        folded("last_name_key", nullable=True),
        # Set only if it differs from email_key, that is for accents or internationalized domains.
        folded("folded_email", nullable=True),
        sa.UniqueConstraint("email_key"),
        sa.UniqueConstraint("barcode"),
        sa.Index("visitors_first_name_idx", "first_name_key", "last_name_key"),
        sa.Index("visitors_last_name_idx", "last_name_key", "first_name_key"),
        sa.Index("visitors_folded_email_idx", "folded_email", postgresql_where="folded_email is not null"),
        sa.Index("visitors_update_date_idx", "update_date"),
        sa.Index("visitors_creation_date_idx", "creation_date"),
        sa.Index("visitors_registration_date_idx", "registration_date"),
        sa.Index("visitors_acquisition_pc_code_idx", "acquisition_pc_code", "visitor_id"),
    ],
)
