"""Erasing visitors: nothing about them is left, and everybody is told."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import sqlalchemy as sa

from agents.families.checkins import checkins
from agents.families.visitors.visitor_table import VISITORS
from storage import outbox
from storage.table import METADATA, TABLES
from storage.tx import Caller, Cause, Tx
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


async def test_what_one_batch_created_and_erased_leaves_nothing(stack: Stack, client: httpx.AsyncClient) -> None:
    """Also in the inbox and the outbox, where the earlier requests of the batch stand only after the erasing one."""
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    partial = {
        "firstName": "Zora", "email": data.new_email(), "countryCode": "FR", "preferredCenter": pc_code, "optins": [],
    }  # fmt: skip
    visitor = await data.create(client, "/visitors/partial", partial)
    path = f"/visitors/{visitor['visitorId']}"
    analytics = (await client.get(f"{path}/externalIds/analytics")).json()["data"]["externalId"]
    mark = f"Quillfeather{uuid4().hex}".translate(str.maketrans("0123456789", "ghijklmnop"))
    body = data.visitor(pc_code, email=partial["email"], lastName=mark)
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))

    gate = await _gate(stack, client)
    upgraded = await stack.send("visitors.create", {"body": body}, key=gate.key)
    changed = {"path": {"visitorId": visitor["visitorId"]}, "body": {"addressCity": mark}}
    await stack.send("visitors.update", changed, key=gate.key)
    erased = await stack.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics}]}, key=gate.key)
    await gate.open()

    assert (await stack.result("visitors.create", upgraded)).value["body"]["data"]["visitorId"] == visitor["visitorId"]
    assert (await stack.result("visitors.eraseByAnalyticsId", erased)).value["body"]["data"]["success"] == [analytics]
    kept = await stack.rows("select xmin::text, status from inbox where request_id = any(:ids)", ids=[upgraded, erased])
    assert len({row.xmin for row in kept}) == 1, "they were to be one batch"
    assert sorted(row.status for row in kept) == [200, 404]
    assert await _rows_with(stack, mark, partial["email"]) == []
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert await _rows_with(stack, visitor["visitorId"]) == []
    told = [record for record in await stack.read(names.changes("visitors")) if record.value and mark in str(record)]
    assert told == []


class _Gate:
    """A lane that waits, so that all that is sent with the key meanwhile is one batch."""

    def __init__(self, key: str, conn: Any) -> None:
        self.key, self._conn = key, conn

    async def open(self) -> None:
        await asyncio.sleep(1)
        await self._conn.rollback()
        await self._conn.close()


async def _gate(stack: Stack, client: httpx.AsyncClient) -> _Gate:
    """Holds up a request that goes first."""
    other = await data.parker(client)
    gate = _Gate(str(uuid4()), await stack.engine.connect())
    lock = sa.text("select 1 from visitors where visitor_id = :id for update")
    await gate._conn.execute(lock, {"id": UUID(other["visitorId"])})
    held = {"path": {"visitorId": other["visitorId"]}, "body": {"gender": "u"}}
    await stack.send("visitors.update", held, key=gate.key)

    async def waits() -> bool:
        return bool(await _waiting(stack))

    await eventually("a lane that waits", waits)
    return gate


async def _waiting(stack: Stack) -> list[Any]:
    return await stack.rows("select pid from pg_stat_activity where wait_event_type = 'Lock'")


async def test_deletions_that_wait_to_be_published_are_not_forgotten(stack: Stack) -> None:
    """Consumers know the entities already; without the tombstone they would keep them."""
    visitor, now = uuid4(), datetime.now(UTC)

    def entry(kind: str, value: bytes | None) -> outbox.Entry:
        return outbox.Entry("visitor.parking.changes", "vehicle:1", str(visitor), str(uuid4()), kind, value)

    entries = [
        entry("vehicle.created", b"personal"), entry("vehicle.updated", b"personal"),
        entry("vehicle.deleted", b"deleted"), entry("vehicle.deleted", None),
    ]  # fmt: skip
    async with stack.engine.connect() as conn:
        await outbox.insert(conn, entries, now)
        await outbox.delete_unpublished(conn, [visitor])
        rows = sa.select(outbox.OUTBOX.c.value).where(outbox.OUTBOX.c.partition_key == str(visitor))
        assert [row.value for row in await conn.execute(rows.order_by(outbox.OUTBOX.c.id))] == [b"deleted", None]
        await conn.rollback()


async def test_several_visitors_and_several_ids_of_one_in_one_request(stack: Stack, client: httpx.AsyncClient) -> None:
    one, other = await data.parker(client), await data.parker(client)
    ids = []
    for known in (one, other):
        found = await client.get(f"/visitors/{known['visitorId']}/externalIds/analytics")
        ids.append(found.json()["data"]["externalId"])
    second = str(uuid4())
    async with stack.engine.begin() as conn:
        await conn.execute(
            sa.text(
                "insert into external_ids (external_id, folded_id, visitor_id, external_type, pc_code, creation_date,"
                " update_date, revision) values (:id, :id, :visitor, 'analytics', :center, now(), now(), 1)"
            ),
            {"id": second, "visitor": UUID(one["visitorId"]), "center": one["pcCode"]},
        )
    elsewhere = {"analyticsId": second, "pcCode": other["pcCode"]}
    assert (await client.post("/visitors/erase", json=[elsewhere])).json()["data"]["failed"] == [second]
    body = [{"analyticsId": ids[0]}, elsewhere, {"analyticsId": second, "pcCode": one["pcCode"]}]
    body += [{"analyticsId": each} for each in ("of nobody", ids[1], ids[0])]
    answer = await client.post("/visitors/erase", json=body)
    assert answer.json()["data"] == {"success": [ids[0], second, ids[1]], "failed": ["of nobody"]}
    for known in (one, other):
        assert (await client.get(f"/visitors/{known['visitorId']}")).status_code == 404


async def test_erasing_lowers_counts_by_exactly_what_it_removed(stack: Stack, client: httpx.AsyncClient) -> None:
    """Not again by a checkin whose removal commits meanwhile."""
    known = await data.parker(client)
    service = await _created(client, "/services", data.service(known["pcCode"]))
    path = f"/visitors/{known['visitorId']}/checkins"
    body = {"pcCode": known["pcCode"], "serviceId": service["serviceId"], "origin": "partner"}
    first, _ = [await _created(client, path, body) for _ in range(2)]
    tx = await _tx(stack)
    await checkins.CHECKINS.lock(tx, checkin_id=first["checkinId"])
    await checkins.CHECKINS.delete(tx, checkin_id=first["checkinId"])
    await tx.conn.execute(
        sa.text("update services set checkin_count = checkin_count - 1 where service_id = :id"),
        {"id": service["serviceId"]},
    )
    analytics = (await client.get(f"/visitors/{known['visitorId']}/externalIds/analytics")).json()["data"]["externalId"]
    erasing = asyncio.create_task(_erase(client, analytics))

    async def waits() -> bool:
        return bool(await _waiting(stack))

    await eventually("an erasure that waits", waits)
    await tx.conn.commit()
    await tx.conn.close()
    assert (await erasing)["success"] == [analytics]
    found = (await client.get(f"/services/{service['serviceId']}")).json()["data"]
    assert found["checkinCount"] == 0


async def test_a_visitor_that_is_erased_meanwhile_is_404_for_visits_and_checkins(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Found by its barcode or plate, and gone when the row is to be kept."""
    known = await data.parker(client)
    service = await _created(client, "/services", data.service(known["pcCode"]))
    checkin = {"barcode": known["barcode"], "serviceId": service["serviceId"], "origin": "partner"}
    calls = [
        ("/visits/exit", {"barcode": known["barcode"]}),
        ("/visits/entry", {"licensePlate": known["licensePlate"]}),
        ("/checkins", checkin),
    ]
    tx = await _tx(stack)
    await VISITORS.lock(tx, for_removal=True, visitor_id=UUID(known["visitorId"]))
    work = [asyncio.create_task(client.post(path, json={**body, "pcCode": known["pcCode"]})) for path, body in calls]

    async def all_wait() -> bool:
        # The visits may be of one lane, or of one batch.
        return len(await _waiting(stack)) >= 2

    await eventually("visits and checkins that wait", all_wait)
    for name in ("external_ids", "vehicles", "visitors"):
        await tx.conn.execute(sa.text(f"delete from {name} where visitor_id = :id"), {"id": UUID(known["visitorId"])})
    await tx.conn.commit()
    await tx.conn.close()
    for answer in await asyncio.gather(*work):
        told = [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]
        assert (answer.status_code, told) == (404, [(None, "visitor_not_found")])


async def _tx(stack: Stack) -> Tx:
    """A transaction of the test's own."""
    now = datetime.now(UTC)
    return Tx(await stack.engine.connect(), Cause("test", Caller("test", "test"), now), now)
