"""Services, what they are linked to, and the checkins at them, rule by rule."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support import data
from tests.support.stack import Stack, eventually, plain
from topics import names
from topics.envelope import AVRO, JSON

LONG_AGO, FAR_OFF = "2001-02-03T04:05:06Z", "2101-02-03T04:05:06Z"
Known = dict[str, Any]


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


async def _known(client: httpx.AsyncClient, **service: Any) -> Known:
    """A center, a visitor and a service of that center."""
    known = await data.parker(client)
    made = await data.create(client, "/services", data.service(known["pcCode"], **service))
    return {**known, "serviceId": made["serviceId"], "path": f"/visitors/{known['visitorId']}/checkins"}


def _body(known: Known, **fields: Any) -> dict[str, Any]:
    return {"pcCode": known["pcCode"], "serviceId": known["serviceId"], "origin": "dashboard", **fields}


async def _service(client: httpx.AsyncClient, known: Known) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/services/{known['serviceId']}")).json()["data"]
    return found


# services


async def test_a_service_shows_what_it_is_linked_to(client: httpx.AsyncClient) -> None:
    known = await _known(client)
    path = f"/services/{known['serviceId']}"
    store = await data.create(client, f"{path}/stores", {"storeId": 7, "storeName": "Bakery"})
    segment = await data.create(client, f"{path}/segments", {"segmentId": 8, "segmentName": "Families"})
    theme = await data.create(client, "/serviceThemes", {"value": "Food", "category": "event"})
    target = await data.create(client, "/serviceTargets", {"value": "Kids"})
    themed = await data.create(client, f"{path}/themes", {"serviceThemeId": theme["serviceThemeId"]})
    targeted = await data.create(client, f"{path}/targets", {"serviceTargetId": target["serviceTargetId"]})
    assert (themed["serviceTheme"], targeted["serviceTarget"]) == (theme, target)

    found = await _service(client, known)
    assert (found["stores"], found["segments"], found["themes"], found["targets"], found["checkinCount"]) == (
        [store], [segment], [theme], [target], 0,
    )  # fmt: skip
    listed = (await client.get("/services", params={"pcCode": known["pcCode"]})).json()["data"]
    assert listed == [found]
    assert (await client.get(f"{path}/themes")).json()["data"] == [themed]


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("stores", {"storeId": 7, "storeName": "Bakery"}, "storeId"),
        ("segments", {"segmentId": 7, "segmentName": "Families"}, "segmentId"),
    ],
)
async def test_adding_a_link_twice_is_409_and_removing_it_twice_404(
    client: httpx.AsyncClient, kind: str, body: dict[str, Any], field: str
) -> None:
    path = f"/services/{(await _known(client))['serviceId']}/{kind}"
    await data.create(client, path, body)
    again = await client.post(path, json=body)
    assert (again.status_code, _codes(again)) == (409, [(field, f"{kind[:-1]}_link_exists")])
    assert (await client.delete(f"{path}/7")).status_code == 204
    assert (await client.get(path)).json()["data"] == []
    assert (await client.delete(f"{path}/7")).status_code == 404


async def test_links_of_an_absent_service_or_to_an_absent_theme(client: httpx.AsyncClient) -> None:
    known = await _known(client)
    answer = await client.post(f"/services/{known['serviceId']}/themes", json={"serviceThemeId": 0})
    assert (answer.status_code, _codes(answer)) == (400, [("serviceThemeId", "service_theme_not_found")])
    answer = await client.post("/services/0/stores", json={"storeId": 1, "storeName": "A"})
    assert (answer.status_code, _codes(answer)) == (404, [(None, "service_not_found")])
    assert (await client.get("/services/0/targets")).status_code == 404


async def test_services_are_filtered_by_their_end(client: httpx.AsyncClient) -> None:
    known = await _known(client, endDate=LONG_AGO)
    listed: dict[str, int] = {}
    for name in ("endDateSince", "endDateUntil"):
        query = {"pcCode": known["pcCode"], name: LONG_AGO}
        listed[name] = len((await client.get("/services", params=query)).json()["data"])
    assert listed == {"endDateSince": 1, "endDateUntil": 0}


async def test_a_removed_link_is_told_as_deleted_and_then_by_a_tombstone(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    path = f"/services/{(await _known(client))['serviceId']}/stores"
    store = await data.create(client, path, {"storeId": 7, "storeName": "Bakery"})
    await client.delete(f"{path}/7")
    key, topic = f"serviceStore:{store['serviceStoreId']}", names.changes("services")
    await stack.await_record(topic, lambda record: record.key == key and record.raw is None)
    told = [record.value for record in await stack.read(topic) if record.key == key]
    assert [(value and (value["action"], value["revision"], value["after"] is None)) for value in told] == [
        ("created", 1, False), ("deleted", 2, True), None,
    ]  # fmt: skip


# checkins


async def test_one_checkin_as_json_as_avro_and_over_http(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _known(client)
    parts = {"path": {"visitorId": known["visitorId"]}, "body": _body(known)}
    ids = [await stack.send("checkins.create", parts, content_type=kind) for kind in (JSON, AVRO)]
    results = [plain((await stack.result("checkins.create", request_id)).value) for request_id in ids]
    answer = await client.post(known["path"], json=_body(known))
    assert [result["status"] for result in results] == [201, 201]
    assert answer.status_code == 201
    for found in (*(result["body"]["data"] for result in results), answer.json()["data"]):
        assert found == {**found, **_body(known), "visitorId": known["visitorId"]}
    for request_id in ids:
        change = await stack.await_record(
            names.changes("checkins"), lambda record, wanted=request_id: record.value["causedBy"] == wanted
        )
        assert (change.value["action"], change.value["after"]["serviceId"]) == ("created", known["serviceId"])
    assert (await _service(client, known))["checkinCount"] == 3


async def test_visitor_center_and_service_must_exist_and_the_service_be_the_centers(client: httpx.AsyncClient) -> None:
    known, other = await _known(client), await _known(client)
    nobody = await client.post(known["path"].replace(known["visitorId"], data.NOBODY), json=_body(known))
    assert (nobody.status_code, _codes(nobody)) == (404, [(None, "visitor_not_found")])
    for fields, field, code in (
        ({"pcCode": "FR-NO-ONE"}, "pcCode", "center_not_found"),
        ({"serviceId": 0}, "serviceId", "service_not_found"),
        ({"serviceId": other["serviceId"]}, "serviceId", "service_of_another_center"),
    ):
        for path, named in ((known["path"], {}), ("/checkins", {"barcode": known["barcode"]})):
            answer = await client.post(path, json=_body(known, **named, **fields))
            assert (answer.status_code, _codes(answer)) == (400, [(field, code)])
    both = await client.post(known["path"], json=_body(known, pcCode="FR-NO-ONE", serviceId=0))
    assert (both.status_code, _codes(both)) == (
        400, [("pcCode", "center_not_found"), ("serviceId", "service_not_found")]
    )  # fmt: skip


@pytest.mark.parametrize(("dates", "status"), [
    ({"startDate": FAR_OFF}, 409), ({"endDate": LONG_AGO}, 409), ({"startDate": LONG_AGO, "endDate": FAR_OFF}, 201),
])  # fmt: skip
async def test_outside_the_services_dates_is_409(client: httpx.AsyncClient, dates: dict[str, str], status: int) -> None:
    known = await _known(client, **dates)
    for path, named in ((known["path"], {}), ("/checkins", {"barcode": known["barcode"]})):
        answer = await client.post(path, json=_body(known, **named))
        assert answer.status_code == status
        if status == 409:
            assert _codes(answer) == [("serviceId", "service_not_available")]


async def test_by_barcode_it_is_the_visitor_with_that_barcode(client: httpx.AsyncClient) -> None:
    known = await _known(client)
    made = await data.create(client, "/checkins", _body(known, barcode=known["barcode"], origin="partner"))
    assert (made["visitorId"], made["origin"]) == (known["visitorId"], "partner")
    nobody = await client.post("/checkins", json=_body(known, barcode=data.NOBODY))
    assert (nobody.status_code, _codes(nobody)) == (404, [(None, "visitor_not_found")])
    wrong = await client.post("/checkins", json=_body(known, barcode="no uuid"))
    assert (wrong.status_code, _codes(wrong)) == (400, [("barcode", "wrong_format")])


async def test_delete_removes_the_row_and_lowers_the_count(client: httpx.AsyncClient) -> None:
    known, other = await _known(client), await _known(client)
    made = await data.create(client, known["path"], _body(known))
    assert (await client.get(f"{known['path']}/{made['checkinId']}")).json()["data"] == made
    assert (await client.get(f"{other['path']}/{made['checkinId']}")).status_code == 404
    assert (await client.delete(f"{other['path']}/{made['checkinId']}")).status_code == 404
    assert (await _service(client, known))["checkinCount"] == 1
    assert (await client.delete(f"{known['path']}/{made['checkinId']}")).status_code == 204
    assert (await client.delete(f"{known['path']}/{made['checkinId']}")).status_code == 404
    assert (await _service(client, known))["checkinCount"] == 0


async def test_checkins_are_filtered_by_center_service_and_time(client: httpx.AsyncClient) -> None:
    known, other = await _known(client), await _known(client)
    made = [await data.create(client, known["path"], _body(known)) for _ in range(2)]
    await data.create(client, other["path"], _body(other))

    async def listed(path: str, **query: Any) -> list[int]:
        return [row["checkinId"] for row in (await client.get(path, params=query)).json()["data"]]

    ids = [row["checkinId"] for row in made]
    assert await listed("/checkins", pcCode=known["pcCode"]) == ids
    assert await listed("/checkins", serviceId=known["serviceId"], sort="-checkinId") == ids[::-1]
    since, until = made[1]["creationDate"], made[1]["creationDate"]
    assert await listed("/checkins", serviceId=known["serviceId"], checkedInSince=since) == ids[1:]
    assert await listed("/checkins", serviceId=known["serviceId"], checkedInUntil=until) == ids[:1]
    assert await listed(known["path"]) == ids
    assert await listed(known["path"], pcCode=other["pcCode"]) == []


async def test_checkins_and_deletes_at_once_keep_the_count_right(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _known(client)
    first = [await data.create(client, known["path"], _body(known)) for _ in range(10)]
    more = (client.post(known["path"], json=_body(known)) for _ in range(30))
    gone = (client.delete(f"{known['path']}/{made['checkinId']}") for made in first for _ in range(2))
    parts = {"path": {"visitorId": known["visitorId"]}, "body": _body(known)}
    sent = (stack.send("checkins.create", parts, partition=number % 4) for number in range(20))
    answers = await asyncio.gather(*more, *gone, *sent)
    statuses = [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]
    assert (statuses.count(201), statuses.count(204), statuses.count(404)) == (30, 10, 10)

    async def counted() -> bool:
        return len(await stack.rows("select 1 from checkins where service_id = :id", id=known["serviceId"])) == 50

    await eventually("all checkins", counted)
    assert (await _service(client, known))["checkinCount"] == 50
