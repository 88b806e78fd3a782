"""What belongs to a visitor (centers, devices, bookmarks, interests, locales, sessions) and the companies of a center,
rule by rule."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import httpx
import pytest

from tests.support import data, oracle
from tests.support.stack import PARTITIONS, Stack, eventually
from topics import names
from topics.envelope import AVRO, JSON

CARD_NUMBER = "4111111111111111"
Known = dict[str, Any]
Rows = list[dict[str, Any]]


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


def _fault(answer: httpx.Response) -> tuple[int, str | None, str]:
    """Of an answer with one fault."""
    ((field, code),) = _codes(answer)
    return answer.status_code, field, code


async def _center(client: httpx.AsyncClient) -> str:
    return str((await data.create(client, "/centers", data.center()))["pcCode"])


async def _visitor(client: httpx.AsyncClient) -> tuple[str, str]:
    """A center, and the path of a visitor."""
    pc_code = await _center(client)
    person = await data.create(client, "/visitors", data.visitor(pc_code))
    return pc_code, f"/visitors/{person['visitorId']}"


async def _list(client: httpx.AsyncClient, path: str, **query: Any) -> Rows:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: Rows = answer.json()["data"]
    return found


async def _read(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found


async def _at_once(stack: Stack, sent: Iterable[tuple[str, Known]]) -> list[int]:
    """The statuses of requests that do not wait for each other, neighbours in different partitions."""
    found = [(name, await stack.send(name, parts, partition=n % PARTITIONS)) for n, (name, parts) in enumerate(sent)]
    return [(await stack.result(name, request_id)).value["status"] for name, request_id in found]


# centers of a visitor


async def _favorites(client: httpx.AsyncClient, path: str) -> dict[str, str]:
    """When each favourite center became it. A center that is none has no favoriteDate."""
    rows = await _list(client, path)
    assert all((row["favoriteDate"] is not None) == row["isFavorite"] for row in rows)
    return {row["pcCode"]: row["favoriteDate"] for row in rows if row["isFavorite"]}


async def _add(client: httpx.AsyncClient, path: str, pc_code: str, **fields: Any) -> dict[str, Any]:
    return await data.create(client, path, {"pcCode": pc_code, "isFavorite": False, **fields})


@pytest.mark.parametrize("way", ["POST", "PUT", "PATCH"])
async def test_a_new_favorite_center_clears_the_former_one(client: httpx.AsyncClient, way: str) -> None:
    first, path = await _visitor(client)
    path, second = f"{path}/centers", await _center(client)
    former = await _add(client, path, first, isFavorite=True, isTlp=True)
    assert former["favoriteDate"] == former["creationDate"]
    if way != "POST":
        assert (await _add(client, path, second))["favoriteDate"] is None
    url, body = (f"{path}/{second}", {}) if way == "PATCH" else (path, {"pcCode": second})
    answer = await client.request(way, url, json={**body, "isFavorite": True})
    assert answer.status_code == {"POST": 201, "PUT": 200, "PATCH": 204}[way]

    found, latter = await _read(client, f"{path}/{first}"), await _read(client, f"{path}/{second}")
    assert await _favorites(client, path) == {second: latter["updateDate"]}
    assert latter["favoriteDate"] > former["favoriteDate"]
    assert (found["isTlp"], found["updateDate"]) == (True, latter["updateDate"])


async def test_the_date_of_a_favorite_stays_while_it_is_one_and_goes_with_it(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centers"
    made = await _add(client, path, pc_code, isFavorite=True)
    for body in ({"isFavorite": True}, {"isTlp": True}):
        assert (await client.patch(f"{path}/{pc_code}", json=body)).status_code == 204
        assert await _favorites(client, path) == {pc_code: made["favoriteDate"]}
    assert (await client.patch(f"{path}/{pc_code}", json={"isFavorite": False})).status_code == 204
    assert await _favorites(client, path) == {}
    assert (await client.patch(f"{path}/{pc_code}", json={"isFavorite": True})).status_code == 204
    assert (await _favorites(client, path))[pc_code] > made["favoriteDate"]


@pytest.mark.parametrize(("operation", "status"), [("create", 201), ("put", 200), ("update", 204)])
async def test_favorites_at_once_leave_one(
    stack: Stack, client: httpx.AsyncClient, operation: str, status: int
) -> None:
    _, path = await _visitor(client)
    path, codes = f"{path}/centers", [await _center(client) for _ in range(8)]
    if operation == "update":
        await asyncio.gather(*(_add(client, path, code) for code in codes))
    sent = []
    for code in codes:
        places, body = {"visitorId": path.split("/")[2]}, Known(isFavorite=True)
        (places if operation == "update" else body)["pcCode"] = code
        sent.append((f"visitorCenters.{operation}", {"path": places, "body": body}))
    assert await _at_once(stack, sent) == [status] * 8
    assert sorted(row["pcCode"] for row in await _list(client, path)) == sorted(codes)
    assert len(await _favorites(client, path)) == 1


async def test_put_adds_or_replaces_and_resets_what_is_left_out(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centers"
    company = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    full = {"isTlp": True, "isFavorite": True, "isSmartparker": False, "centerCompanyId": company["centerCompanyId"]}
    for _ in range(2):
        answer = await client.put(path, json={"pcCode": pc_code, **full})
        assert answer.status_code == 200
        made = answer.json()["data"]
        assert made == {**made, "pcCode": pc_code, **full}
    answer = await client.put(path, json={"pcCode": pc_code})
    assert answer.status_code == 200
    reset = {"isTlp": None, "isFavorite": False, "isSmartparker": None, "centerCompanyId": None, "favoriteDate": None}
    assert answer.json()["data"] == {**made, **reset, "updateDate": answer.json()["data"]["updateDate"]}
    assert await _list(client, path) == [answer.json()["data"]]


@pytest.mark.parametrize("favorite", [False, True])
async def test_a_center_twice_is_409(client: httpx.AsyncClient, favorite: bool) -> None:
    pc_code, path = await _visitor(client)
    made = await _add(client, f"{path}/centers", pc_code, isFavorite=favorite)
    answer = await client.post(f"{path}/centers", json={"pcCode": pc_code, "isFavorite": favorite})
    assert _fault(answer) == (409, "pcCode", "visitor_center_exists")
    assert await _list(client, f"{path}/centers") == [made]


async def test_null_clears_the_company_and_an_unknown_one_is_400(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centers"
    company = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    await _add(client, path, pc_code, centerCompanyId=company["centerCompanyId"])
    for way, url, body in (
        ("POST", path, {"pcCode": await _center(client), "isFavorite": False}),
        ("PUT", path, {"pcCode": pc_code}), ("PATCH", f"{path}/{pc_code}", {}),
    ):  # fmt: skip
        answer = await client.request(way, url, json={**body, "centerCompanyId": 0})
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
    elsewhere = {"centerCompanyId": company["centerCompanyId"]}
    new = {"pcCode": pc_code, "isFavorite": False, **elsewhere}
    for way in ("POST", "PUT"):
        answer = await client.request(way, path, json=new)
        assert _fault(answer) == (400, "centerCompanyId", "center_company_not_found")
        answer = await client.request(way, path, json={**new, "pcCode": "FR-NO-ONE"})
        assert _fault(answer) == (400, "pcCode", "center_not_found")
    made = await _add(client, path, pc_code)
    for way, url, body in (("PUT", path, new), ("PATCH", f"{path}/{pc_code}", elsewhere)):
        answer = await client.request(way, url, json=body)
        assert _fault(answer) == (400, "centerCompanyId", "center_company_not_found")
    assert await _list(client, path) == [made]


# companies of a center


async def test_a_company_is_made_listed_read_renamed_and_deleted(client: httpx.AsyncClient) -> None:
    path = f"/centers/{await _center(client)}/companies"
    made = [await data.create(client, path, {"companyName": name}) for name in ("Acme", "Bolt")]
    assert await _list(client, path, sort="-companyName") == made[::-1]
    one = f"{path}/{made[0]['centerCompanyId']}"
    assert _fault(await client.patch(one, json={})) == (400, "companyName", "required")
    assert (await client.patch(one, json={"companyName": "Cord"})).status_code == 204
    found = await _read(client, one)
    assert found == {**made[0], "companyName": "Cord", "updateDate": found["updateDate"]}
    assert found["updateDate"] > made[0]["updateDate"]
    assert [(await client.delete(one)).status_code for _ in range(2)] == [204, 404]
    assert await _list(client, path) == made[1:]


async def test_a_company_is_found_under_its_own_center_only(client: httpx.AsyncClient) -> None:
    pc_code, other = await _center(client), await _center(client)
    made = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    elsewhere = f"/centers/{other}/companies/{made['centerCompanyId']}"
    for answer in (
        await client.get(elsewhere), await client.patch(elsewhere, json={"companyName": "B"}),
        await client.delete(elsewhere),
    ):  # fmt: skip
        assert _fault(answer) == (404, None, "center_company_not_found")
    assert await _list(client, f"/centers/{pc_code}/companies") == [made]


async def test_deleting_a_company_with_visitors_is_409(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    made = await data.create(client, f"/centers/{pc_code}/companies", {"companyName": "Acme"})
    one = f"/centers/{pc_code}/companies/{made['centerCompanyId']}"
    await _add(client, f"{path}/centers", pc_code, centerCompanyId=made["centerCompanyId"])
    answer = await client.delete(one)
    assert _fault(answer) == (409, None, "center_company_in_use")
    await client.patch(f"{path}/centers/{pc_code}", json={"centerCompanyId": None})
    assert (await client.delete(one)).status_code == 204


# devices


def _device(**fields: Any) -> dict[str, Any]:
    return {"token": data.new_email(), "platform": "ios", "notificationToken": "n1", "urwAppId": "one", **fields}


async def _apps(client: httpx.AsyncClient, path: str, device: dict[str, Any]) -> list[tuple[str, str]]:
    rows = await _list(client, f"{path}/devices/{device['deviceId']}/apps")
    assert all(row["deviceId"] == device["deviceId"] and "visitorId" not in row for row in rows)
    return [(row["urwAppId"], row["notificationToken"]) for row in rows]


async def test_a_new_token_is_201_and_a_known_one_200_with_its_fields_replaced(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    body = _device(maker="apple", osVersion=16)
    made = await data.create(client, f"{path}/devices", body)
    assert (made["maker"], made["osVersion"], "urwAppId" in made) == ("apple", "16", False)
    answer = await client.post(f"{path}/devices", json=_device(token=body["token"], platform="android", model="X"))
    assert answer.status_code == 200
    found = answer.json()["data"]
    replaced = {"maker": None, "osVersion": None, "platform": "android", "model": "X"}
    assert found == {**made, **replaced, "updateDate": found["updateDate"]}
    assert (
        await _list(client, f"{path}/devices") == [await _read(client, f"{path}/devices/{made['deviceId']}")] == [found]
    )


async def test_each_app_registered_is_an_app_of_the_device_once(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    body = _device()
    made = await data.create(client, f"{path}/devices", body)
    for app, token in (("aupark", "n2"), ("one", "n3"), ("aupark", "n2")):
        again = await client.post(f"{path}/devices", json={**body, "urwAppId": app, "notificationToken": token})
        assert again.status_code == 200
    assert await _apps(client, path, made) == [("one", "n3"), ("aupark", "n2")]


async def test_a_token_that_moves_leaves_the_first_visitor_with_its_apps(client: httpx.AsyncClient) -> None:
    (_, first), (_, second) = await _visitor(client), await _visitor(client)
    body = _device()
    made = await data.create(client, f"{first}/devices", body)
    answer = await client.post(f"{second}/devices", json={**body, "urwAppId": "ulis2"})
    assert (answer.status_code, answer.json()["data"]["visitorId"]) == (200, second.removeprefix("/visitors/"))
    assert await _list(client, f"{first}/devices") == []
    assert (await client.get(f"{first}/devices/{made['deviceId']}/apps")).status_code == 404
    assert await _list(client, f"{second}/devices") == [answer.json()["data"]]
    assert await _apps(client, second, answer.json()["data"]) == [("ulis2", "n1")]


async def test_a_deleted_device_goes_with_its_apps(stack: Stack, client: httpx.AsyncClient) -> None:
    (_, path), (_, other) = await _visitor(client), await _visitor(client)
    made = await data.create(client, f"{path}/devices", _device())
    one = f"{path}/devices/{made['deviceId']}"
    assert (await client.delete(one.replace(path, other))).status_code == 404
    assert [(await client.delete(one)).status_code for _ in range(2)] == [204, 404]
    assert _fault(await client.get(f"{one}/apps")) == (404, None, "device_not_found")
    assert await stack.rows("select 1 from device_apps where device_id = :id", id=made["deviceId"]) == []


async def test_one_token_registered_by_two_visitors_at_once_leaves_one_device(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    paths, body = [(await _visitor(client))[1] for _ in range(2)], _device()
    parts = [{"path": {"visitorId": path.split("/")[2]}, "body": body} for path in paths * 4]
    assert sorted(await _at_once(stack, (("devices.register", sent) for sent in parts))) == [200] * 7 + [201]
    left = [(path, device) for path in paths for device in await _list(client, f"{path}/devices")]
    assert len(left) == 1
    assert await _apps(client, *left[0]) == [("one", "n1")]


async def test_registering_while_the_device_is_deleted_is_never_refused(client: httpx.AsyncClient) -> None:
    paths, body = [(await _visitor(client))[1] for _ in range(2)], _device()
    for _ in range(30):
        made = (await client.post(f"{paths[0]}/devices", json=body)).json()["data"]
        gone = client.delete(f"{paths[0]}/devices/{made['deviceId']}")
        deleted, *answers = await asyncio.gather(gone, *(client.post(f"{path}/devices", json=body) for path in paths))
        assert deleted.status_code in (204, 404)
        assert {answer.status_code for answer in answers} <= {200, 201}


async def test_a_token_moves_also_while_its_former_visitor_is_erased(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    for _ in range(15):
        _, former = await _visitor(client)
        analytics = (await _read(client, f"{former}/externalIds/analytics"))["externalId"]
        body, stays = _device(), _device()
        for app in ("one", "aupark", "ulis2"):
            await client.post(f"{former}/devices", json={**body, "urwAppId": app})
        await client.post(f"{former}/devices", json=stays)
        erased, last, *moved = await asyncio.gather(
            client.post("/visitors/erase", json=[{"analyticsId": analytics}]),
            client.post(f"{former}/devices", json=stays),
            *(client.post(f"{path}/devices", json=body) for _ in range(2)),
        )
        assert erased.json()["data"] == {"success": [analytics], "failed": []}
        assert last.status_code == 200 or _fault(last) == (404, None, "visitor_not_found")
        assert {answer.status_code for answer in moved} <= {200, 201}
        left = [row for row in await _list(client, f"{path}/devices", limit=500) if row["token"] == body["token"]]
        assert [await _apps(client, path, device) for device in left] == [[("one", "n1")]]


# bookmarks


async def test_bookmarks_are_unique_by_visitor_type_external_id_and_center(client: httpx.AsyncClient) -> None:
    (pc_code, path), (_, other) = await _visitor(client), await _visitor(client)
    path, other = f"{path}/bookmarks", f"{other}/bookmarks"
    body = {"pcCode": pc_code, "externalId": 647392, "label": "A", "bookmarkType": "store", "source": "visitor"}
    made = await data.create(client, path, body)
    assert made == {**made, **body, "externalId": "647392"}
    again = await client.post(path, json={**body, "externalId": "647392", "label": "B", "source": "lbe"})
    assert _fault(again) == (409, None, "bookmark_exists")
    more = ({"bookmarkType": "deal"}, {"externalId": "x/1"}, {"pcCode": await _center(client)})
    rows = [made, *[await data.create(client, path, {**body, **fields}) for fields in more]]
    await data.create(client, other, body)

    assert await _list(client, path) == rows
    assert await _list(client, path, bookmarkType="deal") == [rows[1]]
    assert _fault(await client.get(path, params={"bookmarkType": "car"})) == (400, "bookmarkType", "not_allowed")
    one = f"{path}/{made['bookmarkId']}"
    assert await _read(client, one) == made
    assert (await client.get(f"{other}/{made['bookmarkId']}")).status_code == 404
    assert [(await client.delete(one)).status_code for _ in range(2)] == [204, 404]
    assert await _list(client, path) == rows[1:]


@pytest.mark.parametrize(("operation", "body"), [
    ("bookmarks.create", {"externalId": "x", "label": "A", "bookmarkType": "store", "source": "visitor"}),
    ("interests.create", {"externalId": "x", "label": "A"}),
    ("visitorLocales.create", {"localeCode": "fr-FR"}),
    ("operationSessions.create", {"guid": "s1", "gameId": "g1", "gameName": "Game"}),
])  # fmt: skip
async def test_of_12_at_once_one_is_made(
    stack: Stack, client: httpx.AsyncClient, operation: str, body: dict[str, Any]
) -> None:
    pc_code, path = await _visitor(client)
    center = {"pcCode": pc_code} if operation in ("bookmarks.create", "operationSessions.create") else {}
    parts = {"path": {"visitorId": path.split("/")[2]}, "body": {**center, **body}}
    assert sorted(await _at_once(stack, [(operation, parts)] * 12)) == [201] + [409] * 11


# interests


async def test_an_interest_twice_is_409_and_deleting_it_twice_404(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    made = await data.create(client, path, {"externalId": 7, "label": "Food"})
    again = await client.post(path, json={"externalId": "7", "label": "Shoes"})
    assert _fault(again) == (409, "externalId", "interest_exists")
    one = f"{path}/{made['interestId']}"
    assert await _read(client, one) == {**made, "externalId": "7"}
    assert [(await client.delete(one)).status_code for _ in range(2)] == [204, 404]
    assert await _list(client, path) == []


async def test_replacing_interests_leaves_exactly_those_sent(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    made = {key: await data.create(client, path, {"externalId": key, "label": key}) for key in ("a", "b", "c")}
    sent = [{"externalId": "c", "label": "New"}, {"externalId": "d", "label": "d"}, {"externalId": "a", "label": "a"}]
    assert (await client.put(path, json=sent)).status_code == 204
    rows = {row["externalId"]: row for row in await _list(client, path)}
    assert {key: row["label"] for key, row in rows.items()} == {"a": "a", "c": "New", "d": "d"}
    assert rows["a"] == made["a"]
    assert rows["c"] == {**made["c"], "label": "New", "updateDate": rows["c"]["updateDate"]}
    assert (await client.put(path, json=[])).status_code == 204
    assert await _list(client, path) == []


async def test_replacing_interests_tells_each_change_whatever_their_number(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    for label, first in (("old", 0), ("new", 30)):
        sent = [{"externalId": str(number), "label": label} for number in range(first, first + 60)]
        assert (await client.put(path, json=sent)).status_code == 204
        rows = await _list(client, path, limit=500)
        wanted = [(str(number), label) for number in range(first, first + 60)]
        assert [(row["externalId"], row["label"]) for row in rows] == wanted
    ids = {f"interest:{row['interestId']}": row for row in rows}
    assert [row["updateDate"] > row["creationDate"] for row in rows] == [True] * 30 + [False] * 30
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    records = [record for record in await stack.read(names.changes("profile")) if record.value is not None]
    told = [record for record in records if str(record.value["visitorId"]) == path.split("/")[2]]
    found = Counter((record.value["action"], record.value["revision"]) for record in told)
    assert found == {("created", 1): 90, ("updated", 2): 30, ("deleted", 2): 30}
    last = {record.key: record.value["after"] for record in told if record.key in ids}
    assert {key: row["label"] for key, row in last.items()} == dict.fromkeys(ids, "new")


async def test_replacing_interests_while_others_come_and_go_is_never_refused(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    _, path = await _visitor(client)
    path, places = f"{path}/interests", {"visitorId": path.split("/")[2]}
    for number in range(12):
        made = await data.create(client, path, {"externalId": "x", "label": "x"})
        interest = {"externalId": str(number), "label": "y"}
        added, deleted, replaced = await _at_once(stack, [
            ("interests.create", {"path": places, "body": interest}),
            ("interests.delete", {"path": {**places, "interestId": made["interestId"]}}),
            ("interests.replace", {"path": places, "body": [interest]}),
        ])  # fmt: skip
        assert added in (201, 409)
        assert deleted in (204, 404)
        assert replaced == 204
        assert [row["externalId"] for row in await _list(client, path)] == [str(number)]


async def test_faults_in_an_array_body_say_which_item(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/interests"
    made = await data.create(client, path, {"externalId": "a", "label": "a"})
    assert _fault(await client.put(path, json={"externalId": "a", "label": "b"})) == (400, None, "not_an_array")
    wrong = await client.put(path, json=[{"externalId": "a"}, {"externalId": "b", "label": "b", "more": 1}, 7])
    faults = [("[0].label", "required"), ("[1].more", "unknown_field"), ("[2]", "wrong_type")]
    assert (wrong.status_code, _codes(wrong)) == (400, faults)
    assert _fault(await client.put(f"/visitors/{data.NOBODY}/interests", json=[])) == (404, None, "visitor_not_found")
    assert await _list(client, path) == [made]


@pytest.mark.parametrize("kind", [JSON, AVRO])
async def test_an_array_body_in_a_message(stack: Stack, client: httpx.AsyncClient, kind: str) -> None:
    _, path = await _visitor(client)
    body = [{"externalId": "a", "label": "A"}, {"externalId": "b", "label": "B"}]
    parts = {"path": {"visitorId": path.removeprefix("/visitors/")}, "body": body}
    result = await stack.result("interests.replace", await stack.send("interests.replace", parts, content_type=kind))
    assert result.value["status"] == 204
    assert [(row["externalId"], row["label"]) for row in await _list(client, f"{path}/interests")] == [
        ("a", "A"), ("b", "B"),
    ]  # fmt: skip


# locales


async def test_locales_are_listed_in_pages_and_sorted(client: httpx.AsyncClient) -> None:
    every = [row for offset in ({}, {"offset": 500}) for row in await _list(client, "/locales", limit=500, **offset)]
    assert {"localeCode": "fr-FR", "localeLabel": "Français"} in every
    codes, labels = [[row[name] for row in every] for name in ("localeCode", "localeLabel")]
    assert codes == sorted(set(codes))
    assert [row["localeCode"] for row in await _list(client, "/locales")] == codes[:25]
    page = (await client.get("/locales", params={"limit": 10, "offset": 20, "sort": "-localeCode"})).json()
    assert page["data"] == every[::-1][20:30]
    assert page["metadata"]["_links"].keys() == {"self", "first", "prev", "next"}
    by_label = await _list(client, "/locales", sort="localeLabel,-localeCode", fields="localeCode")
    by_both = sorted(sorted(zip(labels, codes, strict=True), reverse=True), key=itemgetter(0))
    assert by_label == [{"localeCode": code} for _, code in by_both[:25]]
    assert _fault(await client.get("/locales", params={"sort": "name"})) == (400, "sort", "unknown_sort_field")


async def test_spellings_of_a_locale_are_one_locale_of_the_visitor(client: httpx.AsyncClient) -> None:
    _, path = await _visitor(client)
    path = f"{path}/locales"
    made = await data.create(client, path, {"localeCode": "en_us"})
    visitor_id = path.split("/")[2]
    assert made == {**made, "localeCode": "en-US", "localeLabel": "English", "visitorId": visitor_id}
    assert "updateDate" not in made
    for written in ("EN-us", "en-US", "en_us"):
        again = await client.post(path, json={"localeCode": written})
        assert _fault(again) == (409, "localeCode", "visitor_locale_exists")
        assert await _read(client, f"{path}/{written}") == made
    assert await _list(client, path) == [made]
    assert [(await client.delete(f"{path}/EN_us")).status_code for _ in range(2)] == [204, 404]
    assert _fault(await client.post(path, json={"localeCode": "xx-XX"})) == (400, "localeCode", "unknown_locale")
    assert _fault(await client.get(f"{path}/xx-XX")) == (400, "localeCode", "unknown_locale")


# sessions


def _session(pc_code: str, guid: str, **fields: Any) -> dict[str, Any]:
    return {"pcCode": pc_code, "guid": guid, "gameId": "g1", "gameName": "Game", **fields}


async def test_a_guid_is_unique_per_visitor(client: httpx.AsyncClient) -> None:
    (pc_code, path), (_, other) = await _visitor(client), await _visitor(client)
    body, path = _session(pc_code, "s1", optin=True), f"{path}/centerOperationSessions"
    made = await data.create(client, path, body)
    assert made == {**made, **body, "isWifit": None}
    again = await client.post(path, json=_session(pc_code, "s1", gameId="g2"))
    assert _fault(again) == (409, "guid", "operation_session_exists")
    await data.create(client, f"{other}/centerOperationSessions", body)
    assert await _list(client, path) == [made]


async def test_sessions_are_filtered_by_center_game_and_time(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path, other = f"{path}/centerOperationSessions", await _center(client)
    sent = (_session(pc_code, "s1"), _session(other, "s2"), _session(pc_code, "s3", gameId="g2"))
    made = [await data.create(client, path, body) for body in sent]
    for query, guids in (
        ({"pcCode": pc_code}, ["s1", "s3"]),
        ({"gameId": "g1"}, ["s1", "s2"]),
        ({"pcCode": pc_code, "gameId": "g1"}, ["s1"]),
        ({"creationDateSince": made[1]["creationDate"]}, ["s2", "s3"]),
        ({"creationDateUntil": made[1]["creationDate"]}, ["s1"]),
    ):
        assert [row["guid"] for row in await _list(client, path, **query)] == guids


async def _sent(client: httpx.AsyncClient, path: str, entries: Rows) -> dict[str, Rows]:
    answer = await client.post(path, json=entries)
    assert answer.status_code == 201, answer.text
    found: dict[str, Rows] = answer.json()["data"]
    return found


@pytest.mark.parametrize("kind", ["segments", "stores"])
async def test_entries_of_a_session_are_added_each_on_its_own(client: httpx.AsyncClient, kind: str) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    for guid in ("s1", "s2"):
        await data.create(client, path, _session(pc_code, guid))
    first = await _sent(client, f"{path}/s1/{kind}", [{"id": 69044, "name": "Bershka"}])
    assert [(row["id"], row["name"]) for row in first["success"]] == [("69044", "Bershka")]
    assert first["success"][0].keys() == {"id", "name", "creationDate", "updateDate"}
    names = [("69044", "Again"), ("1", "One"), ("2", " "), ("1", "Twice"), ("3", "Three")]
    entries = [{"id": number, "name": name} for number, name in names]
    found = await _sent(client, f"{path}/s1/{kind}", entries)
    assert [row["id"] for row in found["success"]] == ["1", "3"]
    assert found["failed"] == [entries[0], entries[2], entries[3]]
    assert (await _sent(client, f"{path}/s2/{kind}", entries[:1]))["failed"] == []
    assert _fault(await client.post(f"{path}/s3/{kind}", json=entries)) == (404, None, "operation_session_not_found")


async def test_an_entry_that_cannot_be_kept_fails_by_itself(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    await data.create(client, path, _session(pc_code, "s1"))
    wrong = [("x" * 1_001, "A"), ("1", "x" * 1_001), ("2", "a\0b"), ("3\0", "A"), (" ", "A"), ("4", "\t"), ("5", "")]
    entries = [{"id": number, "name": name} for number, name in [*wrong, ("x" * 1_000, "y" * 1_000)]]
    found = await _sent(client, f"{path}/s1/stores", entries)
    assert found["failed"] == entries[:-1]
    assert [{name: row[name] for name in ("id", "name")} for row in found["success"]] == entries[-1:]


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
async def test_an_entry_of_another_shape_or_with_a_card_number_is_400_for_the_body(
    client: httpx.AsyncClient, entry: Any, field: str, code: str
) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    await data.create(client, path, _session(pc_code, "s1"))
    entries = [{"id": "1", "name": "A"}, entry]
    refused = await client.post(f"{path}/s1/segments", json=entries)
    assert _fault(refused) == (400, field, code)
    assert CARD_NUMBER[4:] not in refused.text
    assert (await _sent(client, f"{path}/s1/segments", entries[:1]))["failed"] == []


async def test_all_entries_of_a_body_are_stored_with_one_statement(stack: Stack, client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    path = f"{path}/centerOperationSessions"
    await data.create(client, path, _session(pc_code, "s1"))
    entries = [{"id": str(number), "name": f"Store {number}"} for number in range(500)]
    found = await _sent(client, f"{path}/s1/stores", entries)
    assert [row["id"] for row in found["success"]] == [entry["id"] for entry in entries]
    # cmin is the number that its statement had in the transaction.
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
    nobody = await client.post("/visits/entry", json={"barcode": CARD_NUMBER, "pcCode": pc_code})
    assert _fault(nobody) == (404, None, "visitor_not_found")


async def test_other_ids_may_not_be_a_card_number(client: httpx.AsyncClient) -> None:
    pc_code, path = await _visitor(client)
    for kind, field, body in (
        ("devices", "mobileCarrier", _device()),
        ("centerOperationSessions", "gameId", _session(pc_code, "s1")),
    ):
        refused = await client.post(f"{path}/{kind}", json={**body, field: CARD_NUMBER})
        assert _fault(refused) == (400, field, "card_number_refused")
        assert CARD_NUMBER not in refused.text
