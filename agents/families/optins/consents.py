"""The legal texts that require the consent of a visitor."""

from typing import Any

import sqlalchemy as sa

from agents.families.centers.centers import CENTERS
from agents.families.optins.legal_texts import LEGAL_TEXTS, is_newest_released
from agents.families.optins.optins import OPTINS
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Operations, operation
from schemas.faults import Invalid, NotFound
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import Flag, Int64, Omittable, PcCode
from storage.tx import Tx

EEA = frozenset((
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI", "LT",
    "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
))  # fmt: skip
"""Countries of the European Economic Area. The GDPR applies there, and so does the legal text privacy_eu."""

_US_ONLY = ("privacy_us", "smartparking_us", "sms_us")


class ConsentQuery(Model):
    new_center: Omittable[PcCode] = None
    """The code of a center. Legal texts that do not apply in its country are left out."""


class RequiredConsent(Model):
    legal_text_id: Int64
    require_consent: Flag
    """Whether the consent of the visitor is missing."""


def _select_required() -> Any:
    """SELECT the newest released legal text of each type whose newest released text requires consent. Its column
    `require_consent` is false if the visitor has an active optin that names exactly this text. The result has at most
    one row for each type."""
    texts, optins = LEGAL_TEXTS.columns, OPTINS.columns
    has_consent = sa.exists(
        sa.select(sa.literal(1)).where(
            optins.visitor_id == sa.bindparam("visitor"),
            optins.legal_text_id == texts.legal_text_id,
            optins.is_active,
        )
    )
    now = sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True))
    return (
        sa.select(texts.legal_text_id, texts.type, (~has_consent).label("require_consent"))
        .where(is_newest_released(now), texts.require_consent)
        .order_by(texts.legal_text_id)
    )


_SELECT_REQUIRED = _select_required()


def _types_of_other_countries(country: str) -> set[str]:
    """Return the types of legal texts that do not apply in this country."""
    types = set()
    if country not in EEA:
        types.add("privacy_eu")
    if country != "US":
        types.update(_US_ONLY)
    return types


@operation(
    "consents.required", "GET /visitors/{visitorId}/requiredConsents",
    summary="List the legal texts that need a visitor's consent", path=VisitorPath, query=ConsentQuery,
    reply=RequiredConsent, shape="page",
)  # fmt: skip
async def required(tx: Tx, request: Request[VisitorPath, ConsentQuery, NoFields]) -> Page[RequiredConsent]:
    """List one legal text for each type: the newest released version, if it requires consent. `requireConsent` is true
    unless the visitor has an active optin that names exactly that text. With `newCenter`, types that do not apply in
    its country are left out. Raises NotFound, Invalid."""
    visitor_id, pc_code = request.path.visitor_id, request.query.new_center
    await VISITORS.require(tx, visitor_id)
    excluded_types = set() if pc_code is None else _types_of_other_countries(await _country_of(tx, pc_code))
    await tx.refresh_now()
    rows = await tx.all(_SELECT_REQUIRED, {"visitor": visitor_id, "now": tx.now})
    consents = [
        RequiredConsent.model_construct(legal_text_id=row.legal_text_id, require_consent=row.require_consent)
        for row in rows
        if row.type not in excluded_types
    ]
    return Page(consents, more=False)


async def _country_of(tx: Tx, pc_code: str) -> str:
    """Return the country of a center. Raises Invalid if the center does not exist."""
    try:
        return (await CENTERS.find(tx, pc_code=pc_code)).country
    except NotFound as fault:
        raise Invalid(fault.code, "There is no such center.", field="newCenter") from None


OPERATIONS: Operations = (required,)
