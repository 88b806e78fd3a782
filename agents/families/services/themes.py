"""Themes, and their links to services."""

from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa

from agents import crud
from agents.families.services.service_table import SERVICES
from agents.operation import Operations
from schemas.model import Model
from schemas.types import Flag, Instant, Int64, Omittable, Text
from storage.table import Table
from storage.tx import Tx


class ServiceThemeNew(Model):
    value: Text
    """The name of the theme."""
    category: Literal["event", "service"]
    """Whether events or services have the theme."""
    deprecated: Omittable[Flag] = None
    """Whether the theme should no longer be used."""


class ServiceThemePatch(ServiceThemeNew, partial=True):
    pass


class ServiceTheme(ServiceThemeNew):
    service_theme_id: Int64
    creation_date: Instant
    update_date: Instant


SERVICE_THEMES = Table(
    "service_themes", ServiceTheme, family="services", resource="serviceTheme", key="service_theme_id"
)


class ThemeLinkNew(Model):
    service_theme_id: Int64


class ThemeLink(ThemeLinkNew):
    service_service_theme_id: Int64
    """Id of the link between the service and the theme."""
    service_id: Int64
    creation_date: Instant
    update_date: Instant


class ThemeLinkReply(ThemeLink, title="ThemeLink"):
    service_theme: ServiceTheme
    """The theme."""


THEME_LINKS = Table(
    "service_theme_links",
    ThemeLink,
    family="services",
    resource="serviceThemeLink",
    key="service_service_theme_id",
    parents={"service_id": SERVICES, "service_theme_id": SERVICE_THEMES},
    conflicts={
        "service_theme_links_service_id_key": crud.already_exists(
            "theme_link", "The service has this theme already.", "serviceThemeId"
        )
    },
    hidden=[sa.UniqueConstraint("service_id", "service_theme_id")],
)


async def _with_theme(tx: Tx, links: Sequence[ThemeLink]) -> Sequence[ThemeLinkReply]:
    themes = await SERVICE_THEMES.by_key(tx, (link.service_theme_id for link in links))
    return [ThemeLinkReply.widened(link, service_theme=themes[link.service_theme_id]) for link in links]


_VIEW = crud.View(ThemeLinkReply, _with_theme)
_ONE = "/serviceThemes/{serviceThemeId}"
_PATH = "/services/{serviceId}/themes"

OPERATIONS: Operations = (
    crud.creates(SERVICE_THEMES, "serviceThemes.create", "POST /serviceThemes", "Create a theme", ServiceThemeNew),
    crud.lists(SERVICE_THEMES, "serviceThemes.list", "GET /serviceThemes", "List themes"),
    crud.updates(SERVICE_THEMES, "serviceThemes.update", f"PATCH {_ONE}", "Update a theme", ServiceThemePatch),
    crud.lists(THEME_LINKS, "serviceThemeLinks.list", f"GET {_PATH}", "List the themes of a service", view=_VIEW),
    crud.creates(
        THEME_LINKS, "serviceThemeLinks.add", f"POST {_PATH}", "Link a theme to a service", ThemeLinkNew, view=_VIEW
    ),
    crud.deletes(
        THEME_LINKS, "serviceThemeLinks.remove", f"DELETE {_PATH}/{{serviceThemeId}}", "Unlink a theme from a service"
    ),
)
