"""Sessions of a visitor in a center's operations (games, contests), with the segments and stores of each session."""

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
    """The id of the session, which is unique for the visitor."""
    game_id: Text
    """Id of the game."""
    game_name: Text
    """The name of the game."""
    optin: Omittable[Flag] = None
    """Whether the visitor consented to be contacted."""
    is_contest: Omittable[Flag] = None
    """Whether the operation is a contest."""
    is_welcome_journey: Omittable[Flag] = None
    """Whether the operation is a welcome journey."""
    is_welcome_offer: Omittable[Flag] = None
    """Whether the operation is a welcome offer."""
    is_wifit: Omittable[Flag] = None
    """Whether the session came from the center's Wi-Fi."""
    is_synchronized: Omittable[Flag] = None
    """Whether the session is synchronized with other systems."""


class Session(SessionNew):
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


class SessionQuery(PageQuery):
    pc_code: Omittable[PcCode] = None
    """Only sessions in the center with this code."""
    creation_date_until: Omittable[Instant] = None
    """Only sessions that were created before this time."""
    creation_date_since: Omittable[Instant] = None
    """Only sessions that were created at or after this time."""
    game_id: Omittable[Text] = None
    """Only sessions of this game."""


class SessionPath(VisitorPath):
    guid: Identifier
    """The id of the session."""


def _accept_nul(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a text without its NULs, and return it with them. A NUL could hide a card number by splitting its
    digits."""
    if not isinstance(value, str):
        return validate(value)
    validate(value.replace("\x00", ""))
    return value


AnyText = Annotated[LongText, WrapValidator(_accept_nul)]
"""A text that a row cannot always store: it may be too long, blank, or contain a NUL."""


class EntryNew(Model):
    """An entry with a text that cannot be stored is valid; the reply lists it under `failed`. An entry with a card
    number is invalid, because no reply may contain one."""

    id: AnyText
    """Id of the segment or store."""
    name: AnyText
    """The name of the segment or store."""


class Entry(Model):
    id: Text
    """Id of the segment or store."""
    name: Text
    """The name of the segment or store."""
    creation_date: Instant
    update_date: Instant


class StoredEntry(Entry):
    """The row of a segment or a store, with its session and its visitor."""

    session_key: Int64
    visitor_id: Uuid


class Added(Model):
    success: list[Entry]
    """The entries that were added."""
    failed: list[EntryNew]
    """The entries that the session has already and those that cannot be stored."""


SESSIONS = Table(
    "operation_sessions",
    Session,
    family="profile",
    resource="operationSession",
    key="session_key",
    parents={"visitor_id": VISITORS, "pc_code": CENTERS},
    conflicts={
        "operation_sessions_visitor_id_key": crud.already_exists(
            "operation_session", "The visitor has a session with this guid already.", "guid"
        )
    },
    hidden=[
        sa.Column("session_key", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.UniqueConstraint("visitor_id", "guid"),
    ],
)


def _entry_table(name: str, resource: str) -> Table[StoredEntry]:
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


SEGMENTS = _entry_table("operation_segments", "operationSegment")
STORES = _entry_table("operation_stores", "operationStore")

_LOCK_SESSION = (
    sa.select(SESSIONS.columns.session_key)
    .where(SESSIONS.columns.visitor_id == sa.bindparam("visitor"), SESSIONS.columns.guid == sa.bindparam("guid"))
    .with_for_update(key_share=True)
)


async def _add(tx: Tx, table: Table[StoredEntry], path: SessionPath, entries: Sequence[EntryNew]) -> Added:
    """Insert the new entries with one statement. Entries that the session has already and entries that cannot be stored
    are `failed`. Raises NotFound."""
    session = await tx.first(_LOCK_SESSION, {"visitor": path.visitor_id, "guid": path.guid})
    if session is None:
        raise SESSIONS.not_found()
    session_key = session.session_key
    rows_by_session = await table.by_parent(tx, "session_key", [session_key])
    ids = {row.id for row in rows_by_session[session_key]}
    new: list[tuple[Tx, dict[str, Any]]] = []
    failed = []
    for entry in entries:
        if entry.id in ids or not _is_storable(entry.id, KEY_BYTES) or not _is_storable(entry.name):
            failed.append(entry)
            continue
        ids.add(entry.id)
        new.append((tx, _row(entry, session_key, path.visitor_id)))
    success: list[Entry] = []
    if new:
        success.extend(await table.insert_many(new))
    return Added.model_construct(success=success, failed=failed)


KEY_BYTES = 2_600
"""Bytes of a text in the entry of an index (PostgreSQL, "B-Tree Indexes"), with a reserve for the other column."""


def _is_storable(text: str, max_bytes: int = 4 * TEXT_LIMIT) -> bool:
    """False for a blank text, a text that is too long, and a text with a NUL, which PostgreSQL cannot store."""
    return bool(text.strip()) and len(text) <= TEXT_LIMIT and len(text.encode()) <= max_bytes and "\x00" not in text


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
