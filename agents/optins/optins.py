"""Optins: what a visitor agreed to, by type, channel and context. The table is the history of consents."""

from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa

from agents.visitors.visitor import VISITORS
from schemas.model import Model
from schemas.types import Flag, Identifier, Instant, Int64, LeftOut, Uuid
from storage.table import Table
from storage.tx import Tx

OptinChannel = Literal["sms", "push", "email", "none"]
OptinType = Literal["commercial", "loyalty", "center", "privacy", "wallet", "terms", "smartparking_us", "sms_us"]


class OptinNew(Model):
    client_id: Annotated[Identifier | None, LeftOut] = None
    send_id: Annotated[Identifier | None, LeftOut] = None
    optin_channel: OptinChannel
    optin_type: OptinType
    legal_text_id: Int64 | None = None
    is_active: Flag
    last_opened_date: Annotated[Instant | None, LeftOut] = None
    context_id: Annotated[Int64 | None, LeftOut] = None


class Optin(OptinNew):
    optin_id: Int64
    visitor_id: Uuid
    optout_date: Instant | None
    optin_date: Instant | None
    creation_date: Instant
    update_date: Instant


OPTINS = Table(
    "optins",
    Optin,
    family="optins",
    resource="optin",
    key="optin_id",
    parents={"visitor_id": VISITORS},
    hidden=[sa.Index("optins_visitor_id_idx", "visitor_id", "optin_id")],
)


async def store(tx: Tx, visitor_id: UUID, optin: OptinNew) -> Optin:
    """Keep what a visitor agreed to or refused now."""
    moment = {"optin_date": tx.now} if optin.is_active else {"optout_date": tx.now}
    fields: dict[str, Any] = {name: getattr(optin, name) for name in OptinNew.model_fields}
    return await OPTINS.insert(tx, fields | moment | {"visitor_id": visitor_id})
