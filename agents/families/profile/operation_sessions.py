"""Sessions of a visitor in a center's operations (games, contests), with the segments and stores that came of them."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.model import ListOf, Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import TEXT_LIMIT, Flag, Identifier, Instant, Int64, LongText, Omittable, PcCode, Text, Uuid
from storage.table import Table
from storage.tx import Tx


class SessionNew(Model):
    pc_code: PcCode
    guid: Identifier
    game_id: Text
    game_name: Text
    optin: Omittable[Flag] = None
    is_contest: Omittable[Flag] = None
    is_welcome_journey: Omittable[Flag] = None
    is_welcome_offer: Omittable[Flag] = None
    is_wifit: Omittable[Flag] = None
    is_synchronized: Omittable[Flag] = None


class Session(SessionNew):
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


class SessionQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    creation_date_until: Omittable[Instant] = None
    creation_date_since: Omittable[Instant] = None
    game_id: Omittable[Text] = None


class SessionPath(VisitorPath):
    guid: Identifier


def _with_nul(value: Any, look: ValidatorFunctionWrapHandler) -> Any:
    """Look at the text without NUL, which could part the digits of a card number, and let it pass with it."""
    if not isinstance(value, str):
        return look(value)
    look(value.replace("\x00", ""))
    return value


AnyText = Annotated[LongText, WrapValidator(_with_nul)]
"""A text that may be too long for its row, blank, or have a NUL in it."""


class EntryNew(Model):
    """Texts that cannot be kept are no fault of the body: the entry is answered under `failed`. What has another shape
    is, and so is a card number, which is not to be answered."""

    id: AnyText
    name: AnyText


class Entry(Model):
    id: Text
    name: Text
    creation_date: Instant
    update_date: Instant


class StoredEntry(Entry):
    """A segment or a store as it is kept: of which session, and of whom."""

    session_key: Int64
    visitor_id: Uuid


class Added(Model):
    success: list[Entry]
    failed: list[EntryNew]


SESSIONS = Table(
    "operation_sessions",
    Session,
    family="profile",
    resource="operationSession",
    key="session_key",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    conflicts={
        "operation_sessions_visitor_id_key": crud.already_exists(
            "operation_session", "The visitor has this session.", "guid"
        )
    },
    hidden=[
        sa.Column("session_key", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.UniqueConstraint("visitor_id", "guid"),
    ],
)


def _entries(name: str, resource: str) -> Table[StoredEntry]:
    return Table(
        name,
        StoredEntry,
        family="profile",
        resource=resource,
        key="entry_key",
        parents={"visitor_id": VISITORS},
        hidden=[
            sa.Column("entry_key", sa.BigInteger, sa.Identity(), primary_key=True),
            sa.ForeignKeyConstraint(
                ["session_key"], ["operation_sessions.session_key"], name=f"{name}_session_key_fkey"
            ),
            sa.UniqueConstraint("session_key", "id"),
            sa.Index(f"{name}_visitor_id_idx", "visitor_id"),
        ],
    )


SEGMENTS = _entries("operation_segments", "operationSegment")
STORES = _entries("operation_stores", "operationStore")

_SESSION = (
    sa.select(SESSIONS.columns.session_key)
    .where(SESSIONS.columns.visitor_id == sa.bindparam("visitor"), SESSIONS.columns.guid == sa.bindparam("guid"))
    .with_for_update(key_share=True)
)


async def _add(tx: Tx, table: Table[StoredEntry], path: SessionPath, entries: Sequence[EntryNew]) -> Added:
    """Each entry by itself: what the session has already fails, and what cannot be kept. Raises NotFound."""
    session = await tx.first(_SESSION, {"visitor": path.visitor_id, "guid": path.guid})
    if session is None:
        raise SESSIONS.missing()
    known = {
        entry.id for entry in (await table.by_parent(tx, "session_key", [session.session_key]))[session.session_key]
    }
    new: dict[str, EntryNew] = {}
    failed = []
    for entry in entries:
        if entry.id in known or entry.id in new or not _fits(entry.id) or not _fits(entry.name):
            failed.append(entry)
        else:
            new[entry.id] = entry
    rows = [(tx, _row(entry, session.session_key, path.visitor_id)) for entry in new.values()]
    success: list[Entry] = [*await table.insert_many(rows)] if rows else []
    return Added.model_construct(success=success, failed=failed)


def _fits(text: str) -> bool:
    """Whether a row can keep the text. NUL is what PostgreSQL has no place for."""
    return bool(text.strip()) and len(text) <= TEXT_LIMIT and "\x00" not in text


def _row(entry: EntryNew, session_key: int, visitor_id: UUID) -> dict[str, Any]:
    return {"id": entry.id, "name": entry.name, "session_key": session_key, "visitor_id": visitor_id}


_ALL = "/visitors/{visitorId}/centerOperationSessions"


@operation(
    "operationSessions.addSegments", f"POST {_ALL}/{{guid}}/segments", summary="Add segments to a session",
    path=SessionPath, body=ListOf[EntryNew], reply=Added,
)  # fmt: skip
async def add_segments(tx: Tx, request: Request[SessionPath, NoFields, ListOf[EntryNew]]) -> Added:
    return await _add(tx, SEGMENTS, request.path, request.body.root)


@operation(
    "operationSessions.addStores", f"POST {_ALL}/{{guid}}/stores", summary="Add stores to a session",
    path=SessionPath, body=ListOf[EntryNew], reply=Added,
)  # fmt: skip
async def add_stores(tx: Tx, request: Request[SessionPath, NoFields, ListOf[EntryNew]]) -> Added:
    return await _add(tx, STORES, request.path, request.body.root)


OPERATIONS: Operations = (
    crud.creates(SESSIONS, "operationSessions.create", f"POST {_ALL}", "Add a session", SessionNew),
    crud.lists(SESSIONS, "operationSessions.list", f"GET {_ALL}", "List the sessions of a visitor", SessionQuery),
    add_segments,
    add_stores,
)
