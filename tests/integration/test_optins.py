"""Optins, legal texts and required consents: the rules of the contract, the history of consents, and races."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support import data
from tests.support.stack import PARTITIONS, Stack, eventually, plain
from topics import names
from topics.envelope import AVRO, JSON

Row = dict[str, Any]
Key = tuple[str, str, int | None]

LONG_AGO = "2001-02-03T04:05:06Z"
TEXTS = {"optinDisplayText": "J'accepte", "optinHeaderText": None, "documentText": "Les conditions"}
NO_TEXTS = dict.fromkeys(TEXTS)


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


async def _path(client: httpx.AsyncClient) -> str:
    """The path of a new visitor."""
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    return f"/visitors/{(await data.create(client, '/visitors', data.visitor(pc_code)))['visitorId']}"


def _visitor_id(path: str) -> str:
    return path.removeprefix("/visitors/")


def _optin(**fields: Any) -> Row:
    return {"optinType": "commercial", "optinChannel": "email", "isActive": True, **fields}


async def _opted(client: httpx.AsyncClient, path: str, **fields: Any) -> Row:
    return await data.create(client, f"{path}/optins", _optin(**fields))


async def _get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def _history(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    return await _get(client, f"{path}/optins", limit=500, **query)


async def _ids(client: httpx.AsyncClient, path: str, **query: Any) -> list[int]:
    return [row["optinId"] for row in await _history(client, path, **query)]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# optins


async def test_a_new_optin_supersedes_the_active_one_of_its_key(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    first, second = await _opted(client, path, contextId=7), await _opted(client, path, contextId=7, clientId="app")
    third = await _opted(client, path, contextId=7, isActive=False)
    gone = {"isActive": False, "optoutDate": second["creationDate"], "updateDate": second["creationDate"]}
    gone_too = {"isActive": False, "optoutDate": third["creationDate"], "updateDate": third["creationDate"]}
    assert await _history(client, path) == [first | gone, second | gone_too, third]


@pytest.mark.parametrize(
    "other", [{"contextId": 2}, {}, {"contextId": 1, "optinType": "loyalty"}, {"contextId": 1, "optinChannel": "sms"}]
)
async def test_another_context_or_none_type_or_channel_is_another_key(client: httpx.AsyncClient, other: Row) -> None:
    path = await _path(client)
    rows = [await _opted(client, path, contextId=1), await _opted(client, path, **other)]
    assert await _history(client, path, isActive="true") == rows
    again = await _opted(client, path, **other)
    assert await _history(client, path, isActive="true") == [rows[0], again]


async def test_is_active_sets_the_date_of_optin_or_of_optout(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    agreed, refused = await _opted(client, path), await _opted(client, path, contextId=1, isActive=False)
    assert (agreed["isActive"], agreed["optinDate"], agreed["optoutDate"]) == (True, agreed["creationDate"], None)
    assert (refused["isActive"], refused["optinDate"], refused["optoutDate"]) == (False, None, refused["creationDate"])


async def test_latest_lists_only_the_newest_of_each_key(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    old = [await _opted(client, path), await _opted(client, path, contextId=1)]
    new = [await _opted(client, path, contextId=1, isActive=False), await _opted(client, path)]
    assert await _ids(client, path, latest="true") == [row["optinId"] for row in new]
    assert await _ids(client, path, latest="false") == [row["optinId"] for row in old + new]
    assert await _ids(client, path, latest="true", isActive="false") == [new[0]["optinId"]]


async def test_disabling_opts_out_once_and_removes_nothing(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    optin, other = await _opted(client, path), await _opted(client, path, contextId=1)
    url = f"{path}/optins/{optin['optinId']}"
    answer = await client.delete(url)
    assert (answer.status_code, answer.content) == (204, b"")
    out = await _get(client, url)
    assert out == {**optin, "isActive": False, "optoutDate": out["updateDate"], "updateDate": out["updateDate"]}
    assert _moment(out["optoutDate"]) > _moment(optin["optinDate"])
    again = await client.delete(url)
    assert (again.status_code, _codes(again)) == (404, [(None, "optin_not_found")])
    assert await _history(client, path) == [out, other]


async def test_delete_by_type_opts_out_of_every_context_of_that_type_and_channel_only(
    client: httpx.AsyncClient,
) -> None:
    path = await _path(client)
    bystander = await _path(client)
    mine = [await _opted(client, path, **fields) for fields in ({}, {"contextId": 1}, {"contextId": 2})]
    kept = [await _opted(client, path, **fields) for fields in ({"optinType": "loyalty"}, {"optinChannel": "sms"})]
    kept.append(await _opted(client, bystander))
    kind = {"optinType": "commercial", "optinChannel": "email"}
    answer = await client.delete(f"{path}/optins", params=kind)
    assert (answer.status_code, answer.content) == (204, b"")
    out = (await _history(client, path))[:3]
    assert [row["optinId"] for row in out] == [row["optinId"] for row in mine]
    assert [(row["isActive"], row["optoutDate"] == out[0]["updateDate"]) for row in out] == [(False, True)] * 3
    again = await client.delete(f"{path}/optins", params=kind)
    assert (again.status_code, _codes(again)) == (404, [(None, "optin_not_found")])
    assert await _history(client, path) + await _history(client, bystander) == out + kept
    needed = await client.delete(f"{path}/optins")
    assert sorted(_codes(needed)) == [("optinChannel", "required"), ("optinType", "required")]


async def test_patch_changes_only_who_sent_an_optin(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    optin = await _opted(client, path, clientId="app", sendId="1")
    url = f"{path}/optins/{optin['optinId']}"
    changed = await client.patch(url, json={"sendId": "2"})
    assert (changed.status_code, changed.content) == (204, b"")
    found = await _get(client, url)
    assert found == {**optin, "sendId": "2", "updateDate": found["updateDate"]}
    assert _moment(found["updateDate"]) > _moment(optin["updateDate"])
    refused = await client.patch(url, json={"isActive": False, "contextId": 1, "legalTextId": None, "clientId": None})
    assert refused.status_code == 400
    unknown = [(field, "unknown_field") for field in ("contextId", "isActive", "legalTextId")]
    assert sorted(_codes(refused)) == [("clientId", "null_refused"), *unknown]
    assert await _get(client, url) == found


async def test_an_optin_may_name_a_legal_text_that_exists_or_none(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    text = await _text(client, "terms")
    assert (await _opted(client, path, legalTextId=text["id"]))["legalTextId"] == text["id"]
    assert (await _opted(client, path, legalTextId=None))["legalTextId"] is None
    answer = await client.post(f"{path}/optins", json=_optin(legalTextId=2**62))
    assert (answer.status_code, _codes(answer)) == (400, [("legalTextId", "legal_text_not_found")])
    assert [row["isActive"] for row in await _history(client, path)] == [False, True]


async def test_what_a_sender_and_its_message_are_called_may_be_any_digits(client: httpx.AsyncClient) -> None:
    path, number = await _path(client), "4111111111111111"
    made = await _opted(client, path, clientId=number, sendId=f"{number}-{number}")
    assert (made["clientId"], made["sendId"]) == (number, f"{number}-{number}")


async def test_an_optin_of_another_visitor_or_of_nobody_is_404(client: httpx.AsyncClient) -> None:
    optin = await _opted(client, await _path(client))
    url = f"{await _path(client)}/optins/{optin['optinId']}"
    for answer in (await client.get(url), await client.patch(url, json={"sendId": "2"}), await client.delete(url)):
        assert (answer.status_code, _codes(answer)) == (404, [(None, "optin_not_found")])
    assert await _get(client, f"/visitors/{optin['visitorId']}/optins/{optin['optinId']}") == optin
    nobody = f"/visitors/{uuid4()}/optins"
    kind = {"optinType": "commercial", "optinChannel": "email"}
    for answer in (
        await client.get(nobody), await client.post(nobody, json=_optin()), await client.delete(nobody, params=kind)
    ):  # fmt: skip
        assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])


async def test_optins_are_filtered_by_activity_context_type_and_channel(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    kinds: list[Row] = [{}, {"contextId": 5}, {"optinType": "wallet", "contextId": 5}, {"optinChannel": "push"}]
    a, b, c, d = [(await _opted(client, path, **fields))["optinId"] for fields in kinds]
    await client.delete(f"{path}/optins/{d}")
    assert await _ids(client, path) == [a, b, c, d]
    assert await _ids(client, path, isActive="true") == [a, b, c]
    assert await _ids(client, path, isActive="false") == [d]
    assert await _ids(client, path, contextId=5) == [b, c]
    assert await _ids(client, path, optinType="wallet") == [c]
    assert await _ids(client, path, optinChannel="push") == [d]
    assert await _ids(client, path, optinType="commercial", contextId=5, isActive="true") == [b]
    wrong = await client.get(f"{path}/optins", params={"optinType": "spam"})
    assert (wrong.status_code, _codes(wrong)) == (400, [("optinType", "not_allowed")])


async def test_optins_come_in_pages_that_keep_the_filters(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    made = [(await _opted(client, path, contextId=number))["optinId"] for number in range(5)]
    await _opted(client, path, optinType="loyalty")
    seen: list[list[int]] = []
    url: str | None = f"{path}/optins?optinType=commercial&limit=2&sort=-optinId&fields=optinId"
    while url:
        page = (await client.get(url)).json()
        assert all(row.keys() == {"optinId"} for row in page["data"])
        seen.append([row["optinId"] for row in page["data"]])
        url = page["metadata"]["_links"].get("next")
    assert seen == [made[:2:-1], made[2:0:-1], made[:1]]


# legal texts


async def _text(client: httpx.AsyncClient, kind: str, **fields: Any) -> Row:
    return await data.create(client, "/legalTexts", {"type": kind, "releaseDate": LONG_AGO, **fields})


async def _newest_version(client: httpx.AsyncClient, kind: str) -> int:
    newest = await _get(client, "/legalTexts", legalType=kind, sort="-version", limit=1)
    return int(newest[0]["version"]) if newest else 0


def _in_future() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


async def test_version_counts_up_by_type_from_1(client: httpx.AsyncClient) -> None:
    first, other = await _newest_version(client, "wifi_terms"), await _newest_version(client, "wifi_privacy")
    made = [await _text(client, kind) for kind in ("wifi_terms", "wifi_privacy", "wifi_terms")]
    assert [text["version"] for text in made] == [first + 1, other + 1, first + 2]
    assert [text["version"] for text in await _get(client, "/legalTexts", legalType="wifi_terms", version=1)] == [1]
    assert await _get(client, "/legalTexts", legalType="wifi_terms", version=first + 2) == [made[2]]


async def test_latest_is_the_newest_released_version_of_each_type(client: httpx.AsyncClient) -> None:
    released, later = await _text(client, "loyalty"), await _text(client, "loyalty", releaseDate=_in_future())
    other = await _text(client, "privacy")

    rows = await _get(client, "/legalTexts", latest="true")
    newest = {row["type"]: row["id"] for row in rows}
    assert (newest["loyalty"], newest["privacy"], len(newest)) == (released["id"], other["id"], len(rows))
    assert await _get(client, "/legalTexts", latest="true", legalType="loyalty") == [released]
    changed = await client.patch(f"/legalTexts/{later['id']}", json={"releaseDate": LONG_AGO})
    assert (changed.status_code, changed.content) == (204, b"")
    found = await _get(client, "/legalTexts", latest="true", legalType="loyalty")
    assert [text["id"] for text in found] == [later["id"]]


async def test_locale_fills_the_three_texts_or_leaves_them_null(client: httpx.AsyncClient) -> None:
    text = await _text(client, "commercial_push", requireConsent=True)
    assert text == {**text, **NO_TEXTS, "requireConsent": True}
    await data.create(client, f"/legalTexts/{text['id']}/locales/fr-FR", TEXTS)

    newest = {"legalType": "commercial_push", "latest": "true"}
    assert await _get(client, "/legalTexts", **newest, locale="fr_fr") == [text | TEXTS]
    assert await _get(client, "/legalTexts", **newest, locale="de-DE") == [text]
    assert await _get(client, "/legalTexts", **newest) == [text]


@pytest.mark.parametrize("written", ["en_us", "EN-us", "en-US"])
async def test_spellings_of_a_locale_are_one_locale(client: httpx.AsyncClient, written: str) -> None:
    path = f"/legalTexts/{(await _text(client, 'terms'))['id']}/locales"
    made = await data.create(client, f"{path}/{written}", TEXTS)
    assert made == {**TEXTS, "legalTextId": made["legalTextId"], "localeCode": "en-US"}
    for spelled in ("en_us", "EN-us", "en-US"):
        assert await _get(client, f"{path}/{spelled}") == made
        again = await client.post(f"{path}/{spelled}", json=NO_TEXTS)
        assert (again.status_code, _codes(again)) == (409, [(None, "locale_exists")])
    assert await _get(client, path) == [made]


async def test_an_unknown_locale_is_400(client: httpx.AsyncClient) -> None:
    url = f"/legalTexts/{(await _text(client, 'terms'))['id']}/locales/xx-XX"
    for answer in (
        await client.post(url, json=TEXTS), await client.get(url), await client.patch(url, json={"documentText": None})
    ):  # fmt: skip
        assert (answer.status_code, _codes(answer)) == (400, [("localeCode", "unknown_locale")])
    answer = await client.get("/legalTexts?locale=xx-XX")
    assert (answer.status_code, _codes(answer)) == (400, [("locale", "unknown_locale")])


async def test_a_text_may_be_null_in_an_avro_message_where_it_may_not_be_left_out(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    text = await _text(client, "terms")
    parts = {"path": {"legalTextId": text["id"], "localeCode": "zh-CN"}, "body": {**TEXTS, "documentText": None}}
    request_id = await stack.send("legalTextLocales.create", parts, content_type=AVRO)
    result = (await stack.result("legalTextLocales.create", request_id)).value
    assert (result["status"], result["body"]["data"]["documentText"]) == (201, None)


async def test_locales_are_listed_read_and_updated_and_null_clears(client: httpx.AsyncClient) -> None:
    text = await _text(client, "terms")
    path = f"/legalTexts/{text['id']}/locales"
    french = await data.create(client, f"{path}/fr-FR", TEXTS)
    german = await data.create(client, f"{path}/de-DE", NO_TEXTS)
    changed = await client.patch(f"{path}/fr_fr", json={"documentText": None, "optinHeaderText": "Bonjour"})
    assert (changed.status_code, changed.content) == (204, b"")
    french |= {"documentText": None, "optinHeaderText": "Bonjour"}
    assert await _get(client, f"{path}/fr-FR") == french
    assert await _get(client, path, sort="localeCode") == [german, french]
    assert await _get(client, path, sort="-localeCode", limit=1, offset=1) == [german]
    absent = await client.get(f"{path}/it-IT")
    assert (absent.status_code, _codes(absent)) == (404, [(None, "legal_text_locale_not_found")])
    needed = await client.post(f"{path}/it-IT", json={"optinHeaderText": None})
    assert sorted(_codes(needed)) == [("documentText", "required"), ("optinDisplayText", "required")]
    nowhere = f"/legalTexts/{2**62}/locales"
    for answer in (await client.post(f"{nowhere}/fr-FR", json=TEXTS), await client.get(nowhere)):
        assert (answer.status_code, _codes(answer)) == (404, [(None, "legal_text_not_found")])


# required consents


async def _required(client: httpx.AsyncClient, path: str, **query: str) -> dict[int, bool]:
    rows = await _get(client, f"{path}/requiredConsents", **query)
    return {row["legalTextId"]: row["requireConsent"] for row in rows}


async def test_consent_is_required_until_an_active_optin_names_that_very_text(client: httpx.AsyncClient) -> None:
    path, other = await _path(client), await _path(client)
    old, new = [(await _text(client, "terms", requireConsent=True))["id"] for _ in range(2)]
    await _opted(client, path, legalTextId=old, contextId=1)
    found = await _required(client, path)
    assert (found[new], old in found) == (True, False)
    optin = await _opted(client, path, legalTextId=new)
    assert (await _required(client, path))[new] is False
    assert (await _required(client, other))[new] is True
    await client.delete(f"{path}/optins/{optin['optinId']}")
    assert (await _required(client, path))[new] is True
    await _opted(client, path, legalTextId=new, isActive=False)
    assert (await _required(client, path))[new] is True


async def test_only_the_newest_released_text_of_a_type_may_require_consent(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    old = (await _text(client, "commercial_sms", requireConsent=True))["id"]
    later = (await _text(client, "commercial_sms", requireConsent=True, releaseDate=_in_future()))["id"]
    found = await _required(client, path)
    assert (found.get(old), later in found) == (True, False)
    free = (await _text(client, "commercial_sms"))["id"]
    assert not {old, later, free} & (await _required(client, path)).keys()
    await client.patch(f"/legalTexts/{free}", json={"requireConsent": True})
    assert (await _required(client, path))[free] is True


@pytest.mark.parametrize(
    ("country", "left_out"),
    [
        ("FR", {"privacy_us", "smartparking_us", "sms_us"}),
        ("US", {"privacy_eu"}),
        ("CL", {"privacy_eu", "privacy_us", "smartparking_us", "sms_us"}),
    ],
)
async def test_new_center_leaves_out_the_types_of_other_countries(
    client: httpx.AsyncClient, country: str, left_out: set[str]
) -> None:
    path = await _path(client)
    kinds = ("terms", "privacy_eu", "privacy_us", "smartparking_us", "sms_us")
    texts = {(await _text(client, kind, requireConsent=True))["id"]: kind for kind in kinds}
    center = (await data.create(client, "/centers", data.center(country=country)))["pcCode"]
    found = await _required(client, path, newCenter=center)
    assert {kind for text, kind in texts.items() if text in found} == set(kinds) - left_out
    assert texts.keys() <= (await _required(client, path)).keys()


async def test_required_consents_of_an_unknown_center_are_400_and_of_nobody_404(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{await _path(client)}/requiredConsents?newCenter=FR-NO-ONE")
    assert (answer.status_code, _codes(answer)) == (400, [("newCenter", "center_not_found")])
    answer = await client.get(f"/visitors/{uuid4()}/requiredConsents")
    assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])


# races


async def _send(stack: Stack, path: str, partition: int) -> str:
    parts = {"path": {"visitorId": _visitor_id(path)}, "body": _optin()}
    return await stack.send("optins.create", parts, partition=partition)


def _assert_history(rows: list[Row], count: int) -> None:
    """One key's rows in the order of their ids: each went out, and not before it came in, but for the last."""
    assert [row["isActive"] for row in rows] == [False] * (count - 1) + [True]
    assert [row["optoutDate"] is None for row in rows] == [False] * (count - 1) + [True]
    too_early = [row for row in rows[:-1] if _moment(row["optoutDate"]) < _moment(row["optinDate"])]
    assert too_early == []


async def test_20_optins_at_once_over_http_leave_one_active(client: httpx.AsyncClient) -> None:
    path = await _path(client)
    made = await asyncio.gather(*(_opted(client, path, contextId=1, sendId=str(n)) for n in range(20)))
    rows = await _history(client, path)
    assert [row["optinId"] for row in rows] == sorted(row["optinId"] for row in made)
    _assert_history(rows, 20)


async def test_20_optins_at_once_on_all_partitions_leave_one_active(stack: Stack, client: httpx.AsyncClient) -> None:
    path = await _path(client)
    for request_id in await asyncio.gather(*(_send(stack, path, number % PARTITIONS) for number in range(20))):
        assert (await stack.result("optins.create", request_id)).value["status"] == 201
    _assert_history(await _history(client, path), 20)


async def test_an_optin_that_waited_in_a_batch_is_not_dated_before_the_one_it_supersedes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    slow, path = await _path(client), await _path(client)
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"select 1 from visitors where visitor_id = '{_visitor_id(slow)}' for update")
        sent = await asyncio.gather(_send(stack, slow, 0), _send(stack, path, 0))
        await eventually("a batch that waits", lambda: stack.rows("select 1 from pg_locks where not granted"))
        await stack.result("optins.create", await _send(stack, path, 1))
    for request_id in sent:
        await stack.result("optins.create", request_id)
    _assert_history(await _history(client, path), 2)


async def test_10_legal_texts_at_once_get_10_consecutive_versions(client: httpx.AsyncClient) -> None:
    newest = await _newest_version(client, "commercial_email")
    made = await asyncio.gather(*(_text(client, "commercial_email") for _ in range(10)))
    assert sorted(text["version"] for text in made) == list(range(newest + 1, newest + 11))


# the history of consents, against a model of it

State = dict[Key, int]
"""The active optin of each key that has one."""

KEYS: list[Key] = [
    ("commercial", "email", None), ("commercial", "email", 1), ("commercial", "sms", 1), ("loyalty", "email", None)
]  # fmt: skip
KINDS = ["agree", "agree", "refuse", "deleteByType", "disable"]
ACTIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(KEYS), st.integers(0, 9)), min_size=8, max_size=20)


def _modelled(state: State, kind: str, key: Key, target: int) -> State:
    """The state after an action; `target` is the optin that it creates or disables."""
    match kind:
        case "disable":
            return {other: optin for other, optin in state.items() if optin != target}
        case "deleteByType":
            return {other: optin for other, optin in state.items() if other[:2] != key[:2]}
    left = {other: optin for other, optin in state.items() if other != key}
    return {**left, key: target} if kind == "agree" else left


async def _act(client: httpx.AsyncClient, path: str, kind: str, key: Key, target: int) -> httpx.Response:
    kind_of_optin = {"optinType": key[0], "optinChannel": key[1]}
    match kind:
        case "disable":
            return await client.delete(f"{path}/optins/{target}")
        case "deleteByType":
            return await client.delete(f"{path}/optins", params=kind_of_optin)
    context = {} if key[2] is None else {"contextId": key[2]}
    return await client.post(f"{path}/optins", json={**kind_of_optin, **context, "isActive": kind == "agree"})


def _key(row: Row) -> Key:
    return row["optinType"], row["optinChannel"], row["contextId"]


def _active_at(row: Row, moment: datetime) -> bool:
    came, went = row["optinDate"], row["optoutDate"]
    return came is not None and _moment(came) <= moment and (went is None or _moment(went) > moment)


@given(actions=ACTIONS)
@settings(max_examples=15, deadline=None, phases=[Phase.generate])  # Shrinking takes minutes on real servers.
async def test_the_history_tells_what_was_agreed_to_at_any_moment(
    client: httpx.AsyncClient, actions: list[tuple[str, Key, int]]
) -> None:
    path = await _path(client)
    states: list[State] = [{}]
    made: list[Row] = []
    created: list[str | None] = []
    for kind, key, number in actions:
        target = made[number % len(made)]["optinId"] if made else 1
        answer = await _act(client, path, kind, key, target)
        is_new = kind in ("agree", "refuse")
        if is_new:
            made.append(answer.json()["data"])
            target = made[-1]["optinId"]
        state = _modelled(states[-1], kind, key, target)
        assert answer.status_code == (201 if is_new else 204 if state != states[-1] else 404)
        if answer.status_code != 404:
            states.append(state)
            created.append(made[-1]["creationDate"] if is_new else None)

    rows = {row["optinId"]: row for row in await _history(client, path)}
    assert Counter(map(_key, rows.values())) == Counter(map(_key, made))
    assert {number: _key(row) for number, row in rows.items() if row["isActive"]} == {
        number: key for key, number in states[-1].items()
    }
    moments = []
    for (before, state), date in zip(pairwise(states), created, strict=True):
        dates = {rows[number]["optoutDate"] for number in set(before.values()) - set(state.values())}
        dates |= {date} if date else set()
        assert len(dates) == 1
        moments.append(_moment(dates.pop()))
        assert {number for number, row in rows.items() if _active_at(row, moments[-1])} == set(state.values())
    assert moments == sorted(set(moments))


# all three ways in


async def _changes(stack: Stack, visitor_id: str, count: int) -> list[Row]:
    """The changes of a visitor's optins in their order, once there are so many."""

    async def look() -> list[Row]:
        values = [plain(record.value) for record in await stack.read(names.changes("optins")) if record.value]
        found = [value for value in values if value["visitorId"] == visitor_id]
        return found if len(found) >= count else []

    rows: list[Row] = await eventually(f"{count} changes", look)
    return rows


async def test_an_optin_as_json_as_avro_and_over_http_and_its_changes(stack: Stack, client: httpx.AsyncClient) -> None:
    path = await _path(client)
    visitor_id = _visitor_id(path)
    text = await _text(client, "terms")
    body = _optin(contextId=2**40, clientId="app", sendId="s-1", legalTextId=text["id"], lastOpenedDate=LONG_AGO)
    parts = {"path": {"visitorId": visitor_id}, "body": {**body, "lastOpenedDate": _moment(LONG_AGO)}}
    requests = [await stack.send("optins.create", parts, content_type=JSON)]
    await stack.result("optins.create", requests[0])
    requests.append(await stack.send("optins.create", parts, content_type=AVRO))
    await stack.result("optins.create", requests[1])
    answer = await client.post(f"{path}/optins", json=body, headers={"Idempotency-Key": requests[0] + "-http"})
    requests.append(f"local/{requests[0]}-http")

    results = [plain((await stack.result("optins.create", request_id)).value) for request_id in requests]
    assert [result["status"] for result in results] == [201, 201, 201]
    assert (answer.status_code, answer.json()) == (201, results[2]["body"])
    rows = [result["body"]["data"] for result in results]
    for row in rows:
        dates = dict.fromkeys(("optinDate", "creationDate", "updateDate"), row["creationDate"])
        assert row == {**body, **dates, "optoutDate": None, "optinId": row["optinId"], "visitorId": visitor_id}

    changes = await _changes(stack, visitor_id, 5)
    assert [(change["id"], change["action"], change["revision"], change["causedBy"]) for change in changes] == [
        (str(rows[0]["optinId"]), "created", 1, requests[0]),
        (str(rows[0]["optinId"]), "updated", 2, requests[1]),
        (str(rows[1]["optinId"]), "created", 1, requests[1]),
        (str(rows[1]["optinId"]), "updated", 2, requests[2]),
        (str(rows[2]["optinId"]), "created", 1, requests[2]),
    ]
    history = await _history(client, path)
    assert [changes[place]["after"] for place in (0, 2, 4)] == rows
    assert [changes[place]["after"] for place in (1, 3, 4)] == history
    assert {change["resource"] for change in changes} == {"optin"}
