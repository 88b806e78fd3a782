"""Legal texts by type and version, and what they say in each locale."""

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
    require_consent: Omittable[Flag] = None


class LegalTextNew(LegalTextDates):
    type: LegalType


class LegalTextPatch(LegalTextDates, partial=True):
    pass


class LegalText(LegalTextNew):
    legal_text_id: Int64 = Field(alias="id", serialization_alias="id")
    version: Int64
    creation_date: Instant
    update_date: Instant


class Texts(Model):
    optin_display_text: LongText | None
    optin_header_text: LongText | None
    document_text: LongText | None


class TextsPatch(Texts, partial=True):
    pass


class LegalTextLocale(Texts):
    legal_text_id: Int64
    locale_code: LocaleCode


class LegalTextReply(LegalText, Texts):
    """The three texts are those of the asked locale; null where it has none or none was asked for."""


class LegalTextQuery(PageQuery):
    legal_type: Annotated[Omittable[LegalType], Filter(lambda c, kind: c.type == kind)] = None
    version: Omittable[Int64] = None
    latest: Omittable[Flag] = None
    locale: Omittable[LocaleCode] = None


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
        "legal_text_locales_legal_text_id_key": crud.already_exists("locale", "The legal text has this locale.")
    },
    hidden=[
        sa.Column("legal_text_locale_id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.UniqueConstraint("legal_text_id", "locale_code"),
    ],
)

_C = LEGAL_TEXTS.columns
_NEWEST_VERSION = sa.select(sa.func.coalesce(sa.func.max(_C.version), 0).label("version")).where(
    _C.type == sa.bindparam("type")
)
_IN_LOCALE = sa.select(LOCALES.sql).where(
    any_of(LOCALES.columns.legal_text_id, "ids"), LOCALES.columns.locale_code == sa.bindparam("locale")
)


@operation("legalTexts.create", "POST /legalTexts", summary="Add a legal text", body=LegalTextNew, reply=LegalTextReply)
async def create(tx: Tx, request: Request[NoFields, NoFields, LegalTextNew]) -> LegalTextReply:
    """`version` counts up by type from 1."""
    body = request.body
    await tx.advisory_lock(f"legal texts {body.type}")
    newest = await tx.first(_NEWEST_VERSION, {"type": body.type})
    assert newest is not None
    text = await LEGAL_TEXTS.insert(tx, vars(body) | {"version": newest.version + 1})
    return (await _in_locale(tx, [text], None))[0]


def newest_released(now: Any) -> sa.ColumnElement[bool]:
    """The condition of being the newest version of its type that is released."""
    newer = LEGAL_TEXTS.sql.alias("newer")
    later = sa.select(sa.literal(1)).where(
        newer.c.type == _C.type, newer.c.version > _C.version, newer.c.release_date <= now
    )
    return sa.and_(_C.release_date <= now, ~sa.exists(later))


@operation(
    "legalTexts.list", "GET /legalTexts", summary="List legal texts",
    query=LegalTextQuery, reply=LegalTextReply, sorted_by=LegalText, shape="page",
)  # fmt: skip
async def list_texts(tx: Tx, request: Request[NoFields, LegalTextQuery, NoFields]) -> Page[LegalTextReply]:
    """`latest` is the newest released version of each type."""
    query = request.query
    latest = [newest_released(tx.now)] if query.latest else []
    found = await page(tx, LEGAL_TEXTS, query, *latest, skip=("latest", "locale"))
    return Page(await _in_locale(tx, found.items, query.locale), found.more)


async def _without_texts(tx: Tx, texts: Sequence[LegalText]) -> Sequence[LegalTextReply]:
    return await _in_locale(tx, texts, None)


async def _in_locale(tx: Tx, texts: Sequence[LegalText], locale: str | None) -> Sequence[LegalTextReply]:
    found = {}
    if locale is not None:
        rows = await tx.all(_IN_LOCALE, {"ids": [text.legal_text_id for text in texts], "locale": locale})
        found = {row.legal_text_id: LOCALES.to_row(row) for row in rows}
    return [LegalTextReply.widened(text, **_texts(found.get(text.legal_text_id))) for text in texts]


def _texts(locale: LegalTextLocale | None) -> dict[str, str | None]:
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
        view=crud.View(LegalTextReply, _without_texts),
    ),
    crud.updates(LEGAL_TEXTS, "legalTexts.update", f"PATCH {_ONE}", "Update a legal text", LegalTextPatch),
    crud.creates(LOCALES, "legalTextLocales.create", f"POST {_LOCALE}", "Add a locale to a legal text", Texts),
    crud.gets(LOCALES, "legalTextLocales.get", f"GET {_LOCALE}", "Read a locale of a legal text"),
    crud.updates(LOCALES, "legalTextLocales.update", f"PATCH {_LOCALE}", "Update a locale of a legal text", TextsPatch),
    crud.lists(LOCALES, "legalTextLocales.list", f"GET {_LOCALES}", "List the locales of a legal text"),
)
