"""Request bodies of records that tests need. Each body has new unique values."""

import string
from random import SystemRandom
from typing import Any

import httpx

# hypothesis resets the seed of the shared generator for each example; this one has no seed.
_RANDOM = SystemRandom()

ABSENT_VISITOR_ID = "00000000-0000-4000-8000-000000000000"
"""An id that no visitor has."""


def new_code() -> str:
    return "FR-T-" + "".join(_RANDOM.choices(string.ascii_uppercase + string.digits, k=10))


def new_email() -> str:
    """An address without digits, because a long run of digits could be refused as a card number."""
    return "".join(_RANDOM.choices(string.ascii_lowercase, k=20)) + "@example.com"


def new_number() -> str:
    return "".join(_RANDOM.choices(string.digits, k=6))


def new_plate() -> str:
    return "".join(_RANDOM.choices(string.ascii_uppercase, k=4)) + "-" + new_number()


def center(**fields: Any) -> dict[str, Any]:
    return {"pcCode": new_code(), "label": "Test Center", "country": "FR", "isWestfield": True, **fields}


def visitor(pc_code: str, **fields: Any) -> dict[str, Any]:
    return {
        "firstName": "Zora", "lastName": "Quill", "email": new_email(), "gender": "f",
        "acquisitionPcCode": pc_code, "countryCode": "FR", "optins": [], **fields,
    }  # fmt: skip


def vehicle(**fields: Any) -> dict[str, Any]:
    return {"licensePlate": new_plate(), **fields}


async def create(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create a record with a POST and return it. Fails if the status is not 201."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    record: dict[str, Any] = answer.json()["data"]
    return record


async def visitor_with_vehicle(client: httpx.AsyncClient) -> dict[str, Any]:
    """Create a center, a visitor and a vehicle of the visitor. The result has pcCode, visitorId, barcode, licensePlate
    and vehicleId."""
    pc_code = (await create(client, "/centers", center()))["pcCode"]
    owner = await create(client, "/visitors", visitor(pc_code))
    car = await create(client, f"/visitors/{owner['visitorId']}/vehicles", vehicle())
    return {
        "pcCode": pc_code, "visitorId": owner["visitorId"], "barcode": owner["barcode"],
        "licensePlate": car["licensePlate"], "vehicleId": car["vehicleId"],
    }  # fmt: skip


async def analytics_id(client: httpx.AsyncClient, visitor_id: str) -> str:
    """The analytics id that the service has given to a visitor."""
    answer = await client.get(f"/visitors/{visitor_id}/externalIds/analytics")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"]["externalId"])


def service(pc_code: str, **fields: Any) -> dict[str, Any]:
    return {
        "pcCode": pc_code, "name": "Cloakroom", "category": "comfort", "useRate": "free", "daysOfUse": [1, 2, 3],
        "colorCode": "#FFFFFF", **fields,
    }  # fmt: skip


def challenge(pc_code: str, **fields: Any) -> dict[str, Any]:
    """The body of a challenge that is open until 2101."""
    return {
        "pcCode": pc_code, "genericName": "Steps", "type": "step_counter", "startDate": "2001-01-01T00:00:00Z",
        "endDate": "2101-01-01T00:00:00Z", "winnerNumber": 3, "status": "active", "displayName": [], "description": [],
        "rewardDetail": [], **fields,
    }  # fmt: skip
