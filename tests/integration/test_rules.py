"""Rules of the contract: one test for each rule, named by it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support import data
from tests.support.answers import error_codes, parse_time
from tests.support.stack import Stack

LONG_AGO = "2001-02-03T04:05:06Z"


async def _center(client: httpx.AsyncClient, **fields: Any) -> str:
    return str((await data.create(client, "/centers", data.center(**fields)))["pcCode"])


async def _visitor(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await data.create(client, "/visitors", data.visitor(await _center(client), **fields))


async def _read(client: httpx.AsyncClient, visitor_id: str) -> dict[str, Any]:
    visitor: dict[str, Any] = (await client.get(f"/visitors/{visitor_id}")).json()["data"]
    return visitor


# all operations


async def test_a_single_record_has_the_envelope_without_links(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"/centers/{await _center(client)}")).json()
    assert answer["metadata"] == {"version": 1, "_links": {}}


async def test_links_lead_through_all_pages_and_keep_the_query(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    path = f"/visitors/{visitor['visitorId']}/vehicles"
    vehicle_ids = [(await data.create(client, path, data.vehicle()))["vehicleId"] for _ in range(5)]
    listed_ids, url = [], f"{path}?limit=2&sort=-vehicleId"
    while True:
        page = (await client.get(url)).json()
        listed_ids += [row["vehicleId"] for row in page["data"]]
        links = page["metadata"]["_links"]
        assert links["first"] == f"{path}?limit=2&sort=-vehicleId"
        assert ("prev" in links) == (len(listed_ids) > 2)
        if "next" not in links:
            break
        url = links["next"]
        assert "limit=2&sort=-vehicleId" in url
    assert listed_ids == sorted(vehicle_ids, reverse=True)
    past_the_end = (await client.get(f"{path}?offset=50")).json()
    assert past_the_end["data"] == []
    assert past_the_end["metadata"]["_links"]["prev"] == f"{path}?offset=25"


async def test_the_primary_key_orders_records_that_are_equal_in_the_sort_fields(client: httpx.AsyncClient) -> None:
    path = f"/visitors/{(await _visitor(client))['visitorId']}/vehicles"
    vehicle_ids = [(await data.create(client, path, data.vehicle(color="red")))["vehicleId"] for _ in range(3)]
    # An update moves a row in the table: without the key, PostgreSQL would list the rows in the order of the updates.
    for vehicle_id in (vehicle_ids[1], vehicle_ids[0], vehicle_ids[2]):
        assert (await client.patch(f"{path}/{vehicle_id}", json={"name": "Bee"})).status_code == 204
    pages = [(await client.get(f"{path}?sort=color&limit=1")).json()]
    while "next" in (links := pages[-1]["metadata"]["_links"]):
        pages.append((await client.get(links["next"])).json())
    assert [[row["vehicleId"] for row in page["data"]] for page in pages] == [[each] for each in sorted(vehicle_ids)]


async def test_lists_have_25_records_by_default_in_the_order_of_the_primary_key(client: httpx.AsyncClient) -> None:
    for _ in range(26):
        await _center(client)
    rows = (await client.get("/centers")).json()["data"]
    assert len(rows) == 25
    assert [row["pcCode"] for row in rows] == sorted(row["pcCode"] for row in rows)


async def test_fields_selects_the_fields_of_the_reply(client: httpx.AsyncClient) -> None:
    center = (await client.get(f"/centers/{await _center(client)}?fields=label,country")).json()["data"]
    assert center == {"label": "Test Center", "country": "FR"}


@pytest.mark.parametrize("path", ["/centers", "/locales"])
@pytest.mark.parametrize(("parameter", "code"), [("sort", "unknown_sort_field"), ("fields", "unknown_reply_field")])
async def test_each_unknown_sort_or_reply_field_is_named_and_digits_that_may_be_a_card_number_are_not(
    client: httpx.AsyncClient, path: str, parameter: str, code: str
) -> None:
    names = ["4111.1111.1111.1111", "colour", "shape", "x" * 300, "colour"]
    answer = await client.get(path, params={parameter: ",".join(names)})
    assert (answer.status_code, error_codes(answer)) == (400, [(parameter, code)] * 4)
    messages = [error["message"] for error in answer.json()["errors"]]
    for message, shown in zip(messages, ("'…'", "'colour'", "'shape'", f"'{'x' * 200}'"), strict=True):
        assert shown in message
    assert "1111" not in answer.text


async def test_an_unknown_descending_sort_field_is_named_without_its_sign(client: httpx.AsyncClient) -> None:
    for path in ("/centers?sort=pcCode,-colour", "/locales?sort=localeCode,-colour"):
        answer = await client.get(path)
        assert (answer.status_code, error_codes(answer)) == (400, [("sort", "unknown_sort_field")])
        assert "'colour'" in answer.json()["errors"][0]["message"]


async def test_a_patch_changes_only_the_fields_that_are_sent_and_null_clears_a_field(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client, phone="33631573042", addressCity="Paris")
    path = f"/visitors/{visitor['visitorId']}"
    changed = await client.patch(path, json={"phone": None, "gender": "u"})
    assert (changed.status_code, changed.content) == (204, b"")
    updated = await _read(client, visitor["visitorId"])
    assert updated == {**visitor, "phone": None, "gender": "u", "updateDate": updated["updateDate"]}
    assert parse_time(updated["updateDate"]) > parse_time(visitor["updateDate"])
    refused = await client.patch(path, json={"gender": None, "lastVisitDate": None})
    assert sorted(error_codes(refused)) == [("gender", "null_refused"), ("lastVisitDate", "null_refused")]


async def test_times_are_answered_in_utc(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client, lastVisitDate="2017-07-24T19:32:28+02:00")
    assert visitor["lastVisitDate"] == "2017-07-24T17:32:28Z"
    assert visitor["creationDate"] == visitor["updateDate"]


async def test_a_body_that_refers_to_a_missing_center_is_400(client: httpx.AsyncClient) -> None:
    answer = await client.post("/visitors", json=data.visitor("FR-NO-ONE"))
    assert (answer.status_code, error_codes(answer)) == (400, [("acquisitionPcCode", "center_not_found")])


async def test_a_center_has_defaults_and_a_patch_keeps_the_other_fields(client: httpx.AsyncClient) -> None:
    pc_code = await _center(client, hasWorker=True)
    assert (await client.patch(f"/centers/{pc_code}", json={"label": "New"})).status_code == 204
    center = (await client.get(f"/centers/{pc_code}")).json()["data"]
    assert (center["label"], center["hasWorker"], center["hasEmailValidation"]) == ("New", True, True)
    assert (center["hasBasicLoyalty"], center["hasLoyalty"], center["parkingPartner"]) == (False, None, None)


# visits


@pytest.mark.parametrize("field", ["visitorId", "barcode", "licensePlate"])
async def test_a_visit_names_its_visitor_by_any_of_three_fields(client: httpx.AsyncClient, field: str) -> None:
    parker = await data.visitor_with_vehicle(client)
    answer = await client.post("/visits/entry", json={field: parker[field], "pcCode": parker["pcCode"]})
    assert answer.status_code == 201
    assert answer.json()["visitorId"] == parker["visitorId"]
    assert answer.json()["licensePlate"] == (parker["licensePlate"] if field == "licensePlate" else None)


async def test_fields_that_name_different_visitors_are_409_and_that_name_nobody_404(client: httpx.AsyncClient) -> None:
    first, second = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    body = {"visitorId": first["visitorId"], "barcode": second["barcode"], "pcCode": first["pcCode"]}
    answer = await client.post("/visits/entry", json=body)
    assert (answer.status_code, error_codes(answer)) == (409, [(None, "ids_mismatch")])
    body = {"visitorId": first["visitorId"], "licensePlate": second["licensePlate"], "pcCode": first["pcCode"]}
    answer = await client.post("/visits/entry", json=body)
    assert (answer.status_code, error_codes(answer)) == (409, [(None, "ids_mismatch")])
    hex_digits = first["visitorId"].replace("-", "")
    unknown_ids = (str(uuid4()), "no uuid", hex_digits, f"{hex_digits[:8]}----{hex_digits[8:]}")
    for identification in (
        *({"visitorId": visitor_id} for visitor_id in unknown_ids),
        *({"barcode": "x"}, {"licensePlate": "x"}),
    ):
        answer = await client.post("/visits/entry", json={**identification, "pcCode": first["pcCode"]})
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


async def test_plates_are_compared_without_case_and_separators(client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    plate = f" {parker['licensePlate'].lower().replace('-', '. ')} "
    answer = await client.post("/visits/entry", json={"licensePlate": plate, "pcCode": parker["pcCode"]})
    assert answer.json() == {**answer.json(), "visitorId": parker["visitorId"], "licensePlate": plate}


PLATES = {
    "GÖ-XY": ("GO\u0308-XY {}", "g\u00f6 xy {}", "GO\u200d\u0308XY{}"),
    "\uff21\uff22": ("AB {}", "ab-{}"),
    "أ ب ج ": ("أبج{}", "\u0627\u0654 ب ج {}"),
    "هـ ": ("\u0647-{}",),
    "京A": ("京\uff21·{}",),
}
"""By the prefix of a registered plate: the templates of what gateways may read for the same plate."""
ARABIC = {48 + digit: 0x660 + digit for digit in range(10)}


@pytest.mark.parametrize("prefix", PLATES)
async def test_plates_are_compared_independently_of_their_code_points(
    stack: Stack, client: httpx.AsyncClient, prefix: str
) -> None:
    visitor, number = await _visitor(client), data.new_number()
    path = f"/visitors/{visitor['visitorId']}/vehicles"
    vehicle = await data.create(client, path, {"licensePlate": f"{prefix}{number}"})
    assert vehicle["licensePlate"] == f"{prefix}{number}"
    for template in PLATES[prefix]:
        for plate in (template.format(number), template.format(number.translate(ARABIC))):
            body = {"licensePlate": plate, "pcCode": visitor["acquisitionPcCode"]}
            answer = await client.post("/visits/entry", json=body)
            assert answer.status_code == 201, (plate, answer.text)
            assert (answer.json()["visitorId"], answer.json()["licensePlate"]) == (visitor["visitorId"], plate)
            request_id = await stack.send("visits.create", {"path": {"visitType": "exit"}, "body": body})
            assert (await stack.result("visits.create", request_id)).value["status"] == 201
            assert len((await client.get("/visits", params=body)).json()) >= 2
            assert len((await client.get(path, params={"licensePlate": plate})).json()["data"]) == 1
            query = {"queryBy": "licensePlate", "query": plate}
            visitors = (await client.get("/visitors", params=query)).json()["data"]
            assert [row["visitorId"] for row in visitors] == [visitor["visitorId"]]


NO_PLATES = ("-", "???", "", " ", "\u0308", "\u200d", "\u3164", "\u0640")


async def test_a_vehicle_with_a_plate_without_letters_and_digits_is_refused(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    path = f"/visitors/{parker['visitorId']}/vehicles"
    visitor_path = {"visitorId": parker["visitorId"]}
    vehicle_path = visitor_path | {"vehicleId": parker["vehicleId"]}
    for plate in NO_PLATES:
        body = {"licensePlate": plate}
        for answer in (
            await client.post(path, json=body), await client.patch(f"{path}/{parker['vehicleId']}", json=body),
        ):  # fmt: skip
            assert (answer.status_code, error_codes(answer)) == (400, [("licensePlate", "wrong_format")]), plate
        create_id = await stack.send("vehicles.create", {"path": visitor_path, "body": body})
        update_id = await stack.send("vehicles.update", {"path": vehicle_path, "body": body})
        for operation, request_id in (("vehicles.create", create_id), ("vehicles.update", update_id)):
            assert (await stack.result(operation, request_id)).value["status"] == 400
    vehicles = (await client.get(path)).json()["data"]
    assert [row["licensePlate"] for row in vehicles] == [parker["licensePlate"]]


async def test_a_plate_without_letters_and_digits_matches_no_vehicle(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    path = f"/visitors/{parker['visitorId']}/vehicles"
    # Earlier versions accepted such plates.
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(
            "insert into vehicles (license_plate, plate_key, visitor_id, creation_date, update_date, revision)"
            f" values ('-', '', '{parker['visitorId']}', now(), now(), 1)"
        )
    vehicles = (await client.get(path)).json()["data"]
    assert [row["licensePlate"] for row in vehicles] == [parker["licensePlate"], "-"]
    assert (await client.get(f"{path}/{vehicles[1]['vehicleId']}")).json()["data"] == vehicles[1]
    for plate in NO_PLATES:
        body = {"licensePlate": plate, "pcCode": parker["pcCode"]}
        for answer in (
            await client.post("/visits/entry", json=body), await client.get("/visits", params=body),
            await client.post("/visits/entry", json={**body, "visitorId": parker["visitorId"]}),
        ):  # fmt: skip
            assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")]), plate
        request_id = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": body})
        assert (await stack.result("visits.create", request_id)).value["status"] == 404
        for answer in (
            await client.get("/visitors", params={"queryBy": "licensePlate", "query": plate}),
            await client.get(path, params={"licensePlate": plate}),
        ):
            assert (answer.status_code, answer.json()["data"]) == (200, []), plate
    assert (await client.get("/visits", params={"barcode": parker["barcode"], "pcCode": parker["pcCode"]})).json() == []


async def test_a_plate_names_the_last_updated_vehicle_that_is_not_deleted(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    first, second = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    plate = {"licensePlate": first["licensePlate"]}
    newer = await data.create(client, f"/visitors/{second['visitorId']}/vehicles", plate)
    visit = {**plate, "pcCode": first["pcCode"]}
    assert (await client.post("/visits/entry", json=visit)).json()["visitorId"] == second["visitorId"]
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"update vehicles set deletion_date = now() where vehicle_id = {newer['vehicleId']}")
    assert (await client.post("/visits/entry", json=visit)).json()["visitorId"] == first["visitorId"]


async def test_an_entry_moves_dates_forward_and_never_back(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    path = f"/visitors/{parker['visitorId']}"

    async def stored_dates() -> tuple[str, str]:
        vehicles = (await client.get(f"{path}/vehicles")).json()["data"]
        return (await _read(client, parker["visitorId"]))["lastVisitDate"], vehicles[0]["lastParkingSession"]

    await client.post("/visits/exit", json=body)
    assert await stored_dates() == (None, None)
    visit = (await client.post("/visits/entry", json=body)).json()
    assert await stored_dates() == (visit["visitDate"], visit["visitDate"])
    parts = {"path": {"visitType": "entry"}, "body": {**body, "visitDate": LONG_AGO}}
    request_id = await stack.send("visits.create", parts)
    assert (await stack.result("visits.create", request_id)).value["body"]["visitDate"] == LONG_AGO
    assert await stored_dates() == (visit["visitDate"], visit["visitDate"])


async def test_visit_date_is_at_most_5_minutes_ahead_in_a_message_and_refused_over_http(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker = await data.visitor_with_vehicle(client)
    body = {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}
    for minutes, status in ((4, 201), (6, 400)):
        visit_date = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
        parts = {"path": {"visitType": "entry"}, "body": {**body, "visitDate": visit_date}}
        request_id = await stack.send("visits.create", parts)
        assert (await stack.result("visits.create", request_id)).value["status"] == status
    answer = await client.post("/visits/entry", json={**body, "visitDate": LONG_AGO})
    assert (answer.status_code, error_codes(answer)) == (400, [("visitDate", "unknown_field")])


async def test_all_faults_of_a_visit_without_a_center_and_a_visitor_are_reported_together(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    faults = {("pcCode", "required"), (None, "identification_required")}
    for answer in (await client.post("/visits/entry", json={}), await client.get("/visits")):
        assert (answer.status_code, set(error_codes(answer)), len(answer.json()["errors"])) == (400, faults, 2)
    request_id = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": {}})
    entries = (await stack.result("visits.create", request_id)).value["body"]["errors"]
    assert {(entry["field"], entry["code"]) for entry in entries} == faults


async def test_the_list_of_visits_is_a_bare_array_with_inclusive_dates(stack: Stack, client: httpx.AsyncClient) -> None:
    parker, other = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    body = {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}
    await client.post("/visits/entry", json={"barcode": other["barcode"], "pcCode": parker["pcCode"]})
    visit_types = ("entry", "exit", "entry")
    dates = [(await client.post(f"/visits/{visit_type}", json=body)).json()["visitDate"] for visit_type in visit_types]

    async def listed(**query: str) -> list[str]:
        answer = await client.get("/visits", params={**body, **query})
        assert answer.status_code == 200, answer.text
        return [visit["visitDate"] for visit in answer.json()]

    assert await listed() == dates
    assert await listed(sort="-visitDate") == dates[::-1]
    assert await listed(visitDateSince=dates[1], visitDateUntil=dates[1]) == [dates[1]]
    assert await listed(visitType="exit") == [dates[1]]
    assert await listed(limit="1", offset="2") == [dates[2]]
    without_center = await client.get("/visits", params={"barcode": parker["barcode"]})
    assert ("pcCode", "required") in error_codes(without_center)
    # These fields are in the change, but not in the reply.
    for field in ("visitId", "vehicleId"):
        answer = await client.get("/visits", params={**body, "sort": field})
        assert (answer.status_code, error_codes(answer)) == (400, [("sort", "unknown_sort_field")])


async def test_the_list_of_visits_is_sorted_by_visit_date(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    body = {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}
    first = (await client.post("/visits/entry", json=body)).json()
    parts = {"path": {"visitType": "exit"}, "body": {**body, "visitDate": LONG_AGO}}
    request_id = await stack.send("visits.create", parts)
    earlier = (await stack.result("visits.create", request_id)).value["body"]
    listed = (await client.get("/visits", params=body)).json()
    assert [visit["visitDate"] for visit in listed] == [earlier["visitDate"], first["visitDate"]]
    assert listed[0]["visitDate"] == LONG_AGO


async def test_the_list_of_visits_names_its_visitor_like_a_visit(client: httpx.AsyncClient) -> None:
    parker, other = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    visit = (await client.post("/visits/entry", json={"barcode": parker["barcode"], "pcCode": parker["pcCode"]})).json()

    async def listed(**query: str) -> httpx.Response:
        return await client.get("/visits", params={"pcCode": parker["pcCode"], **query})

    for query in (
        {"visitorId": parker["visitorId"]},
        {"licensePlate": parker["licensePlate"].lower()},
        {"visitorId": parker["visitorId"], "barcode": parker["barcode"], "licensePlate": parker["licensePlate"]},
    ):
        assert (await listed(**query)).json() == [visit], query
    assert (await listed(barcode=other["barcode"])).json() == []
    mismatch = await listed(visitorId=parker["visitorId"], licensePlate=other["licensePlate"])
    assert (mismatch.status_code, error_codes(mismatch)) == (409, [(None, "ids_mismatch")])
    for identification in ({"visitorId": str(uuid4())}, {"barcode": "x"}, {"licensePlate": "x"}):
        answer = await listed(**identification)
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])
    unknown_center = await listed(barcode=parker["barcode"], pcCode="FR-NO-ONE")
    assert (unknown_center.status_code, error_codes(unknown_center)) == (400, [("pcCode", "center_not_found")])
    unidentified = await listed()
    assert (unidentified.status_code, error_codes(unidentified)) == (400, [(None, "identification_required")])


# visitors


async def test_an_email_is_unique_in_any_case(client: httpx.AsyncClient) -> None:
    first, second = await _visitor(client), await _visitor(client)
    body = {"email": first["email"].upper()}
    answer = await client.post("/visitors", json=data.visitor(first["acquisitionPcCode"], **body))
    assert (answer.status_code, error_codes(answer)) == (409, [("email", "email_taken")])
    answer = await client.patch(f"/visitors/{second['visitorId']}", json=body)
    assert (answer.status_code, error_codes(answer)) == (409, [("email", "email_taken")])


async def test_a_new_full_visitor_upgrades_the_partial_one_with_its_email(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    partial = await _visitor(client)
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(
            "update visitors set account_type = 'partial', registration_date = null, acquisition_pc_code = null"
            f" where visitor_id = '{partial['visitorId']}'"
        )
    center = await _center(client)
    body = data.visitor(center, email=partial["email"].upper(), firstName="Nova")
    full = await data.create(client, "/visitors", body)
    assert (full["visitorId"], full["barcode"]) == (partial["visitorId"], partial["barcode"])
    assert (full["accountType"], full["upgradePcCode"], full["firstName"]) == ("full", center, "Nova")
    assert parse_time(full["registrationDate"]) >= parse_time(partial["registrationDate"])


async def test_a_new_visitor_gets_a_barcode_an_analytics_id_and_its_optins(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    optin = {"optinType": "commercial", "optinChannel": "email", "isActive": True, "contextId": 5}
    visitor = await _visitor(client, optins=[optin])
    assert len(visitor["barcode"]) == 36
    external_ids = await stack.rows("select * from external_ids where visitor_id = :id", id=visitor["visitorId"])
    assert [row.external_type for row in external_ids] == ["analytics"]
    optins = await stack.rows("select * from optins where visitor_id = :id", id=visitor["visitorId"])
    assert [(row.optin_type, row.context_id, row.is_active) for row in optins] == [("commercial", 5, True)]
    assert (optins[0].optin_date is not None, optins[0].optout_date) == (True, None)


async def test_the_origin_of_a_visitor_describes_its_caller(stack: Stack, client: httpx.AsyncClient) -> None:
    over_http = await _visitor(client)
    assert (over_http["originType"], over_http["origin"]) == ("api", "local")
    parts = {"body": data.visitor(over_http["acquisitionPcCode"])}
    request_id = await stack.send("visitors.create", parts, source="crm/loyalty-eu")
    over_kafka = (await stack.result("visitors.create", request_id)).value["body"]["data"]
    assert (over_kafka["originType"], over_kafka["origin"]) == ("crm", "loyalty-eu")


# parking


async def test_a_card_number_is_refused_and_neither_echoed_nor_logged(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    number = "4111 1111 1111 1111"
    answer = await client.post(f"/visitors/{visitor['visitorId']}/vehicles", json=data.vehicle(name=number))
    assert (answer.status_code, error_codes(answer)) == (400, [("name", "card_number_refused")])
    assert "1111" not in answer.text
    for process in stack.processes:
        assert number not in process.log.read_text()


async def test_a_card_number_is_refused_as_an_analytics_id_and_in_comma_lists(client: httpx.AsyncClient) -> None:
    number = "4111-1111-1111-1111"
    answer = await client.post("/visitors/erase", json=[{"analyticsId": str(uuid4())}, {"analyticsId": number}])
    assert (answer.status_code, error_codes(answer)) == (400, [("[1].analyticsId", "card_number_refused")])
    assert "1111" not in answer.text
    lists = {"visitorId": f"{uuid4()},{number}", "externalType": f"google, {number}", "pcCode": f"FR-A-1,{number}"}
    answer = await client.get("/externalIds", params=lists)
    assert answer.status_code == 400
    assert sorted(error_codes(answer)) == [(name, "card_number_refused") for name in sorted(lists)]
    assert "1111" not in answer.text
    answer = await client.get("/externalIds", params={"visitorId": str(uuid4()), "pcCode": "FR-4111111111111111-A"})
    assert (answer.status_code, error_codes(answer)) == (400, [("pcCode", "card_number_refused")])


PHONES = ("+4915095425844", "00336315730425", "0044791112345678", "4111 1111 1111 1111")
TOKENS = (
    "740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad", "4111111111111111",
    "fcm:APA91b-4111111111111111", "9a4111111111111111c04e1b",
)  # fmt: skip
URLS = ("https://cdn.example.com/a.jpg?t=4915111111117", "https://example.com/4111111111111111/steps.png")


async def test_phones_urls_and_foreign_ids_may_contain_any_digits(stack: Stack, client: httpx.AsyncClient) -> None:
    pc_code = await _center(client)
    for phone in PHONES:
        made = await data.create(client, "/visitors", data.visitor(pc_code, phone=phone))
        assert made["phone"] == phone
        request_id = await stack.send("visitors.create", {"body": data.visitor(pc_code, phone=phone)})
        assert (await stack.result("visitors.create", request_id)).value["status"] == 201
    path = f"/visitors/{made['visitorId']}"
    for token in TOKENS:
        device = {"token": token, "platform": "ios", "urwAppId": "one", "notificationToken": token}
        answer = await client.post(f"{path}/devices", json=device)
        assert answer.status_code in (200, 201), answer.text
        optin = {"optinType": "commercial", "optinChannel": "push", "isActive": False, "sendId": token}
        assert (await data.create(client, f"{path}/optins", {**optin, "clientId": token}))["sendId"] == token
    for url in URLS:
        made = await data.create(client, "/challenges", data.challenge(pc_code, imageUrl=url))
        article = {"genericName": "A", "mainImageUrl": url, "status": "draft", "publishDate": LONG_AGO}
        kept = await data.create(client, "/articles", {**article, "title": [], "content": []})
        assert (made["imageUrl"], kept["mainImageUrl"]) == (url, url)


async def test_a_card_number_as_the_name_of_a_field_is_not_echoed(client: httpx.AsyncClient) -> None:
    number = "4111\u00a01111\u20111111.1111"
    answer = await client.post("/centers", json=data.center(**{number: 1}))
    assert (answer.status_code, error_codes(answer)) == (400, [("…", "unknown_field")])


async def test_vehicles_of_other_visitors_and_deleted_vehicles_are_not_listed(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, other = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    path = f"/visitors/{parker['visitorId']}/vehicles"
    deleted = await data.create(client, path, data.vehicle())
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(
            f"update vehicles set deletion_date = now() where vehicle_id = {deleted['vehicleId']}"
        )

    async def listed(**query: str) -> list[int]:
        return [row["vehicleId"] for row in (await client.get(path, params=query)).json()["data"]]

    assert await listed() == [parker["vehicleId"]]
    assert await listed(includeDeleted="true") == [parker["vehicleId"], deleted["vehicleId"]]
    assert await listed(licensePlate=parker["licensePlate"].lower()) == [parker["vehicleId"]]
    assert await listed(licensePlate=other["licensePlate"]) == []


# locales

LOCALES = {
    "zh-CN": "zh_hans_cn", "zh-TW": "zh-Hant-TW", "zh-HK": "zh_Hant_HK", "sr-RS": "sr-Cyrl-RS", "no-NO": "no-Latn-NO",
    "bs-BA": "bs-Latn-BA", "az-AZ": "az-Latn-AZ", "uz-UZ": "uz-Latn-UZ", "pa-IN": "pa-Guru-IN",
}  # fmt: skip


@pytest.mark.parametrize("code", LOCALES)
async def test_a_locale_is_accepted_with_and_without_its_default_script(
    stack: Stack, client: httpx.AsyncClient, code: str
) -> None:
    with_script, texts = LOCALES[code], {"optinDisplayText": "A", "optinHeaderText": None, "documentText": None}
    legal_text = await data.create(client, "/legalTexts", {"type": "wifi_terms", "releaseDate": LONG_AGO})
    path = f"/legalTexts/{legal_text['id']}/locales"
    assert (await data.create(client, f"{path}/{code}", texts))["localeCode"] == code
    duplicate = await client.post(f"{path}/{with_script}", json=texts)
    assert (duplicate.status_code, error_codes(duplicate)) == (409, [(None, "locale_exists")])
    for spelling in (code, with_script):
        assert (await client.get(f"{path}/{spelling}")).json()["data"]["localeCode"] == code
        listed = await client.get("/legalTexts", params={"legalType": "wifi_terms", "latest": True, "locale": spelling})
        assert [row["optinDisplayText"] for row in listed.json()["data"]] == ["A"]

    display_name = [{"localeCode": with_script, "value": "A"}]
    challenge = data.challenge(await _center(client), displayName=display_name)
    request_id = await stack.send("challenges.create", {"body": challenge})
    created = (await stack.result("challenges.create", request_id)).value["body"]["data"]
    assert [row["localeCode"] for row in created["displayName"]] == [code]

    visitor = await _visitor(client)
    path = f"/visitors/{visitor['visitorId']}/locales"
    visitor_locale = await data.create(client, path, {"localeCode": with_script})
    assert visitor_locale["localeCode"] == code
    all_locales = [row for offset in ({}, {"offset": 500})
             for row in (await client.get("/locales", params={"limit": 500, **offset})).json()["data"]]  # fmt: skip
    assert {name: visitor_locale[name] for name in ("localeCode", "localeLabel")} in all_locales
    refused = await client.post(path, json={"localeCode": f"{code[:2]}-Tfng-{code[-2:]}"})
    assert (refused.status_code, error_codes(refused)) == (400, [("localeCode", "unknown_locale")])


# services, centers, articles


async def test_a_duplicate_pc_code_is_409(client: httpx.AsyncClient) -> None:
    answer = await client.post("/centers", json=data.center(pcCode=await _center(client)))
    assert (answer.status_code, error_codes(answer)) == (409, [("pcCode", "center_exists")])


async def test_centers_are_filtered_by_country_and_activity(client: httpx.AsyncClient) -> None:
    pc_code = await _center(client, country="TV", isActive=True)
    answer = await client.get("/centers?country=TV&isActive=true&limit=500")
    assert pc_code in [row["pcCode"] for row in answer.json()["data"]]
    assert {row["country"] for row in answer.json()["data"]} == {"TV"}
    assert (await client.get("/centers?country=TV&isActive=false")).json()["data"] == []
