"""The rules of a visitor's centers, devices, bookmarks, interests, locales and sessions, and of companies."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import httpx
import pytest

from tests.support import data, oracle
from tests.support.answers import error_codes, parse_time
from tests.support.scene import Parts
from tests.support.stack import PARTITIONS, Stack, eventually
from topics import names
from topics.envelope import AVRO, JSON

CARD_NUMBER = "4111111111111111"
Rows = list[dict[str, Any]]


def _fault(answer: httpx.Response) -> tuple[int, str | None, str]:
    """The status, field and code of an answer that has exactly one error."""
    ((field, code),) = error_codes(answer)
    return answer.status_code, field, code


async def _center(client: httpx.AsyncClient) -> str:
    return str((await data.create(client, "/centers", data.center()))["pcCode"])


async def _visitor(client: httpx.AsyncClient) -> tuple[str, str]:
    """Create a center and a visitor. Returns the center's pcCode and the visitor's path."""
    pc_code = await _center(client)
    visitor = await data.create(client, "/visitors", data.visitor(pc_code))
    return pc_code, f"/visitors/{visitor['visitorId']}"


async def _list(client: httpx.AsyncClient, path: str, **query: Any) -> Rows:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    rows: Rows = answer.json()["data"]
    return rows


async def _read(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = answer.json()["data"]
    return record


async def _send_concurrently(stack: Stack, requests: Iterable[tuple[str, Parts]]) -> list[int]:
    """Send all requests, distributed over the partitions, and return the statuses of their results."""
    sent = []
    for index, (name, parts) in enumerate(requests):
        sent.append((name, await stack.send(name, parts, partition=index % PARTITIONS)))
    return [(await stack.result(name, request_id)).value["status"] for name, request_id in sent]


# centers of a visitor


async def _favorites(client: httpx.AsyncClient, path: str) -> dict[str, str]:
    """The favoriteDate of each favourite center, by pcCode. Checks that other centers have no favoriteDate."""
    rows = await _list(client, path)
    assert all((row["favoriteDate"] is not None) == row["isFavorite"] for row in rows)
    return {row["pcCode"]: row["favoriteDate"] for row in rows if row["isFavorite"]}


async def _add(client: httpx.AsyncClient, path: str, pc_code: str, **fields: Any) -> dict[str, Any]:
    return await data.create(client, path, {"pcCode": pc_code, "isFavorite": False, **fields})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_a_new_favorite_center_replaces_the_former_one(client: httpx.AsyncClient, method: str) -> None:
    first, path = await _visitor(client)
    path, second = f"{path}/centers", await _center(client)
    former = await _add(client, path, first, isFavorite=True, isTlp=True)
    assert former["favoriteDate"] == former["creationDate"]
    if method != "POST":
        assert (await _add(client, path, second))["favoriteDate"] is None
    url, body = (f"{path}/{second}", {}) if method == "PATCH" else (path, {"pcCode": second})
    answer = await client.request(method, url, json={**body, "isFavorite": True})
    assert answer.status_code == {"POST": 201, "PUT": 200, "PATCH": 204}[method]

    cleared, favorite = await _read(client, f"{path}/{first}"), await _read(client, f"{path}/{second}")
    assert await _favorites(client, path) == {second: favorite["updateDate"]}
    assert parse_time(favorite["favoriteDate"]) > parse_time(former["favoriteDate"])
    assert (cleared["isTlp"], cleared["updateDate"]) == (True, favorite["updateDate"])


async def test_the_favorite_date_changes_only_when_the_center_becomes_the_favorite_or_stops_being_it(
    client: httpx.AsyncClient,
) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centers"
    created = await _add(client, path, pc_code, isFavorite=True)
    for body in ({"isFavorite": True}, {"isTlp": True}):
        assert (await client.patch(f"{path}/{pc_code}", json=body)).status_code == 204
        assert await _favorites(client, path) == {pc_code: created["favoriteDate"]}
    assert (await client.patch(f"{path}/{pc_code}", json={"isFavorite": False})).status_code == 204
    assert await _favorites(client, path) == {}
    assert (await client.patch(f"{path}/{pc_code}", json={"isFavorite": True})).status_code == 204
    assert parse_time((await _favorites(client, path))[pc_code]) > parse_time(created["favoriteDate"])


@pytest.mark.parametrize(("operation", "status"), [("create", 201), ("put", 200), ("update", 204)])
async def test_concurrent_requests_for_a_favorite_leave_one_favorite(
    stack: Stack, client: httpx.AsyncClient, operation: str, status: int
) -> None:
    _, path = await _visitor(client)
    path, codes = f"{path}/centers", [await _center(client) for _ in range(8)]
    visitor = {"visitorId": path.split("/")[2]}
    if operation == "update":
        await asyncio.gather(*(_add(client, path, code) for code in codes))
        parts = [{"path": {**visitor, "pcCode": code}, "body": {"isFavorite": True}} for code in codes]
    else:
        parts = [{"path": visitor, "body": {"pcCode": code, "isFavorite": True}} for code in codes]
    requests = [(f"visitorCenters.{operation}", request_parts) for request_parts in parts]
    assert await _send_concurrently(stack, requests) == [status] * 8
    assert sorted(row["pcCode"] for row in await _list(client, path)) == sorted(codes)
    assert len(await _favorites(client, path)) == 1


async def test_put_creates_or_replaces_a_center_and_resets_omitted_fields(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centers"
    company = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    full = {"isTlp": True, "isFavorite": True, "isSmartparker": False, "centerCompanyId": company["centerCompanyId"]}
    for _ in range(2):
        answer = await client.put(path, json={"pcCode": pc_code, **full})
        assert answer.status_code == 200
        created = answer.json()["data"]
        assert created == {**created, "pcCode": pc_code, **full}
    answer = await client.put(path, json={"pcCode": pc_code})
    assert answer.status_code == 200
    reset = {"isTlp": None, "isFavorite": False, "isSmartparker": None, "centerCompanyId": None, "favoriteDate": None}
    assert answer.json()["data"] == {**created, **reset, "updateDate": answer.json()["data"]["updateDate"]}
    assert await _list(client, path) == [answer.json()["data"]]


@pytest.mark.parametrize("favorite", [False, True])
async def test_adding_a_center_twice_is_409(client: httpx.AsyncClient, favorite: bool) -> None:
    pc_code, path = await _visitor(client)
    created = await _add(client, f"{path}/centers", pc_code, isFavorite=favorite)
    answer = await client.post(f"{path}/centers", json={"pcCode": pc_code, "isFavorite": favorite})
    assert _fault(answer) == (409, "pcCode", "visitor_center_exists")
    assert await _list(client, f"{path}/centers") == [created]


async def test_null_clears_the_company_and_an_unknown_one_is_400(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centers"
    company = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    await _add(client, path, pc_code, centerCompanyId=company["centerCompanyId"])
    for method, url, body in (
        ("POST", path, {"pcCode": await _center(client), "isFavorite": False}),
        ("PUT", path, {"pcCode": pc_code}), ("PATCH", f"{path}/{pc_code}", {}),
    ):  # fmt: skip
        answer = await client.request(method, url, json={**body, "centerCompanyId": 0})
        assert _fault(answer) == (400, "centerCompanyId", "center_company_not_found")
    refused = await client.patch(f"{path}/{pc_code}", json={"isFavorite": None})
    assert _fault(refused) == (400, "isFavorite", "null_refused")
    assert (await _read(client, f"{path}/{pc_code}"))["centerCompanyId"] == company["centerCompanyId"]
    assert (await client.patch(f"{path}/{pc_code}", json={"centerCompanyId": None})).status_code == 204
    assert (await _read(client, f"{path}/{pc_code}"))["centerCompanyId"] is None


async def test_a_company_of_another_center_is_400(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path, other = f"{path}/centers", await _center(client)
    company = await data.create(client, f"/centers/{other}/companies", {"companyName": "Acme"})
    other_company = {"centerCompanyId": company["centerCompanyId"]}
    new = {"pcCode": pc_code, "isFavorite": False, **other_company}
    for method in ("POST", "PUT"):
        answer = await client.request(method, path, json=new)
        assert _fault(answer) == (400, "centerCompanyId", "center_company_not_found")
        answer = await client.request(method, path, json={**new, "pcCode": "FR-NO-ONE"})
        assert _fault(answer) == (400, "pcCode", "center_not_found")
    created = await _add(client, path, pc_code)
    for method, url, body in (("PUT", path, new), ("PATCH", f"{path}/{pc_code}", other_company)):
        answer = await client.request(method, url, json=body)
        assert _fault(answer) == (400, "centerCompanyId", "center_company_not_found")
    assert await _list(client, path) == [created]


# companies of a center


async def test_a_company_is_created_listed_read_renamed_and_deleted(client: httpx.AsyncClient) -> None:
    path = f"/centers/{await _center(client)}/companies"
    companies = [await data.create(client, path, {"companyName": name}) for name in ("Acme", "Bolt")]
    assert await _list(client, path, sort="-companyName") == companies[::-1]
    company_path = f"{path}/{companies[0]['centerCompanyId']}"
    assert _fault(await client.patch(company_path, json={})) == (400, "companyName", "required")
    assert (await client.patch(company_path, json={"companyName": "Cord"})).status_code == 204
    renamed = await _read(client, company_path)
    assert renamed == {**companies[0], "companyName": "Cord", "updateDate": renamed["updateDate"]}
    assert parse_time(renamed["updateDate"]) > parse_time(companies[0]["updateDate"])
    assert [(await client.delete(company_path)).status_code for _ in range(2)] == [204, 404]
    assert await _list(client, path) == companies[1:]


async def test_a_company_is_found_only_under_its_own_center(client: httpx.AsyncClient) -> None:
    pc_code, other = await _center(client), await _center(client)
    company = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    wrong_path = f"/centers/{other}/companies/{company['centerCompanyId']}"
    for answer in (
        await client.get(wrong_path), await client.patch(wrong_path, json={"companyName": "B"}),
        await client.delete(wrong_path),
    ):  # fmt: skip
        assert _fault(answer) == (404, None, "center_company_not_found")
    assert await _list(client, f"/centers/{pc_code}/companies") == [company]


async def test_deleting_a_company_with_visitors_is_409(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    company = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    company_path = f"/centers/{pc_code}/companies/{company['centerCompanyId']}"
    await _add(client, f"{path}/centers", pc_code, centerCompanyId=company["centerCompanyId"])
    answer = await client.delete(company_path)
    assert _fault(answer) == (409, None, "center_company_in_use")
    await client.patch(f"{path}/centers/{pc_code}", json={"centerCompanyId": None})
    assert (await client.delete(company_path)).status_code == 204


# devices


def _device(**fields: Any) -> dict[str, Any]:
    return {"token": data.new_email(), "platform": "ios", "notificationToken": "n1", "urwAppId": "one", **fields}


async def _apps(client: httpx.AsyncClient, path: str, device: dict[str, Any]) -> list[tuple[str, str]]:
    rows = await _list(client, f"{path}/devices/{device['deviceId']}/apps")
    assert all(row["deviceId"] == device["deviceId"] and "visitorId" not in row for row in rows)
    return [(row["urwAppId"], row["notificationToken"]) for row in rows]


async def test_a_new_token_is_201_and_a_known_token_is_200_with_the_fields_replaced(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    devices, body = f"{path}/devices", _device(maker="apple", osVersion=16)
    created = await data.create(client, devices, body)
    assert (created["maker"], created["osVersion"], "urwAppId" in created) == ("apple", "16", False)
    answer = await client.post(devices, json=_device(token=body["token"], platform="android", model="X"))
    assert answer.status_code == 200
    updated = answer.json()["data"]
    replaced = {"maker": None, "osVersion": None, "platform": "android", "model": "X"}
    assert updated == {**created, **replaced, "updateDate": updated["updateDate"]}
    assert await _list(client, devices) == [updated]
    assert await _read(client, f"{devices}/{created['deviceId']}") == updated


async def test_a_registered_app_is_listed_once_with_its_last_notification_token(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    body = _device()
    device = await data.create(client, f"{path}/devices", body)
    for app, token in (("aupark", "n2"), ("one", "n3"), ("aupark", "n2")):
        answer = await client.post(f"{path}/devices", json={**body, "urwAppId": app, "notificationToken": token})
        assert answer.status_code == 200
    assert await _apps(client, path, device) == [("one", "n3"), ("aupark", "n2")]


async def test_a_token_that_another_visitor_registers_removes_the_device_and_its_apps_from_the_first_visitor(
    client: httpx.AsyncClient,
) -> None:
    (_, first), (_, second) = await _visitor(client), await _visitor(client)
    body = _device()
    device = await data.create(client, f"{first}/devices", body)
    answer = await client.post(f"{second}/devices", json={**body, "urwAppId": "ulis2"})
    assert (answer.status_code, answer.json()["data"]["visitorId"]) == (200, second.removeprefix("/visitors/"))
    assert await _list(client, f"{first}/devices") == []
    assert (await client.get(f"{first}/devices/{device['deviceId']}/apps")).status_code == 404
    assert await _list(client, f"{second}/devices") == [answer.json()["data"]]
    assert await _apps(client, second, answer.json()["data"]) == [("ulis2", "n1")]


async def test_deleting_a_device_deletes_its_apps(stack: Stack, client: httpx.AsyncClient) -> None:
    (_, path), (_, other) = await _visitor(client), await _visitor(client)
    device = await data.create(client, f"{path}/devices", _device())
    device_path = f"{path}/devices/{device['deviceId']}"
    assert (await client.delete(device_path.replace(path, other))).status_code == 404
    assert [(await client.delete(device_path)).status_code for _ in range(2)] == [204, 404]
    assert _fault(await client.get(f"{device_path}/apps")) == (404, None, "device_not_found")
    assert await stack.rows("select 1 from device_apps where device_id = :id", id=device["deviceId"]) == []


async def test_a_token_that_two_visitors_register_concurrently_leaves_one_device(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    paths, body = [(await _visitor(client))[1] for _ in range(2)], _device()
    parts = [{"path": {"visitorId": path.split("/")[2]}, "body": body} for path in paths * 4]
    requests = [("devices.register", request_parts) for request_parts in parts]
    assert sorted(await _send_concurrently(stack, requests)) == [200] * 7 + [201]
    devices = [(path, device) for path in paths for device in await _list(client, f"{path}/devices")]
    assert len(devices) == 1
    assert await _apps(client, *devices[0]) == [("one", "n1")]


async def test_registering_a_device_while_it_is_deleted_is_never_refused(client: httpx.AsyncClient) -> None:
    paths, body = [(await _visitor(client))[1] for _ in range(2)], _device()
    for _ in range(30):
        device = (await client.post(f"{paths[0]}/devices", json=body)).json()["data"]
        deleted, *registered = await asyncio.gather(
            client.delete(f"{paths[0]}/devices/{device['deviceId']}"),
            *(client.post(f"{path}/devices", json=body) for path in paths),
        )
        assert deleted.status_code in (204, 404)
        assert {answer.status_code for answer in registered} <= {200, 201}


async def test_a_token_can_move_while_its_former_visitor_is_erased(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    for _ in range(15):
        _, former = await _visitor(client)
        analytics_id = await data.analytics_id(client, former.removeprefix("/visitors/"))
        moving, staying = _device(), _device()
        for app in ("one", "aupark", "ulis2"):
            await client.post(f"{former}/devices", json={**moving, "urwAppId": app})
        await client.post(f"{former}/devices", json=staying)
        erased, updated, *moved = await asyncio.gather(
            client.post("/visitors/erase", json=[{"analyticsId": analytics_id}]),
            client.post(f"{former}/devices", json=staying),
            *(client.post(f"{path}/devices", json=moving) for _ in range(2)),
        )
        assert erased.json()["data"] == {"success": [analytics_id], "failed": []}
        assert updated.status_code == 200 or _fault(updated) == (404, None, "visitor_not_found")
        assert {answer.status_code for answer in moved} <= {200, 201}
        devices = [row for row in await _list(client, f"{path}/devices", limit=500) if row["token"] == moving["token"]]
        assert [await _apps(client, path, device) for device in devices] == [[("one", "n1")]]


# bookmarks


async def test_bookmarks_are_unique_by_visitor_type_external_id_and_center(client: httpx.AsyncClient) -> None:
    (pc_code, path), (_, other) = await _visitor(client), await _visitor(client)
    path, other = f"{path}/bookmarks", f"{other}/bookmarks"
    body = {"pcCode": pc_code, "externalId": 647392, "label": "A", "bookmarkType": "store", "source": "visitor"}
    bookmark = await data.create(client, path, body)
    assert bookmark == {**bookmark, **body, "externalId": "647392"}
    repeated = await client.post(path, json={**body, "externalId": "647392", "label": "B", "source": "lbe"})
    assert _fault(repeated) == (409, None, "bookmark_exists")
    differences = ({"bookmarkType": "deal"}, {"externalId": "x/1"}, {"pcCode": await _center(client)})
    rows = [bookmark, *[await data.create(client, path, {**body, **fields}) for fields in differences]]
    await data.create(client, other, body)

    assert await _list(client, path) == rows
    assert await _list(client, path, bookmarkType="deal") == [rows[1]]
    assert _fault(await client.get(path, params={"bookmarkType": "car"})) == (400, "bookmarkType", "not_allowed")
    bookmark_path = f"{path}/{bookmark['bookmarkId']}"
    assert await _read(client, bookmark_path) == bookmark
    assert (await client.get(f"{other}/{bookmark['bookmarkId']}")).status_code == 404
    assert [(await client.delete(bookmark_path)).status_code for _ in range(2)] == [204, 404]
    assert await _list(client, path) == rows[1:]


@pytest.mark.parametrize(("operation", "body"), [
    ("bookmarks.create", {"externalId": "x", "label": "A", "bookmarkType": "store", "source": "visitor"}),
    ("interests.create", {"externalId": "x", "label": "A"}),
    ("visitorLocales.create", {"localeCode": "fr-FR"}),
    ("operationSessions.create", {"guid": "s1", "gameId": "g1", "gameName": "Game"}),
])  # fmt: skip
async def test_of_12_concurrent_identical_requests_exactly_one_succeeds(
    stack: Stack, client: httpx.AsyncClient, operation: str, body: dict[str, Any]
) -> None:
    pc_code, path = await _visitor(client)
    center = {"pcCode": pc_code} if operation in ("bookmarks.create", "operationSessions.create") else {}
    parts = {"path": {"visitorId": path.split("/")[2]}, "body": {**center, **body}}
    assert sorted(await _send_concurrently(stack, [(operation, parts)] * 12)) == [201] + [409] * 11


# interests


async def test_adding_an_interest_twice_is_409_and_deleting_it_twice_is_404(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    interest = await data.create(client, path, {"externalId": 7, "label": "Food"})
    repeated = await client.post(path, json={"externalId": "7", "label": "Shoes"})
    assert _fault(repeated) == (409, "externalId", "interest_exists")
    interest_path = f"{path}/{interest['interestId']}"
    assert await _read(client, interest_path) == {**interest, "externalId": "7"}
    assert [(await client.delete(interest_path)).status_code for _ in range(2)] == [204, 404]
    assert await _list(client, path) == []


async def test_after_replacing_interests_the_visitor_has_exactly_the_sent_interests(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    old = {key: await data.create(client, path, {"externalId": key, "label": key}) for key in ("a", "b", "c")}
    sent = [{"externalId": "c", "label": "New"}, {"externalId": "d", "label": "d"}, {"externalId": "a", "label": "a"}]
    assert (await client.put(path, json=sent)).status_code == 204
    rows = {row["externalId"]: row for row in await _list(client, path)}
    assert {key: row["label"] for key, row in rows.items()} == {"a": "a", "c": "New", "d": "d"}
    assert rows["a"] == old["a"]
    assert rows["c"] == {**old["c"], "label": "New", "updateDate": rows["c"]["updateDate"]}
    assert (await client.put(path, json=[])).status_code == 204
    assert await _list(client, path) == []


async def test_replacing_many_interests_publishes_a_change_for_each_interest(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    for label, first in (("old", 0), ("new", 30)):
        sent = [{"externalId": str(number), "label": label} for number in range(first, first + 60)]
        assert (await client.put(path, json=sent)).status_code == 204
        rows = await _list(client, path, limit=500)
        expected = [(str(number), label) for number in range(first, first + 60)]
        assert [(row["externalId"], row["label"]) for row in rows] == expected
    rows_by_key = {str(row["interestId"]): row for row in rows}
    are_updated = [parse_time(row["updateDate"]) > parse_time(row["creationDate"]) for row in rows]
    assert are_updated == [True] * 30 + [False] * 30
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    records = [record for record in await stack.read(names.changes("profile", "interest")) if record.value]
    changes = [record for record in records if str(record.value["visitorId"]) == path.split("/")[2]]
    actions = Counter((record.value["action"], record.value["revision"]) for record in changes)
    assert actions == {("created", 1): 90, ("updated", 2): 30, ("deleted", 2): 30}
    last_rows = {record.key: record.value["after"] for record in changes if record.key in rows_by_key}
    assert {key: row["label"] for key, row in last_rows.items()} == dict.fromkeys(rows_by_key, "new")


async def test_replacing_interests_during_concurrent_inserts_and_deletes_is_never_refused(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    _, path = await _visitor(client)
    path, path_params = f"{path}/interests", {"visitorId": path.split("/")[2]}
    for number in range(12):
        old = await data.create(client, path, {"externalId": "x", "label": "x"})
        interest = {"externalId": str(number), "label": "y"}
        added, deleted, replaced = await _send_concurrently(stack, [
            ("interests.create", {"path": path_params, "body": interest}),
            ("interests.delete", {"path": {**path_params, "interestId": old["interestId"]}}),
            ("interests.replace", {"path": path_params, "body": [interest]}),
        ])  # fmt: skip
        assert added in (201, 409)
        assert deleted in (204, 404)
        assert replaced == 204
        assert [row["externalId"] for row in await _list(client, path)] == [str(number)]


async def test_errors_in_an_array_body_name_the_index_of_the_item(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    interest = await data.create(client, path, {"externalId": "a", "label": "a"})
    assert _fault(await client.put(path, json={"externalId": "a", "label": "b"})) == (400, None, "not_an_array")
    wrong = await client.put(path, json=[{"externalId": "a"}, {"externalId": "b", "label": "b", "more": 1}, 7])
    faults = [("[0].label", "required"), ("[1].more", "unknown_field"), ("[2]", "wrong_type")]
    assert (wrong.status_code, error_codes(wrong)) == (400, faults)
    absent_visitor = await client.put(f"/visitors/{data.ABSENT_VISITOR_ID}/interests", json=[])
    assert _fault(absent_visitor) == (
        404,
        None,
        "visitor_not_found",
    )
    assert await _list(client, path) == [interest]


@pytest.mark.parametrize("content_type", [JSON, AVRO])
async def test_a_message_may_have_an_array_body(stack: Stack, client: httpx.AsyncClient, content_type: str) -> None:
    _, path = await _visitor(client)
    body = [{"externalId": "a", "label": "A"}, {"externalId": "b", "label": "B"}]
    parts = {"path": {"visitorId": path.removeprefix("/visitors/")}, "body": body}
    request_id = await stack.send("interests.replace", parts, content_type=content_type)
    assert (await stack.result("interests.replace", request_id)).value["status"] == 204
    assert [(row["externalId"], row["label"]) for row in await _list(client, f"{path}/interests")] == [
        ("a", "A"), ("b", "B"),
    ]  # fmt: skip


# locales


async def test_locales_are_listed_in_pages_and_sorted(client: httpx.AsyncClient) -> None:
    rows = [row for offset in ({}, {"offset": 500}) for row in await _list(client, "/locales", limit=500, **offset)]
    assert {"localeCode": "fr-FR", "localeLabel": "Français"} in rows
    codes, labels = [row["localeCode"] for row in rows], [row["localeLabel"] for row in rows]
    assert codes == sorted(set(codes))
    assert [row["localeCode"] for row in await _list(client, "/locales")] == codes[:25]
    page = (await client.get("/locales", params={"limit": 10, "offset": 20, "sort": "-localeCode"})).json()
    assert page["data"] == rows[::-1][20:30]
    assert page["metadata"]["_links"].keys() == {"self", "first", "prev", "next"}
    by_label = await _list(client, "/locales", sort="localeLabel,-localeCode", fields="localeCode")
    descending_codes = sorted(zip(labels, codes, strict=True), reverse=True)
    expected = sorted(descending_codes, key=itemgetter(0))
    assert by_label == [{"localeCode": code} for _, code in expected[:25]]
    assert _fault(await client.get("/locales", params={"sort": "name"})) == (400, "sort", "unknown_sort_field")


async def test_all_spellings_of_a_locale_are_the_same_locale(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/locales"
    locale = await data.create(client, path, {"localeCode": "en_us"})
    visitor_id = path.split("/")[2]
    assert locale == {**locale, "localeCode": "en-US", "localeLabel": "English", "visitorId": visitor_id}
    assert "updateDate" not in locale
    for spelling in ("EN-us", "en-US", "en_us"):
        repeated = await client.post(path, json={"localeCode": spelling})
        assert _fault(repeated) == (409, "localeCode", "visitor_locale_exists")
        assert await _read(client, f"{path}/{spelling}") == locale
    assert await _list(client, path) == [locale]
    assert [(await client.delete(f"{path}/EN_us")).status_code for _ in range(2)] == [204, 404]
    assert _fault(await client.post(path, json={"localeCode": "xx-XX"})) == (400, "localeCode", "unknown_locale")
    assert _fault(await client.get(f"{path}/xx-XX")) == (400, "localeCode", "unknown_locale")


# sessions


def _session(pc_code: str, guid: str, **fields: Any) -> dict[str, Any]:
    return {"pcCode": pc_code, "guid": guid, "gameId": "g1", "gameName": "Game", **fields}


async def test_a_guid_is_unique_per_visitor(client: httpx.AsyncClient) -> None:
    (pc_code, path), (_, other) = await _visitor(client), await _visitor(client)
    body, path = _session(pc_code, "s1", optin=True), f"{path}/centerOperationSessions"
    session = await data.create(client, path, body)
    assert session == {**session, **body, "isWifit": None}
    repeated = await client.post(path, json=_session(pc_code, "s1", gameId="g2"))
    assert _fault(repeated) == (409, "guid", "operation_session_exists")
    await data.create(client, f"{other}/centerOperationSessions", body)
    assert await _list(client, path) == [session]


async def test_sessions_are_filtered_by_center_game_and_time(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path, other = f"{path}/centerOperationSessions", await _center(client)
    bodies = (_session(pc_code, "s1"), _session(other, "s2"), _session(pc_code, "s3", gameId="g2"))
    sessions = [await data.create(client, path, body) for body in bodies]
    for query, guids in (
        ({"pcCode": pc_code}, ["s1", "s3"]),
        ({"gameId": "g1"}, ["s1", "s2"]),
        ({"pcCode": pc_code, "gameId": "g1"}, ["s1"]),
        ({"creationDateSince": sessions[1]["creationDate"]}, ["s2", "s3"]),
        ({"creationDateUntil": sessions[1]["creationDate"]}, ["s1"]),
    ):
        assert [row["guid"] for row in await _list(client, path, **query)] == guids


async def _add_entries(client: httpx.AsyncClient, path: str, entries: Rows) -> dict[str, Rows]:
    """The entries of the reply under `success` and `failed`."""
    answer = await client.post(path, json=entries)
    assert answer.status_code == 201, answer.text
    added: dict[str, Rows] = answer.json()["data"]
    return added


@pytest.mark.parametrize("kind", ["segments", "stores"])
async def test_each_entry_of_a_session_succeeds_or_fails_by_itself(client: httpx.AsyncClient, kind: str) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    for guid in ("s1", "s2"):
        await data.create(client, path, _session(pc_code, guid))
    first = await _add_entries(client, f"{path}/s1/{kind}", [{"id": 69044, "name": "Bershka"}])
    assert [(row["id"], row["name"]) for row in first["success"]] == [("69044", "Bershka")]
    assert first["success"][0].keys() == {"id", "name", "creationDate", "updateDate"}
    entries = [
        {"id": "69044", "name": "Exists already"}, {"id": "1", "name": "One"}, {"id": "2", "name": " "},
        {"id": "1", "name": "Twice"}, {"id": "3", "name": "Three"},
    ]  # fmt: skip
    added = await _add_entries(client, f"{path}/s1/{kind}", entries)
    assert [row["id"] for row in added["success"]] == ["1", "3"]
    assert added["failed"] == [entries[0], entries[2], entries[3]]
    assert (await _add_entries(client, f"{path}/s2/{kind}", entries[:1]))["failed"] == []
    assert _fault(await client.post(f"{path}/s3/{kind}", json=entries)) == (404, None, "operation_session_not_found")


async def test_an_entry_that_cannot_be_stored_fails_by_itself(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    await data.create(client, path, _session(pc_code, "s1"))
    wrong = [("x" * 1_001, "A"), ("1", "x" * 1_001), ("2", "a\0b"), ("3\0", "A"), (" ", "A"), ("4", "\t"), ("5", "")]
    wrong.append(("".join(map(chr, range(0x4E00, 0x4E00 + 1_000))), "3,000 bytes do not fit into an index"))
    entries = [{"id": number, "name": name} for number, name in [*wrong, ("x" * 1_000, "y" * 1_000)]]
    added = await _add_entries(client, f"{path}/s1/stores", entries)
    assert added["failed"] == entries[:-1]
    assert [{name: row[name] for name in ("id", "name")} for row in added["success"]] == entries[-1:]


@pytest.mark.parametrize(("entry", "field", "code"), [
    ({"id": "2"}, "[1].name", "required"),
    ({"id": "2", "name": "A", "more": 1}, "[1].more", "unknown_field"),
    ({"id": True, "name": "A"}, "[1].id", "wrong_type"),
    ({"id": "2", "name": None}, "[1].name", "wrong_type"),
    ("2", "[1]", "wrong_type"),
    ({"id": "2", "name": CARD_NUMBER}, "[1].name", "card_number_refused"),
    ({"id": CARD_NUMBER, "name": "A"}, "[1].id", "card_number_refused"),
    ({"id": int(CARD_NUMBER), "name": "A"}, "[1].id", "card_number_refused"),
    ({"id": "2", "name": f"4111\0{CARD_NUMBER[4:]}"}, "[1].name", "card_number_refused"),
    ({"id": "2", "name": f"{'x' * 2_000} {CARD_NUMBER}"}, "[1].name", "card_number_refused"),
])  # fmt: skip
async def test_an_entry_with_another_shape_or_a_card_number_is_400_for_the_whole_body(
    client: httpx.AsyncClient, entry: Any, field: str, code: str
) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    await data.create(client, path, _session(pc_code, "s1"))
    entries = [{"id": "1", "name": "A"}, entry]
    refused = await client.post(f"{path}/s1/segments", json=entries)
    assert _fault(refused) == (400, field, code)
    assert CARD_NUMBER[4:] not in refused.text
    assert (await _add_entries(client, f"{path}/s1/segments", entries[:1]))["failed"] == []


async def test_all_entries_of_a_body_are_inserted_with_one_statement(stack: Stack, client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    await data.create(client, path, _session(pc_code, "s1"))
    entries = [{"id": str(number), "name": f"Store {number}"} for number in range(500)]
    added = await _add_entries(client, f"{path}/s1/stores", entries)
    assert [row["id"] for row in added["success"]] == [entry["id"] for entry in entries]
    # cmin is the number of the inserting statement in its transaction.
    statement = "select count(*), count(distinct cmin::text) from operation_stores where visitor_id = :id"
    assert tuple((await stack.rows(statement, id=path.split("/")[2]))[0]) == (500, 1)


# card numbers


async def test_identifiers_of_other_systems_may_look_like_a_card_number(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    bookmark = {"pcCode": pc_code, "label": "A", "bookmarkType": "store", "source": "visitor"}
    for kind, body in (
        ("bookmarks", {**bookmark, "externalId": CARD_NUMBER}),
        ("interests", {"externalId": CARD_NUMBER, "label": "A"}),
        ("devices", _device(token=CARD_NUMBER)),
        ("devices", _device(notificationToken=CARD_NUMBER)),
        ("centerOperationSessions", _session(pc_code, CARD_NUMBER)),
    ):
        answer = await client.post(f"{path}/{kind}", json=body)
        assert answer.status_code in (200, 201), answer.text
        assert CARD_NUMBER in answer.json()["data"].values()
    entry = await client.post("/visits/entry", json={"barcode": CARD_NUMBER, "pcCode": pc_code})
    assert _fault(entry) == (404, None, "visitor_not_found")


async def test_other_fields_may_not_contain_a_card_number(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    for kind, field, body in (
        ("devices", "mobileCarrier", _device()),
        ("centerOperationSessions", "gameId", _session(pc_code, "s1")),
    ):
        refused = await client.post(f"{path}/{kind}", json={**body, field: CARD_NUMBER})
        assert _fault(refused) == (400, field, "card_number_refused")
        assert CARD_NUMBER not in refused.text
