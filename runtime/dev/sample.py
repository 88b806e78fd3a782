"""Sample data of a plausible group of centers, and gateways that report its visitors; only for `visitor dev`."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from topics import json as wire_json
from topics import names
from topics.envelope import JSON, RequestHeaders
from topics.kafka import DeliveryError, Outgoing, Producer
from topics.supervision import Interrupted, interruptions_raised

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
_OPEN = [{"localeCode": "fr-FR", "value": "Ouverture dimanche"}, {"localeCode": "en-GB", "value": "Open on Sunday"}]
ARTICLE: dict[str, Any] = {
    "genericName": "Open on Sunday", "mainImageUrl": "sunday.jpg", "status": "published",
    "publishDate": "2024-06-01T00:00:00Z", "title": _OPEN, "content": _OPEN,
}  # fmt: skip
MAKERS = [("Renault", "Clio"), ("Peugeot", "208"), ("Ford", "Focus"), ("Tesla", "Model 3"), ("Volkswagen", "Golf")]


@dataclass(frozen=True)
class SamplePerson:
    """A visitor that the simulated gateways know."""

    visitor_id: str
    barcode: str
    plate: str
    vehicle_id: int
    pc_code: str


async def ensure(url: str) -> None:
    """Create what the service lacks of the sample data. The service itself is asked: its data may have been removed
    since the last start, or that start interrupted. Raises httpx.HTTPError, HTTPStatusError for what is refused."""
    async with _client(url) as client:
        if not await _is_complete(client):
            await _create_all(client)


async def find(url: str) -> list[SamplePerson]:
    """Whom the gateways know: the sample's people who are there with their car; some may have been deleted. Raises
    httpx.HTTPError."""
    async with _client(url) as client:
        found = await asyncio.gather(*(_find(client, number) for number in range(len(PEOPLE))))
    return [person for person in found if person is not None]


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=30)


async def _is_complete(client: httpx.AsyncClient) -> bool:
    """Whether what is created last is there. It is an article, since nobody can delete one."""
    published = {"publishDateSince": ARTICLE["publishDate"], "limit": 500}
    return any(
        article["genericName"] == ARTICLE["genericName"] for article in await _list(client, "/articles", published)
    )


async def _find(client: httpx.AsyncClient, number: int) -> SamplePerson | None:
    for visitor in await _list(client, "/visitors", {"email": _email(number)}):
        path, plate = f"/visitors/{visitor['visitorId']}/vehicles", _plate(number)
        for car in await _list(client, path, {"licensePlate": plate}):
            return SamplePerson(
                visitor["visitorId"], visitor["barcode"], plate, car["vehicleId"], _home_of(number)["pcCode"]
            )
    return None


async def _list(client: httpx.AsyncClient, path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.get(path, params=query)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def _home_of(number: int) -> dict[str, Any]:
    """The center that this person visits."""
    return next(center for center in CENTERS if center["country"] == PEOPLE[number][2])


def _email(number: int) -> str:
    return f"visitor{number}@example.com"


def _plate(number: int) -> str:
    return f"{'ABCDEFGHJKLM'[number]}X-{100 + number * 7}-{PEOPLE[number][2]}"


async def _create_all(client: httpx.AsyncClient) -> None:
    """In an order of which the last one says that all are there."""
    for center in CENTERS:
        await _create(client, "/centers", {**center, "isWestfield": True, "isActive": True, "hasLoyalty": True})
        await _create(client, f"/centers/{center['pcCode']}/companies", {"companyName": "Westfield Services"})
    people = [await _person(client, number, *person) for number, person in enumerate(PEOPLE)]
    await _consents(client)
    await _services(client, people)
    await _challenge(client, people)
    await asyncio.gather(*(_details(client, person) for person in people))
    await _create(client, "/articles", ARTICLE)


async def _person(client: httpx.AsyncClient, number: int, first: str, last: str, country: str) -> SamplePerson:
    center = _home_of(number)
    visitor = await _create(
        client,
        "/visitors",
        {
            "firstName": first,
            "lastName": last,
            "email": _email(number),
            "gender": "u",
            "countryCode": country,
            "acquisitionPcCode": center["pcCode"],
            "addressCity": center["label"],
            "optins": [{"optinType": "commercial", "optinChannel": "email", "isActive": number % 2 == 0}],
        },
    )
    maker, model = MAKERS[number % len(MAKERS)]
    plate = _plate(number)
    vehicle = {"licensePlate": plate, "licensePlateCountry": country, "maker": maker, "model": model}
    car = await _create(client, f"/visitors/{visitor['visitorId']}/vehicles", vehicle)
    return SamplePerson(visitor["visitorId"], visitor["barcode"], plate, car["vehicleId"], str(center["pcCode"]))


async def _consents(client: httpx.AsyncClient) -> None:
    text = {"type": "commercial_email", "releaseDate": "2024-01-01T00:00:00Z", "requireConsent": True}
    known = await _create(client, "/legalTexts", text)
    texts = {"optinHeaderText": "Restons en contact", "optinDisplayText": "J'accepte.", "documentText": None}
    await _create(client, f"/legalTexts/{known['id']}/locales/fr-FR", texts)


async def _services(client: httpx.AsyncClient, people: Sequence[SamplePerson]) -> None:
    """One in each center, with a checkin of each of its visitors."""
    theme = await _create(client, "/serviceThemes", {"value": "Comfort", "category": "service"})
    target = await _create(client, "/serviceTargets", {"value": "Families"})
    for center in CENTERS:
        service = {
            "pcCode": center["pcCode"], "name": "Cloakroom", "category": "comfort", "useRate": "free",
            "daysOfUse": [1, 2, 3, 4, 5, 6], "colorCode": "#336699",
        }  # fmt: skip
        known = await _create(client, "/services", service)
        path = f"/services/{known['serviceId']}"
        await _create(client, f"{path}/stores", {"storeId": 1, "storeName": "La Bonne Excuse"})
        await _create(client, f"{path}/segments", {"segmentId": 1, "segmentName": "Fashion"})
        await _create(client, f"{path}/themes", {"serviceThemeId": theme["serviceThemeId"]})
        await _create(client, f"{path}/targets", {"serviceTargetId": target["serviceTargetId"]})
        for person in people:
            if person.pc_code == center["pcCode"]:
                checkin = {"pcCode": person.pc_code, "serviceId": known["serviceId"], "origin": "dashboard"}
                await _create(client, f"/visitors/{person.visitor_id}/checkins", checkin)


async def _challenge(client: httpx.AsyncClient, people: Sequence[SamplePerson]) -> None:
    """Steps counted by all, and a reward for each."""
    text = [{"localeCode": "fr-FR", "value": "10 000 pas"}, {"localeCode": "en-GB", "value": "10,000 steps"}]
    # The same dates when an interrupted start is repeated, since the key is the same as well.
    begins = datetime(datetime.now(UTC).year, 1, 1, tzinfo=UTC)
    challenge = {
        "pcCode": CENTERS[0]["pcCode"], "genericName": "10,000 steps", "type": "step_counter", "status": "active",
        "startDate": begins.isoformat(), "endDate": begins.replace(year=begins.year + 2).isoformat(),
        "timezone": "Europe/Paris", "winnerNumber": 3, "displayName": text, "description": text, "rewardDetail": text,
    }  # fmt: skip
    known = await _create(client, "/challenges", challenge)
    for number, person in enumerate(people):
        path = f"/visitors/{person.visitor_id}/visitorChallenges"
        joined = await _create(client, path, {"challengeId": known["challengeId"]})
        await _create(client, f"{path}/{joined['visitorChallengeId']}/points", {"points": 1_000 + number * 137 % 900})
        reward = {
            "pcCode": person.pc_code, "startDate": begins.isoformat(), "balance": 10 * number, "threshold": 50,
            "outsideOptin": False,
        }  # fmt: skip
        await _create(client, f"/visitors/{person.visitor_id}/rewards", reward)


async def _details(client: httpx.AsyncClient, person: SamplePerson) -> None:
    await _profile(client, person)
    await _parking(client, person)


async def _profile(client: httpx.AsyncClient, person: SamplePerson) -> None:
    path, center = f"/visitors/{person.visitor_id}", {"pcCode": person.pc_code}
    await _create(client, f"{path}/centers", {**center, "isFavorite": True})
    bookmark = {"externalId": "69044", "label": "Bershka", "bookmarkType": "store", "source": "visitor"}
    await _create(client, f"{path}/bookmarks", {**center, **bookmark})
    await _create(client, f"{path}/interests", {"externalId": "fashion", "label": "Fashion"})
    await _create(client, f"{path}/locales", {"localeCode": "fr-FR"})
    device = {"token": f"device of {person.barcode}", "platform": "ios", "urwAppId": "one"}
    await _create(client, f"{path}/devices", {**device, "notificationToken": f"push to {person.barcode}"})
    game = {**center, "guid": f"game of {person.barcode}", "gameId": "spring", "gameName": "Spring game"}
    await _create(client, f"{path}/centerOperationSessions", game)
    card = {"externalType": "designa", "externalId": f"card of {person.barcode}", "pcCode": person.pc_code}
    await _create(client, f"{path}/externalIds", card)
    await _create(client, "/visits/entry", {"barcode": person.barcode, "pcCode": person.pc_code})


async def _parking(client: httpx.AsyncClient, person: SamplePerson) -> None:
    path = f"/visitors/{person.visitor_id}"
    parking = await _create(client, f"{path}/parkings", {"parkingPartner": "designa"})
    card = {
        "firstName": "A", "lastName": "B", "year": 2030, "month": 11, "fingerprint": "f", "cardType": "visa",
        "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": f"token of {person.barcode}",
    }  # fmt: skip
    known = await _create(client, f"{path}/creditCards", card)
    partner = {"vehicleId": person.vehicle_id, "partnerId": f"car of {person.barcode}", "parkingPartner": "designa"}
    await _create(client, f"{path}/vehiclePartners", {**partner, "pcCode": person.pc_code})
    history = {
        "parkingId": parking["parkingId"], "cardId": known["cardId"], "pcCode": person.pc_code, "currency": "EUR",
        "accessDevice": person.plate, "amount": 12, "paymentStatus": "succeeded",
        "parkingSessionStart": "2024-06-01T10:00:00Z", "parkingSessionEnd": "2024-06-01T12:30:00Z",
    }  # fmt: skip
    await _create(client, f"{path}/parkingHistories", history)


async def _create(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What lies there from an interrupted start is met with the same key, and answered the same."""
    which = next((body[name] for name in ("barcode", "pcCode", "email", "licensePlate") if name in body), "")
    key = f"sample {path} {which}".strip()
    answer = await client.post(path, json=body, headers={"Idempotency-Key": key[:128]})
    answer.raise_for_status()
    answered: dict[str, Any] = answer.json() if answer.content else {}
    found: dict[str, Any] = answered.get("data", answered)
    return found


async def simulate(producer: Producer, people: Sequence[SamplePerson], per_second: float) -> None:
    """Gateways report entries and exits until cancelled: at the barrier by plate, at the door by barcode."""
    inside: set[SamplePerson] = set()
    while True:
        await asyncio.sleep(random.expovariate(per_second))
        person = random.choice(people)
        try:
            with interruptions_raised():
                await producer.send([_visit(person, "exit" if person in inside else "entry")])
        except (DeliveryError, Interrupted):
            continue
        inside ^= {person}


def _visit(person: SamplePerson, visit_type: str) -> Outgoing:
    by_plate = random.random() < 0.7
    identification = {"licensePlate": person.plate} if by_plate else {"barcode": person.barcode}
    value = {"path": {"visitType": visit_type}, "body": {**identification, "pcCode": person.pc_code}}
    gateway = f"gateway/{person.pc_code.lower()}-{'parking' if by_plate else 'door'}"
    head = RequestHeaders(str(uuid4()), "visits.create", gateway, JSON)
    key = next(iter(identification.values())).encode()
    return Outgoing(names.requests("visits"), wire_json.write(value), key, head.encode())
