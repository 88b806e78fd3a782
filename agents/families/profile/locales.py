"""The locales there are, and those of a visitor."""

from functools import cache

import sqlalchemy as sa

from agents import crud
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas import locales
from schemas.faults import Invalid
from schemas.model import Model, NoFields
from schemas.replies import Page, PageQuery
from schemas.requests import Request
from schemas.types import Instant, LocaleCode, Text, Uuid
from storage.table import Table
from storage.tx import Tx


class Locale(Model):
    locale_code: LocaleCode
    locale_label: Text


class VisitorLocaleNew(Model):
    locale_code: LocaleCode


class VisitorLocale(VisitorLocaleNew):
    locale_label: Text
    visitor_id: Uuid
    creation_date: Instant


VISITOR_LOCALES = Table(
    "visitor_locales",
    VisitorLocale,
    family="profile",
    resource="visitorLocale",
    key="visitor_locale_id",
    parents={"visitor_id": VISITORS},
    derived={"locale_label": ("locale_code", locales.label)},
    conflicts={
        "visitor_locales_visitor_id_key": crud.already_exists(
            "visitor_locale", "The visitor has this locale.", "localeCode"
        )
    },
    hidden=[
        sa.Column("visitor_locale_id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.UniqueConstraint("visitor_id", "locale_code"),
    ],
)


@cache
def _known() -> list[Locale]:
    """All there are; made when first asked for, since Babel needs a second to read its files."""
    return [Locale.model_construct(locale_code=code, locale_label=locales.label(code)) for code in locales.CODES]


@operation("locales.list", "GET /locales", summary="List all locales", query=PageQuery, reply=Locale, shape="page")
async def list_locales(tx: Tx, request: Request[NoFields, PageQuery, NoFields]) -> Page[Locale]:
    """Raises Invalid for an unknown sort field."""
    query = request.query
    first, rows = query.offset or 0, list(_known())
    for part in reversed((query.sort or "localeCode").split(",")):
        name = part.strip().removeprefix("-")
        if name not in ("localeCode", "localeLabel"):
            raise Invalid("unknown_sort_field", f"There is no field {name[:100]!r} to sort by.", field="sort")
        by_code = name == "localeCode"
        rows.sort(
            key=lambda row: row.locale_code if by_code else row.locale_label, reverse=part.strip().startswith("-")
        )
    return Page(rows[first : first + query.limit], more=len(rows) > first + query.limit)


_ALL = "/visitors/{visitorId}/locales"
_ONE = f"{_ALL}/{{localeCode}}"

OPERATIONS: Operations = (
    list_locales,
    crud.creates(
        VISITOR_LOCALES, "visitorLocales.create", f"POST {_ALL}", "Add a locale to a visitor", VisitorLocaleNew
    ),
    crud.lists(VISITOR_LOCALES, "visitorLocales.list", f"GET {_ALL}", "List the locales of a visitor"),
    crud.gets(VISITOR_LOCALES, "visitorLocales.get", f"GET {_ONE}", "Read a locale of a visitor"),
    crud.deletes(VISITOR_LOCALES, "visitorLocales.delete", f"DELETE {_ONE}", "Take a locale from a visitor"),
)
