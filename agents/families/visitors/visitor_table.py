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
    address_city: Text | None = None
    address_street: Text | None = None
    address_state: Text | None = None
    last_name: Text
    first_name: Text
    email: Email
    gender: Gender
    phone: Phone | None = None
    mobile_locale: Text | None = None
    address_zip_code: Text | None = None
    timezone: Text | None = None
    billing_address: Text | None = None
    billing_address2: Text | None = None
    billing_zip_code: Text | None = None
    billing_city: Text | None = None
    billing_country_code: CountryCode | None = None
    birth_day: BirthDay | None = None
    birth_month: BirthMonth | None = None
    birth_year: Int64 | None = None


class VisitorPatch(Profile, partial=True):
    pass


class VisitorFields(Profile):
    """The fields of a new full visitor, without its optins. Parts of the birth date can be omitted, but not null."""

    acquisition_pc_code: PcCode
    email_verified: Omittable[Flag] = None
    email_invalid: Omittable[Flag] = None
    phone_verified: Omittable[Flag] = None
    phone_invalid: Omittable[Flag] = None
    country_code: CountryCode
    birth_day: Omittable[BirthDay] = None
    birth_month: Omittable[BirthMonth] = None
    birth_year: Omittable[Int64] = None


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
    barcode: Identifier
    origin_type: Identifier
    origin: Identifier
    upgrade_pc_code: PcCode | None


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
