"""Erasure: nothing about an erased visitor remains, and consumers get tombstones."""

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from agents.catalogue import CATALOGUE
from agents.families.checkins import checkins
from agents.families.visitors.visitor_table import VISITORS
from storage import outbox
from storage.table import METADATA, tables_with_column
from storage.tx import Tx
from tests.support import data, oracle
from tests.support.answers import error_codes
from tests.support.scene import Parts
from tests.support.search import tables_with
from tests.support.stack import Stack, eventually
from tests.support.transaction import handler_tx
from topics import names


async def _create(client: httpx.AsyncClient, path: str, body: Any) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code in (200, 201), answer.text
    created: dict[str, Any] = answer.json()["data"] if "data" in answer.json() else answer.json()
    return created


async def _visitor_with_records(client: httpx.AsyncClient) -> dict[str, Any]:
    """Create a visitor with a record in every table. Its texts contain a marker that no other visitor has."""
    parker = await data.visitor_with_vehicle(client)
    marker = f"Quillfeather{uuid4().hex}".translate(str.maketrans("0123456789", "ghijklmnop"))
    path, center = f"/visitors/{parker['visitorId']}", parker["pcCode"]
    await client.patch(path, json={"lastName": marker, "addressStreet": f"{marker} street"})
    service = await _create(client, "/services", data.service(center))
    challenge = await _create(client, "/challenges", data.challenge(center))
    visit = {"licensePlate": parker["licensePlate"], "pcCode": center}
    await _create(client, "/visits/entry", visit)
    await _create(
        client, f"{path}/checkins", {"pcCode": center, "serviceId": service["serviceId"], "origin": "partner"}
    )
    await _create(
        client, f"{path}/optins", {"optinType": "terms", "optinChannel": "none", "isActive": True, "sendId": marker}
    )
    participation = await _create(client, f"{path}/visitorChallenges", {"challengeId": challenge["challengeId"]})
    await client.post(f"{path}/visitorChallenges/{participation['visitorChallengeId']}/points", json={"points": 4_242})
    reward = {"pcCode": center, "startDate": "2024-01-01T00:00:00Z", "balance": 1, "threshold": 2, "outsideOptin": True}
    await _create(client, f"{path}/rewards", reward)
    card = {
        "firstName": marker, "lastName": marker, "year": 2030, "month": 1, "fingerprint": marker, "cardType": "visa",
        "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": marker,
    }  # fmt: skip
    card_id = (await _create(client, f"{path}/creditCards", card))["cardId"]
    parking_id = (await _create(client, f"{path}/parkings", {"parkingPartner": "designa"}))["parkingId"]
    session = {"currency": "EUR", "accessDevice": marker, "parkingId": parking_id, "cardId": card_id, "pcCode": center}
    await _create(client, f"{path}/parkingHistories", session)
    partner = {"vehicleId": parker["vehicleId"], "partnerId": marker, "parkingPartner": "designa"}
    await _create(client, f"{path}/vehiclePartners", partner)
    await _create(client, f"{path}/centers", {"pcCode": center, "isFavorite": True})
    bookmark = {"pcCode": center, "externalId": marker, "label": marker, "bookmarkType": "store", "source": "visitor"}
    await _create(client, f"{path}/bookmarks", bookmark)
    await _create(client, f"{path}/interests", {"externalId": marker, "label": marker})
    device = {"token": marker, "platform": "ios", "notificationToken": marker, "urwAppId": "alma"}
    await _create(client, f"{path}/devices", device)
    await _create(client, f"{path}/locales", {"localeCode": "fr-FR"})
    operation_session = {"pcCode": center, "guid": marker, "gameId": "g", "gameName": "Game"}
    await _create(client, f"{path}/centerOperationSessions", operation_session)
    for kind in ("segments", "stores"):
        for _ in ("added", "failed, since the session has it"):
            await _create(client, f"{path}/centerOperationSessions/{marker}/{kind}", [{"id": "1", "name": marker}])
    for _ in ("changed", "unchanged"):
        answer = await client.put(f"{path}/interests", json=[{"externalId": marker, "label": f"{marker} again"}])
        assert answer.status_code == 204
    await client.patch("/visitors", json=[{"visitorId": parker["visitorId"], "emailInvalid": True}])
    visitor = (await client.get(path)).json()["data"]
    analytics_id = await data.analytics_id(client, parker["visitorId"])
    return {
        **parker, "marker": marker, "email": visitor["email"], "analyticsId": analytics_id, "path": path,
        "visit": visit, "serviceId": service["serviceId"], "challengeId": challenge["challengeId"],
    }  # fmt: skip


async def _erase(client: httpx.AsyncClient, *analytics_ids: str) -> dict[str, Any]:
    answer = await client.post(
        "/visitors/erase", json=[{"analyticsId": analytics_id} for analytics_id in analytics_ids]
    )
    assert answer.status_code == 200, answer.text
    erased: dict[str, Any] = answer.json()["data"]
    return erased


async def test_an_export_has_everything_that_an_erasure_removes(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor_with_records(client)
    visitor_id = visitor["visitorId"]
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    holders = await tables_with(stack, visitor["marker"], visitor["email"], visitor_id)

    done = await stack.command("export-visitor", visitor_id)
    assert done.returncode == 0, done.stderr
    exported = json.loads(done.stdout)
    counts = {name: len(rows) for name, rows in exported["tables"].items()}
    for table in tables_with_column("visitor_id"):
        statement = f"select 1 from {table.name} where visitor_id = :visitor_id"
        assert counts.get(table.name, 0) == len(await stack.rows(statement, visitor_id=UUID(visitor_id))) > 0, (
            table.name
        )
    assert {holder.partition(":")[0] for holder in holders} <= counts.keys() | {"inbox"}
    assert visitor["email"] in {row["email"] for row in exported["tables"]["visitors"]}
    assert visitor["marker"] in str(exported["answers"])

    await _erase(client, visitor["analyticsId"])
    done = await stack.command("export-visitor", visitor_id)
    left = json.loads(done.stdout)
    assert (left["tables"], left["answers"]) == ({}, [])
    assert left["deletedEntities"] != []
    file = stack.home / "visitor.json"
    assert (await stack.command("export", visitor_id, "--output", str(file))).returncode == 0
    assert json.loads(file.read_text())["deletedEntities"] == left["deletedEntities"]
    done = await stack.command("export", visitor_id, "--format", "csv")
    assert (done.returncode, "exported as JSON" in done.stderr) == (2, True), done.stderr
    done = await stack.command("export-visitor", data.ABSENT_VISITOR_ID)
    assert done.returncode == 1
    assert done.stderr.startswith("visitor: There is no data about"), done.stderr


async def test_an_erasure_deletes_every_row_and_fails_when_repeated(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor_with_records(client)
    personal = (visitor["visitorId"], visitor["marker"], visitor["email"], visitor["licensePlate"], visitor["barcode"])
    assert {text.split(":")[0] for text in await tables_with(stack, visitor["visitorId"])} >= {
        table.name for table in METADATA.sorted_tables if "visitor_id" in table.c
    }  # fmt: skip
    assert await _erase(client, visitor["analyticsId"], "of nobody") == {
        "success": [visitor["analyticsId"]], "failed": ["of nobody"],
    }  # fmt: skip

    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert await tables_with(stack, *personal) == []
    assert await tables_with(stack, visitor["analyticsId"]) == [f"inbox: {visitor['analyticsId']}"]
    (answer,) = await stack.rows(
        "select operation from inbox where convert_from(body, 'UTF8') like :text", text=f"%{visitor['analyticsId']}%"
    )
    assert answer.operation == "visitors.eraseByAnalyticsId"
    deletions = " ".join([str(row) for row in await stack.rows("select * from deletions")])
    assert visitor["visitorId"] in deletions
    assert [text for text in (visitor["marker"], visitor["email"], visitor["licensePlate"]) if text in deletions] == []
    assert await _erase(client, visitor["analyticsId"]) == {"success": [], "failed": [visitor["analyticsId"]]}
    assert (await client.get(visitor["path"])).status_code == 404
    service = (await client.get(f"/services/{visitor['serviceId']}")).json()["data"]
    assert service["checkinCount"] == 0
    ranking_counts = await stack.rows(
        "select 1 from ranking_counts where challenge_id = :id", id=visitor["challengeId"]
    )
    assert ranking_counts == []


async def test_requests_of_an_erased_visitor_that_changed_nothing_are_not_answered_again(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    path, guid = f"/visitors/{parker['visitorId']}", str(uuid4())
    session = {"pcCode": parker["pcCode"], "guid": guid, "gameId": "g", "gameName": "Game"}
    await _create(client, f"{path}/centerOperationSessions", session)
    interest = [{"externalId": "1", "label": "Quillfeather"}]
    calls = [
        ("POST", f"{path}/centerOperationSessions/{guid}/segments", [{"id": "1", "name": "Quillfeather"}]),
        ("POST", f"{path}/centerOperationSessions/{guid}/stores", [{"id": "1", "name": "Quillfeather"}]),
        ("PUT", f"{path}/interests", interest),
    ]
    for method, url, body in calls:
        await client.request(method, url, json=body)
    headers = [{"Idempotency-Key": str(uuid4())} for _ in calls]

    async def statuses() -> list[int]:
        answers = [
            await client.request(method, url, json=body, headers=fields)
            for (method, url, body), fields in zip(calls, headers, strict=True)
        ]
        return [answer.status_code for answer in answers]

    assert await statuses() == [201, 201, 204]
    exported = json.loads((await stack.command("export-visitor", parker["visitorId"])).stdout)
    exported_ids = {answer["requestId"].partition("/")[2] for answer in exported["answers"]}
    assert exported_ids >= {fields["Idempotency-Key"] for fields in headers}
    await _erase(client, await data.analytics_id(client, parker["visitorId"]))
    assert await statuses() == [404, 404, 404]


async def test_tombstones_follow_on_every_compacted_topic(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor_with_records(client)
    compacted = [topic for topic, compacted in CATALOGUE.change_topics if compacted]

    async def last_values() -> dict[tuple[str, str | None], Any]:
        """Map the topic and key of each entity that ever had a change with this visitor to the value of its last
        record."""
        keys, values = set(), {}
        for topic in compacted:
            for record in await stack.read(topic):
                values[topic, record.key] = record.value
                if record.value and str(record.value["visitorId"]) == visitor["visitorId"]:
                    keys.add((topic, record.key))
        return {key: values[key] for key in keys}

    # The topics may lack the last changes until then.
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert len(await last_values()) > 15
    await _erase(client, visitor["analyticsId"])

    async def all_tombstones() -> bool:
        values = await last_values()
        return all(value is None for value in values.values())

    await eventually("a tombstone for every entity", all_tombstones)


async def test_concurrent_and_repeated_requests_do_not_restore_an_erased_visitor(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    body, headers = data.visitor(pc_code), {"Idempotency-Key": str(uuid4())}
    visitor = (await client.post("/visitors", json=body, headers=headers)).json()["data"]
    path = f"/visitors/{visitor['visitorId']}"
    analytics_id = await data.analytics_id(client, visitor["visitorId"])
    writes = [
        client.post(f"{path}/{kind}", json=entity)
        for _ in range(10)
        for kind, entity in (("vehicles", data.vehicle()), ("centers", {"pcCode": pc_code, "isFavorite": True}))
    ]
    visits = [client.post("/visits/exit", json={"barcode": visitor["barcode"], "pcCode": pc_code}) for _ in range(10)]
    answers = await asyncio.gather(*writes[:10], _erase(client, analytics_id), *writes[10:], *visits)
    statuses = {answer.status_code for answer in answers if isinstance(answer, httpx.Response)}
    assert statuses <= {201, 404, 409}
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert await tables_with(stack, visitor["visitorId"], visitor["email"]) == []

    repeated = await client.post("/visitors", json=body, headers=headers)
    assert (repeated.status_code, repeated.json()["errors"][0]["code"]) == (404, "visitor_erased")
    assert (await client.get("/visitors", params={"email": visitor["email"]})).json()["data"] == []


async def test_a_visitor_that_is_created_and_erased_in_one_batch_leaves_nothing(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Nor in the inbox and the outbox, which are written after all requests of the batch were applied."""
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    partial = {
        "firstName": "Zora", "email": data.new_email(), "countryCode": "FR", "preferredCenter": pc_code, "optins": [],
    }  # fmt: skip
    visitor = await data.create(client, "/visitors/partial", partial)
    analytics_id = await data.analytics_id(client, visitor["visitorId"])
    marker = f"Quillfeather{uuid4().hex}".translate(str.maketrans("0123456789", "ghijklmnop"))
    body = data.visitor(pc_code, email=partial["email"], lastName=marker)
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))

    gate = await _gate(stack, client)
    create_id = await gate.send("visitors.create", {"body": body})
    parts = {"path": {"visitorId": visitor["visitorId"]}, "body": {"addressCity": marker}}
    await gate.send("visitors.update", parts)
    erase_id = await gate.send("visitors.eraseByAnalyticsId", {"body": [{"analyticsId": analytics_id}]})
    await gate.open(client)

    assert (await stack.result("visitors.create", create_id)).value["body"]["data"]["visitorId"] == visitor["visitorId"]
    erased = (await stack.result("visitors.eraseByAnalyticsId", erase_id)).value["body"]["data"]
    assert erased["success"] == [analytics_id]
    statement = "select xmin::text, status from inbox where request_id = any(:ids)"
    inbox_rows = await stack.rows(statement, ids=[create_id, erase_id])
    assert len({row.xmin for row in inbox_rows}) == 1, "the requests were applied in more than one batch"
    assert sorted(row.status for row in inbox_rows) == [200, 404]
    assert await tables_with(stack, marker, partial["email"]) == []
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert await tables_with(stack, visitor["visitorId"]) == []
    changes = [record for record in await stack.read(names.changes("visitors", "visitor")) if record.value]
    assert [change for change in changes if marker in str(change)] == []


class _Gate:
    """Locks a row, so that all requests that are sent with this gate form one batch: the first of them needs the row,
    and the others have the same order key."""

    def __init__(self, stack: Stack, conn: AsyncConnection) -> None:
        self._stack, self._conn = stack, conn
        self._key, self._count = str(uuid4()), 0

    async def send(self, operation: str, parts: Parts) -> str:
        self._count += 1
        return await self._stack.send(operation, parts, key=self._key)

    async def open(self, client: httpx.AsyncClient) -> None:
        """Unlock the row as soon as the worker has parked all requests. It retries them together."""

        async def all_wait() -> bool:
            return self._count in await _waiting_requests(self._stack, client)

        await eventually("requests that wait together", all_wait)
        await self._conn.rollback()
        await self._conn.close()


async def _gate(stack: Stack, client: httpx.AsyncClient) -> _Gate:
    visitor_id = (await data.visitor_with_vehicle(client))["visitorId"]
    conn = await stack.engine.connect()
    await conn.execute(sa.text("select 1 from visitors where visitor_id = :id for update"), {"id": UUID(visitor_id)})
    gate = _Gate(stack, conn)
    await gate.send("visitors.update", {"path": {"visitorId": visitor_id}, "body": {"gender": "u"}})
    return gate


async def _waiting_backends(stack: Stack) -> list[Any]:
    return await stack.rows("select pid from pg_stat_activity where wait_event_type = 'Lock'")


async def test_unpublished_deletions_survive_an_erasure(stack: Stack) -> None:
    """Consumers have earlier changes of the entities. Without a tombstone they would keep them."""
    visitor_id, now = uuid4(), datetime.now(UTC)

    def entry(event_type: str, value: bytes | None) -> outbox.Entry:
        return outbox.Entry("a topic of the test", "1", str(visitor_id), str(uuid4()), event_type, value)

    entries = [
        entry("vehicle.created", b"personal"), entry("vehicle.updated", b"personal"),
        entry("vehicle.deleted", b"deleted"), entry("vehicle.deleted", None),
    ]  # fmt: skip
    async with stack.engine.connect() as conn:
        await outbox.insert(conn, entries, now)
        await outbox.delete_unpublished(conn, [visitor_id])
        statement = sa.select(outbox.OUTBOX.c.value).where(outbox.OUTBOX.c.partition_key == str(visitor_id))
        assert [row.value for row in await conn.execute(statement.order_by(outbox.OUTBOX.c.id))] == [b"deleted", None]
        await conn.rollback()


async def test_a_request_may_name_several_visitors_and_several_ids_of_a_visitor(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    first, second = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    analytics_ids = [await data.analytics_id(client, parker["visitorId"]) for parker in (first, second)]
    extra_id = str(uuid4())
    async with stack.engine.begin() as conn:
        await conn.execute(
            sa.text(
                "insert into external_ids (external_id, folded_id, visitor_id, external_type, pc_code, creation_date,"
                " update_date, revision) values (:id, :id, :visitor, 'analytics', :center, now(), now(), 1)"
            ),
            {"id": extra_id, "visitor": UUID(first["visitorId"]), "center": first["pcCode"]},
        )
    wrong_center = {"analyticsId": extra_id, "pcCode": second["pcCode"]}
    assert (await client.post("/visitors/erase", json=[wrong_center])).json()["data"]["failed"] == [extra_id]
    body = [{"analyticsId": analytics_ids[0]}, wrong_center, {"analyticsId": extra_id, "pcCode": first["pcCode"]}]
    body += [{"analyticsId": analytics_id} for analytics_id in ("of nobody", analytics_ids[1], analytics_ids[0])]
    answer = await client.post("/visitors/erase", json=body)
    assert answer.json()["data"] == {"success": [analytics_ids[0], extra_id, analytics_ids[1]], "failed": ["of nobody"]}
    for parker in (first, second):
        assert (await client.get(f"/visitors/{parker['visitorId']}")).status_code == 404


async def test_an_erasure_lowers_counts_only_by_the_checkins_that_it_deletes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """A checkin that another transaction deletes meanwhile does not lower the count a second time."""
    parker = await data.visitor_with_vehicle(client)
    service = await _create(client, "/services", data.service(parker["pcCode"]))
    path = f"/visitors/{parker['visitorId']}/checkins"
    body = {"pcCode": parker["pcCode"], "serviceId": service["serviceId"], "origin": "partner"}
    checkin, _ = [await _create(client, path, body) for _ in range(2)]
    tx = await _open_tx(stack)
    await checkins.CHECKINS.lock(tx, checkin_id=checkin["checkinId"])
    await checkins.CHECKINS.delete(tx, checkin_id=checkin["checkinId"])
    await tx.conn.execute(
        sa.text("update services set checkin_count = checkin_count - 1 where service_id = :id"),
        {"id": service["serviceId"]},
    )
    analytics_id = await data.analytics_id(client, parker["visitorId"])
    erasure = asyncio.create_task(_erase(client, analytics_id))

    async def is_waiting() -> bool:
        return bool(await _waiting_backends(stack))

    await eventually("an erasure that waits", is_waiting)
    await tx.conn.commit()
    await tx.conn.close()
    assert (await erasure)["success"] == [analytics_id]
    service = (await client.get(f"/services/{service['serviceId']}")).json()["data"]
    assert service["checkinCount"] == 0


async def test_visits_and_checkins_of_a_visitor_that_is_erased_meanwhile_are_404(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """The visitor is found by its barcode or plate, but is erased before the row is inserted."""
    parker = await data.visitor_with_vehicle(client)
    service = await _create(client, "/services", data.service(parker["pcCode"]))
    checkin = {"barcode": parker["barcode"], "serviceId": service["serviceId"], "origin": "partner"}
    calls = [
        ("/visits/exit", {"barcode": parker["barcode"]}),
        ("/visits/entry", {"licensePlate": parker["licensePlate"]}),
        ("/checkins", checkin),
    ]
    tx = await _open_tx(stack)
    await VISITORS.lock(tx, for_removal=True, visitor_id=UUID(parker["visitorId"]))
    tasks = [asyncio.create_task(client.post(path, json={**body, "pcCode": parker["pcCode"]})) for path, body in calls]

    async def all_wait() -> bool:
        return sum(await _waiting_requests(stack, client)) == len(calls)

    await eventually("visits and checkins that wait", all_wait)
    for table in ("external_ids", "vehicles", "visitors"):
        await tx.conn.execute(sa.text(f"delete from {table} where visitor_id = :id"), {"id": UUID(parker["visitorId"])})
    await tx.conn.commit()
    await tx.conn.close()
    for answer in await asyncio.gather(*tasks):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


async def _waiting_requests(stack: Stack, client: httpx.AsyncClient) -> list[int]:
    """For each partition, how many requests wait for locks, as the worker reports it."""
    worker = next(process for process in stack.processes if process.name == "worker")
    report = (await client.get(worker.health_url)).text
    return [int(count) for count in re.findall(r"(\d+) requests wait for locks", report)]


async def _open_tx(stack: Stack) -> Tx:
    """Open a transaction that the test controls."""
    now = datetime.now(UTC)
    return handler_tx(await stack.engine.connect(), now)
