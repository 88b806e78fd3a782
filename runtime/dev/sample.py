"""Sample data of a group of shopping centers, for `visitor dev`."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

Result = TypeVar("Result")

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
_SUNDAY_TEXTS = [
    {"localeCode": "fr-FR", "value": "Ouverture dimanche"},
    {"localeCode": "en-GB", "value": "Open on Sunday"},
]
ARTICLE: dict[str, Any] = {
    "genericName": "Open on Sunday", "mainImageUrl": "sunday.jpg", "status": "published",
    "publishDate": "2024-06-01T00:00:00Z", "title": _SUNDAY_TEXTS, "content": _SUNDAY_TEXTS,
}  # fmt: skip
_CARS = [("Renault", "Clio"), ("Peugeot", "208"), ("Ford", "Focus"), ("Tesla", "Model 3"), ("Volkswagen", "Golf")]


@dataclass(frozen=True)
class SamplePerson:
    """A visitor with a vehicle, of whom the simulated gateways send visits."""

    visitor_id: str
    barcode: str
    plate: str
    vehicle_id: int
    pc_code: str


async def ensure(url: str) -> None:
    """Create the sample data if the service does not have all of it. Always asks the service, because its data may have
    been deleted since the last start, or that start may have been interrupted. Raises httpx.HTTPError; HTTPStatusError
    if the service refuses a request."""
    async with _client(url) as client:
        if not await _is_complete(client):
            await _create_all(client)


async def find(url: str) -> list[SamplePerson]:
    """The people of the sample who still exist with their vehicles. Raises httpx.HTTPError."""
    async with _client(url) as client:
        people = await _all(_find_person(client, number) for number in range(len(PEOPLE)))
    return [person for person in people if person is not None]


_LISTED_AT = {
    "serviceId": "/services?pcCode={pcCode}",
    "centerCompanyId": "/centers/{pcCode}/companies",
    "legalTextId": "/legalTexts?legalType=commercial_email&sort=-version",
    "serviceThemeId": "/services/{serviceId}/themes",
    "serviceTargetId": "/services/{serviceId}/targets",
    "unlinkedThemeId": "/serviceThemes?sort=-serviceThemeId",
    "unlinkedTargetId": "/serviceTargets?sort=-serviceTargetId",
    "challengeId": "/challenges?pcCode={pcCode}",
    "openChallengeId": "/challenges?status=active&sort=-challengeId",
    "terminableChallengeId": "/challenges?status=active&sort=-challengeId&offset=1",
    "articleId": "/articles",
    "optinId": "/visitors/{visitorId}/optins?optinType=loyalty",
    "externalId": "/visitors/{visitorId}/externalIds?sort=-externalType",
    **{
        name: f"/visitors/{{visitorId}}/{kind}"
        for name, kind in {
            "bookmarkId": "bookmarks", "deviceId": "devices", "cardId": "creditCards", "checkinId": "checkins",
            "vehiclePartnerId": "vehiclePartners", "parkingId": "parkings", "parkingHistoryId": "parkingHistories",
            "rewardId": "rewards", "interestId": "interests", "visitorCenterId": "centers",
            "visitorChallengeId": "visitorChallenges", "guid": "centerOperationSessions",
        }.items()
    },
}  # fmt: skip
"""By example value, the list whose first record has it."""

_FIELDS = {
    "legalTextId": "id", "unlinkedThemeId": "serviceThemeId", "unlinkedTargetId": "serviceTargetId",
    "openChallengeId": "challengeId", "terminableChallengeId": "challengeId",
}  # fmt: skip
"""The fields with these values, if they have other names."""


async def examples(url: str) -> dict[str, Any]:
    """The ids of existing records for the examples of the OpenAPI document, see `edge.examples`. The examples are about
    the first person; those that delete are about the second person and another center, and the third one is erased.
    Values that do not exist are left out. Raises httpx.HTTPError."""
    people = await find(url)
    if len(people) < 3:
        return {}
    async with _client(url) as client:
        values = await _values_of(client, people[0], people[0].pc_code)
        deleted = await _values_of(client, people[1], CENTERS[1]["pcCode"])
        path = f"/visitors/{people[2].visitor_id}/externalIds"
        analytics_ids = [row["externalId"] for row in await _list(client, path) if row["externalType"] == "analytics"]
    return {**values, "analyticsId": analytics_ids[0], "deleted": deleted}


async def _values_of(client: httpx.AsyncClient, person: SamplePerson, pc_code: str) -> dict[str, Any]:
    values = {
        "visitorId": person.visitor_id, "barcode": person.barcode, "licensePlate": person.plate,
        "vehicleId": person.vehicle_id, "pcCode": pc_code,
    }  # fmt: skip
    for name, path in _LISTED_AT.items():
        rows = await _list(client, path.format(**values))
        if rows:
            values[name] = rows[0][_FIELDS.get(name, name)]
    return values


async def _all(calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of calls that run side by side. Raises the first error after all have ended: calls that run on while
    their client is closed can leave connections open."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


def _client(url: str) -> httpx.AsyncClient:
    """The URL is on this machine, for which no proxy of the environment is meant."""
    return httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)


async def _is_complete(client: httpx.AsyncClient) -> bool:
    """True if the article exists. It is created last, and articles cannot be deleted."""
    query = {"publishDateSince": ARTICLE["publishDate"], "limit": 500}
    articles = await _list(client, "/articles", query)
    return any(article["genericName"] == ARTICLE["genericName"] for article in articles)


async def _find_person(client: httpx.AsyncClient, number: int) -> SamplePerson | None:
    for visitor in await _list(client, "/visitors", {"email": _email(number)}):
        plate = _plate(number)
        for vehicle in await _list(client, f"/visitors/{visitor['visitorId']}/vehicles", {"licensePlate": plate}):
            pc_code = _home_center(number)["pcCode"]
            return SamplePerson(visitor["visitorId"], visitor["barcode"], plate, vehicle["vehicleId"], pc_code)
    return None


async def _list(client: httpx.AsyncClient, path: str, query: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    response = await client.get(path, params=query)
    response.raise_for_status()
    records: list[dict[str, Any]] = response.json()["data"]
    return records


def _home_center(number: int) -> dict[str, Any]:
    """The center that this person visits."""
    return next(center for center in CENTERS if center["country"] == PEOPLE[number][2])


def _email(number: int) -> str:
    return f"visitor{number}@example.com"


def _plate(number: int) -> str:
    return f"{'ABCDEFGHJKLM'[number]}X-{100 + number * 7}-{PEOPLE[number][2]}"


async def _create_all(client: httpx.AsyncClient) -> None:
    """Create the article last: its existence shows that the sample data is complete."""
    for center in CENTERS:
        await create_center(client, center)
        await _create(client, f"/centers/{center['pcCode']}/companies", {"companyName": "Westfield Services"})
    people = [await _create_person(client, number, *person) for number, person in enumerate(PEOPLE)]
    await _create_legal_text(client)
    await _create_services(client, people)
    await _create_challenge(client, people)
    await _all(_create_details(client, person) for person in people)
    await _create(client, "/articles", ARTICLE)


async def create_center(client: httpx.AsyncClient, center: dict[str, Any]) -> None:
    """Create one of `CENTERS`, or do nothing if it was created by this function. Raises httpx.HTTPError."""
    await _create(client, "/centers", {**center, "isWestfield": True, "isActive": True, "hasLoyalty": True})


async def _create_person(client: httpx.AsyncClient, number: int, first: str, last: str, country: str) -> SamplePerson:
    center = _home_center(number)
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
    maker, model = _CARS[number % len(_CARS)]
    plate = _plate(number)
    car = {"licensePlate": plate, "licensePlateCountry": country, "maker": maker, "model": model}
    vehicle = await _create(client, f"/visitors/{visitor['visitorId']}/vehicles", car)
    return SamplePerson(visitor["visitorId"], visitor["barcode"], plate, vehicle["vehicleId"], str(center["pcCode"]))


async def _create_legal_text(client: httpx.AsyncClient) -> None:
    body = {"type": "commercial_email", "releaseDate": "2024-01-01T00:00:00Z", "requireConsent": True}
    legal_text = await _create(client, "/legalTexts", body)
    locale = {"optinHeaderText": "Restons en contact", "optinDisplayText": "J'accepte.", "documentText": None}
    await _create(client, f"/legalTexts/{legal_text['id']}/locales/fr-FR", locale)


async def _create_services(client: httpx.AsyncClient, people: Sequence[SamplePerson]) -> None:
    """One service in each center, with a check-in of each person who visits the center."""
    theme = await _create(client, "/serviceThemes", {"value": "Comfort", "category": "service"}, "Comfort")
    target = await _create(client, "/serviceTargets", {"value": "Families"}, "Families")
    # No service has these. The examples of the API link them.
    await _create(client, "/serviceThemes", {"value": "Summer", "category": "event"}, "Summer")
    await _create(client, "/serviceTargets", {"value": "Tourists"}, "Tourists")
    for center in CENTERS:
        body = {
            "pcCode": center["pcCode"], "name": "Cloakroom", "category": "comfort", "useRate": "free",
            "daysOfUse": [1, 2, 3, 4, 5, 6], "colorCode": "#336699",
        }  # fmt: skip
        service = await _create(client, "/services", body)
        path = f"/services/{service['serviceId']}"
        await _create(client, f"{path}/stores", {"storeId": 1, "storeName": "La Bonne Excuse"})
        await _create(client, f"{path}/segments", {"segmentId": 1, "segmentName": "Fashion"})
        await _create(client, f"{path}/themes", {"serviceThemeId": theme["serviceThemeId"]})
        await _create(client, f"{path}/targets", {"serviceTargetId": target["serviceTargetId"]})
        for person in people:
            if person.pc_code == center["pcCode"]:
                checkin = {"pcCode": person.pc_code, "serviceId": service["serviceId"], "origin": "dashboard"}
                await _create(client, f"/visitors/{person.visitor_id}/checkins", checkin)


async def _create_challenge(client: httpx.AsyncClient, people: Sequence[SamplePerson]) -> None:
    """A challenge in which all people participate with points, and a reward for each person."""
    texts = [{"localeCode": "fr-FR", "value": "10 000 pas"}, {"localeCode": "en-GB", "value": "10,000 steps"}]
    # A start after an interrupted one repeats the calls with the same keys, so the dates must be the same too.
    start = datetime(datetime.now(UTC).year, 1, 1, tzinfo=UTC)
    body = {
        "pcCode": CENTERS[0]["pcCode"], "genericName": "10,000 steps", "type": "step_counter", "status": "active",
        "startDate": start.isoformat(), "endDate": start.replace(year=start.year + 2).isoformat(),
        "timezone": "Europe/Paris", "winnerNumber": 3,
        "displayName": texts, "description": texts, "rewardDetail": texts,
    }  # fmt: skip
    challenge = await _create(client, "/challenges", body, "steps")
    # Nobody has joined these. The examples of the API end one and join the other.
    for name in ("Spring walk", "Autumn walk"):
        await _create(client, "/challenges", {**body, "pcCode": CENTERS[1]["pcCode"], "genericName": name}, name)
    for number, person in enumerate(people):
        path = f"/visitors/{person.visitor_id}/visitorChallenges"
        participation = await _create(client, path, {"challengeId": challenge["challengeId"]})
        points = {"points": 1_000 + number * 137 % 900}
        await _create(client, f"{path}/{participation['visitorChallengeId']}/points", points)
        reward = {
            "pcCode": person.pc_code, "startDate": start.isoformat(), "balance": 10 * number, "threshold": 50,
            "outsideOptin": False,
        }  # fmt: skip
        await _create(client, f"/visitors/{person.visitor_id}/rewards", reward)


async def _create_details(client: httpx.AsyncClient, person: SamplePerson) -> None:
    await _create_profile(client, person)
    await _create_parking(client, person)


async def _create_profile(client: httpx.AsyncClient, person: SamplePerson) -> None:
    path, center = f"/visitors/{person.visitor_id}", {"pcCode": person.pc_code}
    await _create(client, f"{path}/centers", {**center, "isFavorite": True})
    bookmark = {"externalId": "69044", "label": "Bershka", "bookmarkType": "store", "source": "visitor"}
    await _create(client, f"{path}/bookmarks", {**center, **bookmark})
    await _create(client, f"{path}/interests", {"externalId": "fashion", "label": "Fashion"})
    await _create(client, f"{path}/locales", {"localeCode": "fr-FR"})
    for optin_type, channel in (("loyalty", "push"), ("center", "sms")):
        optin = {"optinType": optin_type, "optinChannel": channel, "isActive": True}
        await _create(client, f"{path}/optins", optin, optin_type)
    device = {"token": f"device of {person.barcode}", "platform": "ios", "urwAppId": "one"}
    await _create(client, f"{path}/devices", {**device, "notificationToken": f"push to {person.barcode}"})
    session = {**center, "guid": f"game of {person.barcode}", "gameId": "spring", "gameName": "Spring game"}
    await _create(client, f"{path}/centerOperationSessions", session)
    external_id = {"externalType": "designa", "externalId": f"card of {person.barcode}", "pcCode": person.pc_code}
    await _create(client, f"{path}/externalIds", external_id)
    await _create(client, "/visits/entry", {"barcode": person.barcode, "pcCode": person.pc_code})


async def _create_parking(client: httpx.AsyncClient, person: SamplePerson) -> None:
    path = f"/visitors/{person.visitor_id}"
    parking = await _create(client, f"{path}/parkings", {"parkingPartner": "designa"})
    body = {
        "firstName": "A", "lastName": "B", "year": 2030, "month": 11, "fingerprint": "f", "cardType": "visa",
        "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": f"token of {person.barcode}",
    }  # fmt: skip
    card = await _create(client, f"{path}/creditCards", body)
    partner = {"vehicleId": person.vehicle_id, "partnerId": f"car of {person.barcode}", "parkingPartner": "designa"}
    await _create(client, f"{path}/vehiclePartners", {**partner, "pcCode": person.pc_code})
    history = {
        "parkingId": parking["parkingId"], "cardId": card["cardId"], "pcCode": person.pc_code, "currency": "EUR",
        "accessDevice": person.plate, "amount": 12, "paymentStatus": "succeeded",
        "parkingSessionStart": "2024-06-01T10:00:00Z", "parkingSessionEnd": "2024-06-01T12:30:00Z",
    }  # fmt: skip
    await _create(client, f"{path}/parkingHistories", history)


async def _create(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], identifier: str | None = None
) -> dict[str, Any]:
    """Create a record and return it. The idempotency key depends only on the path and on the identifier, by default one
    in the body, so a start after an interrupted one gets the existing records. Raises httpx.HTTPError."""
    if identifier is None:
        identifier = next((body[name] for name in ("barcode", "pcCode", "email", "licensePlate") if name in body), "")
    key = f"sample {path} {identifier}".strip()
    response = await client.post(path, json=body, headers={"Idempotency-Key": key[:128]})
    response.raise_for_status()
    reply: dict[str, Any] = response.json() if response.content else {}
    record: dict[str, Any] = reply.get("data", reply)
    return record
