"""A visit as JSON, as Avro and over HTTP: its answer, its row and its change."""

import httpx

from tests.support import data
from tests.support.stack import Record, Stack, plain
from topics import names
from topics.envelope import AVRO, JSON


async def _change(stack: Stack, request_id: str) -> Record:
    topic = names.changes("visits", "visit")
    return await stack.await_record(topic, lambda record: record.value["causedBy"] == request_id)


async def test_a_visit_is_stored_and_published_as_json_as_avro_and_over_http(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    parts = {"path": {"visitType": "entry"}, "body": body}
    over_json = await stack.send("visits.create", parts, content_type=JSON)
    over_avro = await stack.send("visits.create", parts, content_type=AVRO)
    answer = await client.post("/visits/entry", json=body, headers={"Idempotency-Key": over_json + "-http"})
    over_http = f"local/{over_json}-http"

    results = [
        (await stack.result("visits.create", request_id)).value for request_id in (over_json, over_avro, over_http)
    ]
    assert [result["status"] for result in results] == [201, 201, 201]
    visits = [plain(result["body"]) for result in results]
    assert answer.status_code == 201
    assert answer.json() == visits[2]
    for visit in visits:
        assert visit.pop("visitDate").endswith("Z")
        assert visit == {**body, "visitorId": parker["visitorId"], "visitType": "entry"}

    rows = await stack.rows("select * from visits where visitor_id = :id order by visit_id", id=parker["visitorId"])
    assert [(row.pc_code, row.visit_type, row.license_plate, row.vehicle_id) for row in rows] == [
        (parker["pcCode"], "entry", parker["licensePlate"], parker["vehicleId"])
    ] * 3

    changes = [(await _change(stack, request_id)).value for request_id in (over_json, over_avro, over_http)]
    for change in changes:
        assert (change["resource"], change["action"], change["revision"]) == ("visit", "created", 1)
        assert str(change["visitorId"]) == parker["visitorId"]
        assert change["after"]["licensePlate"] == parker["licensePlate"]
