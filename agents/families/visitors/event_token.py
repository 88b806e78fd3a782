"""Signed tokens that let a visitor take part in an event of a company."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import jwt

from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Unavailable
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.requests import Request
from schemas.types import Instant, LongText, Text
from storage.tx import Tx


@dataclass(frozen=True)
class TokenKey:
    """The resource that signs event tokens, which are valid for `seconds`."""

    secret: str
    seconds: int


class TokenQuery(Model):
    company_id: Text
    """Id of the company that organizes the event."""


class EventToken(Model):
    token: LongText
    """The signed JSON Web Token."""
    expires_at: Instant
    """When the token expires."""


@operation(
    "visitors.eventToken", "GET /visitors/{visitorId}/eventToken", summary="Get a token for a company's event",
    path=VisitorPath, query=TokenQuery, reply=EventToken,
)  # fmt: skip
async def event_token(tx: Tx, request: Request[VisitorPath, TokenQuery, NoFields]) -> EventToken:
    """Get a JSON Web Token (RFC 7519, HS256) with visitorId, companyId, iat and exp. Raises NotFound, and Unavailable
    if no secret is configured."""
    visitor_id = request.path.visitor_id
    await VISITORS.require(tx, visitor_id)
    key = tx.resource(TokenKey)
    if key is None:
        raise Unavailable("not_configured", "Set VISITOR_WORKER_EVENT_TOKEN_SECRET to issue event tokens.")
    await tx.refresh_now()
    issued_at = tx.now.replace(microsecond=0)
    expires_at: datetime = issued_at + timedelta(seconds=key.seconds)
    claims = {"visitorId": str(visitor_id), "companyId": request.query.company_id, "iat": issued_at, "exp": expires_at}
    token = jwt.encode(claims, key.secret, algorithm="HS256")
    return EventToken.model_construct(token=token, expires_at=expires_at)


OPERATIONS: Operations = (event_token,)
