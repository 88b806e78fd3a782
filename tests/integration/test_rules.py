"""The rules of the contract for the operations that are there, each by its name."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support import data
from tests.support.stack import Stack

LONG_AGO = "2001-02-03T04:05:06Z"


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


async def _center(client: httpx.AsyncClient, **fields: Any) -> str:
    return str((await data.create(client, "/centers", data.center(**fields)))["pcCode"])


async def _visitor(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return await data.create(client, "/visitors", data.visitor(await _center(client), **fields))


async def _read(client: httpx.AsyncClient, visitor_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/visitors/{visitor_id}")).json()["data"]
    return found


# Everywhere


async def test_one_record_has_the_envelope_with_no_links(client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"/centers/{await _center(client)}")).json()
    assert answer["metadata"] == {"version": 1, "_links": {}}


async def test_links_lead_through_all_pages_and_keep_the_callers_query(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    path = f"/visitors/{visitor['visitorId']}/vehicles"
    made = [(await data.create(client, path, data.vehicle()))["vehicleId"] for _ in range(5)]
    seen, url = [], f"{path}?limit=2&sort=-vehicleId"
    while True:
        page = (await client.get(url)).json()
        seen += [row["vehicleId"] for row in page["data"]]
        links = page["metadata"]["_links"]
        assert links["first"] == f"{path}?limit=2&sort=-vehicleId"
        assert ("prev" in links) == (len(seen) > 2)
        if "next" not in links:
            break
        url = links["next"]
        assert "limit=2&sort=-vehicleId" in url
    assert seen == sorted(made, reverse=True)
    past = (await client.get(f"{path}?offset=50")).json()
    assert past["data"] == []
    assert past["metadata"]["_links"]["prev"] == f"{path}?offset=25"


async def test_limit_is_25_by_default_and_the_primary_key_sorts(client: httpx.AsyncClient) -> None:
    for _ in range(26):
        await _center(client)
    rows = (await client.get("/centers")).json()["data"]
    assert len(rows) == 25
    assert [row["pcCode"] for row in rows] == sorted(row["pcCode"] for row in rows)


async def test_fields_selects_reply_fields(client: httpx.AsyncClient) -> None:
    row = (await client.get(f"/centers/{await _center(client)}?fields=label,country")).json()["data"]
    assert row == {"label": "Test Center", "country": "FR"}


async def test_patch_changes_only_the_fields_present_and_null_clears(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client, phone="33631573042", addressCity="Paris")
    path = f"/visitors/{visitor['visitorId']}"
    changed = await client.patch(path, json={"phone": None, "gender": "u"})
    assert (changed.status_code, changed.content) == (204, b"")
    found = await _read(client, visitor["visitorId"])
    assert found == {**visitor, "phone": None, "gender": "u", "updateDate": found["updateDate"]}
    assert found["updateDate"] > visitor["updateDate"]
    refused = await client.patch(path, json={"gender": None, "lastVisitDate": None})
    assert sorted(_codes(refused)) == [("gender", "null_refused"), ("lastVisitDate", "null_refused")]


async def test_times_are_answered_in_utc(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client, lastVisitDate="2017-07-24T19:32:28+02:00")
    assert visitor["lastVisitDate"] == "2017-07-24T17:32:28Z"
    assert visitor["creationDate"] == visitor["updateDate"]


async def test_an_absent_parent_is_400_for_a_body_reference(client: httpx.AsyncClient) -> None:
    answer = await client.post("/visitors", json=data.visitor("FR-NO-ONE"))
    assert (answer.status_code, _codes(answer)) == (400, [("acquisitionPcCode", "center_not_found")])


async def test_defaults_of_a_center_and_what_patch_leaves_alone(client: httpx.AsyncClient) -> None:
    pc_code = await _center(client, hasWorker=True)
    assert (await client.patch(f"/centers/{pc_code}", json={"label": "New"})).status_code == 204
    found = (await client.get(f"/centers/{pc_code}")).json()["data"]
    assert (found["label"], found["hasWorker"], found["hasEmailValidation"]) == ("New", True, True)
    assert (found["hasBasicLoyalty"], found["hasLoyalty"], found["parkingPartner"]) == (False, None, None)


# visits


@pytest.mark.parametrize("field", ["visitorId", "barcode", "licensePlate"])
async def test_each_identification_names_the_visitor(client: httpx.AsyncClient, field: str) -> None:
    known = await data.parker(client)
    answer = await client.post("/visits/entry", json={field: known[field], "pcCode": known["pcCode"]})
    assert answer.status_code == 201
    assert answer.json()["visitorId"] == known["visitorId"]
    assert answer.json()["licensePlate"] == (known["licensePlate"] if field == "licensePlate" else None)


async def test_ids_of_different_visitors_are_409_and_of_none_404(client: httpx.AsyncClient) -> None:
    one, other = await data.parker(client), await data.parker(client)
    both = {"visitorId": one["visitorId"], "barcode": other["barcode"], "pcCode": one["pcCode"]}
    answer = await client.post("/visits/entry", json=both)
    assert (answer.status_code, _codes(answer)) == (409, [(None, "ids_mismatch")])
    both = {"visitorId": one["visitorId"], "licensePlate": other["licensePlate"], "pcCode": one["pcCode"]}
    answer = await client.post("/visits/entry", json=both)
    assert (answer.status_code, _codes(answer)) == (409, [(None, "ids_mismatch")])
    bare = one["visitorId"].replace("-", "")
    for nobody in (
        *({"visitorId": each} for each in (str(uuid4()), "no uuid", bare, f"{bare[:8]}----{bare[8:]}")),
        *({"barcode": "x"}, {"licensePlate": "x"}),
    ):
        answer = await client.post("/visits/entry", json={**nobody, "pcCode": one["pcCode"]})
        assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])


async def test_plates_compare_without_case_and_separators(client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    spelled = f" {known['licensePlate'].lower().replace('-', '. ')} "
    answer = await client.post("/visits/entry", json={"licensePlate": spelled, "pcCode": known["pcCode"]})
    assert answer.json() == {**answer.json(), "visitorId": known["visitorId"], "licensePlate": spelled}


PLATES = {
    "GÖ-XY": ("GO\u0308-XY {}", "g\u00f6 xy {}", "GO\u200d\u0308XY{}"),
    "\uff21\uff22": ("AB {}", "ab-{}"),
    "أ ب ج ": ("أبج{}", "\u0627\u0654 ب ج {}"),
    "هـ ": ("\u0647-{}",),
    "京A": ("京\uff21·{}",),
}
"""How a plate begins as it is registered, and as gateways read the whole of it."""
ARABIC = {48 + digit: 0x660 + digit for digit in range(10)}


@pytest.mark.parametrize("begins", PLATES)
async def test_plates_compare_whatever_their_code_points(stack: Stack, client: httpx.AsyncClient, begins: str) -> None:
    visitor, number = await _visitor(client), data.new_number()
    path = f"/visitors/{visitor['visitorId']}/vehicles"
    made = await data.create(client, path, {"licensePlate": f"{begins}{number}"})
    assert made["licensePlate"] == f"{begins}{number}"
    for form in PLATES[begins]:
        for read in (form.format(number), form.format(number.translate(ARABIC))):
            body = {"licensePlate": read, "pcCode": visitor["acquisitionPcCode"]}
            answer = await client.post("/visits/entry", json=body)
            assert answer.status_code == 201, (read, answer.text)
            assert (answer.json()["visitorId"], answer.json()["licensePlate"]) == (visitor["visitorId"], read)
            request_id = await stack.send("visits.create", {"path": {"visitType": "exit"}, "body": body})
            assert (await stack.result("visits.create", request_id)).value["status"] == 201
            assert len((await client.get("/visits", params=body)).json()) >= 2
            assert len((await client.get(path, params={"licensePlate": read})).json()["data"]) == 1
            search = {"queryBy": "licensePlate", "query": read}
            found = (await client.get("/visitors", params=search)).json()["data"]
            assert [row["visitorId"] for row in found] == [visitor["visitorId"]]


NO_PLATES = ("-", "???", "", " ", "\u0308", "\u200d", "\u3164", "\u0640")


async def test_a_plate_without_letters_or_digits_is_refused_at_a_vehicle(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await data.parker(client)
    path = f"/visitors/{known['visitorId']}/vehicles"
    one = {"visitorId": known["visitorId"]}
    for plate in NO_PLATES:
        body = {"licensePlate": plate}
        for answer in (
            await client.post(path, json=body), await client.patch(f"{path}/{known['vehicleId']}", json=body),
        ):  # fmt: skip
            assert (answer.status_code, _codes(answer)) == (400, [("licensePlate", "wrong_format")]), plate
        created = await stack.send("vehicles.create", {"path": one, "body": body})
        updated = await stack.send("vehicles.update", {"path": one | {"vehicleId": known["vehicleId"]}, "body": body})
        for operation, request_id in (("vehicles.create", created), ("vehicles.update", updated)):
            assert (await stack.result(operation, request_id)).value["status"] == 400
    found = (await client.get(path)).json()["data"]
    assert [row["licensePlate"] for row in found] == [known["licensePlate"]]


async def test_a_plate_without_letters_or_digits_matches_nobody(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    path = f"/visitors/{known['visitorId']}/vehicles"
    # One from the time when such plates were taken.
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(
            "insert into vehicles (license_plate, plate_key, visitor_id, creation_date, update_date, revision)"
            f" values ('-', '', '{known['visitorId']}', now(), now(), 1)"
        )
    listed = (await client.get(path)).json()["data"]
    assert [row["licensePlate"] for row in listed] == [known["licensePlate"], "-"]
    assert (await client.get(f"{path}/{listed[1]['vehicleId']}")).json()["data"] == listed[1]
    for plate in NO_PLATES:
        body = {"licensePlate": plate, "pcCode": known["pcCode"]}
        for answer in (
            await client.post("/visits/entry", json=body), await client.get("/visits", params=body),
            await client.post("/visits/entry", json={**body, "visitorId": known["visitorId"]}),
        ):  # fmt: skip
            assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")]), plate
        request_id = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": body})
        assert (await stack.result("visits.create", request_id)).value["status"] == 404
        for answer in (
            await client.get("/visitors", params={"queryBy": "licensePlate", "query": plate}),
            await client.get(path, params={"licensePlate": plate}),
        ):
            assert (answer.status_code, answer.json()["data"]) == (200, []), plate
    assert (await client.get("/visits", params={"barcode": known["barcode"], "pcCode": known["pcCode"]})).json() == []


async def test_a_plate_names_the_vehicle_updated_last_that_is_not_deleted(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    first, second = await data.parker(client), await data.parker(client)
    plate = {"licensePlate": first["licensePlate"]}
    again = await data.create(client, f"/visitors/{second['visitorId']}/vehicles", plate)
    visit = {**plate, "pcCode": first["pcCode"]}
    assert (await client.post("/visits/entry", json=visit)).json()["visitorId"] == second["visitorId"]
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"update vehicles set deletion_date = now() where vehicle_id = {again['vehicleId']}")
    assert (await client.post("/visits/entry", json=visit)).json()["visitorId"] == first["visitorId"]


async def test_an_entry_moves_dates_forward_and_never_back(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    body = {"licensePlate": known["licensePlate"], "pcCode": known["pcCode"]}
    path = f"/visitors/{known['visitorId']}"

    async def dates() -> tuple[str, str]:
        vehicles = (await client.get(f"{path}/vehicles")).json()["data"]
        return (await _read(client, known["visitorId"]))["lastVisitDate"], vehicles[0]["lastParkingSession"]

    await client.post("/visits/exit", json=body)
    assert await dates() == (None, None)
    visit = (await client.post("/visits/entry", json=body)).json()
    assert await dates() == (visit["visitDate"], visit["visitDate"])
    old = {"path": {"visitType": "entry"}, "body": {**body, "visitDate": LONG_AGO}}
    request_id = await stack.send("visits.create", old)
    assert (await stack.result("visits.create", request_id)).value["body"]["visitDate"] == LONG_AGO
    assert await dates() == (visit["visitDate"], visit["visitDate"])


async def test_a_visit_date_may_be_5_minutes_ahead_in_a_message_and_stands_in_none_over_http(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await data.parker(client)
    body = {"barcode": known["barcode"], "pcCode": known["pcCode"]}
    for minutes, status in ((4, 201), (6, 400)):
        moment = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
        parts = {"path": {"visitType": "entry"}, "body": {**body, "visitDate": moment}}
        request_id = await stack.send("visits.create", parts)
        assert (await stack.result("visits.create", request_id)).value["status"] == status
    answer = await client.post("/visits/entry", json={**body, "visitDate": LONG_AGO})
    assert (answer.status_code, _codes(answer)) == (400, [("visitDate", "unknown_field")])


async def test_visits_list_is_a_bare_array_of_one_visitor_with_both_ends_inclusive(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, other = await data.parker(client), await data.parker(client)
    body = {"barcode": known["barcode"], "pcCode": known["pcCode"]}
    await client.post("/visits/entry", json={"barcode": other["barcode"], "pcCode": known["pcCode"]})
    kinds = ("entry", "exit", "entry")
    dates = [(await client.post(f"/visits/{kind}", json=body)).json()["visitDate"] for kind in kinds]

    async def listed(**query: str) -> list[str]:
        answer = await client.get("/visits", params={**body, **query})
        assert answer.status_code == 200, answer.text
        return [visit["visitDate"] for visit in answer.json()]

    assert await listed() == dates
    assert await listed(sort="-visitDate") == dates[::-1]
    assert await listed(visitDateSince=dates[1], visitDateUntil=dates[1]) == [dates[1]]
    assert await listed(visitType="exit") == [dates[1]]
    assert await listed(limit="1", offset="2") == [dates[2]]
    needed = await client.get("/visits", params={"barcode": known["barcode"]})
    assert ("pcCode", "required") in _codes(needed)
    # Fields of the change, which the reply has not.
    for hidden in ("visitId", "vehicleId"):
        answer = await client.get("/visits", params={**body, "sort": hidden})
        assert (answer.status_code, _codes(answer)) == (400, [("sort", "unknown_sort_field")])


async def test_visits_list_finds_the_visitor_by_the_rules_of_a_visit(client: httpx.AsyncClient) -> None:
    known, other = await data.parker(client), await data.parker(client)
    made = (await client.post("/visits/entry", json={"barcode": known["barcode"], "pcCode": known["pcCode"]})).json()

    async def listed(**query: str) -> httpx.Response:
        return await client.get("/visits", params={"pcCode": known["pcCode"], **query})

    for query in (
        {"visitorId": known["visitorId"]},
        {"licensePlate": known["licensePlate"].lower()},
        {"visitorId": known["visitorId"], "barcode": known["barcode"], "licensePlate": known["licensePlate"]},
    ):
        assert (await listed(**query)).json() == [made], query
    assert (await listed(barcode=other["barcode"])).json() == []
    mixed = await listed(visitorId=known["visitorId"], licensePlate=other["licensePlate"])
    assert (mixed.status_code, _codes(mixed)) == (409, [(None, "ids_mismatch")])
    for nobody in ({"visitorId": str(uuid4())}, {"barcode": "x"}, {"licensePlate": "x"}):
        answer = await listed(**nobody)
        assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])
    nowhere = await listed(barcode=known["barcode"], pcCode="FR-NO-ONE")
    assert (nowhere.status_code, _codes(nowhere)) == (400, [("pcCode", "center_not_found")])
    nameless = await listed()
    assert (nameless.status_code, _codes(nameless)) == (400, [(None, "identification_required")])


# visitors


async def test_an_email_is_unique_without_regard_to_case(client: httpx.AsyncClient) -> None:
    one, other = await _visitor(client), await _visitor(client)
    taken = {"email": one["email"].upper()}
    answer = await client.post("/visitors", json=data.visitor(one["acquisitionPcCode"], **taken))
    assert (answer.status_code, _codes(answer)) == (409, [("email", "email_taken")])
    answer = await client.patch(f"/visitors/{other['visitorId']}", json=taken)
    assert (answer.status_code, _codes(answer)) == (409, [("email", "email_taken")])


async def test_a_full_visitor_with_a_partial_ones_email_upgrades_it(stack: Stack, client: httpx.AsyncClient) -> None:
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
    assert full["registrationDate"] >= partial["registrationDate"]


async def test_each_visitor_gets_a_barcode_an_analytics_id_and_its_optins(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    optin = {"optinType": "commercial", "optinChannel": "email", "isActive": True, "contextId": 5}
    visitor = await _visitor(client, optins=[optin])
    assert len(visitor["barcode"]) == 36
    ids = await stack.rows("select * from external_ids where visitor_id = :id", id=visitor["visitorId"])
    assert [row.external_type for row in ids] == ["analytics"]
    rows = await stack.rows("select * from optins where visitor_id = :id", id=visitor["visitorId"])
    assert [(row.optin_type, row.context_id, row.is_active) for row in rows] == [("commercial", 5, True)]
    assert (rows[0].optin_date is not None, rows[0].optout_date) == (True, None)


async def test_origin_comes_from_the_callers_identity(stack: Stack, client: httpx.AsyncClient) -> None:
    over_http = await _visitor(client)
    assert (over_http["originType"], over_http["origin"]) == ("api", "local")
    parts = {"body": data.visitor(over_http["acquisitionPcCode"])}
    request_id = await stack.send("visitors.create", parts, source="crm/loyalty-eu")
    found = (await stack.result("visitors.create", request_id)).value["body"]["data"]
    assert (found["originType"], found["origin"]) == ("crm", "loyalty-eu")


# parking


async def test_a_card_number_is_never_accepted_or_echoed(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    number = "4111 1111 1111 1111"
    answer = await client.post(f"/visitors/{visitor['visitorId']}/vehicles", json=data.vehicle(name=number))
    assert (answer.status_code, _codes(answer)) == (400, [("name", "card_number_refused")])
    assert "1111" not in answer.text
    for process in stack.processes:
        assert number not in process.log.read_text()


PHONES = ("+4915095425844", "00336315730425", "0044791112345678", "4111 1111 1111 1111")
TOKENS = (
    "740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad", "4111111111111111",
    "fcm:APA91b-4111111111111111", "9a4111111111111111c04e1b",
)  # fmt: skip
URLS = ("https://cdn.example.com/a.jpg?t=4915111111117", "https://example.com/4111111111111111/steps.png")


async def test_phones_urls_and_what_others_name_things_by_may_have_any_digits(
    stack: Stack, client: httpx.AsyncClient
) -> None:
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


async def test_a_card_number_as_a_fields_name_is_not_echoed(client: httpx.AsyncClient) -> None:
    number = "4111\u00a01111\u20111111.1111"
    answer = await client.post("/centers", json=data.center(**{number: 1}))
    assert (answer.status_code, _codes(answer)) == (400, [("…", "unknown_field")])


async def test_vehicles_of_another_visitor_and_deleted_ones_are_not_listed(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, other = await data.parker(client), await data.parker(client)
    path = f"/visitors/{known['visitorId']}/vehicles"
    second = await data.create(client, path, data.vehicle())
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(
            f"update vehicles set deletion_date = now() where vehicle_id = {second['vehicleId']}"
        )

    async def listed(**query: str) -> list[int]:
        return [row["vehicleId"] for row in (await client.get(path, params=query)).json()["data"]]

    assert await listed() == [known["vehicleId"]]
    assert await listed(includeDeleted="true") == [known["vehicleId"], second["vehicleId"]]
    assert await listed(licensePlate=known["licensePlate"].lower()) == [known["vehicleId"]]
    assert await listed(licensePlate=other["licensePlate"]) == []


# locales

LOCALES = {
    "zh-CN": "zh_hans_cn", "zh-TW": "zh-Hant-TW", "zh-HK": "zh_Hant_HK", "sr-RS": "sr-Cyrl-RS", "no-NO": "no-Latn-NO",
    "bs-BA": "bs-Latn-BA", "az-AZ": "az-Latn-AZ", "uz-UZ": "uz-Latn-UZ", "pa-IN": "pa-Guru-IN",
}  # fmt: skip


@pytest.mark.parametrize("code", LOCALES)
async def test_a_locale_is_accepted_with_its_usual_script_and_without_it(
    stack: Stack, client: httpx.AsyncClient, code: str
) -> None:
    with_script, texts = LOCALES[code], {"optinDisplayText": "A", "optinHeaderText": None, "documentText": None}
    legal = await data.create(client, "/legalTexts", {"type": "wifi_terms", "releaseDate": LONG_AGO})
    path = f"/legalTexts/{legal['id']}/locales"
    assert (await data.create(client, f"{path}/{code}", texts))["localeCode"] == code
    taken = await client.post(f"{path}/{with_script}", json=texts)
    assert (taken.status_code, _codes(taken)) == (409, [(None, "locale_exists")])
    for written in (code, with_script):
        assert (await client.get(f"{path}/{written}")).json()["data"]["localeCode"] == code
        listed = await client.get("/legalTexts", params={"legalType": "wifi_terms", "latest": True, "locale": written})
        assert [row["optinDisplayText"] for row in listed.json()["data"]] == ["A"]

    text = [{"localeCode": with_script, "value": "A"}]
    challenge = data.challenge(await _center(client), displayName=text)
    request_id = await stack.send("challenges.create", {"body": challenge})
    made = (await stack.result("challenges.create", request_id)).value["body"]["data"]
    assert [row["localeCode"] for row in made["displayName"]] == [code]

    visitor = await _visitor(client)
    path = f"/visitors/{visitor['visitorId']}/locales"
    mine = await data.create(client, path, {"localeCode": with_script})
    assert mine["localeCode"] == code
    every = [row for offset in ({}, {"offset": 500})
             for row in (await client.get("/locales", params={"limit": 500, **offset})).json()["data"]]  # fmt: skip
    assert {name: mine[name] for name in ("localeCode", "localeLabel")} in every
    refused = await client.post(path, json={"localeCode": f"{code[:2]}-Tfng-{code[-2:]}"})
    assert (refused.status_code, _codes(refused)) == (400, [("localeCode", "unknown_locale")])


# services, centers, articles


async def test_a_taken_pc_code_is_409(client: httpx.AsyncClient) -> None:
    answer = await client.post("/centers", json=data.center(pcCode=await _center(client)))
    assert (answer.status_code, _codes(answer)) == (409, [("pcCode", "center_exists")])


async def test_centers_are_filtered_by_country_and_activity(client: httpx.AsyncClient) -> None:
    pc_code = await _center(client, country="TV", isActive=True)
    answer = await client.get("/centers?country=TV&isActive=true&limit=500")
    assert pc_code in [row["pcCode"] for row in answer.json()["data"]]
    assert {row["country"] for row in answer.json()["data"]} == {"TV"}
    assert (await client.get("/centers?country=TV&isActive=false")).json()["data"] == []
