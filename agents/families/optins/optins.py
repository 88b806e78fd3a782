"""Optins: the consents of a visitor, by type, channel and context.

An optin is never overwritten: a new optin with the same key supersedes the active one. So the table is the history of
consents.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from agents import crud
from agents.families.optins.legal_texts import LEGAL_TEXTS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, apply_each, batch_operation, operation
from schemas.faults import Fault, Invalid
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import Flag, Identifier, Instant, Int64, Omittable, Uuid
from storage.lists import Filter
from storage.statements import any_of, unnest_rows
from storage.table import Table
from storage.tx import Tx

OptinChannel = Literal["sms", "push", "email", "none"]
OptinType = Literal["commercial", "loyalty", "center", "privacy", "wallet", "terms", "smartparking_us", "sms_us"]


class OptinSender(Model):
    client_id: Omittable[Identifier] = None
    """Id of the email client that reported the consent."""
    send_id: Omittable[Identifier] = None
    """Id of the mailing to which the visitor reacted."""


class OptinPatch(OptinSender, partial=True):
    pass


class OptinNew(OptinSender):
    optin_channel: OptinChannel
    """The channel for which the consent is."""
    optin_type: OptinType
    """The purpose for which the consent is."""
    legal_text_id: Int64 | None = None
    """Id of the legal text to which the visitor consented."""
    is_active: Flag
    """Whether the visitor consents or refuses."""
    last_opened_date: Omittable[Instant] = None
    """When the visitor last opened a mailing."""
    context_id: Omittable[Int64] = None
    """Id of the context, for example of a wallet. Optins of different contexts are independent of each other."""


class Optin(OptinNew):
    optin_id: Int64
    visitor_id: Uuid
    optout_date: Instant | None
    """When the visitor refused or withdrew the consent; null while it is active."""
    optin_date: Instant | None
    """When the visitor consented; null for a refusal."""
    creation_date: Instant
    update_date: Instant


class OptinPath(VisitorPath):
    optin_id: Int64


class OptinKind(Model):
    optin_type: OptinType
    """The purpose of the consents."""
    optin_channel: OptinChannel
    """The channel of the consents."""


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


def _is_latest(columns: Any, value: bool) -> sa.ColumnElement[bool]:
    """No other optin with the same key has a higher id. Always true if `value` is False.

    Ids grow in the order of creation, since the visitor's row is locked while an optin is inserted. The subquery reads
    the optins of one visitor by an index.
    """
    if not value:
        return sa.true()
    newer = OPTINS.sql.alias("newer")
    # Only the context can be null. The other columns use =, since no index serves IS NOT DISTINCT FROM.
    same_key = [newer.c[name] == columns[name] for name in _KEY if name != _CONTEXT]
    same_key.append(newer.c[_CONTEXT].is_not_distinct_from(columns[_CONTEXT]))
    return ~sa.exists(sa.select(sa.literal(1)).where(*same_key, newer.c.optin_id > columns.optin_id))


class OptinQuery(PageQuery):
    is_active: Omittable[Flag] = None
    """Only active optins, or with `false` only inactive ones."""
    context_id: Omittable[Int64] = None
    """Only optins of this context."""
    latest: Annotated[Omittable[Flag], Filter(_is_latest)] = None
    """Only the newest optin of each type, channel and context."""
    optin_type: Omittable[OptinType] = None
    """Only optins of this type."""
    optin_channel: Omittable[OptinChannel] = None
    """Only optins of this channel."""


_NOW = sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True))


def _opt_out(now: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]) -> Any:
    """UPDATE the active optins that meet the conditions: they become inactive."""
    return (
        sa.update(OPTINS.sql)
        .where(_C.is_active, *conditions)
        .values(
            is_active=False,
            optout_date=now,
            update_date=sa.func.greatest(_C.update_date, now),
            revision=_C.revision + 1,
        )
        .returning(*_C)
    )


def _opt_out_by_ids() -> Any:
    """UPDATE the active optins with the ids in the list parameter `optin_ids`: they become inactive, each at its time
    in `optout_dates`. The condition on the list makes every plan read the index of the key: a plan that was made for an
    empty table could otherwise join all active optins, and stay in use when there are millions."""
    old = unnest_rows(optin_ids=_C.optin_id.type, optout_dates=_NOW.type)
    return _opt_out(old.c.optout_dates, any_of(_C.optin_id, "optin_ids"), _C.optin_id == old.c.optin_ids)


_SELECT_ACTIVE = sa.select(_C.optin_id, *(_C[name] for name in _KEY)).where(
    any_of(_C.visitor_id, "visitor_ids"), _C.is_active
)
_OF_VISITOR = _C.visitor_id == sa.bindparam("of_visitor")
_HAS_KIND = (_C.optin_type == sa.bindparam("type"), _C.optin_channel == sa.bindparam("channel"))
_OPT_OUT_BY_IDS = _opt_out_by_ids()
_OPT_OUT_OF_KIND = _opt_out(_NOW, _OF_VISITOR, *_HAS_KIND)
_OPT_OUT_BY_ID = _opt_out(_NOW, _OF_VISITOR, _C.optin_id == sa.bindparam("id"))


async def _run_opt_out(tx: Tx, statement: Any, visitor_id: UUID, **parameters: Any) -> int:
    """Run a statement of `_opt_out`, record the changes, and return the number of optins that became inactive."""
    rows = await tx.all(statement, {"of_visitor": visitor_id, "now": tx.now, **parameters})
    for row in rows:
        OPTINS.record_change_of(tx, row, "updated")
    return len(rows)


async def _lock_visitor(tx: Tx, visitor_id: UUID) -> None:
    """Lock the visitor's row and then refresh `tx.now`. So at most one optin of a key is active, and the dates of
    consecutive optins do not overlap. Raises NotFound."""
    await VISITORS.lock(tx, visitor_id=visitor_id)
    await tx.refresh_now()


class NewOptin(NamedTuple):
    """An optin to insert for a visitor."""

    tx: Tx
    visitor_id: UUID
    optin: OptinNew

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.visitor_id, self.optin.optin_type, self.optin.optin_channel, self.optin.context_id)

    def values(self) -> dict[str, Any]:
        date = "optin_date" if self.optin.is_active else "optout_date"
        return vars(self.optin) | {date: self.tx.now, "visitor_id": self.visitor_id}


async def add(new_optins: Iterable[NewOptin]) -> None:
    """Insert optins of new or upgraded visitors in their order, and opt out of the active ones with the same keys. The
    caller has either inserted the visitors in this transaction, or locked them and then refreshed `now` of the
    requests. All optins of a request have the same time."""
    for group in _groups_of_distinct_keys(new_optins):
        await _add_distinct(group)


def _groups_of_distinct_keys(new_optins: Iterable[NewOptin]) -> Iterator[list[NewOptin]]:
    group: dict[tuple[Any, ...], NewOptin] = {}
    for new in new_optins:
        if new.key in group:
            yield list(group.values())
            group = {}
        group[new.key] = new
    if group:
        yield list(group.values())


async def _add_distinct(new_optins: Sequence[NewOptin]) -> list[Optin]:
    """Insert optins with different keys."""
    await _supersede({new.key: new for new in new_optins})
    return await OPTINS.insert_many([(new.tx, new.values()) for new in new_optins])


async def _supersede(new_by_key: Mapping[tuple[Any, ...], NewOptin]) -> None:
    """Opt out of the active optins with these keys. Their visitors are locked, so no other transaction changes them."""
    tx = next(iter(new_by_key.values())).tx
    visitor_ids = sorted({new.visitor_id for new in new_by_key.values()})
    active = {tuple(row[1:]): row.optin_id for row in await tx.all(_SELECT_ACTIVE, {"visitor_ids": visitor_ids})}
    # In the order of the new optins: the changes of a request have it, too.
    superseded = {active[key]: new for key, new in new_by_key.items() if key in active}
    if not superseded:
        return
    optout_dates = [new.tx.now for new in superseded.values()]
    rows = await tx.all(_OPT_OUT_BY_IDS, {"optin_ids": list(superseded), "optout_dates": optout_dates})
    row_by_id = {row.optin_id: row for row in rows}
    for optin_id, new in superseded.items():
        OPTINS.record_change_of(new.tx, row_by_id[optin_id], "updated")


async def existing_text_ids(tx: Tx, optins: Iterable[OptinNew]) -> set[int]:
    """The ids of those legal texts of the optins that exist."""
    ids = {optin.legal_text_id for optin in optins} - {None}
    return await LEGAL_TEXTS.existing_keys(tx, ids) if ids else set()


def missing_text_faults(optins: Sequence[OptinNew], existing_ids: Container[int]) -> list[Invalid]:
    """A fault for each optin of a request body whose legal text does not exist."""
    return [
        Invalid("legal_text_not_found", "There is no such legalText.", field=f"optins[{index}].legalTextId")
        for index, optin in enumerate(optins)
        if optin.legal_text_id is not None and optin.legal_text_id not in existing_ids
    ]


@batch_operation(
    "optins.create", "POST /visitors/{visitorId}/optins", summary="Add a consent or a refusal",
    path=VisitorPath, body=OptinNew, reply=Optin,
)  # fmt: skip
async def create(calls: Sequence[tuple[Tx, Request[VisitorPath, NoFields, OptinNew]]]) -> list[Optin | Fault]:
    """Add an optin. The active optin with the same type, channel and context becomes inactive. Raises NotFound."""
    tx = calls[0][0]
    visitor_ids = await VISITORS.lock_all(tx, (request.path.visitor_id for _, request in calls))
    text_ids = await existing_text_ids(tx, (request.body for _, request in calls))

    def new_optin(tx: Tx, request: Request[VisitorPath, NoFields, OptinNew]) -> NewOptin:
        if request.path.visitor_id not in visitor_ids:
            raise VISITORS.not_found()
        if request.body.legal_text_id is not None and request.body.legal_text_id not in text_ids:
            raise Invalid("legal_text_not_found", "There is no such legalText.", field="legalTextId")
        return NewOptin(tx, request.path.visitor_id, request.body)

    return await apply_each(calls, new_optin, _store)


async def _store(accepted: Sequence[tuple[Tx, NewOptin]]) -> list[Optin]:
    optins: list[Optin] = []
    for group in _groups_of_distinct_keys(new for _, new in accepted):
        # After the lock, see _lock_visitor, and after the optins that those of this group may supersede.
        await Tx.refresh_all([new.tx for new in group])
        optins += await _add_distinct(group)
    return optins


@operation(
    "optins.deleteByType", "DELETE /visitors/{visitorId}/optins",
    summary="Opt a visitor out of a type and channel in every context", path=VisitorPath, query=OptinKind,
    reply=None,
)  # fmt: skip
async def delete_by_type(tx: Tx, request: Request[VisitorPath, OptinKind, NoFields]) -> None:
    """Make the active optins inactive; they are not removed. Raises NotFound if none was active."""
    visitor_id, kind = request.path.visitor_id, request.query
    await _lock_visitor(tx, visitor_id)
    if not await _run_opt_out(tx, _OPT_OUT_OF_KIND, visitor_id, type=kind.optin_type, channel=kind.optin_channel):
        raise OPTINS.not_found()


@operation(
    "optins.disable", "DELETE /visitors/{visitorId}/optins/{optinId}", summary="Opt out", path=OptinPath, reply=None
)
async def disable(tx: Tx, request: Request[OptinPath, NoFields, NoFields]) -> None:
    """Make the optin inactive; it is not removed. Raises NotFound if it is inactive already."""
    await _lock_visitor(tx, request.path.visitor_id)
    if not await _run_opt_out(tx, _OPT_OUT_BY_ID, request.path.visitor_id, id=request.path.optin_id):
        raise OPTINS.not_found()


_ALL = "/visitors/{visitorId}/optins"
_ONE = f"{_ALL}/{{optinId}}"

OPERATIONS: Operations = (
    crud.lists(OPTINS, "optins.list", f"GET {_ALL}", "List the optins of a visitor", OptinQuery),
    create,
    delete_by_type,
    crud.gets(OPTINS, "optins.get", f"GET {_ONE}", "Read an optin"),
    crud.updates(OPTINS, "optins.update", f"PATCH {_ONE}", "Update the sender of an optin", OptinPatch),
    disable,
)
