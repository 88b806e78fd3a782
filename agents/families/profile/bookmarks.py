"""The bookmarks of a visitor."""

from typing import Literal

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations
from schemas.model import Model
from schemas.replies import PageQuery
from schemas.types import Identifier, Instant, Int64, Omittable, PcCode, Text, Uuid
from storage.table import Table

BookmarkType = Literal["store", "restaurant", "deal", "event", "news"]


class BookmarkNew(Model):
    pc_code: PcCode
    external_id: Identifier
    """The id of the bookmarked item in the system that has it."""
    label: Text
    """The name of the bookmarked item."""
    bookmark_type: BookmarkType
    """The type of the bookmark."""
    source: Literal["visitor", "lbe"]
    """Who added the bookmark."""


class Bookmark(BookmarkNew):
    bookmark_id: Int64
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


class BookmarkQuery(PageQuery):
    bookmark_type: Omittable[BookmarkType] = None
    """Only bookmarks of this type."""


BOOKMARKS = Table(
    "bookmarks",
    Bookmark,
    family="profile",
    resource="bookmark",
    key="bookmark_id",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    conflicts={"bookmarks_visitor_id_key": crud.already_exists("bookmark", "The visitor has this bookmark already.")},
    hidden=[sa.UniqueConstraint("visitor_id", "bookmark_type", "external_id", "pc_code")],
)

_ALL = "/visitors/{visitorId}/bookmarks"
_ONE = f"{_ALL}/{{bookmarkId}}"

OPERATIONS: Operations = (
    crud.creates(BOOKMARKS, "bookmarks.create", f"POST {_ALL}", "Add a bookmark", BookmarkNew),
    crud.lists(BOOKMARKS, "bookmarks.list", f"GET {_ALL}", "List the bookmarks of a visitor", BookmarkQuery),
    crud.gets(BOOKMARKS, "bookmarks.get", f"GET {_ONE}", "Read a bookmark"),
    crud.deletes(BOOKMARKS, "bookmarks.delete", f"DELETE {_ONE}", "Remove a bookmark"),
)
