"""Visits over all three ways in, and the rules of visits."""

import httpx

from tests.support import data
from tests.support.stack import Record, Stack, plain
from topics import names
from topics.envelope import AVRO, JSON


async def _change(stack: Stack, request_id: str) -> Record:
    return await stack.await_record(names.changes("visits"), lambda record: record.value["causedBy"] == request_id)


async def test_one_visit_as_json_as_avro_and_over_http(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    body = {"licensePlate": known["licensePlate"], "pcCode": known["pcCode"]}
    parts = {"path": {"visitType": "entry"}, "body": body}
    over_json = await stack.send("visits.create", parts, content_type=JSON)
    over_avro = await stack.send("visits.create", parts, content_type=AVRO)
    answer = await client.post("/visits/entry", json=body, headers={"Idempotency-Key": over_json + "-http"})
    over_http = f"local/{over_json}-http"

    results = [
        (await stack.result("visits.create", request_id)).value for request_id in (over_json, over_avro, over_http)
    ]
    assert [result["status"] for result in results] == [201, 201, 201]
    bodies = [plain(result["body"]) for result in results]
    assert answer.status_code == 201
    assert answer.json() == bodies[2]
    for found in bodies:
        assert found.pop("visitDate").endswith("Z")
        assert found == {**body, "visitorId": known["visitorId"], "visitType": "entry"}

    rows = await stack.rows("select * from visits where visitor_id = :id order by visit_id", id=known["visitorId"])
    assert [(row.pc_code, row.visit_type, row.license_plate, row.vehicle_id) for row in rows] == [
        (known["pcCode"], "entry", known["licensePlate"], known["vehicleId"])
    ] * 3

    changes = [(await _change(stack, request_id)).value for request_id in (over_json, over_avro, over_http)]
    for change in changes:
        assert (change["resource"], change["action"], change["revision"]) == ("visit", "created", 1)
        assert str(change["visitorId"]) == known["visitorId"]
        assert change["after"]["licensePlate"] == known["licensePlate"]
