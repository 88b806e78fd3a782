"""Sample data of a plausible group of centers, and gateways that report its visitors; only for `visitor dev`."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from topics import json as wire_json
from topics import names
from topics.envelope import JSON, Head
from topics.kafka import Outgoing, Producer, Undelivered

CENTERS: list[dict[str, Any]] = [
    {"pcCode": "FR-SC-4TEMPS", "label": "Les 4 Temps", "country": "FR", "centerCode": 3051},
    {"pcCode": "FR-SC-FORUM", "label": "Forum des Halles", "country": "FR", "centerCode": 3055},
    {"pcCode": "GB-SC-LONDON", "label": "London", "country": "GB", "parkingPartner": "smartparking_uk"},
    {"pcCode": "US-SC-CENTURY", "label": "Century City", "country": "US", "parkingPartner": "smartparking_us"},
    {"pcCode": "NL-SC-MALL", "label": "Mall of the Netherlands", "country": "NL", "centerCode": 5002},
]
PEOPLE = [
    ("Amélie", "Moreau", "FR"),
    ("Jules", "Lefèvre", "FR"),
    ("Inès", "Garnier", "FR"),
    ("Louis", "Caron", "FR"),
    ("Oliver", "Hughes", "GB"),
    ("Grace", "Patel", "GB"),
    ("Noah", "Walker", "US"),
    ("Ava", "Ramirez", "US"),
    ("Sanne", "de Vries", "NL"),
    ("Daan", "Bakker", "NL"),
    ("Léa", "Fontaine", "FR"),
    ("Ethan", "Brooks", "US"),
]
MAKERS = [("Renault", "Clio"), ("Peugeot", "208"), ("Ford", "Focus"), ("Tesla", "Model 3"), ("Volkswagen", "Golf")]


@dataclass(frozen=True)
class Known:
    """A visitor that the simulated gateways know."""

    visitor_id: str
    barcode: str
    plate: str
    pc_code: str


def remembered(file: Path) -> list[Known] | None:
    """Whom the gateways know, where the sample data was created before."""
    return [Known(**entry) for entry in json.loads(file.read_text())] if file.exists() else None


def remember(file: Path, people: Sequence[Known]) -> None:
    file.write_text(json.dumps([asdict(person) for person in people]))


async def create(url: str) -> list[Known]:
    """Create the sample data over HTTP. Raises httpx.HTTPError."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for center in CENTERS:
            await _create(client, "/centers", {**center, "isWestfield": True, "isActive": True, "hasLoyalty": True})
        return [await _person(client, number, *person) for number, person in enumerate(PEOPLE)]


async def _person(client: httpx.AsyncClient, number: int, first: str, last: str, country: str) -> Known:
    center = next(center for center in CENTERS if center["country"] == country)
    visitor = await _create(
        client,
        "/visitors",
        {
            "firstName": first,
            "lastName": last,
            "email": f"visitor{number}@example.com",
            "gender": "u",
            "countryCode": country,
            "acquisitionPcCode": center["pcCode"],
            "addressCity": center["label"],
            "optins": [{"optinType": "commercial", "optinChannel": "email", "isActive": number % 2 == 0}],
        },
    )
    maker, model = MAKERS[number % len(MAKERS)]
    plate = f"{'ABCDEFGHJKLM'[number]}X-{100 + number * 7}-{country}"
    vehicle = {"licensePlate": plate, "licensePlateCountry": country, "maker": maker, "model": model}
    await _create(client, f"/visitors/{visitor['visitorId']}/vehicles", vehicle)
    return Known(visitor["visitorId"], visitor["barcode"], plate, str(center["pcCode"]))


async def _create(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What lies there from an interrupted start is met with the same key, and answered the same."""
    key = f"sample {path} {body.get('pcCode') or body.get('email') or body.get('licensePlate')}"
    answer = await client.post(path, json=body, headers={"Idempotency-Key": key[:128]})
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()["data"]
    return found


async def simulate(producer: Producer, people: Sequence[Known], per_second: float) -> None:
    """Gateways report entries and exits until cancelled: at the barrier by plate, at the door by barcode."""
    inside: set[Known] = set()
    while True:
        await asyncio.sleep(random.expovariate(per_second))
        person = random.choice(people)
        try:
            await producer.send([_visit(person, "exit" if person in inside else "entry")])
        except Undelivered:
            continue
        inside ^= {person}


def _visit(person: Known, visit_type: str) -> Outgoing:
    by_plate = random.random() < 0.7
    identification = {"licensePlate": person.plate} if by_plate else {"barcode": person.barcode}
    value = {"path": {"visitType": visit_type}, "body": {**identification, "pcCode": person.pc_code}}
    gateway = f"gateway/{person.pc_code.lower()}-{'parking' if by_plate else 'door'}"
    head = Head(str(uuid4()), "visits.create", gateway, JSON)
    key = next(iter(identification.values())).encode()
    return Outgoing(names.requests("visits"), wire_json.write(value), key, head.headers())
