"""Shopping centers. The pcCode is the primary key of a center."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from agents import crud
from agents.operation import Operations
from schemas.faults import Conflict, Invalid
from schemas.model import Model
from schemas.replies import PageQuery
from schemas.types import CountryCode, Flag, Instant, Int64, Omittable, PcCode, Text
from storage.table import Table
from storage.tx import Tx

ParkingPartner = Annotated[
    Literal["smartparking_us", "smartparking_uk", "ilogs", "designa", "thales", "smartparking_v2"],
    Field(title="ParkingPartner"),
]
UrwAppId = Literal[
    "aeroville", "alma", "amstelveen", "aupark", "bonaire", "cernymost", "confluence", "equinoccio", "fisketorvet",
    "garbera", "gropius", "hoefambruehl", "koln", "metropole", "minto", "nackaforum", "one", "parquesur", "pasing",
    "paunsdorf", "polygone", "riem", "ruhrpark", "soouest", "spandau", "splau", "toisondor", "ulis2", "wilenska",
    "wroclavia",
]  # fmt: skip


class CenterFields(Model):
    label: Text
    """The name of the center."""
    country: CountryCode
    """The country of the center, as ISO 3166-1 alpha-2 code."""
    is_westfield: Flag
    """Whether the center has the brand Westfield."""
    center_id: Omittable[Text] = None
    """The name of the center in other systems."""
    center_code: Omittable[Int64] = None
    """The number of the center in other systems."""
    has_worker: Flag = False
    """Whether people who work in the center have accounts of their own."""
    has_multi_step: Flag = False
    """Whether the registration has several steps."""
    is_active: Flag = False
    """Whether the center is active."""
    has_email_validation: Flag = True
    """Whether visitors must confirm their email address."""
    loyalty_start_date: Instant | None = None
    """When the loyalty programme starts."""
    has_basic_loyalty: Flag = False
    """Whether the center has the basic loyalty programme."""
    parking_partner: Omittable[ParkingPartner] = None
    wallet_context_id: Int64 | None = None
    """Id of the context of the center's cards in mobile wallets."""
    urw_app_id: UrwAppId | None = None
    has_registration: Flag = True
    """Whether visitors can register in the center."""
    has_loyalty: Omittable[Flag] = None
    """Whether the center has a loyalty programme."""


class CenterNew(CenterFields):
    pc_code: PcCode


class CenterPatch(CenterFields, partial=True):
    pass


class Center(CenterNew):
    creation_date: Instant
    update_date: Instant


class CenterQuery(PageQuery):
    is_active: Omittable[Flag] = None
    """Only active centers, or with `false` only inactive ones."""
    country: Omittable[CountryCode] = None
    """Only centers in this country."""


CENTERS = Table(
    "centers",
    Center,
    family="centers",
    resource="center",
    key="pc_code",
    conflicts={
        "centers_pkey": partial(Conflict, "center_exists", "A center with this pcCode exists already.", field="pcCode")
    },
)


async def missing_center(tx: Tx, pc_code: str) -> list[Invalid]:
    """The fault of a body whose `pcCode` names no center; empty if it names one. Before an INSERT, a handler needs this
    only to report the fault beside others: if it is the only one, the foreign key finds it."""
    if await CENTERS.existing_keys(tx, [pc_code]):
        return []
    return [Invalid("center_not_found", "There is no such center.", field="pcCode")]


OPERATIONS: Operations = (
    crud.creates(CENTERS, "centers.create", "POST /centers", "Add a new center", CenterNew),
    crud.lists(CENTERS, "centers.list", "GET /centers", "List centers", CenterQuery),
    crud.updates(CENTERS, "centers.update", "PATCH /centers/{pcCode}", "Update a center", CenterPatch),
    crud.gets(CENTERS, "centers.get", "GET /centers/{pcCode}", "Read a center"),
)
