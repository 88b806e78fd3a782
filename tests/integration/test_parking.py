"""Parkings, cards, vehicles, their partners and what parking cost, rule by rule."""

import asyncio
import json
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.support import data
from tests.support.stack import Stack, eventually
from topics import names

LONG_AGO = "2001-02-03T04:05:06Z"
CARD_NUMBER = "4111111111111111"
Known = dict[str, Any]


async def _fails(asked: Awaitable[httpx.Response], field: str | None, code: str, status: int = 400) -> str:
    """The text of an answer that tells of this one fault."""
    answer = await asked
    found = [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]
    assert (answer.status_code, found) == (status, [(field, code)])
    return answer.text


def _card(**fields: Any) -> dict[str, Any]:
    return {
        "firstName": "Mark", "lastName": "Smith", "year": 2031, "month": 3, "fingerprint": "print", "cardType": "visa",
        "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": "token", **fields,
    }  # fmt: skip


async def _known(client: httpx.AsyncClient) -> Known:
    """A center, a visitor and the visitor's vehicle; path is the visitor's."""
    known = await data.parker(client)
    return {**known, "path": f"/visitors/{known['visitorId']}"}


async def _parked(client: httpx.AsyncClient) -> Known:
    """The same with a card and a parking."""
    known = await _known(client)
    card = await data.create(client, f"{known['path']}/creditCards", _card())
    parking = await data.create(client, f"{known['path']}/parkings", {"parkingPartner": "ilogs"})
    return {**known, "cardId": card["cardId"], "parkingId": parking["parkingId"]}


def _body(known: Known, **fields: Any) -> dict[str, Any]:
    return {
        "parkingId": known["parkingId"], "cardId": known["cardId"], "pcCode": known["pcCode"], "currency": "EUR",
        "accessDevice": "AA-111", **fields,
    }  # fmt: skip


async def _history(client: httpx.AsyncClient, known: Known, **fields: Any) -> dict[str, Any]:
    return await data.create(client, f"{known['path']}/parkingHistories", _body(known, **fields))


async def _data(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def _sums(client: httpx.AsyncClient, known: Known, **query: Any) -> list[tuple[Any, ...]]:
    """The summary's rows: year, month, currency, total amount, number."""
    path = f"{known['path']}/parkingHistories/summary"
    rows = await _data(client, path, **{"timezone": "UTC", **query})
    return [(row["year"], row["month"], row["currency"], row["totalAmount"], row["totalHistories"]) for row in rows]


# parkings


async def test_one_active_parking_per_visitor_and_partner(client: httpx.AsyncClient) -> None:
    path = f"{(await _known(client))['path']}/parkings"
    first = await data.create(client, path, {"parkingPartner": "ilogs"})
    assert (first["isActive"], first["unsubscribedAt"]) == (True, None)
    await _fails(client.post(path, json={"parkingPartner": "ilogs"}), "parkingPartner", "parking_exists", 409)
    await data.create(client, path, {"parkingPartner": "designa"})

    assert (await client.delete(f"{path}/{first['parkingId']}")).status_code == 204
    second = await data.create(client, path, {"parkingPartner": "ilogs"})
    listed = await _data(client, path, parkingPartner="ilogs")
    assert [(row["parkingId"], row["isActive"]) for row in listed] == [
        (first["parkingId"], False), (second["parkingId"], True),
    ]  # fmt: skip


async def test_deleting_a_parking_unsubscribes_and_keeps_the_row(client: httpx.AsyncClient) -> None:
    path = f"{(await _known(client))['path']}/parkings"
    made = await data.create(client, path, {"parkingPartner": "ilogs"})
    one = f"{path}/{made['parkingId']}"
    assert (await client.delete(one)).status_code == 204
    kept = await _data(client, one)
    assert kept["unsubscribedAt"] >= made["subscriptionDate"]
    assert kept["updateDate"] > made["updateDate"]
    changed = {name: kept[name] for name in ("unsubscribedAt", "updateDate")}
    assert kept == {**made, "isActive": False, **changed}
    await _fails(client.delete(one), None, "parking_not_found", 404)


async def test_two_parkings_at_once_leave_one_active(client: httpx.AsyncClient) -> None:
    path = f"{(await _known(client))['path']}/parkings"
    answers = await asyncio.gather(*(client.post(path, json={"parkingPartner": "thales"}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert [row["isActive"] for row in await _data(client, path)] == [True]


# cards and vehicles


@pytest.mark.parametrize(("kind", "key", "body", "code"), [
    ("creditCards", "cardId", _card(), "credit_card_not_found"),
    ("vehicles", "vehicleId", data.vehicle(), "vehicle_not_found"),
])  # fmt: skip
async def test_delete_is_soft_and_lists_show_deleted_ones_only_when_asked(
    client: httpx.AsyncClient, kind: str, key: str, body: dict[str, Any], code: str
) -> None:
    path = f"{(await _known(client))['path']}/{kind}"
    made, kept = await data.create(client, path, body), await data.create(client, path, body)
    before = [row[key] for row in await _data(client, path)]
    one = f"{path}/{made[key]}"
    assert (await client.delete(one)).status_code == 204
    await _fails(client.delete(one), None, code, 404)
    for query in ({}, {"includeDeleted": "false"}):
        assert [row[key] for row in await _data(client, path, **query)] == [old for old in before if old != made[key]]
    everything = {row[key]: row["deletionDate"] for row in await _data(client, path, includeDeleted="true")}
    assert list(everything) == before
    assert everything[kept[key]] is None
    assert everything[made[key]] == (await _data(client, one))["deletionDate"] > made["creationDate"]


async def test_good_thru_is_month_and_year_and_follows_an_update(client: httpx.AsyncClient) -> None:
    path = f"{(await _known(client))['path']}/creditCards"
    made = await data.create(client, path, _card(year=2031, month=3))
    assert made["goodThru"] == "03/2031"
    one = f"{path}/{made['cardId']}"
    assert (await client.patch(one, json={"month": 11})).status_code == 204
    found = await _data(client, one)
    assert (found["goodThru"], found["month"], found["year"], found["lastName"]) == ("11/2031", 11, 2031, "Smith")


@pytest.mark.parametrize("field", ["firstSixDigits", "lastFourDigits"])
@pytest.mark.parametrize("value", ["12345", "1234567", "12 4", "abcdef", "abcd", "", "\u0664" * 6, "\u0664" * 4])
async def test_the_shown_digits_of_a_card_are_six_and_four(client: httpx.AsyncClient, field: str, value: str) -> None:
    path = f"{(await _known(client))['path']}/creditCards"
    await _fails(client.post(path, json=_card(**{field: value})), field, "wrong_format")


@pytest.mark.parametrize("number", [
    CARD_NUMBER, "4111 1111 1111 1111", "4111-1111-1111-1111", "37828-224631-0005", "no. 4222222222222, mine",
    "6759.6498.2643.8453", "\u0664" + "\u0661" * 15,
])  # fmt: skip
@pytest.mark.parametrize(("kind", "body", "field"), [
    ("creditCards", _card(), "firstName"),
    ("creditCards", _card(), "lastName"),
    ("vehicles", data.vehicle(), "name"),
    ("vehicles", data.vehicle(), "licensePlate"),
])  # fmt: skip
async def test_a_card_number_is_refused_and_neither_echoed_nor_logged(
    stack: Stack, client: httpx.AsyncClient, kind: str, body: dict[str, Any], field: str, number: str
) -> None:
    path = f"{(await _known(client))['path']}/{kind}"
    made = await data.create(client, path, body)
    one = f"{path}/{made.get('cardId', made.get('vehicleId'))}"
    for asked in (client.post(path, json={**body, field: number}), client.patch(one, json={field: number})):
        assert number not in await _fails(asked, field, "card_number_refused")
    assert [process.name for process in stack.processes if number in process.log.read_text()] == []


async def test_a_card_number_is_refused_in_a_number_and_in_a_history_too(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    cards, histories = f"{known['path']}/creditCards", f"{known['path']}/parkingHistories"
    for field, value in (
        ("postalCode", int(CARD_NUMBER)), ("paymentMethodToken", CARD_NUMBER),
    ):  # fmt: skip
        await _fails(client.post(cards, json=_card(**{field: value})), field, "card_number_refused")
    for field in ("accessDevice", "exitAccessDevice", "formattedTotalTime", "vendorId"):
        await _fails(client.post(histories, json=_body(known, **{field: CARD_NUMBER})), field, "card_number_refused")
    asked = client.get(histories, params={"accessDevice": CARD_NUMBER})
    assert CARD_NUMBER not in await _fails(asked, "accessDevice", "card_number_refused")


async def test_identifiers_of_other_systems_may_look_like_a_card_number(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    history = await _history(client, known, transactionId=CARD_NUMBER)
    partner = {"vehicleId": known["vehicleId"], "partnerId": CARD_NUMBER, "parkingPartner": "ilogs"}
    made = await data.create(client, f"{known['path']}/vehiclePartners", partner)
    card = await data.create(client, f"{known['path']}/creditCards", _card(fingerprint=CARD_NUMBER))
    assert (history["transactionId"], made["partnerId"], card["fingerprint"]) == (CARD_NUMBER,) * 3


AMOUNTS = (
    "refundedAmount", "transactionFullAmount", "transactionPretaxAmount", "transactionTaxAmount", "validationAmount",
)  # fmt: skip


async def test_amounts_of_a_session_are_exact_whatever_zeros_they_end_with(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await _parked(client)
    path, sent = f"{known['path']}/parkingHistories", "31.4000000000"
    body = json.dumps(_body(known, **dict.fromkeys(AMOUNTS, "@"))).replace('"@"', sent)
    made = await client.post(path, content=body, headers={"content-type": "application/json"})
    assert made.status_code == 201, made.text
    one = f"{path}/{made.json()['data']['parkingHistoryId']}"
    for amount in AMOUNTS:
        changed = await client.patch(
            one, content=f'{{"{amount}": 0E-10}}', headers={"content-type": "application/json"}
        )
        assert changed.status_code == 204, changed.text
    for answer, amount in ((made, Decimal(sent)), (await client.get(one), Decimal(0))):
        found = answer.json(parse_float=Decimal)["data"]
        assert [found[name] for name in AMOUNTS] == [amount] * len(AMOUNTS)
    changes = await stack.read(names.changes("parking"))
    mine = [change.value for change in changes if change.value and change.key == f"parkingHistory:{one.split('/')[-1]}"]
    assert [change["after"]["validationAmount"] for change in mine][:1] == [Decimal(sent)]


async def test_an_integer_may_be_written_with_nothing_behind_its_point(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    path = f"{known['path']}/vehicles"
    made = await data.create(client, path, data.vehicle(yearOfManufacture=2020.0))
    assert made["yearOfManufacture"] == 2020
    refused = client.post(path, json=data.vehicle(yearOfManufacture=2020.5))
    await _fails(refused, "yearOfManufacture", "wrong_type")
    parts = {
        "path": {"visitorId": known["visitorId"], "vehicleId": float(made["vehicleId"])},
        "body": {"yearOfManufacture": 1.999e3},
    }
    request_id = await stack.send("vehicles.update", parts)
    assert (await stack.result("vehicles.update", request_id)).value["status"] == 204
    assert (await _data(client, f"{path}/{made['vehicleId']}.0"))["yearOfManufacture"] == 1999


async def test_the_links_of_a_message_with_such_integers_can_be_followed(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await _known(client)
    for _ in range(2):
        await data.create(client, f"{known['path']}/vehicles", data.vehicle())
    asked = {"path": {"visitorId": known["visitorId"]}, "query": {"limit": 2.0}}
    request_id = await stack.send("vehicles.list", asked)
    links = (await stack.result("vehicles.list", request_id)).value["body"]["metadata"]["_links"]
    assert len((await client.get(links["next"])).json()["data"]) == 1
    await _fails(client.get(f"{known['path']}/vehicles?limit=2.5"), "limit", "wrong_type")


async def test_updating_a_vehicle_may_set_its_deletion_date(client: httpx.AsyncClient) -> None:
    known = await _known(client)
    one = f"{known['path']}/vehicles/{known['vehicleId']}"
    body = {"vehicleId": known["vehicleId"], "deletionDate": LONG_AGO}
    assert (await client.patch(one, json=body)).status_code == 204
    assert (await _data(client, one))["deletionDate"] == LONG_AGO
    assert await _data(client, f"{known['path']}/vehicles") == []
    assert (await client.delete(one)).status_code == 404


async def test_a_vehicle_id_in_the_body_that_differs_from_the_paths_is_400(client: httpx.AsyncClient) -> None:
    known = await _known(client)
    one = f"{known['path']}/vehicles/{known['vehicleId']}"
    body = {"vehicleId": known["vehicleId"] + 1, "color": "red"}
    await _fails(client.patch(one, json=body), "vehicleId", "ids_differ")
    assert (await _data(client, one))["color"] is None


async def test_null_clears_a_vehicles_name_and_is_refused_for_its_maker(client: httpx.AsyncClient) -> None:
    path = f"{(await _known(client))['path']}/vehicles"
    made = await data.create(client, path, data.vehicle(name="Bee", maker="Fiat"))
    one = f"{path}/{made['vehicleId']}"
    assert (await client.patch(one, json={"name": None})).status_code == 204
    await _fails(client.patch(one, json={"maker": None}), "maker", "null_refused")
    found = await _data(client, one)
    assert (found["name"], found["maker"], found["licensePlate"]) == (None, "Fiat", made["licensePlate"])


async def test_null_clears_no_field_of_a_card(client: httpx.AsyncClient) -> None:
    path = f"{(await _known(client))['path']}/creditCards"
    made = await data.create(client, path, _card(postalCode="75001", serviceTypes=["parking"]))
    for field in ("postalCode", "serviceTypes"):
        refused = client.patch(f"{path}/{made['cardId']}", json={field: None})
        await _fails(refused, field, "null_refused")
    assert await _data(client, path) == [made]


async def _in_one_batch(stack: Stack, known: Known, *requests: tuple[str, Known]) -> list[Known]:
    """What comes of requests that one partition takes in this order, all waiting for a first one that is held up."""
    path = {"visitorId": known["visitorId"], "vehicleId": known["vehicleId"]}
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"select from vehicles where vehicle_id = {known['vehicleId']} for update")
        await stack.send("vehicles.update", {"path": path, "body": {"color": "blue"}}, partition=0)
        await eventually("a batch that waits", lambda: stack.rows("select 1 from pg_locks where not granted"))
        sent = [(name, await stack.send(name, parts, partition=0)) for name, parts in requests]
        await asyncio.sleep(0.5)  # until the worker has fetched them
    return [(await stack.result(name, request_id)).value for name, request_id in sent]


async def test_of_one_plate_the_vehicle_updated_last_counts_also_within_a_batch(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, *people = [await _known(client) for _ in range(3)]
    plate = data.new_plate()

    async def named() -> str:
        visit = {"licensePlate": plate, "pcCode": known["pcCode"]}
        return str((await client.post("/visits/entry", json=visit)).json()["visitorId"])

    creating = [{"path": {"visitorId": each["visitorId"]}, "body": {"licensePlate": plate}} for each in people]
    answers = await _in_one_batch(stack, known, *(("vehicles.create", parts) for parts in creating))
    made = [answer["body"]["data"] for answer in answers]
    assert await named() == people[1]["visitorId"]
    paths = [{"visitorId": row["visitorId"], "vehicleId": row["vehicleId"]} for row in made]
    changing = [{"path": path, "body": {"color": "red"}} for path in reversed(paths)]
    await _in_one_batch(stack, known, *(("vehicles.update", parts) for parts in changing))
    assert await named() == people[0]["visitorId"]


async def test_a_vehicle_updated_and_deleted_in_one_batch_was_deleted_last(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known, other = await _known(client), await _known(client)
    path = {"visitorId": other["visitorId"], "vehicleId": other["vehicleId"]}
    update = ("vehicles.update", {"path": path, "body": {"color": "red"}})
    answers = await _in_one_batch(stack, known, update, ("vehicles.delete", {"path": path}))
    assert [answer["status"] for answer in answers] == [204, 204]
    found = await _data(client, f"{other['path']}/vehicles/{other['vehicleId']}")
    assert found["deletionDate"] == found["updateDate"] > found["creationDate"]


async def test_what_is_another_visitors_is_not_found(client: httpx.AsyncClient) -> None:
    known, other = await _parked(client), await _known(client)
    history = await _history(client, known)
    for place in (
        f"vehicles/{known['vehicleId']}", f"creditCards/{known['cardId']}", f"parkings/{known['parkingId']}",
        f"parkingHistories/{history['parkingHistoryId']}",
    ):  # fmt: skip
        assert (await client.get(f"{known['path']}/{place}")).status_code == 200
        assert (await client.get(f"{other['path']}/{place}")).status_code == 404
        assert (await client.delete(f"{other['path']}/{place}")).status_code == 404


# parking histories


async def test_a_history_with_a_parking_or_card_of_another_visitor_is_400(client: httpx.AsyncClient) -> None:
    known, other = await _parked(client), await _parked(client)
    for field, value, code in (
        ("parkingId", other["parkingId"], "parking_not_found"),
        ("cardId", other["cardId"], "credit_card_not_found"),
        ("pcCode", "FR-NO-ONE", "center_not_found"),
    ):
        await _fails(client.post(f"{known['path']}/parkingHistories", json=_body(known, **{field: value})), field, code)
    nobody = client.post(f"/visitors/{data.NOBODY}/parkingHistories", json=_body(known))
    await _fails(nobody, None, "visitor_not_found", 404)


async def test_histories_are_filtered_by_device_start_parking_and_session(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    other = await data.create(client, f"{known['path']}/parkings", {"parkingPartner": "designa"})
    days = [f"2024-05-0{day}T12:00:00Z" for day in (1, 2, 3)]
    made = [
        await _history(client, known, accessDevice="IN", parkingSessionStart=days[0]),
        await _history(client, known, exitAccessDevice="IN", parkingSessionStart=days[1], parkingSessionId=77),
        await _history(client, known, parkingSessionStart=days[2], parkingId=other["parkingId"]),
        await _history(client, known),
    ]

    async def listed(**query: Any) -> list[int]:
        rows = await _data(client, f"{known['path']}/parkingHistories", **query)
        return [next(place for place, row in enumerate(made) if row == found) for found in rows]

    assert await listed() == [0, 1, 2, 3]
    assert await listed(accessDevice="IN") == [0, 1]
    assert await listed(startDate=days[1]) == [1, 2]
    assert await listed(endDate=days[1]) == [0, 1]
    assert await listed(startDate="2024-05-02T14:00:00+02:00", endDate=days[1]) == [1]
    assert await listed(parkingId=other["parkingId"]) == [2]
    assert await listed(parkingSessionId=77) == [1]


async def test_amounts_come_back_exactly_and_a_history_shows_no_visitor_id(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    text = '"refundedAmount":31.40,"transactionFullAmount":0.1,"validationAmount":12345678901234567890.123456789'
    body = f'{{"parkingId":{known["parkingId"]},"cardId":{known["cardId"]},"pcCode":"{known["pcCode"]}",'
    body += f'"currency":"EUR","accessDevice":"A","transactionTaxAmount":0,{text}}}'
    path = f"{known['path']}/parkingHistories"
    made = await client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert made.status_code == 201
    one = await client.get(f"{path}/{made.json()['data']['parkingHistoryId']}")
    for answer in (made, one, await client.get(path)):
        found = answer.text.replace(" ", "")
        assert all(part in found for part in [*text.split(","), '"transactionTaxAmount":0,'])
        assert "visitorId" not in found


async def test_updating_and_deleting_a_history(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    made = await _history(client, known, amount=5, paymentStatus="pending", refundedAmount=2.5)
    one = f"{known['path']}/parkingHistories/{made['parkingHistoryId']}"
    patch = {"amount": 7, "paymentStatus": "succeeded", "refundedAmount": None}
    assert (await client.patch(one, json=patch)).status_code == 204
    found = await _data(client, one)
    assert found == {**made, **patch, "updateDate": found["updateDate"]}
    assert found["updateDate"] > made["updateDate"]
    await _fails(client.patch(one, json={"amount": None}), "amount", "null_refused")
    assert [(await client.delete(one)).status_code for _ in range(2)] == [204, 404]
    assert (await client.get(one)).status_code == 404


async def test_a_deleted_history_is_told_as_deleted_and_then_by_a_tombstone(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    known = await _parked(client)
    made = await _history(client, known)
    await client.delete(f"{known['path']}/parkingHistories/{made['parkingHistoryId']}")
    key, topic = f"parkingHistory:{made['parkingHistoryId']}", names.changes("parking")
    assert topic == "visitor.parking.changes"
    await stack.await_record(topic, lambda record: record.key == key and record.raw is None)
    told = [record.value for record in await stack.read(topic) if record.key == key]
    assert [(value and (value["action"], value["revision"], value["after"] is None)) for value in told] == [
        ("created", 1, False), ("deleted", 2, True), None,
    ]  # fmt: skip


# the summary


async def test_the_summary_groups_by_month_of_start_or_creation_and_by_currency(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    late = "2024-01-31T23:30:00Z"
    for fields in (
        {"amount": 3}, {"amount": 4}, {"amount": 9, "currency": "GBP"},
        {"amount": 5, "parkingSessionStart": "2024-02-01T12:00:00Z"},
    ):  # fmt: skip
        await _history(client, known, **{"parkingSessionStart": late, **fields})
    assert await _sums(client, known) == [(2024, 1, "EUR", 7, 2), (2024, 1, "GBP", 9, 1), (2024, 2, "EUR", 5, 1)]
    assert await _sums(client, known, timezone="Europe/Paris") == [(2024, 2, "EUR", 12, 3), (2024, 2, "GBP", 9, 1)]
    year, month = (await _history(client, known, amount=2))["creationDate"].split("-")[:2]
    assert (await _sums(client, known))[-1] == (int(year), int(month), "EUR", 2, 1)


@pytest.mark.parametrize("timezone", ["CET", "MET", "Europe/Paris"])
async def test_the_summary_knows_a_zones_summer_time(client: httpx.AsyncClient, timezone: str) -> None:
    known = await _parked(client)
    await _history(client, known, parkingSessionStart="2024-06-30T22:30:00Z", amount=1)
    assert await _sums(client, known, timezone=timezone) == [(2024, 7, "EUR", 1, 1)]


async def test_the_summary_leaves_out_what_failed_or_is_pending(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    amounts = {"failed": 1, "pending": 2, "refunded": 4, "partial_refunded": 8, "succeeded": 2**53}
    for status, amount in amounts.items():
        await _history(client, known, parkingSessionStart=LONG_AGO, paymentStatus=status, amount=amount)
    await _history(client, known, parkingSessionStart=LONG_AGO, amount=1)
    await _history(client, known, parkingSessionStart=LONG_AGO)
    assert await _sums(client, known) == [(2001, 2, "EUR", 2**53 + 13, 5)]


async def test_the_summary_is_filtered_by_parking_device_and_center(client: httpx.AsyncClient) -> None:
    known, other = await _parked(client), await _parked(client)
    parking = await data.create(client, f"{known['path']}/parkings", {"parkingPartner": "designa"})
    for fields in (
        {"amount": 1, "parkingId": parking["parkingId"]}, {"amount": 2, "accessDevice": "GATE"},
        {"amount": 4, "exitAccessDevice": "GATE"}, {"amount": 8, "pcCode": other["pcCode"]},
    ):  # fmt: skip
        await _history(client, known, parkingSessionStart=LONG_AGO, **fields)
    await _history(client, other, parkingSessionStart=LONG_AGO, amount=16)
    for query, total, count in (
        ({}, 15, 4), ({"parkingId": parking["parkingId"]}, 1, 1), ({"accessDevice": "GATE"}, 6, 2),
        ({"pcCode": other["pcCode"]}, 8, 1),
    ):  # fmt: skip
        assert await _sums(client, known, **query) == [(2001, 2, "EUR", total, count)]


async def test_the_summary_is_sorted_and_paged(client: httpx.AsyncClient) -> None:
    known = await _parked(client)
    for month, amount in ((1, 20), (2, 30), (3, 10)):
        await _history(client, known, parkingSessionStart=f"2024-0{month}-15T00:00:00Z", amount=amount)

    async def months(**query: Any) -> list[int]:
        return [row[1] for row in await _sums(client, known, **query)]

    assert await months() == [1, 2, 3]
    assert await months(sort="-totalAmount") == [2, 1, 3]
    assert await months(sort="-totalAmount", limit=1, offset=1) == [1]
    path = f"{known['path']}/parkingHistories/summary"
    answer = await client.get(path, params={"timezone": "UTC", "limit": 2})
    following = await client.get(answer.json()["metadata"]["_links"]["next"])
    assert [row["month"] for row in following.json()["data"]] == [3]
    assert "next" not in following.json()["metadata"]["_links"]
    await _fails(client.get(path, params={"timezone": "UTC", "sort": "amount"}), "sort", "unknown_sort_field")


@pytest.mark.parametrize(("query", "code"), [({"timezone": "Europe/Nowhere"}, "unknown_timezone"), ({}, "required")])
async def test_the_summary_needs_a_known_timezone(client: httpx.AsyncClient, query: dict[str, str], code: str) -> None:
    await _fails(
        client.get(f"{(await _known(client))['path']}/parkingHistories/summary", params=query), "timezone", code
    )


# partners


async def test_one_partner_id_per_vehicle_partner_and_center(client: httpx.AsyncClient) -> None:
    known = await _known(client)
    path = f"{known['path']}/vehiclePartners"
    anywhere = {"vehicleId": known["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    here = {**anywhere, "pcCode": known["pcCode"]}
    made = [await data.create(client, path, body) for body in (anywhere, here, {**here, "parkingPartner": "thales"})]
    for body in (anywhere, here):
        await _fails(client.post(path, json={**body, "partnerId": "another"}), None, "vehicle_partner_exists", 409)
    assert await _data(client, path) == made
    one = f"{path}/{made[0]['vehiclePartnerId']}"
    assert [(await client.delete(one)).status_code for _ in range(2)] == [204, 404]
    assert await _data(client, path) == made[1:]


async def _visitor_center(client: httpx.AsyncClient, known: Known, pc_code: str) -> int:
    body = {"pcCode": pc_code, "isFavorite": False}
    return int((await data.create(client, f"{known['path']}/centers", body))["visitorCenterId"])


async def test_one_partner_id_per_center_however_the_center_is_named(client: httpx.AsyncClient) -> None:
    known, other = await _known(client), await _known(client)
    path = f"{known['path']}/vehiclePartners"
    body = {"vehicleId": known["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    ids = [await _visitor_center(client, known, each["pcCode"]) for each in (known, other)]
    ways = [{"visitorCenterId": ids[0]}, {"pcCode": known["pcCode"]}]
    ways.append(ways[0] | ways[1])
    for way in ways:
        made = await data.create(client, path, body | way)
        assert made == {**made, "visitorCenterId": None, "pcCode": None, **body, **way}
        for again in ways:
            await _fails(client.post(path, json=body | again), None, "vehicle_partner_exists", 409)
        assert (await client.delete(f"{path}/{made['vehiclePartnerId']}")).status_code == 204
    for way in ({}, *({"visitorCenterId": each} for each in ids)):
        await data.create(client, path, body | way)
    await _fails(client.post(path, json=body), None, "vehicle_partner_exists", 409)


async def test_the_two_centers_of_a_vehicle_partner_are_one(client: httpx.AsyncClient) -> None:
    known, other = await _known(client), await _known(client)
    body = {"vehicleId": known["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    own = await _visitor_center(client, known, known["pcCode"])
    others = await _visitor_center(client, other, known["pcCode"])
    for fields, field, code in (
        ({"visitorCenterId": own, "pcCode": other["pcCode"]}, "pcCode", "centers_differ"),
        ({"visitorCenterId": others}, "visitorCenterId", "visitor_center_not_found"),
        ({"visitorCenterId": 0}, "visitorCenterId", "visitor_center_not_found"),
    ):
        await _fails(client.post(f"{known['path']}/vehiclePartners", json={**body, **fields}), field, code)
    assert await _data(client, f"{known['path']}/vehiclePartners") == []


async def test_of_12_vehicle_partners_at_once_one_is_made(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _known(client)
    body = {"vehicleId": known["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    ways = [{"visitorCenterId": await _visitor_center(client, known, known["pcCode"])}, {"pcCode": known["pcCode"]}]
    operation, path = "vehiclePartners.create", {"visitorId": known["visitorId"]}
    sent = [
        await stack.send(operation, {"path": path, "body": body | ways[n % 2]}, partition=n // 3) for n in range(12)
    ]
    statuses = [(await stack.result(operation, request_id)).value["status"] for request_id in sent]
    assert sorted(statuses) == [201] + [409] * 11


async def test_a_vehicle_partners_vehicle_and_visitor_are_the_paths(client: httpx.AsyncClient) -> None:
    known, other = await _known(client), await _known(client)
    body = {"vehicleId": known["vehicleId"], "partnerId": "123-ABC", "parkingPartner": "ilogs"}
    for fields, field, code in (
        ({"vehicleId": other["vehicleId"]}, "vehicleId", "vehicle_not_found"),
        ({"visitorId": other["visitorId"]}, "visitorId", "ids_differ"),
        ({"pcCode": "FR-NO-ONE"}, "pcCode", "center_not_found"),
    ):
        await _fails(client.post(f"{known['path']}/vehiclePartners", json={**body, **fields}), field, code)
    body["visitorId"] = known["visitorId"]
    made = await data.create(client, f"{known['path']}/vehiclePartners", body)
    assert made["visitorId"] == known["visitorId"]


async def test_the_map_of_partners_has_active_centers_that_have_one(client: httpx.AsyncClient) -> None:
    bodies = [
        data.center(isActive=True, parkingPartner="designa"),
        data.center(isActive=False, parkingPartner="ilogs"),
        data.center(isActive=True),
    ]  # fmt: skip
    active, inactive, without = [(await data.create(client, "/centers", body))["pcCode"] for body in bodies]
    found = (await _data(client, "/parkingPartners"))["FR"]
    assert found[active] == ["designa"]
    assert not {inactive, without} & found.keys()


async def test_a_list_is_sorted_by_fields_of_its_reply_only(client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    path = f"/visitors/{known['visitorId']}/parkingHistories"
    assert (await client.get(path, params={"sort": "-currency"})).status_code == 200
    refused = await client.get(path, params={"sort": "visitorId"})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "unknown_sort_field")
