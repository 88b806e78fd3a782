"""Rules of parkings, cards, vehicles, their partners and parking costs."""

import asyncio
import json
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.support import data
from tests.support.answers import error_codes, parse_time
from tests.support.stack import Stack
from topics import names

LONG_AGO = "2001-02-03T04:05:06Z"
CARD_NUMBER = "4111111111111111"
JsonObject = dict[str, Any]


async def _fails(call: Awaitable[httpx.Response], field: str | None, code: str, status: int = 400) -> str:
    """Check that the answer has exactly this fault. Returns the text of the answer."""
    answer = await call
    assert (answer.status_code, error_codes(answer)) == (status, [(field, code)])
    return answer.text


def _card(**fields: Any) -> dict[str, Any]:
    return {
        "firstName": "Mark", "lastName": "Smith", "year": 2031, "month": 3, "fingerprint": "print", "cardType": "visa",
        "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": "token", **fields,
    }  # fmt: skip


async def _parker(client: httpx.AsyncClient) -> JsonObject:
    """A center, a visitor with a vehicle, and the `path` of the visitor."""
    parker = await data.visitor_with_vehicle(client)
    return {**parker, "path": f"/visitors/{parker['visitorId']}"}


async def _subscriber(client: httpx.AsyncClient) -> JsonObject:
    """A parker with a card and a parking."""
    parker = await _parker(client)
    card = await data.create(client, f"{parker['path']}/creditCards", _card())
    parking = await data.create(client, f"{parker['path']}/parkings", {"parkingPartner": "ilogs"})
    return {**parker, "cardId": card["cardId"], "parkingId": parking["parkingId"]}


def _history_body(subscriber: JsonObject, **fields: Any) -> dict[str, Any]:
    return {
        "parkingId": subscriber["parkingId"], "cardId": subscriber["cardId"], "pcCode": subscriber["pcCode"],
        "currency": "EUR", "accessDevice": "AA-111", **fields,
    }  # fmt: skip


async def _history(client: httpx.AsyncClient, subscriber: JsonObject, **fields: Any) -> dict[str, Any]:
    return await data.create(client, f"{subscriber['path']}/parkingHistories", _history_body(subscriber, **fields))


async def _get_data(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def _summary(client: httpx.AsyncClient, subscriber: JsonObject, **query: Any) -> list[tuple[Any, ...]]:
    """The rows of the summary: year, month, currency, total amount, count."""
    path = f"{subscriber['path']}/parkingHistories/summary"
    rows = await _get_data(client, path, **{"timezone": "UTC", **query})
    return [(row["year"], row["month"], row["currency"], row["totalAmount"], row["totalHistories"]) for row in rows]


# parkings


async def test_a_visitor_has_one_active_parking_per_partner(client: httpx.AsyncClient) -> None:
    path = f"{(await _parker(client))['path']}/parkings"
    first = await data.create(client, path, {"parkingPartner": "ilogs"})
    assert (first["isActive"], first["unsubscribedAt"]) == (True, None)
    await _fails(client.post(path, json={"parkingPartner": "ilogs"}), "parkingPartner", "parking_exists", 409)
    await data.create(client, path, {"parkingPartner": "designa"})

    assert (await client.delete(f"{path}/{first['parkingId']}")).status_code == 204
    second = await data.create(client, path, {"parkingPartner": "ilogs"})
    parkings = await _get_data(client, path, parkingPartner="ilogs")
    assert [(row["parkingId"], row["isActive"]) for row in parkings] == [
        (first["parkingId"], False), (second["parkingId"], True),
    ]  # fmt: skip


async def test_deleting_a_parking_unsubscribes_and_keeps_the_record(client: httpx.AsyncClient) -> None:
    path = f"{(await _parker(client))['path']}/parkings"
    created = await data.create(client, path, {"parkingPartner": "ilogs"})
    parking_path = f"{path}/{created['parkingId']}"
    assert (await client.delete(parking_path)).status_code == 204
    unsubscribed = await _get_data(client, parking_path)
    assert parse_time(unsubscribed["unsubscribedAt"]) >= parse_time(created["subscriptionDate"])
    assert parse_time(unsubscribed["updateDate"]) > parse_time(created["updateDate"])
    new_times = {name: unsubscribed[name] for name in ("unsubscribedAt", "updateDate")}
    assert unsubscribed == {**created, "isActive": False, **new_times}
    await _fails(client.delete(parking_path), None, "parking_not_found", 404)


async def test_two_concurrent_creates_make_one_active_parking(client: httpx.AsyncClient) -> None:
    path = f"{(await _parker(client))['path']}/parkings"
    answers = await asyncio.gather(*(client.post(path, json={"parkingPartner": "thales"}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert [row["isActive"] for row in await _get_data(client, path)] == [True]


# cards and vehicles


@pytest.mark.parametrize(("collection", "key", "body", "code"), [
    ("creditCards", "cardId", _card(), "credit_card_not_found"),
    ("vehicles", "vehicleId", data.vehicle(), "vehicle_not_found"),
])  # fmt: skip
async def test_delete_is_soft_and_lists_contain_deleted_records_only_with_include_deleted(
    client: httpx.AsyncClient, collection: str, key: str, body: dict[str, Any], code: str
) -> None:
    path = f"{(await _parker(client))['path']}/{collection}"
    deleted, other = await data.create(client, path, body), await data.create(client, path, body)
    keys = [row[key] for row in await _get_data(client, path)]
    deleted_path = f"{path}/{deleted[key]}"
    assert (await client.delete(deleted_path)).status_code == 204
    await _fails(client.delete(deleted_path), None, code, 404)
    for query in ({}, {"includeDeleted": "false"}):
        remaining = [row[key] for row in await _get_data(client, path, **query)]
        assert remaining == [row_key for row_key in keys if row_key != deleted[key]]
    deletion_dates = {row[key]: row["deletionDate"] for row in await _get_data(client, path, includeDeleted="true")}
    assert list(deletion_dates) == keys
    assert deletion_dates[other[key]] is None
    deletion_date = (await _get_data(client, deleted_path))["deletionDate"]
    assert deletion_dates[deleted[key]] == deletion_date
    assert parse_time(deletion_date) > parse_time(deleted["creationDate"])


async def test_good_thru_is_month_and_year_and_changes_with_them(client: httpx.AsyncClient) -> None:
    path = f"{(await _parker(client))['path']}/creditCards"
    created = await data.create(client, path, _card(year=2031, month=3))
    assert created["goodThru"] == "03/2031"
    card_path = f"{path}/{created['cardId']}"
    assert (await client.patch(card_path, json={"month": 11})).status_code == 204
    updated = await _get_data(client, card_path)
    expected = {"goodThru": "11/2031", "month": 11, "year": 2031, "lastName": "Smith"}
    assert {name: updated[name] for name in expected} == expected


@pytest.mark.parametrize("field", ["firstSixDigits", "lastFourDigits"])
@pytest.mark.parametrize("value", ["12345", "1234567", "12 4", "abcdef", "abcd", "", "\u0664" * 6, "\u0664" * 4])
async def test_a_card_needs_six_first_digits_and_four_last_digits(
    client: httpx.AsyncClient, field: str, value: str
) -> None:
    path = f"{(await _parker(client))['path']}/creditCards"
    await _fails(client.post(path, json=_card(**{field: value})), field, "wrong_format")


@pytest.mark.parametrize("number", [
    CARD_NUMBER, "4111 1111 1111 1111", "4111-1111-1111-1111", "37828-224631-0005", "no. 4222222222222, mine",
    "6759-6498-2643-8453", "\u0664" + "\u0661" * 15,
])  # fmt: skip
@pytest.mark.parametrize(("collection", "body", "field"), [
    ("creditCards", _card(), "firstName"),
    ("creditCards", _card(), "lastName"),
    ("vehicles", data.vehicle(), "name"),
    ("vehicles", data.vehicle(), "licensePlate"),
])  # fmt: skip
async def test_a_card_number_is_refused_and_not_echoed_or_logged(
    stack: Stack, client: httpx.AsyncClient, collection: str, body: dict[str, Any], field: str, number: str
) -> None:
    path = f"{(await _parker(client))['path']}/{collection}"
    created = await data.create(client, path, body)
    record_path = f"{path}/{created.get('cardId', created.get('vehicleId'))}"
    for call in (client.post(path, json={**body, field: number}), client.patch(record_path, json={field: number})):
        assert number not in await _fails(call, field, "card_number_refused")
    assert [process.name for process in stack.processes if number in process.log.read_text()] == []


async def test_a_card_number_is_refused_as_a_json_number_and_in_a_history(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    cards, histories = f"{subscriber['path']}/creditCards", f"{subscriber['path']}/parkingHistories"
    for field, value in (
        ("postalCode", int(CARD_NUMBER)), ("paymentMethodToken", CARD_NUMBER),
    ):  # fmt: skip
        await _fails(client.post(cards, json=_card(**{field: value})), field, "card_number_refused")
    for field in ("accessDevice", "exitAccessDevice", "formattedTotalTime", "vendorId"):
        await _fails(
            client.post(histories, json=_history_body(subscriber, **{field: CARD_NUMBER})), field, "card_number_refused"
        )
    call = client.get(histories, params={"accessDevice": CARD_NUMBER})
    assert CARD_NUMBER not in await _fails(call, "accessDevice", "card_number_refused")


async def test_ids_of_other_systems_may_look_like_card_numbers(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    history = await _history(client, subscriber, transactionId=CARD_NUMBER)
    body = {"vehicleId": subscriber["vehicleId"], "partnerId": CARD_NUMBER, "parkingPartner": "ilogs"}
    vehicle_partner = await data.create(client, f"{subscriber['path']}/vehiclePartners", body)
    card = await data.create(client, f"{subscriber['path']}/creditCards", _card(fingerprint=CARD_NUMBER))
    assert (history["transactionId"], vehicle_partner["partnerId"], card["fingerprint"]) == (CARD_NUMBER,) * 3


AMOUNTS = (
    "refundedAmount", "transactionFullAmount", "transactionPretaxAmount", "transactionTaxAmount", "validationAmount",
)  # fmt: skip


async def test_amounts_with_trailing_zeros_are_stored_exactly(stack: Stack, client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    path, amount_text = f"{subscriber['path']}/parkingHistories", "31.4000000000"
    body = json.dumps(_history_body(subscriber, **dict.fromkeys(AMOUNTS, "@"))).replace('"@"', amount_text)
    created = await client.post(path, content=body, headers={"content-type": "application/json"})
    assert created.status_code == 201, created.text
    history_path = f"{path}/{created.json()['data']['parkingHistoryId']}"
    for amount in AMOUNTS:
        patched = await client.patch(
            history_path, content=f'{{"{amount}": 0E-10}}', headers={"content-type": "application/json"}
        )
        assert patched.status_code == 204, patched.text
    for answer, expected in ((created, Decimal(amount_text)), (await client.get(history_path), Decimal(0))):
        row = answer.json(parse_float=Decimal)["data"]
        assert [row[name] for name in AMOUNTS] == [expected] * len(AMOUNTS)
    key, topic = history_path.split("/")[-1], names.changes("parking", "parkingHistory")
    change = await stack.await_record(topic, lambda record: record.key == key)
    assert change.value["after"]["validationAmount"] == Decimal(amount_text)


async def test_an_integer_may_be_sent_as_a_float_without_a_fraction(stack: Stack, client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    path = f"{subscriber['path']}/vehicles"
    vehicle = await data.create(client, path, data.vehicle(yearOfManufacture=2020.0))
    assert vehicle["yearOfManufacture"] == 2020
    refused = client.post(path, json=data.vehicle(yearOfManufacture=2020.5))
    await _fails(refused, "yearOfManufacture", "wrong_type")
    parts = {
        "path": {"visitorId": subscriber["visitorId"], "vehicleId": float(vehicle["vehicleId"])},
        "body": {"yearOfManufacture": 1.999e3},
    }
    request_id = await stack.send("vehicles.update", parts)
    assert (await stack.result("vehicles.update", request_id)).value["status"] == 204
    assert (await _get_data(client, f"{path}/{vehicle['vehicleId']}.0"))["yearOfManufacture"] == 1999


async def test_the_page_links_work_if_the_limit_was_sent_as_a_float(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await _parker(client)
    for _ in range(2):
        await data.create(client, f"{parker['path']}/vehicles", data.vehicle())
    parts = {"path": {"visitorId": parker["visitorId"]}, "query": {"limit": 2.0}}
    request_id = await stack.send("vehicles.list", parts)
    links = (await stack.result("vehicles.list", request_id)).value["body"]["metadata"]["_links"]
    assert len((await client.get(links["next"])).json()["data"]) == 1
    await _fails(client.get(f"{parker['path']}/vehicles?limit=2.5"), "limit", "wrong_type")


async def test_an_update_of_a_vehicle_can_set_its_deletion_date(client: httpx.AsyncClient) -> None:
    parker = await _parker(client)
    path = f"{parker['path']}/vehicles/{parker['vehicleId']}"
    body = {"vehicleId": parker["vehicleId"], "deletionDate": LONG_AGO}
    assert (await client.patch(path, json=body)).status_code == 204
    assert (await _get_data(client, path))["deletionDate"] == LONG_AGO
    assert await _get_data(client, f"{parker['path']}/vehicles") == []
    assert (await client.delete(path)).status_code == 404


async def test_a_vehicle_id_in_the_body_that_differs_from_the_path_is_400(client: httpx.AsyncClient) -> None:
    parker = await _parker(client)
    path = f"{parker['path']}/vehicles/{parker['vehicleId']}"
    body = {"vehicleId": parker["vehicleId"] + 1, "color": "red"}
    await _fails(client.patch(path, json=body), "vehicleId", "ids_differ")
    assert (await _get_data(client, path))["color"] is None


async def test_null_clears_the_name_of_a_vehicle_and_is_refused_for_its_maker(client: httpx.AsyncClient) -> None:
    path = f"{(await _parker(client))['path']}/vehicles"
    created = await data.create(client, path, data.vehicle(name="Bee", maker="Fiat"))
    vehicle_path = f"{path}/{created['vehicleId']}"
    assert (await client.patch(vehicle_path, json={"name": None})).status_code == 204
    await _fails(client.patch(vehicle_path, json={"maker": None}), "maker", "null_refused")
    updated = await _get_data(client, vehicle_path)
    assert (updated["name"], updated["maker"], updated["licensePlate"]) == (None, "Fiat", created["licensePlate"])


async def test_null_is_refused_for_the_fields_of_a_card(client: httpx.AsyncClient) -> None:
    path = f"{(await _parker(client))['path']}/creditCards"
    card = await data.create(client, path, _card(postalCode="75001", serviceTypes=["parking"]))
    for field in ("postalCode", "serviceTypes"):
        refused = client.patch(f"{path}/{card['cardId']}", json={field: None})
        await _fails(refused, field, "null_refused")
    assert await _get_data(client, path) == [card]


async def _in_one_batch(stack: Stack, parker: JsonObject, *requests: tuple[str, JsonObject]) -> list[JsonObject]:
    path = {"visitorId": parker["visitorId"], "vehicleId": parker["vehicleId"]}
    locking = f"select from vehicles where vehicle_id = {parker['vehicleId']} for update"
    return await stack.in_one_batch(locking, ("vehicles.update", {"path": path, "body": {"color": "blue"}}), requests)


async def test_a_plate_names_the_vehicle_that_was_updated_last_even_within_a_batch(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, *others = [await _parker(client) for _ in range(3)]
    plate = data.new_plate()

    async def entering_visitor() -> str:
        visit = {"licensePlate": plate, "pcCode": parker["pcCode"]}
        return str((await client.post("/visits/entry", json=visit)).json()["visitorId"])

    creates = [{"path": {"visitorId": other["visitorId"]}, "body": {"licensePlate": plate}} for other in others]
    answers = await _in_one_batch(stack, parker, *(("vehicles.create", parts) for parts in creates))
    vehicles = [answer["body"]["data"] for answer in answers]
    assert await entering_visitor() == others[1]["visitorId"]
    paths = [{"visitorId": row["visitorId"], "vehicleId": row["vehicleId"]} for row in vehicles]
    updates = [{"path": path, "body": {"color": "red"}} for path in reversed(paths)]
    await _in_one_batch(stack, parker, *(("vehicles.update", parts) for parts in updates))
    assert await entering_visitor() == others[0]["visitorId"]


async def test_vehicles_of_absent_visitors_are_404_within_a_batch(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await _parker(client)
    owners = [parker["visitorId"], data.ABSENT_VISITOR_ID, parker["visitorId"]]
    creates = [{"path": {"visitorId": owner}, "body": {"licensePlate": data.new_plate()}} for owner in owners]
    answers = await _in_one_batch(stack, parker, *(("vehicles.create", parts) for parts in creates))
    assert [answer["status"] for answer in answers] == [201, 404, 201]
    assert [error["code"] for error in answers[1]["body"]["errors"]] == ["visitor_not_found"]
    plates = [row["licensePlate"] for row in await _get_data(client, f"{parker['path']}/vehicles")]
    assert plates == [parker["licensePlate"], creates[0]["body"]["licensePlate"], creates[2]["body"]["licensePlate"]]


async def test_a_delete_after_an_update_in_one_batch_has_the_later_time(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, other = await _parker(client), await _parker(client)
    path = {"visitorId": other["visitorId"], "vehicleId": other["vehicleId"]}
    update = ("vehicles.update", {"path": path, "body": {"color": "red"}})
    answers = await _in_one_batch(stack, parker, update, ("vehicles.delete", {"path": path}))
    assert [answer["status"] for answer in answers] == [204, 204]
    vehicle = await _get_data(client, f"{other['path']}/vehicles/{other['vehicleId']}")
    assert vehicle["deletionDate"] == vehicle["updateDate"]
    assert parse_time(vehicle["updateDate"]) > parse_time(vehicle["creationDate"])


async def test_records_of_another_visitor_are_not_found(client: httpx.AsyncClient) -> None:
    subscriber, other = await _subscriber(client), await _parker(client)
    history = await _history(client, subscriber)
    for record_path in (
        f"vehicles/{subscriber['vehicleId']}", f"creditCards/{subscriber['cardId']}",
        f"parkings/{subscriber['parkingId']}", f"parkingHistories/{history['parkingHistoryId']}",
    ):  # fmt: skip
        assert (await client.get(f"{subscriber['path']}/{record_path}")).status_code == 200
        assert (await client.get(f"{other['path']}/{record_path}")).status_code == 404
        assert (await client.delete(f"{other['path']}/{record_path}")).status_code == 404


# parking histories


async def test_a_history_with_a_parking_or_card_of_another_visitor_is_400(client: httpx.AsyncClient) -> None:
    subscriber, other = await _subscriber(client), await _subscriber(client)
    for field, value, code in (
        ("parkingId", other["parkingId"], "parking_not_found"),
        ("cardId", other["cardId"], "credit_card_not_found"),
        ("pcCode", "FR-NO-ONE", "center_not_found"),
    ):
        await _fails(
            client.post(f"{subscriber['path']}/parkingHistories", json=_history_body(subscriber, **{field: value})),
            field,
            code,
        )
    nobody = client.post(f"/visitors/{data.ABSENT_VISITOR_ID}/parkingHistories", json=_history_body(subscriber))
    await _fails(nobody, None, "visitor_not_found", 404)


async def test_histories_are_filtered_by_device_start_parking_and_session(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    other_parking = await data.create(client, f"{subscriber['path']}/parkings", {"parkingPartner": "designa"})
    days = [f"2024-05-0{day}T12:00:00Z" for day in (1, 2, 3)]
    histories = [
        await _history(client, subscriber, accessDevice="IN", parkingSessionStart=days[0]),
        await _history(client, subscriber, exitAccessDevice="IN", parkingSessionStart=days[1], parkingSessionId=77),
        await _history(client, subscriber, parkingSessionStart=days[2], parkingId=other_parking["parkingId"]),
        await _history(client, subscriber),
    ]

    async def list_indexes(**query: Any) -> list[int]:
        rows = await _get_data(client, f"{subscriber['path']}/parkingHistories", **query)
        return [next(index for index, row in enumerate(histories) if row == listed) for listed in rows]

    assert await list_indexes() == [0, 1, 2, 3]
    assert await list_indexes(accessDevice="IN") == [0, 1]
    assert await list_indexes(startDate=days[1]) == [1, 2]
    assert await list_indexes(endDate=days[1]) == [0, 1]
    assert await list_indexes(startDate="2024-05-02T14:00:00+02:00", endDate=days[1]) == [1]
    assert await list_indexes(parkingId=other_parking["parkingId"]) == [2]
    assert await list_indexes(parkingSessionId=77) == [1]


async def test_amounts_are_returned_exactly_and_a_history_has_no_visitor_id(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    amounts = '"refundedAmount":31.40,"transactionFullAmount":0.1,"validationAmount":12345678901234567890.123456789'
    body = f'{{"parkingId":{subscriber["parkingId"]},"cardId":{subscriber["cardId"]},"pcCode":"{subscriber["pcCode"]}",'
    body += f'"currency":"EUR","accessDevice":"A","transactionTaxAmount":0,{amounts}}}'
    path = f"{subscriber['path']}/parkingHistories"
    created = await client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert created.status_code == 201
    read = await client.get(f"{path}/{created.json()['data']['parkingHistoryId']}")
    for answer in (created, read, await client.get(path)):
        text = answer.text.replace(" ", "")
        assert all(part in text for part in [*amounts.split(","), '"transactionTaxAmount":0,'])
        assert "visitorId" not in text


async def test_a_history_can_be_updated_and_deleted(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    created = await _history(client, subscriber, amount=5, paymentStatus="pending", refundedAmount=2.5)
    path = f"{subscriber['path']}/parkingHistories/{created['parkingHistoryId']}"
    patch = {"amount": 7, "paymentStatus": "succeeded", "refundedAmount": None}
    assert (await client.patch(path, json=patch)).status_code == 204
    updated = await _get_data(client, path)
    assert updated == {**created, **patch, "updateDate": updated["updateDate"]}
    assert parse_time(updated["updateDate"]) > parse_time(created["updateDate"])
    await _fails(client.patch(path, json={"amount": None}), "amount", "null_refused")
    assert [(await client.delete(path)).status_code for _ in range(2)] == [204, 404]
    assert (await client.get(path)).status_code == 404


async def test_a_deleted_history_emits_a_deletion_and_then_a_tombstone(stack: Stack, client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    history = await _history(client, subscriber)
    await client.delete(f"{subscriber['path']}/parkingHistories/{history['parkingHistoryId']}")
    key, topic = str(history["parkingHistoryId"]), names.changes("parking", "parkingHistory")
    assert topic == "visitor.parking.changes.parkingHistory"
    await stack.await_record(topic, lambda record: record.key == key and record.raw is None)
    changes = [record.value for record in await stack.read(topic) if record.key == key]
    assert [(change and (change["action"], change["revision"], change["after"] is None)) for change in changes] == [
        ("created", 1, False), ("deleted", 2, True), None,
    ]  # fmt: skip


# the summary


async def test_the_summary_groups_by_month_of_start_or_creation_and_by_currency(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    start = "2024-01-31T23:30:00Z"
    for fields in (
        {"amount": 3}, {"amount": 4}, {"amount": 9, "currency": "GBP"},
        {"amount": 5, "parkingSessionStart": "2024-02-01T12:00:00Z"},
    ):  # fmt: skip
        await _history(client, subscriber, **{"parkingSessionStart": start, **fields})
    assert await _summary(client, subscriber) == [
        (2024, 1, "EUR", 7, 2),
        (2024, 1, "GBP", 9, 1),
        (2024, 2, "EUR", 5, 1),
    ]
    assert await _summary(client, subscriber, timezone="Europe/Paris") == [
        (2024, 2, "EUR", 12, 3),
        (2024, 2, "GBP", 9, 1),
    ]
    year, month = (await _history(client, subscriber, amount=2))["creationDate"].split("-")[:2]
    assert (await _summary(client, subscriber))[-1] == (int(year), int(month), "EUR", 2, 1)


@pytest.mark.parametrize("timezone", ["CET", "MET", "Europe/Paris"])
async def test_the_summary_uses_the_summer_time_of_a_zone(client: httpx.AsyncClient, timezone: str) -> None:
    subscriber = await _subscriber(client)
    await _history(client, subscriber, parkingSessionStart="2024-06-30T22:30:00Z", amount=1)
    assert await _summary(client, subscriber, timezone=timezone) == [(2024, 7, "EUR", 1, 1)]


async def test_the_summary_does_not_count_failed_or_pending_payments(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    amounts = {"failed": 1, "pending": 2, "refunded": 4, "partial_refunded": 8, "succeeded": 2**53}
    for status, amount in amounts.items():
        await _history(client, subscriber, parkingSessionStart=LONG_AGO, paymentStatus=status, amount=amount)
    await _history(client, subscriber, parkingSessionStart=LONG_AGO, amount=1)
    await _history(client, subscriber, parkingSessionStart=LONG_AGO)
    assert await _summary(client, subscriber) == [(2001, 2, "EUR", 2**53 + 13, 5)]


async def test_the_summary_is_filtered_by_parking_device_and_center(client: httpx.AsyncClient) -> None:
    subscriber, other = await _subscriber(client), await _subscriber(client)
    parking = await data.create(client, f"{subscriber['path']}/parkings", {"parkingPartner": "designa"})
    for fields in (
        {"amount": 1, "parkingId": parking["parkingId"]}, {"amount": 2, "accessDevice": "GATE"},
        {"amount": 4, "exitAccessDevice": "GATE"}, {"amount": 8, "pcCode": other["pcCode"]},
    ):  # fmt: skip
        await _history(client, subscriber, parkingSessionStart=LONG_AGO, **fields)
    await _history(client, other, parkingSessionStart=LONG_AGO, amount=16)
    for query, total, count in (
        ({}, 15, 4), ({"parkingId": parking["parkingId"]}, 1, 1), ({"accessDevice": "GATE"}, 6, 2),
        ({"pcCode": other["pcCode"]}, 8, 1),
    ):  # fmt: skip
        assert await _summary(client, subscriber, **query) == [(2001, 2, "EUR", total, count)]


async def test_the_summary_is_sorted_and_paged(client: httpx.AsyncClient) -> None:
    subscriber = await _subscriber(client)
    for month, amount in ((1, 20), (2, 30), (3, 10)):
        await _history(client, subscriber, parkingSessionStart=f"2024-0{month}-15T00:00:00Z", amount=amount)

    async def months(**query: Any) -> list[int]:
        return [row[1] for row in await _summary(client, subscriber, **query)]

    assert await months() == [1, 2, 3]
    assert await months(sort="-totalAmount") == [2, 1, 3]
    assert await months(sort="-totalAmount", limit=1, offset=1) == [1]
    path = f"{subscriber['path']}/parkingHistories/summary"
    answer = await client.get(path, params={"timezone": "UTC", "limit": 2})
    following = await client.get(answer.json()["metadata"]["_links"]["next"])
    assert [row["month"] for row in following.json()["data"]] == [3]
    assert "next" not in following.json()["metadata"]["_links"]
    await _fails(client.get(path, params={"timezone": "UTC", "sort": "amount"}), "sort", "unknown_sort_field")


@pytest.mark.parametrize(("query", "code"), [({"timezone": "Europe/Nowhere"}, "unknown_timezone"), ({}, "required")])
async def test_the_summary_needs_a_known_timezone(client: httpx.AsyncClient, query: dict[str, str], code: str) -> None:
    await _fails(
        client.get(f"{(await _parker(client))['path']}/parkingHistories/summary", params=query), "timezone", code
    )


# partners


async def test_a_vehicle_has_one_id_per_partner_and_center(client: httpx.AsyncClient) -> None:
    parker = await _parker(client)
    path = f"{parker['path']}/vehiclePartners"
    without_center = {"vehicleId": parker["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    with_center = {**without_center, "pcCode": parker["pcCode"]}
    bodies = [without_center, with_center, {**with_center, "parkingPartner": "thales"}]
    created = [await data.create(client, path, body) for body in bodies]
    for body in (without_center, with_center):
        await _fails(client.post(path, json={**body, "partnerId": "another"}), None, "vehicle_partner_exists", 409)
    assert await _get_data(client, path) == created
    deleted_path = f"{path}/{created[0]['vehiclePartnerId']}"
    assert [(await client.delete(deleted_path)).status_code for _ in range(2)] == [204, 404]
    assert await _get_data(client, path) == created[1:]


async def _visitor_center(client: httpx.AsyncClient, parker: JsonObject, pc_code: str) -> int:
    body = {"pcCode": pc_code, "isFavorite": False}
    return int((await data.create(client, f"{parker['path']}/centers", body))["visitorCenterId"])


async def test_a_vehicle_has_one_partner_id_per_center_by_pc_code_and_by_visitor_center_id(
    client: httpx.AsyncClient,
) -> None:
    parker, other = await _parker(client), await _parker(client)
    path = f"{parker['path']}/vehiclePartners"
    body = {"vehicleId": parker["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    visitor_center_ids = [await _visitor_center(client, parker, center["pcCode"]) for center in (parker, other)]
    center_fields = [{"visitorCenterId": visitor_center_ids[0]}, {"pcCode": parker["pcCode"]}]
    center_fields.append(center_fields[0] | center_fields[1])
    for fields in center_fields:
        created = await data.create(client, path, body | fields)
        assert created == {**created, "visitorCenterId": None, "pcCode": None, **body, **fields}
        for same_center in center_fields:
            await _fails(client.post(path, json=body | same_center), None, "vehicle_partner_exists", 409)
        assert (await client.delete(f"{path}/{created['vehiclePartnerId']}")).status_code == 204
    for fields in ({}, *({"visitorCenterId": center_id} for center_id in visitor_center_ids)):
        await data.create(client, path, body | fields)
    await _fails(client.post(path, json=body), None, "vehicle_partner_exists", 409)


async def test_the_pc_code_and_the_visitor_center_id_must_name_the_same_center(client: httpx.AsyncClient) -> None:
    parker, other = await _parker(client), await _parker(client)
    body = {"vehicleId": parker["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    own_id = await _visitor_center(client, parker, parker["pcCode"])
    other_id = await _visitor_center(client, other, parker["pcCode"])
    for fields, field, code in (
        ({"visitorCenterId": own_id, "pcCode": other["pcCode"]}, "pcCode", "centers_differ"),
        ({"visitorCenterId": other_id}, "visitorCenterId", "visitor_center_not_found"),
        ({"visitorCenterId": 0}, "visitorCenterId", "visitor_center_not_found"),
    ):
        await _fails(client.post(f"{parker['path']}/vehiclePartners", json={**body, **fields}), field, code)
    assert await _get_data(client, f"{parker['path']}/vehiclePartners") == []


async def test_one_of_12_concurrent_vehicle_partners_is_created(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await _parker(client)
    body = {"vehicleId": parker["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    center_fields = [
        {"visitorCenterId": await _visitor_center(client, parker, parker["pcCode"])},
        {"pcCode": parker["pcCode"]},
    ]
    operation, path = "vehiclePartners.create", {"visitorId": parker["visitorId"]}
    request_ids = [
        await stack.send(operation, {"path": path, "body": body | center_fields[number % 2]}, partition=number // 3)
        for number in range(12)
    ]
    statuses = [(await stack.result(operation, request_id)).value["status"] for request_id in request_ids]
    assert sorted(statuses) == [201] + [409] * 11


async def test_the_vehicle_and_visitor_of_a_vehicle_partner_must_match_the_path(client: httpx.AsyncClient) -> None:
    parker, other = await _parker(client), await _parker(client)
    body = {"vehicleId": parker["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    for fields, field, code in (
        ({"vehicleId": other["vehicleId"]}, "vehicleId", "vehicle_not_found"),
        ({"visitorId": other["visitorId"]}, "visitorId", "ids_differ"),
        ({"pcCode": "FR-NO-ONE"}, "pcCode", "center_not_found"),
    ):
        await _fails(client.post(f"{parker['path']}/vehiclePartners", json={**body, **fields}), field, code)
    body["visitorId"] = parker["visitorId"]
    created = await data.create(client, f"{parker['path']}/vehiclePartners", body)
    assert created["visitorId"] == parker["visitorId"]


async def test_all_missing_references_of_a_history_are_reported_together(client: httpx.AsyncClient) -> None:
    subscriber, other = await _subscriber(client), await _subscriber(client)
    path = f"{subscriber['path']}/parkingHistories"
    faults = {
        "parkingId": (other["parkingId"], "parking_not_found"),
        "cardId": (other["cardId"], "credit_card_not_found"),
        "pcCode": ("FR-NO-ONE", "center_not_found"),
    }
    for fields in (["parkingId", "cardId", "pcCode"], ["parkingId", "pcCode"], ["cardId", "pcCode"], ["pcCode"]):
        body = _history_body(subscriber, **{field: faults[field][0] for field in fields})
        answer = await client.post(path, json=body)
        assert (answer.status_code, error_codes(answer)) == (400, [(field, faults[field][1]) for field in fields])
    assert await _get_data(client, path) == []


async def test_all_missing_references_of_a_vehicle_partner_are_reported_together(client: httpx.AsyncClient) -> None:
    parker, other = await _parker(client), await _parker(client)
    path = f"{parker['path']}/vehiclePartners"
    vehicle, center = ("vehicleId", "vehicle_not_found"), ("pcCode", "center_not_found")
    visitor_center = ("visitorCenterId", "visitor_center_not_found")
    own_center = await _visitor_center(client, parker, parker["pcCode"])
    others = {"vehicleId": other["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    own = {**others, "vehicleId": parker["vehicleId"]}
    for body, faults in (
        ({**others, "visitorCenterId": 0, "pcCode": "FR-NO-ONE"}, [vehicle, visitor_center, center]),
        ({**others, "visitorCenterId": 0}, [vehicle, visitor_center]),
        ({**others, "pcCode": "FR-NO-ONE"}, [vehicle, center]),
        ({**own, "visitorCenterId": 0, "pcCode": "FR-NO-ONE"}, [visitor_center, center]),
        ({**others, "visitorCenterId": own_center, "pcCode": other["pcCode"]}, [vehicle, ("pcCode", "centers_differ")]),
        ({**own, "pcCode": "FR-NO-ONE"}, [center]),
        ({**others, "visitorCenterId": own_center, "pcCode": parker["pcCode"]}, [vehicle]),
    ):
        answer = await client.post(path, json=body)
        assert (answer.status_code, error_codes(answer)) == (400, faults), body
    assert await _get_data(client, path) == []


async def test_the_map_of_partners_contains_active_centers_with_a_partner(client: httpx.AsyncClient) -> None:
    bodies = [
        data.center(isActive=True, parkingPartner="designa"),
        data.center(isActive=False, parkingPartner="ilogs"),
        data.center(isActive=True),
    ]  # fmt: skip
    active, inactive, without_partner = [(await data.create(client, "/centers", body))["pcCode"] for body in bodies]
    partners_by_center = (await _get_data(client, "/parkingPartners"))["FR"]
    assert partners_by_center[active] == ["designa"]
    assert not {inactive, without_partner} & partners_by_center.keys()


async def test_a_list_is_sorted_only_by_fields_of_its_reply(client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    path = f"/visitors/{parker['visitorId']}/parkingHistories"
    assert (await client.get(path, params={"sort": "-currency"})).status_code == 200
    refused = await client.get(path, params={"sort": "visitorId"})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "unknown_sort_field")
