"""Optins: what a visitor agreed to, by type, channel and context.

An optin is never overwritten: a new one for the same key supersedes the older, so the table is the history of consents.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.optins.legal_texts import LEGAL_TEXTS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Invalid
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import Flag, Identifier, Instant, Int64, Omittable, Uuid
from storage.lists import Filter
from storage.table import Table
from storage.tx import Tx

OptinChannel = Literal["sms", "push", "email", "none"]
OptinType = Literal["commercial", "loyalty", "center", "privacy", "wallet", "terms", "smartparking_us", "sms_us"]


class OptinSender(Model):
    client_id: Omittable[Identifier] = None
    send_id: Omittable[Identifier] = None


class OptinPatch(OptinSender, partial=True):
    pass


class OptinNew(OptinSender):
    optin_channel: OptinChannel
    optin_type: OptinType
    legal_text_id: Int64 | None = None
    is_active: Flag
    last_opened_date: Omittable[Instant] = None
    context_id: Omittable[Int64] = None


class Optin(OptinNew):
    optin_id: Int64
    visitor_id: Uuid
    optout_date: Instant | None
    optin_date: Instant | None
    creation_date: Instant
    update_date: Instant


class OptinPath(VisitorPath):
    optin_id: Int64


class OptinKind(Model):
    optin_type: OptinType
    optin_channel: OptinChannel


_CONTEXT = "context_id"
_KEY = ("visitor_id", "optin_type", "optin_channel", _CONTEXT)

OPTINS = Table(
    "optins",
    Optin,
    family="optins",
    resource="optin",
    key="optin_id",
    parents={"visitor_id": VISITORS, "legal_text_id": LEGAL_TEXTS},
    hidden=[
        sa.Index("optins_visitor_id_idx", "visitor_id", "optin_id"),
        sa.Index(
            "optins_one_active", *_KEY, unique=True, postgresql_nulls_not_distinct=True, postgresql_where="is_active"
        ),
    ],
)

_C = OPTINS.columns


def _newest(columns: Any, wanted: bool) -> sa.ColumnElement[bool]:
    """Of each key the newest; an optin's id grows with its creation, since the visitor is locked meanwhile."""
    if not wanted:
        return sa.true()
    newer = OPTINS.sql.alias("newer")
    # Only the context may be null; of the others, an index serves equality and nothing else.
    same = [newer.c[name] == columns[name] for name in _KEY if name != _CONTEXT]
    same.append(newer.c[_CONTEXT].is_not_distinct_from(columns[_CONTEXT]))
    return ~sa.exists(sa.select(sa.literal(1)).where(*same, newer.c.optin_id > columns.optin_id))


class OptinQuery(PageQuery):
    is_active: Omittable[Flag] = None
    context_id: Omittable[Int64] = None
    latest: Annotated[Omittable[Flag], Filter(_newest)] = None
    optin_type: Omittable[OptinType] = None
    optin_channel: Omittable[OptinChannel] = None


_NOW = sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True))


def _active(*conditions: sa.ColumnElement[bool]) -> Any:
    """The active optins of a visitor, set to out."""
    return (
        sa.update(OPTINS.sql)
        .where(_C.visitor_id == sa.bindparam("of_visitor"), _C.is_active, *conditions)
        .values(
            is_active=False,
            optout_date=_NOW,
            update_date=sa.func.greatest(_C.update_date, _NOW),
            revision=_C.revision + 1,
        )
        .returning(*_C)
    )


_OF_TYPE = (_C.optin_type == sa.bindparam("type"), _C.optin_channel == sa.bindparam("channel"))
_SAME_CONTEXT = _C.context_id.is_not_distinct_from(sa.bindparam("context", type_=sa.BigInteger))
_SUPERSEDE = _active(*_OF_TYPE, _SAME_CONTEXT)
_END_OF_TYPE = _active(*_OF_TYPE)
_END_ONE = _active(_C.optin_id == sa.bindparam("id"))


async def _end(tx: Tx, statement: Any, visitor_id: UUID, **which: Any) -> int:
    """Set to out; how many it were."""
    found = await tx.all(statement, {"of_visitor": visitor_id, "now": tx.now, **which})
    for row in found:
        OPTINS.changed(tx, row, "updated")
    return len(found)


async def _one_at_a_time(tx: Tx, visitor_id: UUID) -> None:
    """Optins of one visitor come one after the other, so that one of a key is active, and the dates do not overlap.
    Raises NotFound."""
    await VISITORS.lock(tx, visitor_id=visitor_id)
    await tx.refresh_now()


async def _store(tx: Tx, visitor_id: UUID, optin: OptinNew) -> Optin:
    """The older one of the same key goes out."""
    await _end(tx, _SUPERSEDE, visitor_id, type=optin.optin_type, channel=optin.optin_channel, context=optin.context_id)
    moment = {"optin_date": tx.now} if optin.is_active else {"optout_date": tx.now}
    return await OPTINS.insert(tx, vars(optin) | moment | {"visitor_id": visitor_id})


async def add(tx: Tx, visitor_id: UUID, optins: Iterable[OptinNew]) -> None:
    """What a visitor agreed to or refused on being created. The caller has locked it and then taken the time, or made
    it itself."""
    for optin in optins:
        await _store(tx, visitor_id, optin)


async def missing_text_faults(tx: Tx, optins: Sequence[OptinNew]) -> list[Invalid]:
    """A fault for each of these optins of a body that names a legal text which is not there."""
    named = {place: optin.legal_text_id for place, optin in enumerate(optins) if optin.legal_text_id is not None}
    known = await LEGAL_TEXTS.existing_keys(tx, named.values()) if named else set()
    return [
        Invalid("legal_text_not_found", "There is no such legalText.", field=f"optins[{place}].legalTextId")
        for place, key in named.items()
        if key not in known
    ]


@operation(
    "optins.create", "POST /visitors/{visitorId}/optins", summary="Keep what a visitor agreed to or refused",
    path=VisitorPath, body=OptinNew, reply=Optin,
)  # fmt: skip
async def create(tx: Tx, request: Request[VisitorPath, NoFields, OptinNew]) -> Optin:
    """What holds now; the older one of the same key goes out. Raises NotFound."""
    await _one_at_a_time(tx, request.path.visitor_id)
    return await _store(tx, request.path.visitor_id, request.body)


@operation(
    "optins.deleteByType", "DELETE /visitors/{visitorId}/optins",
    summary="Opt a visitor out of a type and channel, whatever the context", path=VisitorPath, query=OptinKind,
    reply=None,
)  # fmt: skip
async def delete_by_type(tx: Tx, request: Request[VisitorPath, OptinKind, NoFields]) -> None:
    """Nothing is removed. Raises NotFound where nothing was active."""
    visitor_id, kind = request.path.visitor_id, request.query
    await _one_at_a_time(tx, visitor_id)
    if not await _end(tx, _END_OF_TYPE, visitor_id, type=kind.optin_type, channel=kind.optin_channel):
        raise OPTINS.missing()


@operation(
    "optins.disable", "DELETE /visitors/{visitorId}/optins/{optinId}", summary="Opt out", path=OptinPath, reply=None
)
async def disable(tx: Tx, request: Request[OptinPath, NoFields, NoFields]) -> None:
    """The optin goes out; it is not removed. Raises NotFound where it is out already."""
    await _one_at_a_time(tx, request.path.visitor_id)
    if not await _end(tx, _END_ONE, request.path.visitor_id, id=request.path.optin_id):
        raise OPTINS.missing()


_ALL = "/visitors/{visitorId}/optins"
_ONE = f"{_ALL}/{{optinId}}"

OPERATIONS: Operations = (
    crud.lists(OPTINS, "optins.list", f"GET {_ALL}", "List the optins of a visitor", OptinQuery),
    create,
    delete_by_type,
    crud.gets(OPTINS, "optins.get", f"GET {_ONE}", "Read an optin"),
    crud.updates(OPTINS, "optins.update", f"PATCH {_ONE}", "Update who sent an optin", OptinPatch),
    disable,
)
