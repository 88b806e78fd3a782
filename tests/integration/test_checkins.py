"""Services with their links, and checkins at services: one test for each rule."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support import data
from tests.support.answers import error_codes
from tests.support.stack import Stack, eventually, plain
from topics import names
from topics.envelope import AVRO, JSON

LONG_AGO, FAR_OFF = "2001-02-03T04:05:06Z", "2101-02-03T04:05:06Z"
Setup = dict[str, Any]


async def _setup(client: httpx.AsyncClient, **fields: Any) -> Setup:
    """A center, a visitor and a service of that center: their ids, and the path of the visitor's checkins."""
    parker = await data.visitor_with_vehicle(client)
    service = await data.create(client, "/services", data.service(parker["pcCode"], **fields))
    return {**parker, "serviceId": service["serviceId"], "path": f"/visitors/{parker['visitorId']}/checkins"}


def _body(setup: Setup, **fields: Any) -> dict[str, Any]:
    return {"pcCode": setup["pcCode"], "serviceId": setup["serviceId"], "origin": "dashboard", **fields}


async def _service(client: httpx.AsyncClient, setup: Setup) -> dict[str, Any]:
    service: dict[str, Any] = (await client.get(f"/services/{setup['serviceId']}")).json()["data"]
    return service


# services


async def test_a_service_shows_its_stores_segments_themes_and_targets(client: httpx.AsyncClient) -> None:
    setup = await _setup(client)
    path = f"/services/{setup['serviceId']}"
    store = await data.create(client, f"{path}/stores", {"storeId": 7, "storeName": "Bakery"})
    segment = await data.create(client, f"{path}/segments", {"segmentId": 8, "segmentName": "Families"})
    theme = await data.create(client, "/serviceThemes", {"value": "Food", "category": "event"})
    target = await data.create(client, "/serviceTargets", {"value": "Kids"})
    theme_link = await data.create(client, f"{path}/themes", {"serviceThemeId": theme["serviceThemeId"]})
    target_link = await data.create(client, f"{path}/targets", {"serviceTargetId": target["serviceTargetId"]})
    assert (theme_link["serviceTheme"], target_link["serviceTarget"]) == (theme, target)

    service = await _service(client, setup)
    assert (service["stores"], service["segments"], service["themes"], service["targets"], service["checkinCount"]) == (
        [store], [segment], [theme], [target], 0,
    )  # fmt: skip
    listed = (await client.get("/services", params={"pcCode": setup["pcCode"]})).json()["data"]
    assert listed == [service]
    assert (await client.get(f"{path}/themes")).json()["data"] == [theme_link]


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("stores", {"storeId": 7, "storeName": "Bakery"}, "storeId"),
        ("segments", {"segmentId": 7, "segmentName": "Families"}, "segmentId"),
    ],
)
async def test_adding_a_link_twice_is_409_and_deleting_it_twice_is_404(
    client: httpx.AsyncClient, kind: str, body: dict[str, Any], field: str
) -> None:
    path = f"/services/{(await _setup(client))['serviceId']}/{kind}"
    await data.create(client, path, body)
    repeated = await client.post(path, json=body)
    assert (repeated.status_code, error_codes(repeated)) == (409, [(field, f"{kind[:-1]}_link_exists")])
    assert (await client.delete(f"{path}/7")).status_code == 204
    assert (await client.get(path)).json()["data"] == []
    assert (await client.delete(f"{path}/7")).status_code == 404


async def test_a_link_to_a_missing_theme_is_400_and_of_a_missing_service_404(client: httpx.AsyncClient) -> None:
    setup = await _setup(client)
    answer = await client.post(f"/services/{setup['serviceId']}/themes", json={"serviceThemeId": 0})
    assert (answer.status_code, error_codes(answer)) == (400, [("serviceThemeId", "service_theme_not_found")])
    answer = await client.post("/services/0/stores", json={"storeId": 1, "storeName": "A"})
    assert (answer.status_code, error_codes(answer)) == (404, [(None, "service_not_found")])
    assert (await client.get("/services/0/targets")).status_code == 404


async def test_services_are_filtered_by_their_end_date(client: httpx.AsyncClient) -> None:
    setup = await _setup(client, endDate=LONG_AGO)
    counts: dict[str, int] = {}
    for name in ("endDateSince", "endDateUntil"):
        query = {"pcCode": setup["pcCode"], name: LONG_AGO}
        counts[name] = len((await client.get("/services", params=query)).json()["data"])
    assert counts == {"endDateSince": 1, "endDateUntil": 0}


async def test_a_deleted_link_emits_a_deleted_change_and_then_a_tombstone(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    path = f"/services/{(await _setup(client))['serviceId']}/stores"
    store = await data.create(client, path, {"storeId": 7, "storeName": "Bakery"})
    await client.delete(f"{path}/7")
    key, topic = str(store["serviceStoreId"]), names.changes("services", "serviceStore")
    await stack.await_record(topic, lambda record: record.key == key and record.raw is None)
    changes = [record.value for record in await stack.read(topic) if record.key == key]
    assert [(change and (change["action"], change["revision"], change["after"] is None)) for change in changes] == [
        ("created", 1, False), ("deleted", 2, True), None,
    ]  # fmt: skip


# checkins


async def test_a_checkin_is_stored_and_published_as_json_as_avro_and_over_http(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    setup = await _setup(client)
    parts = {"path": {"visitorId": setup["visitorId"]}, "body": _body(setup)}
    ids = [await stack.send("checkins.create", parts, content_type=content_type) for content_type in (JSON, AVRO)]
    results = [plain((await stack.result("checkins.create", request_id)).value) for request_id in ids]
    answer = await client.post(setup["path"], json=_body(setup))
    assert [result["status"] for result in results] == [201, 201]
    assert answer.status_code == 201
    for checkin in (*(result["body"]["data"] for result in results), answer.json()["data"]):
        assert checkin == {**checkin, **_body(setup), "visitorId": setup["visitorId"]}
    for request_id in ids:
        change = await stack.await_record(
            names.changes("checkins", "checkin"), lambda record, cause=request_id: record.value["causedBy"] == cause
        )
        assert (change.value["action"], change.value["after"]["serviceId"]) == ("created", setup["serviceId"])
    assert (await _service(client, setup))["checkinCount"] == 3


async def test_visitor_center_and_service_must_exist_and_the_service_must_belong_to_the_center(
    client: httpx.AsyncClient,
) -> None:
    setup, other = await _setup(client), await _setup(client)
    unknown_visitor = await client.post(
        setup["path"].replace(setup["visitorId"], data.ABSENT_VISITOR_ID), json=_body(setup)
    )
    assert (unknown_visitor.status_code, error_codes(unknown_visitor)) == (404, [(None, "visitor_not_found")])
    for fields, field, code in (
        ({"pcCode": "FR-NO-ONE"}, "pcCode", "center_not_found"),
        ({"serviceId": 0}, "serviceId", "service_not_found"),
        ({"serviceId": other["serviceId"]}, "serviceId", "service_of_another_center"),
    ):
        for path, identification in ((setup["path"], {}), ("/checkins", {"barcode": setup["barcode"]})):
            answer = await client.post(path, json=_body(setup, **identification, **fields))
            assert (answer.status_code, error_codes(answer)) == (400, [(field, code)])
    unknown_center_and_service = await client.post(setup["path"], json=_body(setup, pcCode="FR-NO-ONE", serviceId=0))
    assert (unknown_center_and_service.status_code, error_codes(unknown_center_and_service)) == (
        400, [("pcCode", "center_not_found"), ("serviceId", "service_not_found")]
    )  # fmt: skip


@pytest.mark.parametrize(("dates", "status"), [
    ({"startDate": FAR_OFF}, 409), ({"endDate": LONG_AGO}, 409), ({"startDate": LONG_AGO, "endDate": FAR_OFF}, 201),
])  # fmt: skip
async def test_a_checkin_outside_the_dates_of_the_service_is_409(
    client: httpx.AsyncClient, dates: dict[str, str], status: int
) -> None:
    setup = await _setup(client, **dates)
    for path, identification in ((setup["path"], {}), ("/checkins", {"barcode": setup["barcode"]})):
        answer = await client.post(path, json=_body(setup, **identification))
        assert answer.status_code == status
        if status == 409:
            assert error_codes(answer) == [("serviceId", "service_not_available")]


async def test_a_checkin_by_barcode_belongs_to_the_visitor_with_that_barcode(client: httpx.AsyncClient) -> None:
    setup = await _setup(client)
    checkin = await data.create(client, "/checkins", _body(setup, barcode=setup["barcode"], origin="partner"))
    assert (checkin["visitorId"], checkin["origin"]) == (setup["visitorId"], "partner")
    unknown = await client.post("/checkins", json=_body(setup, barcode=data.ABSENT_VISITOR_ID))
    assert (unknown.status_code, error_codes(unknown)) == (404, [(None, "visitor_not_found")])
    malformed = await client.post("/checkins", json=_body(setup, barcode="no uuid"))
    assert (malformed.status_code, error_codes(malformed)) == (400, [("barcode", "wrong_format")])


async def test_deleting_a_checkin_lowers_the_count_of_its_service(client: httpx.AsyncClient) -> None:
    setup, other = await _setup(client), await _setup(client)
    checkin = await data.create(client, setup["path"], _body(setup))
    assert (await client.get(f"{setup['path']}/{checkin['checkinId']}")).json()["data"] == checkin
    assert (await client.get(f"{other['path']}/{checkin['checkinId']}")).status_code == 404
    assert (await client.delete(f"{other['path']}/{checkin['checkinId']}")).status_code == 404
    assert (await _service(client, setup))["checkinCount"] == 1
    assert (await client.delete(f"{setup['path']}/{checkin['checkinId']}")).status_code == 204
    assert (await client.delete(f"{setup['path']}/{checkin['checkinId']}")).status_code == 404
    assert (await _service(client, setup))["checkinCount"] == 0


async def test_checkins_are_filtered_by_center_service_and_time(client: httpx.AsyncClient) -> None:
    setup, other = await _setup(client), await _setup(client)
    checkins = [await data.create(client, setup["path"], _body(setup)) for _ in range(2)]
    await data.create(client, other["path"], _body(other))

    async def listed(path: str, **query: Any) -> list[int]:
        return [row["checkinId"] for row in (await client.get(path, params=query)).json()["data"]]

    ids = [row["checkinId"] for row in checkins]
    assert await listed("/checkins", pcCode=setup["pcCode"]) == ids
    assert await listed("/checkins", serviceId=setup["serviceId"], sort="-checkinId") == ids[::-1]
    since, until = checkins[1]["creationDate"], checkins[1]["creationDate"]
    assert await listed("/checkins", serviceId=setup["serviceId"], checkedInSince=since) == ids[1:]
    assert await listed("/checkins", serviceId=setup["serviceId"], checkedInUntil=until) == ids[:1]
    assert await listed(setup["path"]) == ids
    assert await listed(setup["path"], pcCode=other["pcCode"]) == []


async def test_concurrent_checkins_and_deletes_keep_the_count_right(stack: Stack, client: httpx.AsyncClient) -> None:
    setup = await _setup(client)
    existing = [await data.create(client, setup["path"], _body(setup)) for _ in range(10)]
    creates = (client.post(setup["path"], json=_body(setup)) for _ in range(30))
    deletes = (client.delete(f"{setup['path']}/{checkin['checkinId']}") for checkin in existing for _ in range(2))
    parts = {"path": {"visitorId": setup["visitorId"]}, "body": _body(setup)}
    messages = (stack.send("checkins.create", parts, partition=number % 4) for number in range(20))
    answers = await asyncio.gather(*creates, *deletes, *messages)
    statuses = [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]
    assert (statuses.count(201), statuses.count(204), statuses.count(404)) == (30, 10, 10)

    async def all_stored() -> bool:
        return len(await stack.rows("select 1 from checkins where service_id = :id", id=setup["serviceId"])) == 50

    await eventually("all checkins", all_stored)
    assert (await _service(client, setup))["checkinCount"] == 50
