"""Erasing visitors: nothing about them is left, and everybody is told."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import sqlalchemy as sa

from storage.table import METADATA, TABLES
from tests.support import data, oracle
from tests.support.stack import Stack, eventually
from topics import names


async def _created(client: httpx.AsyncClient, path: str, body: Any) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()["data"] if "data" in answer.json() else answer.json()
    return found


async def _whole_visitor(client: httpx.AsyncClient) -> dict[str, Any]:
    """A visitor with something of every kind; its texts are unlike any other's."""
    known = await data.parker(client)
    mark = f"Quillfeather{uuid4().hex}".translate(str.maketrans("0123456789", "ghijklmnop"))
    path, center = f"/visitors/{known['visitorId']}", known["pcCode"]
    await client.patch(path, json={"lastName": mark, "addressStreet": f"{mark} street"})
    service = await _created(client, "/services", data.service(center))
    challenge = await _created(client, "/challenges", data.challenge(center))
    visit = {"licensePlate": known["licensePlate"], "pcCode": center}
    await _created(client, "/visits/entry", visit)
    await _created(
        client, f"{path}/checkins", {"pcCode": center, "serviceId": service["serviceId"], "origin": "partner"}
    )
    await _created(
        client, f"{path}/optins", {"optinType": "terms", "optinChannel": "none", "isActive": True, "sendId": mark}
    )
    joined = await _created(client, f"{path}/visitorChallenges", {"challengeId": challenge["challengeId"]})
    await client.post(f"{path}/visitorChallenges/{joined['visitorChallengeId']}/points", json={"points": 4_242})
    reward = {"pcCode": center, "startDate": "2024-01-01T00:00:00Z", "balance": 1, "threshold": 2, "outsideOptin": True}
    await _created(client, f"{path}/rewards", reward)
    card = {
        "firstName": mark, "lastName": mark, "year": 2030, "month": 1, "fingerprint": mark, "cardType": "visa",
        "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": mark,
    }  # fmt: skip
    card_id = (await _created(client, f"{path}/creditCards", card))["cardId"]
    parking_id = (await _created(client, f"{path}/parkings", {"parkingPartner": "designa"}))["parkingId"]
    session = {"currency": "EUR", "accessDevice": mark, "parkingId": parking_id, "cardId": card_id, "pcCode": center}
    await _created(client, f"{path}/parkingHistories", session)
    partner = {"vehicleId": known["vehicleId"], "partnerId": mark, "parkingPartner": "designa"}
    await _created(client, f"{path}/vehiclePartners", partner)
    await _created(client, f"{path}/centers", {"pcCode": center, "isFavorite": True})
    bookmark = {"pcCode": center, "externalId": mark, "label": mark, "bookmarkType": "store", "source": "visitor"}
    await _created(client, f"{path}/bookmarks", bookmark)
    await _created(client, f"{path}/interests", {"externalId": mark, "label": mark})
    device = {"token": mark, "platform": "ios", "notificationToken": mark, "urwAppId": "alma"}
    await _created(client, f"{path}/devices", device)
    await _created(client, f"{path}/locales", {"localeCode": "fr-FR"})
    game = {"pcCode": center, "guid": mark, "gameId": "g", "gameName": "Game"}
    await _created(client, f"{path}/centerOperationSessions", game)
    for kind in ("segments", "stores"):
        await _created(client, f"{path}/centerOperationSessions/{mark}/{kind}", [{"id": "1", "name": mark}])
    await client.patch("/visitors", json=[{"visitorId": known["visitorId"], "emailInvalid": True}])
    found = (await client.get(path)).json()["data"]
    analytics = (await client.get(f"{path}/externalIds/analytics")).json()["data"]["externalId"]
    return {
        **known, "mark": mark, "email": found["email"], "analyticsId": analytics, "path": path, "visit": visit,
        "serviceId": service["serviceId"], "challengeId": challenge["challengeId"],
    }  # fmt: skip


async def _erase(client: httpx.AsyncClient, *analytics_ids: str) -> dict[str, Any]:
    answer = await client.post("/visitors/erase", json=[{"analyticsId": each} for each in analytics_ids])
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found


async def _rows_with(stack: Stack, *texts: str) -> list[str]:
    """The tables in which a row holds one of the texts, whatever the column; bytes as the text that they are."""
    found = []
    async with stack.engine.connect() as conn:
        for table in METADATA.sorted_tables:
            for row in await conn.execute(sa.select(table)):
                whole = " ".join(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row)
                found += [f"{table.name}: {text}" for text in texts if text in whole]
    return found


async def test_every_row_goes_and_a_second_time_it_has_failed(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _whole_visitor(client)
    personal = (known["visitorId"], known["mark"], known["email"], known["licensePlate"], known["barcode"])
    assert {text.split(":")[0] for text in await _rows_with(stack, known["visitorId"])} >= {
        table.name for table in METADATA.sorted_tables if "visitor_id" in table.c
    }  # fmt: skip
    assert await _erase(client, known["analyticsId"], "of nobody") == {
        "success": [known["analyticsId"]], "failed": ["of nobody"],
    }  # fmt: skip

    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert await _rows_with(stack, *personal) == []
    assert await _erase(client, known["analyticsId"]) == {"success": [], "failed": [known["analyticsId"]]}
    assert (await client.get(known["path"])).status_code == 404
    service = (await client.get(f"/services/{known['serviceId']}")).json()["data"]
    assert service["checkinCount"] == 0
    counted = await stack.rows("select 1 from ranking_counts where challenge_id = :id", id=known["challengeId"])
    assert counted == []


async def test_tombstones_follow_on_every_compacted_topic(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _whole_visitor(client)
    families = sorted({table.family for table in TABLES} - names.EVENT_FAMILIES)

    async def last_of_each() -> dict[str, Any]:
        """The last record of each entity that was ever told with this visitor."""
        told, last = set(), {}
        for family in families:
            for record in await stack.read(names.changes(family)):
                last[str(record.key)] = record.value
                if record.value and str(record.value["visitorId"]) == known["visitorId"]:
                    told.add(str(record.key))
        return {key: last[key] for key in told}

    assert len(await last_of_each()) > 15
    await _erase(client, known["analyticsId"])

    async def all_gone() -> bool:
        return set((await last_of_each()).values()) == {None}

    await eventually("a tombstone for each", all_gone)


async def test_requests_in_flight_and_repeated_ones_bring_nothing_back(stack: Stack, client: httpx.AsyncClient) -> None:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    body, key = data.visitor(pc_code), {"Idempotency-Key": str(uuid4())}
    visitor = (await client.post("/visitors", json=body, headers=key)).json()["data"]
    path = f"/visitors/{visitor['visitorId']}"
    analytics = (await client.get(f"{path}/externalIds/analytics")).json()["data"]["externalId"]
    work = [
        client.post(f"{path}/{kind}", json=entity)
        for _ in range(10)
        for kind, entity in (("vehicles", data.vehicle()), ("centers", {"pcCode": pc_code, "isFavorite": True}))
    ]
    visits = [client.post("/visits/exit", json={"barcode": visitor["barcode"], "pcCode": pc_code}) for _ in range(10)]
    answers = await asyncio.gather(*work[:10], _erase(client, analytics), *work[10:], *visits)
    statuses = {answer.status_code for answer in answers if isinstance(answer, httpx.Response)}
    assert statuses <= {201, 404, 409}
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert await _rows_with(stack, visitor["visitorId"], visitor["email"]) == []

    again = await client.post("/visitors", json=body, headers=key)
    assert (again.status_code, again.json()["errors"][0]["code"]) == (404, "visitor_erased")
    assert (await client.get("/visitors", params={"email": visitor["email"]})).json()["data"] == []
