"""Which legal texts a visitor has still to agree to."""

from collections.abc import Iterator

import sqlalchemy as sa

from agents.families.centers.centers import CENTERS
from agents.families.optins.legal_texts import LEGAL_TEXTS, newest_released
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
"""Countries of the European Economic Area, in which the GDPR holds; for them there is privacy_eu."""

_US_ONLY = ("privacy_us", "smartparking_us", "sms_us")


class ConsentQuery(Model):
    new_center: Omittable[PcCode] = None


class RequiredConsent(Model):
    legal_text_id: Int64
    require_consent: Flag


_TEXTS = LEGAL_TEXTS.columns
_AGREED = sa.exists(
    sa.select(sa.literal(1)).where(
        OPTINS.columns.visitor_id == sa.bindparam("visitor"),
        OPTINS.columns.legal_text_id == _TEXTS.legal_text_id,
        OPTINS.columns.is_active,
    )
)
_REQUIRED = (
    sa.select(_TEXTS.legal_text_id, _TEXTS.type, (~_AGREED).label("require_consent"))
    .where(newest_released(sa.bindparam("now", type_=sa.TIMESTAMP(timezone=True))), _TEXTS.require_consent)
    .order_by(_TEXTS.legal_text_id)
)


def _elsewhere(country: str) -> Iterator[str]:
    """The types that are not for visitors of this country's centers."""
    if country not in EEA:
        yield "privacy_eu"
    if country != "US":
        yield from _US_ONLY


@operation(
    "consents.required", "GET /visitors/{visitorId}/requiredConsents",
    summary="List the legal texts that need a visitor's consent", path=VisitorPath, query=ConsentQuery,
    reply=RequiredConsent, shape="page",
)  # fmt: skip
async def required(tx: Tx, request: Request[VisitorPath, ConsentQuery, NoFields]) -> Page[RequiredConsent]:
    """Of each type whose newest released text needs consent, that text; `requireConsent` is true unless the visitor has
    an active optin that names it. With `newCenter`, types of other countries are left out. Raises NotFound, Invalid."""
    visitor_id, code = request.path.visitor_id, request.query.new_center
    await VISITORS.require(tx, visitor_id)
    elsewhere = set() if code is None else set(_elsewhere(await _country(tx, code)))
    found = await tx.all(_REQUIRED, {"visitor": visitor_id, "now": tx.now})
    rows = [row for row in found if row.type not in elsewhere]
    return Page(
        [
            RequiredConsent.model_construct(legal_text_id=row.legal_text_id, require_consent=row.require_consent)
            for row in rows
        ],
        more=False,
    )


async def _country(tx: Tx, code: str) -> str:
    try:
        return (await CENTERS.find(tx, pc_code=code)).country
    except NotFound as fault:
        raise Invalid(fault.code, "There is no such center.", field="newCenter") from None


OPERATIONS: Operations = (required,)
