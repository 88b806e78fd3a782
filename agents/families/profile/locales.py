"""The list of all locales, and the locales of a visitor."""

from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter

import sqlalchemy as sa

from agents import crud
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas import locales
from schemas.model import Model, NoFields
from schemas.replies import Page, PageQuery, sort_steps
from schemas.requests import Request
from schemas.types import Instant, LocaleCode, Text, Uuid
from storage.table import Table
from storage.tx import Tx


class Locale(Model, title="SupportedLocale"):
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
            "visitor_locale", "The visitor has this locale already.", "localeCode"
        )
    },
    hidden=[
        sa.Column("visitor_locale_id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.UniqueConstraint("visitor_id", "locale_code"),
    ],
)


_SORT_KEYS: Mapping[str, Callable[[Locale], str]] = {
    "localeCode": attrgetter("locale_code"),
    "localeLabel": attrgetter("locale_label"),
}


@cache
def _all_locales() -> list[Locale]:
    """All 668 locales."""
    return [Locale.model_construct(locale_code=code, locale_label=locales.label(code)) for code in locales.CODES]


@operation("locales.list", "GET /locales", summary="List all locales", query=PageQuery, reply=Locale, shape="page")
async def list_locales(tx: Tx, request: Request[NoFields, PageQuery, NoFields]) -> Page[Locale]:
    """Raises Invalid for an unknown sort field."""
    query = request.query
    rows = _sorted_locales(query.sort or "localeCode")
    start = query.offset or 0
    end = start + query.limit
    return Page(rows[start:end], more=len(rows) > end)


def _sorted_locales(sort: str) -> list[Locale]:
    rows = list(_all_locales())
    # The sort is stable: sort by the last field first.
    for field, descending in reversed(sort_steps(sort, _SORT_KEYS, "Sort by localeCode and localeLabel.")):
        rows.sort(key=_SORT_KEYS[field], reverse=descending)
    return rows


_ALL = "/visitors/{visitorId}/locales"
_ONE = f"{_ALL}/{{localeCode}}"

OPERATIONS: Operations = (
    list_locales,
    crud.creates(
        VISITOR_LOCALES, "visitorLocales.create", f"POST {_ALL}", "Add a locale to a visitor", VisitorLocaleNew
    ),
    crud.lists(VISITOR_LOCALES, "visitorLocales.list", f"GET {_ALL}", "List the locales of a visitor"),
    crud.gets(VISITOR_LOCALES, "visitorLocales.get", f"GET {_ONE}", "Read a locale of a visitor"),
    crud.deletes(VISITOR_LOCALES, "visitorLocales.delete", f"DELETE {_ONE}", "Remove a locale from a visitor"),
)
