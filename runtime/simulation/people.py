"""The people of a simulation: visitors with a vehicle, in the centers of the sample data."""

import asyncio
from typing import Any

import httpx

from runtime.dev.sample import CENTERS, SamplePerson, create_center

CONCURRENCY = 16
"""People who are looked for and created at the same time."""


async def ensure(client: httpx.AsyncClient, count: int) -> list[SamplePerson]:
    """Create the centers and as many people as are missing. A later simulation uses them again. Raises
    httpx.HTTPError."""
    for center in CENTERS:
        await _ensure_center(client, center)
    limit = asyncio.Semaphore(CONCURRENCY)

    async def limited(number: int) -> SamplePerson:
        async with limit:
            return await _ensure_person(client, number)

    return await asyncio.gather(*map(limited, range(count)))


async def _ensure_center(client: httpx.AsyncClient, center: dict[str, Any]) -> None:
    """The request is that of the sample data, so that either may come first."""
    response = await client.get(f"/centers/{center['pcCode']}")
    if response.status_code == httpx.codes.NOT_FOUND:
        await create_center(client, center)
    else:
        response.raise_for_status()


async def _ensure_person(client: httpx.AsyncClient, number: int) -> SamplePerson:
    center, email, plate = CENTERS[number % len(CENTERS)], f"{_letters(number)}@simulated.example", f"SIM-{number}"
    visitor = await _first(client, "/visitors", email=email)
    if visitor is None:
        body = {
            "firstName": "Sim", "lastName": _letters(number).title(), "email": email, "gender": "u",
            "countryCode": center["country"], "acquisitionPcCode": center["pcCode"], "optins": [],
        }  # fmt: skip
        visitor = await _create(client, "/visitors", body, f"simulated {email}")
    vehicles = f"/visitors/{visitor['visitorId']}/vehicles"
    vehicle = await _first(client, vehicles, licensePlate=plate)
    if vehicle is None:
        vehicle = await _create(client, vehicles, {"licensePlate": plate}, f"simulated {plate}")
    return SamplePerson(visitor["visitorId"], visitor["barcode"], plate, vehicle["vehicleId"], center["pcCode"])


def _letters(number: int) -> str:
    """A name without digits, which could be taken for a card number."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:05}")


async def _first(client: httpx.AsyncClient, path: str, **query: str) -> dict[str, Any] | None:
    response = await client.get(path, params=query)
    response.raise_for_status()
    records: list[dict[str, Any]] = response.json()["data"]
    return records[0] if records else None


async def _create(client: httpx.AsyncClient, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    response = await client.post(path, json=body, headers={"Idempotency-Key": key})
    response.raise_for_status()
    record: dict[str, Any] = response.json()["data"]
    return record
