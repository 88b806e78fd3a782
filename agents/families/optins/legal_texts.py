"""Legal texts by type and version, and their texts in each locale."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field

from agents import crud
from agents.operation import Operations, operation
from schemas.model import Model, NoFields
from schemas.replies import Page, PageQuery
from schemas.requests import Request
from schemas.types import Flag, Instant, Int64, LocaleCode, LongText, Omittable
from storage.lists import Filter, page
from storage.statements import any_of
from storage.table import Table
from storage.tx import Tx

LegalType = Literal[
    "terms", "commercial_email", "commercial_sms", "commercial_push", "privacy", "loyalty", "privacy_eu", "privacy_us",
    "smartparking_us", "sms_us", "wifi_privacy", "wifi_terms",
]  # fmt: skip


class LegalTextDates(Model):
    release_date: Instant
    """When the version is released."""
    require_consent: Omittable[Flag] = None


class LegalTextNew(LegalTextDates):
    type: LegalType
    """What the text is about."""


class LegalTextPatch(LegalTextDates, partial=True):
    pass


class LegalText(LegalTextNew):
    legal_text_id: Int64 = Field(alias="id", serialization_alias="id")
    """Id of the legal text."""
    version: Int64
    """The number of the version; versions of a type count up from 1."""
    creation_date: Instant
    update_date: Instant


class Texts(Model):
    optin_display_text: LongText | None
    """The text beside the checkbox of the consent."""
    optin_header_text: LongText | None
    """The heading of the consent."""
    document_text: LongText | None
    """The full text."""


class TextsPatch(Texts, partial=True):
    pass


class LegalTextLocale(Texts):
    legal_text_id: Int64
    locale_code: LocaleCode


class LegalTextReply(LegalText, Texts, title="LegalText"):
    """The three texts are those of the requested locale. They are null if the legal text does not have that locale, or
    if no locale was requested."""


class LegalTextQuery(PageQuery):
    legal_type: Annotated[Omittable[LegalType], Filter(lambda c, legal_type: c.type == legal_type)] = None
    """Only legal texts of this type."""
    version: Omittable[Int64] = None
    """Only legal texts with this version."""
    latest: Omittable[Flag] = None
    """Only the newest released version of each type."""
    locale: Omittable[LocaleCode] = None
    """The locale whose texts are returned."""


LEGAL_TEXTS = Table(
    "legal_texts",
    LegalText,
    family="optins",
    resource="legalText",
    key="legal_text_id",
    hidden=[sa.UniqueConstraint("type", "version")],
)

LOCALES = Table(
    "legal_text_locales",
    LegalTextLocale,
    family="optins",
    resource="legalTextLocale",
    key="legal_text_locale_id",
    parents={"legal_text_id": LEGAL_TEXTS},
    conflicts={
        "legal_text_locales_legal_text_id_key": crud.already_exists("locale", "The legal text already has this locale.")
    },
    hidden=[
        sa.Column("legal_text_locale_id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.UniqueConstraint("legal_text_id", "locale_code"),
    ],
)

_C = LEGAL_TEXTS.columns
_SELECT_NEWEST_VERSION = sa.select(sa.func.coalesce(sa.func.max(_C.version), 0).label("version")).where(
    _C.type == sa.bindparam("type")
)
_SELECT_IN_LOCALE = sa.select(LOCALES.sql).where(
    any_of(LOCALES.columns.legal_text_id, "ids"), LOCALES.columns.locale_code == sa.bindparam("locale")
)


@operation("legalTexts.create", "POST /legalTexts", summary="Add a legal text", body=LegalTextNew, reply=LegalTextReply)
async def create(tx: Tx, request: Request[NoFields, NoFields, LegalTextNew]) -> LegalTextReply:
    """Create the next version of a type. Versions count up from 1."""
    body = request.body
    await tx.advisory_lock(f"legal texts {body.type}")
    await tx.refresh_now()  # A transaction that began later may have created the version before.
    newest = await tx.first(_SELECT_NEWEST_VERSION, {"type": body.type})
    assert newest is not None
    legal_text = await LEGAL_TEXTS.insert(tx, vars(body) | {"version": newest.version + 1})
    return (await _without_locale(tx, [legal_text]))[0]


def is_newest_released(now: Any) -> sa.ColumnElement[bool]:
    """The legal text is released, and no released text of its type has a higher version."""
    other = LEGAL_TEXTS.sql.alias("newer")
    newer_released = sa.select(sa.literal(1)).where(
        other.c.type == _C.type, other.c.version > _C.version, other.c.release_date <= now
    )
    return sa.and_(_C.release_date <= now, ~sa.exists(newer_released))


@operation(
    "legalTexts.list", "GET /legalTexts", summary="List legal texts",
    query=LegalTextQuery, reply=LegalTextReply, sorted_by=LegalText, shape="page",
)  # fmt: skip
async def list_texts(tx: Tx, request: Request[NoFields, LegalTextQuery, NoFields]) -> Page[LegalTextReply]:
    """List legal texts. With `latest`, list only the newest released version of each type."""
    query = request.query
    conditions = []
    if query.latest:
        await tx.refresh_now()
        conditions.append(is_newest_released(tx.now))
    rows = await page(tx, LEGAL_TEXTS, query, *conditions, skip=("latest", "locale"))
    return Page(await _in_locale(tx, rows.items, query.locale), rows.more)


async def _without_locale(tx: Tx, legal_texts: Sequence[LegalText]) -> Sequence[LegalTextReply]:
    return await _in_locale(tx, legal_texts, None)


async def _in_locale(tx: Tx, legal_texts: Sequence[LegalText], locale: str | None) -> Sequence[LegalTextReply]:
    """Add the three texts in this locale to each legal text. Raises LoadsTooMuch."""
    locales_by_text: dict[int, LegalTextLocale] = {}
    wanted = LOCALES.wanted(tx)
    if locale is not None and wanted:
        parameters = {"ids": [legal_text.legal_text_id for legal_text in legal_texts], "locale": locale}
        await LOCALES.note_wide(tx, _SELECT_IN_LOCALE, wanted, parameters)
        statement = _SELECT_IN_LOCALE.with_only_columns(*LOCALES.columns_with(wanted))
        for row in await tx.all(statement, parameters):
            locales_by_text[row.legal_text_id] = LOCALES.to_row(row)
    return [
        LegalTextReply.widened(legal_text, **_texts(locales_by_text.get(legal_text.legal_text_id)))
        for legal_text in legal_texts
    ]


def _texts(locale: LegalTextLocale | None) -> dict[str, str | None]:
    """Return the three texts of a locale, or nulls if there is no locale."""
    return {name: getattr(locale, name, None) for name in Texts.model_fields}


_ONE = "/legalTexts/{legalTextId}"
_LOCALES = f"{_ONE}/locales"
_LOCALE = f"{_LOCALES}/{{localeCode}}"

OPERATIONS: Operations = (
    create,
    list_texts,
    crud.gets(
        LEGAL_TEXTS,
        "legalTexts.get",
        f"GET {_ONE}",
        "Read a legal text",
        view=crud.View(LegalTextReply, _without_locale),
    ),
    crud.updates(LEGAL_TEXTS, "legalTexts.update", f"PATCH {_ONE}", "Update a legal text", LegalTextPatch),
    crud.creates(LOCALES, "legalTextLocales.create", f"POST {_LOCALE}", "Add a locale to a legal text", Texts),
    crud.gets(LOCALES, "legalTextLocales.get", f"GET {_LOCALE}", "Read a locale of a legal text"),
    crud.updates(LOCALES, "legalTextLocales.update", f"PATCH {_LOCALE}", "Update a locale of a legal text", TextsPatch),
    crud.lists(LOCALES, "legalTextLocales.list", f"GET {_LOCALES}", "List the locales of a legal text"),
)
