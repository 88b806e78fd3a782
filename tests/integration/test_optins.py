"""Optins, legal texts and required consents: rules, the history of consents, and concurrent requests."""

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
from tests.support.answers import error_codes, parse_time
from tests.support.stack import PARTITIONS, Stack, eventually, plain
from topics import names
from topics.envelope import AVRO, JSON

Row = dict[str, Any]
Key = tuple[str, str, int | None]

LONG_AGO = "2001-02-03T04:05:06Z"
TEXTS = {"optinDisplayText": "J'accepte", "optinHeaderText": None, "documentText": "Les conditions"}
NO_TEXTS = dict.fromkeys(TEXTS)


async def _new_visitor_path(client: httpx.AsyncClient) -> str:
    """Create a visitor and return its path."""
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    return f"/visitors/{(await data.create(client, '/visitors', data.visitor(pc_code)))['visitorId']}"


def _visitor_id(path: str) -> str:
    return path.removeprefix("/visitors/")


def _optin_body(**fields: Any) -> Row:
    return {"optinType": "commercial", "optinChannel": "email", "isActive": True, **fields}


async def _create_optin(client: httpx.AsyncClient, path: str, **fields: Any) -> Row:
    return await data.create(client, f"{path}/optins", _optin_body(**fields))


async def _get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def _history(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    return await _get(client, f"{path}/optins", limit=500, **query)


async def _ids(client: httpx.AsyncClient, path: str, **query: Any) -> list[int]:
    return [row["optinId"] for row in await _history(client, path, **query)]


# optins


async def test_a_new_optin_supersedes_the_active_one_with_the_same_key(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    first = await _create_optin(client, path, contextId=7)
    second = await _create_optin(client, path, contextId=7, clientId="app")
    third = await _create_optin(client, path, contextId=7, isActive=False)
    for older, newer in ((first, second), (second, third)):
        older.update(isActive=False, optoutDate=newer["creationDate"], updateDate=newer["creationDate"])
    assert await _history(client, path) == [first, second, third]


@pytest.mark.parametrize(
    "fields", [{"contextId": 2}, {}, {"contextId": 1, "optinType": "loyalty"}, {"contextId": 1, "optinChannel": "sms"}]
)
async def test_optins_with_another_type_channel_or_context_stay_active(client: httpx.AsyncClient, fields: Row) -> None:
    path = await _new_visitor_path(client)
    rows = [await _create_optin(client, path, contextId=1), await _create_optin(client, path, **fields)]
    assert await _history(client, path, isActive="true") == rows
    repeated = await _create_optin(client, path, **fields)
    assert await _history(client, path, isActive="true") == [rows[0], repeated]


async def test_is_active_sets_the_optin_date_or_the_optout_date(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    agreed, refused = await _create_optin(client, path), await _create_optin(client, path, contextId=1, isActive=False)
    assert (agreed["isActive"], agreed["optinDate"], agreed["optoutDate"]) == (True, agreed["creationDate"], None)
    assert (refused["isActive"], refused["optinDate"], refused["optoutDate"]) == (False, None, refused["creationDate"])


async def test_latest_lists_only_the_newest_optin_of_each_key(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    old = [await _create_optin(client, path), await _create_optin(client, path, contextId=1)]
    new = [await _create_optin(client, path, contextId=1, isActive=False), await _create_optin(client, path)]
    assert await _ids(client, path, latest="true") == [row["optinId"] for row in new]
    assert await _ids(client, path, latest="false") == [row["optinId"] for row in old + new]
    assert await _ids(client, path, latest="true", isActive="false") == [new[0]["optinId"]]


async def test_disabling_opts_out_once_and_removes_nothing(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    optin, other = await _create_optin(client, path), await _create_optin(client, path, contextId=1)
    url = f"{path}/optins/{optin['optinId']}"
    answer = await client.delete(url)
    assert (answer.status_code, answer.content) == (204, b"")
    disabled = await _get(client, url)
    moment = disabled["updateDate"]
    assert disabled == {**optin, "isActive": False, "optoutDate": moment, "updateDate": moment}
    assert parse_time(disabled["optoutDate"]) > parse_time(optin["optinDate"])
    repeated = await client.delete(url)
    assert (repeated.status_code, error_codes(repeated)) == (404, [(None, "optin_not_found")])
    assert await _history(client, path) == [disabled, other]


async def test_delete_by_type_opts_out_of_that_type_and_channel_in_every_context(
    client: httpx.AsyncClient,
) -> None:
    path = await _new_visitor_path(client)
    other_path = await _new_visitor_path(client)
    active = [await _create_optin(client, path, **fields) for fields in ({}, {"contextId": 1}, {"contextId": 2})]
    unchanged = [
        await _create_optin(client, path, optinType="loyalty"),
        await _create_optin(client, path, optinChannel="sms"),
        await _create_optin(client, other_path),
    ]
    kind = {"optinType": "commercial", "optinChannel": "email"}
    answer = await client.delete(f"{path}/optins", params=kind)
    assert (answer.status_code, answer.content) == (204, b"")
    inactive = (await _history(client, path))[:3]
    assert [row["optinId"] for row in inactive] == [row["optinId"] for row in active]
    assert [(row["isActive"], row["optoutDate"] == inactive[0]["updateDate"]) for row in inactive] == [
        (False, True)
    ] * 3
    repeated = await client.delete(f"{path}/optins", params=kind)
    assert (repeated.status_code, error_codes(repeated)) == (404, [(None, "optin_not_found")])
    assert await _history(client, path) + await _history(client, other_path) == inactive + unchanged
    without_type = await client.delete(f"{path}/optins")
    assert sorted(error_codes(without_type)) == [("optinChannel", "required"), ("optinType", "required")]


async def test_a_patch_changes_only_the_sender_of_an_optin(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    optin = await _create_optin(client, path, clientId="app", sendId="1")
    url = f"{path}/optins/{optin['optinId']}"
    changed = await client.patch(url, json={"sendId": "2"})
    assert (changed.status_code, changed.content) == (204, b"")
    updated = await _get(client, url)
    assert updated == {**optin, "sendId": "2", "updateDate": updated["updateDate"]}
    assert parse_time(updated["updateDate"]) > parse_time(optin["updateDate"])
    refused = await client.patch(url, json={"isActive": False, "contextId": 1, "legalTextId": None, "clientId": None})
    assert refused.status_code == 400
    unknown = [(field, "unknown_field") for field in ("contextId", "isActive", "legalTextId")]
    assert sorted(error_codes(refused)) == [("clientId", "null_refused"), *unknown]
    assert await _get(client, url) == updated


async def test_an_optin_names_an_existing_legal_text_or_none(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    text = await _create_text(client, "terms")
    assert (await _create_optin(client, path, legalTextId=text["id"]))["legalTextId"] == text["id"]
    assert (await _create_optin(client, path, legalTextId=None))["legalTextId"] is None
    answer = await client.post(f"{path}/optins", json=_optin_body(legalTextId=2**62))
    assert (answer.status_code, error_codes(answer)) == (400, [("legalTextId", "legal_text_not_found")])
    assert [row["isActive"] for row in await _history(client, path)] == [False, True]


async def test_client_id_and_send_id_may_contain_any_digits(client: httpx.AsyncClient) -> None:
    path, number = await _new_visitor_path(client), "4111111111111111"
    optin = await _create_optin(client, path, clientId=number, sendId=f"{number}-{number}")
    assert (optin["clientId"], optin["sendId"]) == (number, f"{number}-{number}")


async def test_an_optin_under_another_or_an_unknown_visitor_is_404(client: httpx.AsyncClient) -> None:
    optin = await _create_optin(client, await _new_visitor_path(client))
    url = f"{await _new_visitor_path(client)}/optins/{optin['optinId']}"
    for answer in (await client.get(url), await client.patch(url, json={"sendId": "2"}), await client.delete(url)):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "optin_not_found")])
    assert await _get(client, f"/visitors/{optin['visitorId']}/optins/{optin['optinId']}") == optin
    unknown_path = f"/visitors/{uuid4()}/optins"
    kind = {"optinType": "commercial", "optinChannel": "email"}
    for answer in (
        await client.get(unknown_path), await client.post(unknown_path, json=_optin_body()),
        await client.delete(unknown_path, params=kind),
    ):  # fmt: skip
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


async def test_optins_are_filtered_by_activity_context_type_and_channel(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    bodies: list[Row] = [{}, {"contextId": 5}, {"optinType": "wallet", "contextId": 5}, {"optinChannel": "push"}]
    a, b, c, d = [(await _create_optin(client, path, **fields))["optinId"] for fields in bodies]
    await client.delete(f"{path}/optins/{d}")
    assert await _ids(client, path) == [a, b, c, d]
    assert await _ids(client, path, isActive="true") == [a, b, c]
    assert await _ids(client, path, isActive="false") == [d]
    assert await _ids(client, path, contextId=5) == [b, c]
    assert await _ids(client, path, optinType="wallet") == [c]
    assert await _ids(client, path, optinChannel="push") == [d]
    assert await _ids(client, path, optinType="commercial", contextId=5, isActive="true") == [b]
    malformed = await client.get(f"{path}/optins", params={"optinType": "spam"})
    assert (malformed.status_code, error_codes(malformed)) == (400, [("optinType", "not_allowed")])


async def test_pages_of_optins_keep_the_filters(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    optin_ids = [(await _create_optin(client, path, contextId=number))["optinId"] for number in range(5)]
    await _create_optin(client, path, optinType="loyalty")
    pages: list[list[int]] = []
    url: str | None = f"{path}/optins?optinType=commercial&limit=2&sort=-optinId&fields=optinId"
    while url:
        page = (await client.get(url)).json()
        assert all(row.keys() == {"optinId"} for row in page["data"])
        pages.append([row["optinId"] for row in page["data"]])
        url = page["metadata"]["_links"].get("next")
    assert pages == [optin_ids[:2:-1], optin_ids[2:0:-1], optin_ids[:1]]


# legal texts


async def _create_text(client: httpx.AsyncClient, legal_type: str, **fields: Any) -> Row:
    return await data.create(client, "/legalTexts", {"type": legal_type, "releaseDate": LONG_AGO, **fields})


async def _newest_version(client: httpx.AsyncClient, legal_type: str) -> int:
    newest = await _get(client, "/legalTexts", legalType=legal_type, sort="-version", limit=1)
    return int(newest[0]["version"]) if newest else 0


def _in_future() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


async def test_version_counts_up_by_type_from_1(client: httpx.AsyncClient) -> None:
    newest, newest_of_other = await _newest_version(client, "wifi_terms"), await _newest_version(client, "wifi_privacy")
    legal_types = ("wifi_terms", "wifi_privacy", "wifi_terms")
    legal_texts = [await _create_text(client, legal_type) for legal_type in legal_types]
    assert [text["version"] for text in legal_texts] == [newest + 1, newest_of_other + 1, newest + 2]
    assert [text["version"] for text in await _get(client, "/legalTexts", legalType="wifi_terms", version=1)] == [1]
    assert await _get(client, "/legalTexts", legalType="wifi_terms", version=newest + 2) == [legal_texts[2]]


async def test_latest_is_the_newest_released_version_of_each_type(client: httpx.AsyncClient) -> None:
    released = await _create_text(client, "loyalty")
    later = await _create_text(client, "loyalty", releaseDate=_in_future())
    other_type = await _create_text(client, "privacy")

    rows = await _get(client, "/legalTexts", latest="true")
    newest = {row["type"]: row["id"] for row in rows}
    assert (newest["loyalty"], newest["privacy"], len(newest)) == (released["id"], other_type["id"], len(rows))
    assert await _get(client, "/legalTexts", latest="true", legalType="loyalty") == [released]
    changed = await client.patch(f"/legalTexts/{later['id']}", json={"releaseDate": LONG_AGO})
    assert (changed.status_code, changed.content) == (204, b"")
    latest = await _get(client, "/legalTexts", latest="true", legalType="loyalty")
    assert [text["id"] for text in latest] == [later["id"]]


async def test_locale_fills_the_three_texts_or_leaves_them_null(client: httpx.AsyncClient) -> None:
    text = await _create_text(client, "commercial_push", requireConsent=True)
    assert text == {**text, **NO_TEXTS, "requireConsent": True}
    await data.create(client, f"/legalTexts/{text['id']}/locales/fr-FR", TEXTS)

    newest = {"legalType": "commercial_push", "latest": "true"}
    assert await _get(client, "/legalTexts", **newest, locale="fr_fr") == [text | TEXTS]
    assert await _get(client, "/legalTexts", **newest, locale="de-DE") == [text]
    assert await _get(client, "/legalTexts", **newest) == [text]


@pytest.mark.parametrize("spelling", ["en_us", "EN-us", "en-US"])
async def test_spellings_of_a_locale_are_one_locale(client: httpx.AsyncClient, spelling: str) -> None:
    path = f"/legalTexts/{(await _create_text(client, 'terms'))['id']}/locales"
    locale = await data.create(client, f"{path}/{spelling}", TEXTS)
    assert locale == {**TEXTS, "legalTextId": locale["legalTextId"], "localeCode": "en-US"}
    for other_spelling in ("en_us", "EN-us", "en-US"):
        assert await _get(client, f"{path}/{other_spelling}") == locale
        duplicate = await client.post(f"{path}/{other_spelling}", json=NO_TEXTS)
        assert (duplicate.status_code, error_codes(duplicate)) == (409, [(None, "locale_exists")])
    assert await _get(client, path) == [locale]


async def test_an_unknown_locale_is_400(client: httpx.AsyncClient) -> None:
    url = f"/legalTexts/{(await _create_text(client, 'terms'))['id']}/locales/xx-XX"
    for answer in (
        await client.post(url, json=TEXTS), await client.get(url), await client.patch(url, json={"documentText": None})
    ):  # fmt: skip
        assert (answer.status_code, error_codes(answer)) == (400, [("localeCode", "unknown_locale")])
    answer = await client.get("/legalTexts?locale=xx-XX")
    assert (answer.status_code, error_codes(answer)) == (400, [("locale", "unknown_locale")])


async def test_a_required_text_may_be_null_in_an_avro_message(stack: Stack, client: httpx.AsyncClient) -> None:
    text = await _create_text(client, "terms")
    parts = {"path": {"legalTextId": text["id"], "localeCode": "zh-CN"}, "body": {**TEXTS, "documentText": None}}
    request_id = await stack.send("legalTextLocales.create", parts, content_type=AVRO)
    result = (await stack.result("legalTextLocales.create", request_id)).value
    assert (result["status"], result["body"]["data"]["documentText"]) == (201, None)


async def test_locales_are_listed_read_and_updated_and_null_clears_a_text(client: httpx.AsyncClient) -> None:
    text = await _create_text(client, "terms")
    path = f"/legalTexts/{text['id']}/locales"
    french = await data.create(client, f"{path}/fr-FR", TEXTS)
    german = await data.create(client, f"{path}/de-DE", NO_TEXTS)
    changed = await client.patch(f"{path}/fr_fr", json={"documentText": None, "optinHeaderText": "Bonjour"})
    assert (changed.status_code, changed.content) == (204, b"")
    french |= {"documentText": None, "optinHeaderText": "Bonjour"}
    assert await _get(client, f"{path}/fr-FR") == french
    assert await _get(client, path, sort="localeCode") == [german, french]
    assert await _get(client, path, sort="-localeCode", limit=1, offset=1) == [german]
    missing = await client.get(f"{path}/it-IT")
    assert (missing.status_code, error_codes(missing)) == (404, [(None, "legal_text_locale_not_found")])
    incomplete = await client.post(f"{path}/it-IT", json={"optinHeaderText": None})
    assert sorted(error_codes(incomplete)) == [("documentText", "required"), ("optinDisplayText", "required")]
    unknown_path = f"/legalTexts/{2**62}/locales"
    for answer in (await client.post(f"{unknown_path}/fr-FR", json=TEXTS), await client.get(unknown_path)):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "legal_text_not_found")])


# required consents


async def _required(client: httpx.AsyncClient, path: str, **query: str) -> dict[int, bool]:
    rows = await _get(client, f"{path}/requiredConsents", **query)
    return {row["legalTextId"]: row["requireConsent"] for row in rows}


async def test_consent_is_required_until_an_active_optin_names_exactly_that_text(client: httpx.AsyncClient) -> None:
    path, other_path = await _new_visitor_path(client), await _new_visitor_path(client)
    old, new = [(await _create_text(client, "terms", requireConsent=True))["id"] for _ in range(2)]
    await _create_optin(client, path, legalTextId=old, contextId=1)
    required = await _required(client, path)
    assert (required[new], old in required) == (True, False)
    optin = await _create_optin(client, path, legalTextId=new)
    assert (await _required(client, path))[new] is False
    assert (await _required(client, other_path))[new] is True
    await client.delete(f"{path}/optins/{optin['optinId']}")
    assert (await _required(client, path))[new] is True
    await _create_optin(client, path, legalTextId=new, isActive=False)
    assert (await _required(client, path))[new] is True


async def test_only_the_newest_released_text_of_a_type_can_require_consent(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    old = (await _create_text(client, "commercial_sms", requireConsent=True))["id"]
    later = (await _create_text(client, "commercial_sms", requireConsent=True, releaseDate=_in_future()))["id"]
    required = await _required(client, path)
    assert (required.get(old), later in required) == (True, False)
    without_consent = (await _create_text(client, "commercial_sms"))["id"]
    assert not {old, later, without_consent} & (await _required(client, path)).keys()
    await client.patch(f"/legalTexts/{without_consent}", json={"requireConsent": True})
    assert (await _required(client, path))[without_consent] is True


@pytest.mark.parametrize(
    ("country", "excluded"),
    [
        ("FR", {"privacy_us", "smartparking_us", "sms_us"}),
        ("US", {"privacy_eu"}),
        ("CL", {"privacy_eu", "privacy_us", "smartparking_us", "sms_us"}),
    ],
)
async def test_new_center_leaves_out_types_that_do_not_apply_in_its_country(
    client: httpx.AsyncClient, country: str, excluded: set[str]
) -> None:
    path = await _new_visitor_path(client)
    legal_types = ("terms", "privacy_eu", "privacy_us", "smartparking_us", "sms_us")
    texts = {(await _create_text(client, name, requireConsent=True))["id"]: name for name in legal_types}
    center = (await data.create(client, "/centers", data.center(country=country)))["pcCode"]
    required = await _required(client, path, newCenter=center)
    assert {legal_type for text, legal_type in texts.items() if text in required} == set(legal_types) - excluded
    assert texts.keys() <= (await _required(client, path)).keys()


async def test_required_consents_are_400_for_an_unknown_center_and_404_for_an_unknown_visitor(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get(f"{await _new_visitor_path(client)}/requiredConsents?newCenter=FR-NO-ONE")
    assert (answer.status_code, error_codes(answer)) == (400, [("newCenter", "center_not_found")])
    answer = await client.get(f"/visitors/{uuid4()}/requiredConsents")
    assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


# concurrent requests


def _parts(path: str, body: Row) -> Row:
    return {"path": {"visitorId": _visitor_id(path)}, "body": body}


async def _send(stack: Stack, path: str, partition: int) -> str:
    return await stack.send("optins.create", _parts(path, _optin_body()), partition=partition)


def _assert_history(rows: list[Row], count: int) -> None:
    """The rows of one key, in the order of their ids: only the last is active, and the others were not opted out of
    before their optin."""
    assert [row["isActive"] for row in rows] == [False] * (count - 1) + [True]
    assert [row["optoutDate"] is None for row in rows] == [False] * (count - 1) + [True]
    too_early = [row for row in rows[:-1] if parse_time(row["optoutDate"]) < parse_time(row["optinDate"])]
    assert too_early == []


async def test_20_concurrent_optins_over_http_leave_one_active(client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    creates = (_create_optin(client, path, contextId=1, sendId=str(number)) for number in range(20))
    optins = await asyncio.gather(*creates)
    rows = await _history(client, path)
    assert [row["optinId"] for row in rows] == sorted(row["optinId"] for row in optins)
    _assert_history(rows, 20)


async def test_20_concurrent_optins_on_all_partitions_leave_one_active(stack: Stack, client: httpx.AsyncClient) -> None:
    path = await _new_visitor_path(client)
    for request_id in await asyncio.gather(*(_send(stack, path, number % PARTITIONS) for number in range(20))):
        assert (await stack.result("optins.create", request_id)).value["status"] == 201
    _assert_history(await _history(client, path), 20)


async def test_an_optin_that_waited_in_a_batch_is_not_dated_before_the_optin_that_it_supersedes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    locked_path, path = await _new_visitor_path(client), await _new_visitor_path(client)
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"select 1 from visitors where visitor_id = '{_visitor_id(locked_path)}' for update")
        request_ids = await asyncio.gather(_send(stack, locked_path, 0), _send(stack, path, 0))
        await stack.await_lock_wait()
        await stack.result("optins.create", await _send(stack, path, 1))
    for request_id in request_ids:
        await stack.result("optins.create", request_id)
    _assert_history(await _history(client, path), 2)


async def test_optins_of_one_batch_supersede_each_other_in_their_order(stack: Stack, client: httpx.AsyncClient) -> None:
    locked_path, path, other_path = [await _new_visitor_path(client) for _ in range(3)]
    active = await _create_optin(client, path, contextId=1)
    bodies = [
        (path, _optin_body(contextId=1, sendId="1")),
        (other_path, _optin_body(contextId=1)),
        (path, _optin_body(contextId=1, sendId="2", isActive=False)),
        (f"/visitors/{data.ABSENT_VISITOR_ID}", _optin_body()),
        (path, _optin_body(contextId=1, legalTextId=2**40)),
        (path, _optin_body()),
        (path, _optin_body(contextId=1, sendId="3")),
    ]
    answers = await stack.in_one_batch(
        f"select 1 from visitors where visitor_id = '{_visitor_id(locked_path)}' for update",
        ("optins.create", _parts(locked_path, _optin_body())),
        [("optins.create", _parts(*item)) for item in bodies],
    )
    assert [answer["status"] for answer in answers] == [201, 201, 201, 404, 400, 201, 201]
    assert [error["field"] for error in answers[4]["body"]["errors"]] == ["legalTextId"]
    rows = await _history(client, path, contextId=1)
    assert [row["sendId"] for row in rows] == [None, "1", "2", "3"]
    assert [row["isActive"] for row in rows] == [False, False, False, True]
    assert rows[0] == {
        **active,
        "isActive": False,
        "optoutDate": rows[1]["optinDate"],
        "updateDate": rows[1]["optinDate"],
    }
    assert rows[1]["optoutDate"] == rows[2]["optoutDate"] == rows[2]["creationDate"] == rows[2]["updateDate"]
    dates = [parse_time(date) for date in (rows[1]["optinDate"], rows[2]["creationDate"], rows[3]["optinDate"])]
    assert dates[0] < dates[1] < dates[2]
    assert [row["isActive"] for row in await _history(client, path)] == [False, False, False, True, True]
    assert [row["isActive"] for row in await _history(client, other_path)] == [True]


async def test_10_concurrent_legal_texts_get_consecutive_versions(client: httpx.AsyncClient) -> None:
    newest = await _newest_version(client, "commercial_email")
    legal_texts = await asyncio.gather(*(_create_text(client, "commercial_email") for _ in range(10)))
    assert sorted(text["version"] for text in legal_texts) == list(range(newest + 1, newest + 11))


# the history of consents, compared with a model

State = dict[Key, int]
"""The id of the active optin, by key. Keys without an active optin are left out."""

KEYS: list[Key] = [
    ("commercial", "email", None), ("commercial", "email", 1), ("commercial", "sms", 1), ("loyalty", "email", None)
]  # fmt: skip
KINDS = ["agree", "agree", "refuse", "deleteByType", "disable"]
ACTIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(KEYS), st.integers(0, 9)), min_size=8, max_size=20)


def _next_state(state: State, action: str, key: Key, target: int) -> State:
    """Return the state after an action. `target` is the id of the optin that the action creates or disables."""
    match action:
        case "disable":
            return {other: optin for other, optin in state.items() if optin != target}
        case "deleteByType":
            return {other: optin for other, optin in state.items() if other[:2] != key[:2]}
    others = {other: optin for other, optin in state.items() if other != key}
    return {**others, key: target} if action == "agree" else others


async def _act(client: httpx.AsyncClient, path: str, action: str, key: Key, target: int) -> httpx.Response:
    kind = {"optinType": key[0], "optinChannel": key[1]}
    match action:
        case "disable":
            return await client.delete(f"{path}/optins/{target}")
        case "deleteByType":
            return await client.delete(f"{path}/optins", params=kind)
    context = {} if key[2] is None else {"contextId": key[2]}
    return await client.post(f"{path}/optins", json={**kind, **context, "isActive": action == "agree"})


def _key(row: Row) -> Key:
    return row["optinType"], row["optinChannel"], row["contextId"]


def _active_at(row: Row, moment: datetime) -> bool:
    optin_date, optout_date = row["optinDate"], row["optoutDate"]
    if optin_date is None or parse_time(optin_date) > moment:
        return False
    return optout_date is None or parse_time(optout_date) > moment


@given(actions=ACTIONS)
# Shrinking would take minutes on real servers.
@settings(max_examples=15, deadline=None, print_blob=True, phases=[Phase.generate])
async def test_the_history_shows_the_active_optins_at_any_time(
    client: httpx.AsyncClient, actions: list[tuple[str, Key, int]]
) -> None:
    path = await _new_visitor_path(client)
    states: list[State] = [{}]
    optins: list[Row] = []
    creation_dates: list[str | None] = []
    for action, key, number in actions:
        target = optins[number % len(optins)]["optinId"] if optins else 1
        answer = await _act(client, path, action, key, target)
        is_new = action in ("agree", "refuse")
        if is_new:
            optins.append(answer.json()["data"])
            target = optins[-1]["optinId"]
        state = _next_state(states[-1], action, key, target)
        success = 201 if is_new else 204
        assert answer.status_code == (success if is_new or state != states[-1] else 404)
        if answer.status_code != 404:
            states.append(state)
            creation_dates.append(optins[-1]["creationDate"] if is_new else None)

    rows = {row["optinId"]: row for row in await _history(client, path)}
    assert Counter(map(_key, rows.values())) == Counter(map(_key, optins))
    assert {number: _key(row) for number, row in rows.items() if row["isActive"]} == {
        number: key for key, number in states[-1].items()
    }
    moments = []
    for (before, state), date in zip(pairwise(states), creation_dates, strict=True):
        dates = {rows[number]["optoutDate"] for number in set(before.values()) - set(state.values())}
        dates |= {date} if date else set()
        assert len(dates) == 1
        moments.append(parse_time(dates.pop()))
        assert {number for number, row in rows.items() if _active_at(row, moments[-1])} == set(state.values())
    assert moments == sorted(set(moments))


# JSON, Avro and HTTP


async def _changes_of(stack: Stack, visitor_id: str, count: int) -> list[Row]:
    """Wait for `count` changes of a visitor's optins and return them in their order."""

    async def enough_changes() -> list[Row]:
        values = [plain(record.value) for record in await stack.read(names.changes("optins", "optin")) if record.value]
        changes = [value for value in values if value["visitorId"] == visitor_id]
        return changes if len(changes) >= count else []

    rows: list[Row] = await eventually(f"{count} changes", enough_changes)
    return rows


async def test_an_optin_is_stored_and_published_as_json_as_avro_and_over_http(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    path = await _new_visitor_path(client)
    visitor_id = _visitor_id(path)
    text = await _create_text(client, "terms")
    body = _optin_body(contextId=2**40, clientId="app", sendId="s-1", legalTextId=text["id"], lastOpenedDate=LONG_AGO)
    parts = {"path": {"visitorId": visitor_id}, "body": {**body, "lastOpenedDate": parse_time(LONG_AGO)}}
    request_ids = [await stack.send("optins.create", parts, content_type=JSON)]
    await stack.result("optins.create", request_ids[0])
    request_ids.append(await stack.send("optins.create", parts, content_type=AVRO))
    await stack.result("optins.create", request_ids[1])
    answer = await client.post(f"{path}/optins", json=body, headers={"Idempotency-Key": request_ids[0] + "-http"})
    request_ids.append(f"local/{request_ids[0]}-http")

    results = [plain((await stack.result("optins.create", request_id)).value) for request_id in request_ids]
    assert [result["status"] for result in results] == [201, 201, 201]
    assert (answer.status_code, answer.json()) == (201, results[2]["body"])
    rows = [result["body"]["data"] for result in results]
    for row in rows:
        dates = dict.fromkeys(("optinDate", "creationDate", "updateDate"), row["creationDate"])
        assert row == {**body, **dates, "optoutDate": None, "optinId": row["optinId"], "visitorId": visitor_id}

    changes = await _changes_of(stack, visitor_id, 5)
    assert [(change["id"], change["action"], change["revision"], change["causedBy"]) for change in changes] == [
        (str(rows[0]["optinId"]), "created", 1, request_ids[0]),
        (str(rows[0]["optinId"]), "updated", 2, request_ids[1]),
        (str(rows[1]["optinId"]), "created", 1, request_ids[1]),
        (str(rows[1]["optinId"]), "updated", 2, request_ids[2]),
        (str(rows[2]["optinId"]), "created", 1, request_ids[2]),
    ]
    history = await _history(client, path)
    assert [changes[index]["after"] for index in (0, 2, 4)] == rows
    assert [changes[index]["after"] for index in (1, 3, 4)] == history
    assert {change["resource"] for change in changes} == {"optin"}
