"""Rules of rewards, challenges and the points of participants."""

import asyncio
import json
import random
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support import data, oracle
from tests.support.answers import error_codes, parse_time
from tests.support.load import Message, send_all
from tests.support.oracle import Sent
from tests.support.stack import PARTITIONS, Stack, eventually, request_topic
from topics import names
from topics.envelope import AVRO, JSON, RequestHeaders

LONG_AGO, FAR_OFF = "2001-02-03T04:05:06Z", "2101-02-03T04:05:06Z"
ADD = "visitorChallenges.addPoints"
NOT_RUNNING: dict[str, dict[str, str]] = {
    "a draft": {"status": "draft"},
    "ended": {"status": "ended"},
    "before its start": {"startDate": FAR_OFF},
    "after its end": {"endDate": LONG_AGO},
}
JsonObject = dict[str, Any]


async def _get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["data"] if isinstance(body, dict) else body


async def _patch(client: httpx.AsyncClient, path: str, **fields: Any) -> None:
    answer = await client.patch(path, json=fields)
    assert (answer.status_code, answer.content) == (204, b""), answer.text


async def _center(client: httpx.AsyncClient) -> str:
    return str((await data.create(client, "/centers", data.center()))["pcCode"])


async def _challenge(client: httpx.AsyncClient, **fields: Any) -> JsonObject:
    return await data.create(client, "/challenges", data.challenge(await _center(client), **fields))


async def _join(client: httpx.AsyncClient, challenge: JsonObject, **fields: Any) -> JsonObject:
    """A new participant of a challenge, with its `path`."""
    visitor = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    path = f"/visitors/{visitor['visitorId']}/visitorChallenges"
    participant = await data.create(client, path, {"challengeId": challenge["challengeId"], **fields})
    return {**participant, "path": f"{path}/{participant['visitorChallengeId']}"}


async def _add(client: httpx.AsyncClient, participant: JsonObject, points: int) -> httpx.Response:
    return await client.post(f"{participant['path']}/points", json={"points": points})


async def _state(client: httpx.AsyncClient, participant: JsonObject) -> JsonObject:
    rows = await _get(client, f"/visitors/{participant['visitorId']}/visitorChallenges")
    return next(row for row in rows if row["visitorChallengeId"] == participant["visitorChallengeId"])


async def _histories(client: httpx.AsyncClient, participant: JsonObject, **query: Any) -> list[JsonObject]:
    rows: list[JsonObject] = await _get(client, f"/visitors/{participant['visitorId']}/challengeHistories", **query)
    return rows


async def _unlocked(client: httpx.AsyncClient, challenge: JsonObject) -> set[int]:
    path = f"/challenges/{challenge['challengeId']}/visitorChallenges"
    return {row["visitorChallengeId"] for row in await _get(client, path, rewardUnlocked=True, limit=500)}


async def _terminate(client: httpx.AsyncClient, challenge: JsonObject, *, ignore: bool) -> httpx.Response:
    return await client.post(f"/challenges/{challenge['challengeId']}/terminate", json={"ignoreEndDate": ignore})


def _totals_add_up(histories: list[JsonObject]) -> bool:
    """True if each total is the previous total plus the points of the row."""
    totals = [0, *(row["totalPoints"] for row in histories)]
    return all(previous + row["points"] == row["totalPoints"] for previous, row in zip(totals, histories, strict=False))


# rewards


async def _collector(client: httpx.AsyncClient) -> JsonObject:
    visitor = await data.create(client, "/visitors", data.visitor(await _center(client)))
    return {**visitor, "pcCode": visitor["acquisitionPcCode"], "path": f"/visitors/{visitor['visitorId']}/rewards"}


def _reward(collector: JsonObject, **fields: Any) -> dict[str, Any]:
    return {
        "pcCode": collector["pcCode"], "startDate": LONG_AGO, "balance": 0, "outsideOptin": False, "threshold": 10,
        **fields,
    }  # fmt: skip


async def test_a_reward_is_converted_when_its_balance_reaches_the_threshold(client: httpx.AsyncClient) -> None:
    collector = await _collector(client)
    converted_by_balance = {"9.999999999": False, "10": True, "10.01": True}
    for balance, converted in converted_by_balance.items():
        reward = await data.create(client, collector["path"], _reward(collector, balance=float(balance)))
        assert reward["isConverted"] is converted, balance
    reward = await data.create(client, collector["path"], _reward(collector, balance=9))
    path = f"{collector['path']}/{reward['rewardId']}"
    for patch, converted in (({"balance": 10}, True), ({"threshold": 11}, False), ({"threshold": -1}, True)):
        await _patch(client, path, outsideOptin=False, **patch)
        assert (await _get(client, path))["isConverted"] is converted, patch


async def test_an_update_of_a_reward_requires_outside_optin_and_changes_only_the_sent_fields(
    client: httpx.AsyncClient,
) -> None:
    collector = await _collector(client)
    created = await data.create(client, collector["path"], _reward(collector, endDate=FAR_OFF, isScan=True))
    path = f"{collector['path']}/{created['rewardId']}"
    refused = await client.patch(path, json={"balance": 5})
    assert (refused.status_code, error_codes(refused)) == (400, [("outsideOptin", "required")])
    await _patch(client, path, outsideOptin=True, endDate=None)
    updated = await _get(client, path)
    assert updated == {**created, "outsideOptin": True, "endDate": None, "updateDate": updated["updateDate"]}
    assert parse_time(updated["updateDate"]) > parse_time(created["updateDate"])


@pytest.mark.parametrize("balance", ["31.40", "0.1", "0.3", "-7.005", "12345678901234567890.123456789"])
async def test_a_balance_is_returned_exactly(client: httpx.AsyncClient, balance: str) -> None:
    collector = await _collector(client)
    body = json.dumps(_reward(collector, balance="@")).replace('"@"', balance)
    created = await client.post(collector["path"], content=body, headers={"content-type": "application/json"})
    assert created.status_code == 201, created.text
    path = f"{collector['path']}/{created.json()['data']['rewardId']}"
    for answer in (created, await client.get(path)):
        assert str(answer.json(parse_float=Decimal)["data"]["balance"]) == balance


ZEROS = ("31.4000000000", "31.40000000000000000000000000", "0E-10", "0E50", "1E2", "-0.0", f"7.005{'0' * 60}")


async def test_a_balance_with_trailing_zeros_is_stored_exactly(stack: Stack, client: httpx.AsyncClient) -> None:
    collector = await _collector(client)
    for balance in ZEROS:
        body = json.dumps(_reward(collector, balance="@")).replace('"@"', balance)
        created = await client.post(collector["path"], content=body, headers={"content-type": "application/json"})
        assert created.status_code == 201, (balance, created.text)
        path = f"{collector['path']}/{created.json()['data']['rewardId']}"
        patch = f'{{"outsideOptin": true, "balance": {balance}}}'
        patched = await client.patch(path, content=patch, headers={"content-type": "application/json"})
        assert patched.status_code == 204, (balance, patched.text)
        for answer in (created, await client.get(path)):
            assert answer.json(parse_float=Decimal)["data"]["balance"] == Decimal(balance)
    assert len(await _get(client, collector["path"])) == len(ZEROS)

    path_params = {"visitorId": collector["visitorId"]}
    for balance in ZEROS:
        value = json.dumps({"path": path_params, "body": _reward(collector, balance="@")}).replace('"@"', balance)
        request_id = str(uuid4())
        headers = RequestHeaders(request_id, "rewards.create", "gateway/test", JSON).encode()
        await stack.raw(request_topic("rewards.create"), value.encode(), headers)
        result = (await stack.result("rewards.create", request_id)).value
        assert (result["status"], result["body"]["data"]["balance"]) == (201, Decimal(balance))


@pytest.mark.parametrize("balance", ["NaN", "Infinity", '"31.40"', "true", "null", "0.1234567891", "1e30"])
async def test_a_balance_must_be_a_number_with_at_most_9_decimals(client: httpx.AsyncClient, balance: str) -> None:
    collector = await _collector(client)
    body = json.dumps(_reward(collector, balance="@")).replace('"@"', balance)
    answer = await client.post(collector["path"], content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error_codes(answer) == [(None, "not_json")] or [field for field, _ in error_codes(answer)] == ["balance"]
    assert await _get(client, collector["path"]) == []


async def test_rewards_are_filtered_by_center(client: httpx.AsyncClient) -> None:
    collector, other_pc_code = await _collector(client), await _center(client)
    reward = await data.create(client, collector["path"], _reward(collector))
    other_reward = await data.create(client, collector["path"], _reward(collector, pcCode=other_pc_code))
    assert await _get(client, collector["path"]) == [reward, other_reward]
    assert await _get(client, collector["path"], pcCode=other_pc_code) == [other_reward]


async def test_a_reward_is_found_under_its_own_visitor_only(client: httpx.AsyncClient) -> None:
    collector, other_collector = await _collector(client), await _collector(client)
    reward = await data.create(client, collector["path"], _reward(collector))
    path = f"{other_collector['path']}/{reward['rewardId']}"
    for answer in (await client.get(path), await client.patch(path, json={"outsideOptin": True})):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "reward_not_found")])
    assert await _get(client, f"{collector['path']}/{reward['rewardId']}") == reward


async def test_a_reward_needs_a_center_and_a_visitor_that_exist(client: httpx.AsyncClient) -> None:
    collector = await _collector(client)
    answer = await client.post(collector["path"], json=_reward(collector, pcCode="FR-NO-ONE"))
    assert (answer.status_code, error_codes(answer)) == (400, [("pcCode", "center_not_found")])
    answer = await client.post(f"/visitors/{data.ABSENT_VISITOR_ID}/rewards", json=_reward(collector))
    assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


# challenges


def _texts(**texts: str) -> list[dict[str, str]]:
    return [{"localeCode": code.replace("_", "-"), "value": value} for code, value in texts.items()]


async def test_a_created_challenge_is_returned_unchanged(client: httpx.AsyncClient) -> None:
    fields = {"timezone": "Europe/Paris", "imageUrl": "https://example.com/a.png", "rewardExpirationSeconds": 86_400}
    body = data.challenge(await _center(client), displayName=_texts(fr_FR="Pas", en_GB="Steps"), **fields)
    challenge = await data.create(client, "/challenges", body)
    sent = {name: value for name, value in body.items() if name != "displayName"}
    assert {name: challenge[name] for name in sent} == sent
    assert [(text["localeCode"], text["value"]) for text in challenge["displayName"]] == [
        ("fr-FR", "Pas"),
        ("en-GB", "Steps"),
    ]
    assert challenge["createdAt"] == challenge["updatedAt"]
    for text in challenge["displayName"]:
        assert text["creationDate"] == text["updateDate"] == challenge["createdAt"]
    answer = await client.get(f"/challenges/{challenge['challengeId']}")
    assert answer.json() == {"data": challenge, "metadata": {"version": 1, "_links": {}}}


async def test_an_update_of_a_challenge_sets_updated_at_and_null_clears_the_image(client: httpx.AsyncClient) -> None:
    created = await _challenge(client, imageUrl="https://example.com/a.png", displayName=_texts(fr_FR="Pas"))
    path = f"/challenges/{created['challengeId']}"
    await _patch(client, path, imageUrl=None, winnerNumber=7)
    updated = await _get(client, path)
    assert updated == {**created, "imageUrl": None, "winnerNumber": 7, "updatedAt": updated["updatedAt"]}
    assert parse_time(updated["updatedAt"]) > parse_time(created["updatedAt"])
    refused = await client.patch(path, json={"winnerNumber": None, "timezone": None})
    assert sorted(error_codes(refused)) == [("timezone", "null_refused"), ("winnerNumber", "null_refused")]


async def test_texts_are_replaced_by_locale_and_other_locales_stay(client: httpx.AsyncClient) -> None:
    created = await _challenge(client, displayName=_texts(fr_FR="Pas", en_GB="Steps"), description=_texts(fr_FR="Long"))
    path = f"/challenges/{created['challengeId']}"
    await _patch(client, path, displayName=_texts(FR_fr="Marche", de_DE="Schritte"))
    updated = await _get(client, path)
    old_texts = {text["localeCode"]: text for text in created["displayName"]}
    new_texts = {text["localeCode"]: text for text in updated["displayName"]}
    assert new_texts.keys() == {"fr-FR", "en-GB", "de-DE"}
    assert new_texts["en-GB"] == old_texts["en-GB"]
    assert new_texts["fr-FR"] == {**old_texts["fr-FR"], "value": "Marche", "updateDate": updated["updatedAt"]}
    assert new_texts["de-DE"]["creationDate"] == new_texts["de-DE"]["updateDate"] == updated["updatedAt"]
    assert updated["description"] == created["description"]


async def test_unknown_locales_timezones_and_centers_are_400(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    fields = {
        "displayName": _texts(xx_XX="?"),
        "rewardDetail": _texts(fr_FR="oui", xx_YY="?"),
        "timezone": "Mars/Base",
    }
    codes = [
        ("displayName[0].localeCode", "unknown_locale"),
        ("rewardDetail[1].localeCode", "unknown_locale"),
        ("timezone", "unknown_timezone"),
    ]
    create_answer = await client.post("/challenges", json=data.challenge(challenge["pcCode"], **fields))
    update_answer = await client.patch(f"/challenges/{challenge['challengeId']}", json=fields)
    for answer in (create_answer, update_answer):
        assert (answer.status_code, sorted(error_codes(answer), key=str)) == (400, codes)
    create_answer = await client.post("/challenges", json=data.challenge("FR-NO-ONE"))
    update_answer = await client.patch(f"/challenges/{challenge['challengeId']}", json={"pcCode": "FR-NO-ONE"})
    for answer in (create_answer, update_answer):
        assert (answer.status_code, error_codes(answer)) == (400, [("pcCode", "center_not_found")])
    assert await _get(client, f"/challenges/{challenge['challengeId']}") == challenge


async def test_all_texts_of_one_field_together_have_a_length_limit(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    path = f"/challenges/{challenge['challengeId']}"
    for code in ("fr_FR", "en_GB", "de_DE", "nl_NL", "it_IT"):
        await _patch(client, path, displayName=_texts(**{code: "x" * 200_000}))
    refused = await client.patch(path, json={"displayName": _texts(es_ES="x")})
    assert (refused.status_code, error_codes(refused)) == (400, [("displayName", "too_long")])
    await _patch(client, path, displayName=_texts(fr_FR="x" * 199_999, es_ES="x"), description=_texts(fr_FR="Long"))
    body = data.challenge(challenge["pcCode"], rewardDetail=[
        {"localeCode": code, "value": "x" * 200_000} for code in ("fr-FR", "en-GB", "de-DE", "nl-NL", "it-IT")
    ])  # fmt: skip
    await data.create(client, "/challenges", body)
    body["rewardDetail"].append({"localeCode": "es-ES", "value": "x"})
    refused = await client.post("/challenges", json=body)
    assert (refused.status_code, error_codes(refused)) == (400, [("rewardDetail", "too_long")])


async def test_an_unknown_challenge_is_404(client: httpx.AsyncClient) -> None:
    path = f"/challenges/{2**62}"
    for answer in (
        await client.get(path),
        await client.patch(path, json={"winnerNumber": 1}),
        await client.get(f"{path}/visitorChallenges"),
        await client.post(f"{path}/terminate", json={"ignoreEndDate": True}),
    ):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "challenge_not_found")])


async def test_challenges_are_filtered_by_center_type_status_and_dates(client: httpx.AsyncClient) -> None:
    draft = await _challenge(client, startDate="2020-01-01T00:00:00Z", endDate="2020-02-01T00:00:00Z", status="draft")
    pc_code = draft["pcCode"]
    body = data.challenge(pc_code, startDate="2020-01-02T00:00:00Z", endDate="2020-02-02T00:00:00Z")
    active = await data.create(client, "/challenges", body)
    other_challenge = await _challenge(client)

    async def list_challenges(**query: str) -> list[JsonObject]:
        challenges: list[JsonObject] = await _get(client, "/challenges", pcCode=pc_code, **query)
        return challenges

    assert await list_challenges() == [draft, active]
    assert await list_challenges(type="step_counter", status="active") == [active]
    assert await list_challenges(startDate="2020-01-02T00:00:00Z") == [active]
    assert await list_challenges(startDate="2020-01-01T00:00:00Z") == [draft, active]
    assert await list_challenges(startDate="2020-01-02T00:00:01Z") == []
    assert await list_challenges(endDate="2020-02-01T00:00:00Z") == [draft]
    assert await list_challenges(endDate="2020-01-31T23:59:59Z") == []
    assert await list_challenges(sort="-challengeId", limit="1") == [active]
    assert await _get(client, "/challenges", pcCode=other_challenge["pcCode"]) == [other_challenge]
    refused = await client.get("/challenges", params={"type": "chess"})
    assert (refused.status_code, error_codes(refused)) == (400, [("type", "not_allowed")])


# Joining


async def test_a_new_participant_starts_with_zero_points(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge, registeredAt="2017-07-24T19:32:28+02:00")
    expected = {
        "challengeId": challenge["challengeId"], "points": 0, "totalEntryCount": 0, "bonusEntryCount": 0,
        "lastEntryDate": None, "rewardUnlocked": False, "rewardReceived": False,
        "registeredDate": "2017-07-24T17:32:28Z",
    }  # fmt: skip
    assert {name: participant[name] for name in expected} == expected
    assert participant["creationDate"] == participant["updateDate"]
    later_participant = await _join(client, challenge)
    dates = (participant["creationDate"], later_participant["registeredDate"], later_participant["creationDate"])
    assert sorted(dates, key=parse_time) == list(dates)


async def test_a_visitor_joins_a_challenge_once(client: httpx.AsyncClient) -> None:
    first, second = await _challenge(client), await _challenge(client)
    participant = await _join(client, first)
    path = f"/visitors/{participant['visitorId']}/visitorChallenges"
    refused = await client.post(path, json={"challengeId": first["challengeId"]})
    assert (refused.status_code, error_codes(refused)) == (409, [("challengeId", "visitor_challenge_exists")])
    second_participant = await data.create(client, path, {"challengeId": second["challengeId"]})
    assert [row["visitorChallengeId"] for row in await _get(client, path)] == [
        participant["visitorChallengeId"], second_participant["visitorChallengeId"],
    ]  # fmt: skip


async def test_one_of_20_concurrent_joins_succeeds(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    visitor = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    parts = {"path": {"visitorId": visitor["visitorId"]}, "body": {"challengeId": challenge["challengeId"]}}
    messages = [Message(str(uuid4()), "visitorChallenges.create", JSON, parts) for _ in range(20)]
    statuses = await _statuses_of(stack, messages)
    assert sorted(statuses.values()) == [201] + [409] * 19
    assert len(await _get(client, f"/visitors/{visitor['visitorId']}/visitorChallenges")) == 1


@pytest.mark.parametrize("case", NOT_RUNNING)
async def test_joining_a_challenge_that_does_not_run_is_409(client: httpx.AsyncClient, case: str) -> None:
    challenge = await _challenge(client, **NOT_RUNNING[case])
    visitor = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    path = f"/visitors/{visitor['visitorId']}/visitorChallenges"
    answer = await client.post(path, json={"challengeId": challenge["challengeId"]})
    assert (answer.status_code, error_codes(answer)) == (409, [(None, "challenge_not_running")])
    assert await _get(client, path) == []


async def test_joining_an_unknown_challenge_is_400_and_an_unknown_visitor_is_404(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    visitor = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    answer = await client.post(f"/visitors/{visitor['visitorId']}/visitorChallenges", json={"challengeId": 2**62})
    assert (answer.status_code, error_codes(answer)) == (400, [("challengeId", "challenge_not_found")])
    for challenge_id in (challenge["challengeId"], 2**62):
        answer = await client.post(
            f"/visitors/{data.ABSENT_VISITOR_ID}/visitorChallenges", json={"challengeId": challenge_id}
        )
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


async def test_joining_a_challenge_that_ends_at_the_same_time_is_409(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    visitor = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    parts = {"path": {"visitorId": visitor["visitorId"]}, "body": {"challengeId": challenge["challengeId"]}}
    async with stack.engine.begin() as conn:
        update = f"update challenges set status = 'ended' where challenge_id = {challenge['challengeId']}"
        await conn.exec_driver_sql(update)
        request_id = await stack.send("visitorChallenges.create", parts)
        await stack.await_lock_wait()
    assert (await stack.result("visitorChallenges.create", request_id)).value["status"] == 409


async def test_a_visitors_challenges_are_filtered_by_center_type_and_date(client: httpx.AsyncClient) -> None:
    first, second = await _challenge(client), await _challenge(client)
    first_participant = await _join(client, first, registeredAt="2020-01-01T00:00:00Z")
    path = f"/visitors/{first_participant['visitorId']}/visitorChallenges"
    body = {"challengeId": second["challengeId"], "registeredAt": "2020-01-02T00:00:00Z"}
    second_participant = await data.create(client, path, body)
    ids = [first_participant["visitorChallengeId"], second_participant["visitorChallengeId"]]

    async def list_ids(**query: str) -> list[int]:
        return [row["visitorChallengeId"] for row in await _get(client, path, **query)]

    assert await list_ids(type="step_counter") == ids
    assert await list_ids(pcCode=second["pcCode"]) == ids[1:]
    assert await list_ids(registerDateSince="2020-01-02T00:00:00Z") == ids[1:]
    assert await list_ids(registerDateUntil="2020-01-02T00:00:00Z") == ids[:1]
    assert await list_ids(limit="1", offset="1") == ids[1:]


# Points


async def test_added_points_are_summed_counted_as_entries_and_recorded_in_the_history(
    client: httpx.AsyncClient,
) -> None:
    participant = await _join(client, await _challenge(client))
    answer = await _add(client, participant, 30)
    assert (answer.status_code, answer.content) == (204, b"")
    first = await _state(client, participant)
    assert (first["points"], first["totalEntryCount"], first["bonusEntryCount"]) == (30, 1, 0)
    assert (await _add(client, participant, -10)).status_code == 204
    second = await _state(client, participant)
    assert (second["points"], second["totalEntryCount"]) == (20, 2)
    for name in ("lastEntryDate", "updateDate"):
        assert parse_time(participant["creationDate"]) < parse_time(first[name]) < parse_time(second[name])

    histories = await _histories(client, participant)
    expected = {
        "challengeId": participant["challengeId"], "visitorId": participant["visitorId"],
        "visitorChallengeId": participant["visitorChallengeId"], "bonusActivated": False, "origin": "local",
        "action": "increment",
    }  # fmt: skip
    assert [{name: row[name] for name in expected} for row in histories] == [expected, expected]
    assert [(row["points"], row["totalPoints"]) for row in histories] == [(30, 30), (-10, 20)]
    assert [row["participationDate"] for row in histories] == [first["lastEntryDate"], second["lastEntryDate"]]


async def test_points_never_go_below_zero_or_beyond_64_bits(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _add(client, participant, 5)
    refused = await _add(client, participant, -6)
    assert (refused.status_code, error_codes(refused)) == (400, [("points", "points_below_zero")])
    refused = await _add(client, participant, 2**63 - 5)
    assert (refused.status_code, error_codes(refused)) == (400, [("points", "out_of_range")])
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (5, 1)
    assert (await _add(client, participant, -5)).status_code == 204
    assert (await _add(client, participant, 2**63 - 1)).status_code == 204
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (2**63 - 1, 3)
    assert [row["totalPoints"] for row in await _histories(client, participant)] == [5, 0, 2**63 - 1]


@pytest.mark.parametrize("case", NOT_RUNNING)
async def test_adding_points_while_the_challenge_does_not_run_is_409(client: httpx.AsyncClient, case: str) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    await _patch(client, f"/challenges/{challenge['challengeId']}", **NOT_RUNNING[case])
    answer = await _add(client, participant, 5)
    assert (answer.status_code, error_codes(answer)) == (409, [(None, "challenge_not_running")])
    assert (await _state(client, participant))["totalEntryCount"] == 0
    assert await _histories(client, participant) == []


async def test_a_participant_is_found_under_its_own_visitor_only(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant, other_participant = await _join(client, challenge), await _join(client, challenge)
    path = f"/visitors/{other_participant['visitorId']}/visitorChallenges/{participant['visitorChallengeId']}"
    for answer in (
        await client.post(f"{path}/points", json={"points": 5}),
        await client.patch(path, json={"points": 5}),
        await client.delete(path),
    ):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_challenge_not_found")])
    assert (await _state(client, participant))["points"] == (await _state(client, other_participant))["points"] == 0


async def test_corrected_points_and_a_higher_bonus_count_are_recorded_in_the_history(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _add(client, participant, 30)
    await _patch(client, participant["path"], bonusEntryCount=1)
    await _patch(client, participant["path"], points=12)
    await _patch(client, participant["path"], points=12, bonusEntryCount=0)
    await _patch(client, participant["path"], points=20, bonusEntryCount=2)
    await _add(client, participant, 1)
    rows = await _histories(client, participant)
    assert [(row["points"], row["totalPoints"], row["bonusActivated"]) for row in rows] == [
        (30, 30, False), (0, 30, True), (-18, 12, False), (8, 20, True), (1, 21, False),
    ]  # fmt: skip
    assert [row["action"] == "increment" for row in rows] == [True, False, False, False, True]
    assert _totals_add_up(rows)
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"], state["bonusEntryCount"]) == (21, 2, 2)


async def test_a_correction_changes_only_the_sent_fields(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _add(client, participant, 3)
    before = await _state(client, participant)
    patch = {"lastEntryDate": None, "rewardUnlocked": True, "rewardReceived": True, "totalEntryCount": 9}
    await _patch(client, participant["path"], **patch)
    after = await _state(client, participant)
    assert after == {**before, **patch, "updateDate": after["updateDate"]}
    assert parse_time(after["updateDate"]) > parse_time(before["updateDate"])
    assert len(await _histories(client, participant)) == 1
    refused = await client.patch(participant["path"], json={"points": None, "rewardUnlocked": None})
    assert sorted(error_codes(refused)) == [("points", "null_refused"), ("rewardUnlocked", "null_refused")]
    refused = await client.patch(participant["path"], json={"points": -1})
    assert (refused.status_code, error_codes(refused)) == (400, [("points", "points_below_zero")])
    assert await _state(client, participant) == after


async def test_points_are_refused_when_the_entry_count_is_at_its_maximum(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _patch(client, participant["path"], totalEntryCount=2**63 - 1)
    refused = await _add(client, participant, 1)
    assert refused.status_code == 400, refused.text
    assert (await _state(client, participant))["points"] == 0


async def test_leaving_a_challenge_deletes_the_histories_and_moves_the_others_up(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenge = await _challenge(client)
    first, second = await _join(client, challenge), await _join(client, challenge)
    await _add(client, first, 100)
    await _add(client, second, 50)

    async def position() -> int:
        rows = await _get(client, f"/visitors/{second['visitorId']}/rankings")
        return int(rows[0]["visitorRankingPosition"])

    assert await position() == 2
    deleted = await client.delete(first["path"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert await position() == 1
    for answer in (await client.delete(first["path"]), await _add(client, first, 1)):
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_challenge_not_found")])
    assert await _histories(client, first) == []
    counts = await stack.rows(
        "select level, bucket, participants from ranking_counts where challenge_id = :id", id=challenge["challengeId"]
    )
    assert [tuple(row) for row in counts] == [(0, 50, 1)]


async def test_leaving_during_an_erasure_reduces_the_ranking_counts_once(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenges = [await _challenge(client) for _ in range(3)]
    for number in range(15):
        first_participant = await _join(client, challenges[0])
        path, participants = f"/visitors/{first_participant['visitorId']}", [first_participant]
        analytics_id = await data.analytics_id(client, first_participant["visitorId"])
        for challenge in challenges[1:]:
            body = {"challengeId": challenge["challengeId"]}
            created = await data.create(client, f"{path}/visitorChallenges", body)
            participants.append({**created, "path": f"{path}/visitorChallenges/{created['visitorChallengeId']}"})
        assert [(await _add(client, participant, 1 + number)).status_code for participant in participants] == [204] * 3
        erased, *others = await asyncio.gather(
            client.post("/visitors/erase", json=[{"analyticsId": analytics_id}]),
            *(client.delete(participant["path"]) for participant in participants),
            *(_add(client, participant, 70) for participant in participants),
        )
        assert erased.json()["data"] == {"success": [analytics_id], "failed": []}
        assert {answer.status_code for answer in others} <= {204, 404}
    await _join(client, challenges[0])
    assert await stack.rows(
        "select * from ranking_counts where challenge_id = any(:ids)", ids=[row["challengeId"] for row in challenges]
    ) == []  # fmt: skip


async def test_a_visitor_who_left_can_join_again_with_zero_points(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    await _add(client, participant, 7)
    await client.delete(participant["path"])
    path = f"/visitors/{participant['visitorId']}/visitorChallenges"
    rejoined = await data.create(client, path, {"challengeId": challenge["challengeId"]})
    assert rejoined["visitorChallengeId"] != participant["visitorChallengeId"]
    assert (rejoined["points"], await _histories(client, participant)) == (0, [])


async def test_challenge_histories_are_an_array_of_all_rows_oldest_first(client: httpx.AsyncClient) -> None:
    first, second = await _challenge(client), await _challenge(client)
    participant = await _join(client, first)
    path = f"/visitors/{participant['visitorId']}"
    other_participant = await data.create(client, f"{path}/visitorChallenges", {"challengeId": second["challengeId"]})
    other_participant["path"] = f"{path}/visitorChallenges/{other_participant['visitorChallengeId']}"
    answers = await asyncio.gather(*(_add(client, participant, 1) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {204}
    await _add(client, other_participant, 5)
    answer = await client.get(f"{path}/challengeHistories")
    assert isinstance(answer.json(), list)
    assert [row["totalPoints"] for row in answer.json()] == [*range(1, 31), 5]
    assert await _histories(client, participant, challengeId=first["challengeId"]) == answer.json()[:-1]
    assert await _histories(client, participant, challengeId=second["challengeId"]) == answer.json()[-1:]
    refused = await client.get(f"/visitors/{data.ABSENT_VISITOR_ID}/challengeHistories")
    assert (refused.status_code, error_codes(refused)) == (404, [(None, "visitor_not_found")])


# Participants and termination


async def test_participants_are_filtered_by_reward_unlocked(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    locked, unlocked = await _join(client, challenge), await _join(client, challenge)
    await _join(client, await _challenge(client))
    await _patch(client, unlocked["path"], rewardUnlocked=True)
    path = f"/challenges/{challenge['challengeId']}/visitorChallenges"
    states = [await _state(client, locked), await _state(client, unlocked)]
    assert await _get(client, path) == states
    assert await _get(client, path, rewardUnlocked=True) == states[1:]
    assert await _get(client, path, rewardUnlocked=False) == states[:1]


async def test_a_challenge_is_terminated_only_after_its_end_date_unless_it_is_ignored(
    client: httpx.AsyncClient,
) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    refused = await _terminate(client, challenge, ignore=False)
    assert (refused.status_code, error_codes(refused)) == (409, [(None, "challenge_not_over")])
    path = f"/challenges/{challenge['challengeId']}"
    assert await _get(client, path) == challenge
    assert await _unlocked(client, challenge) == set()
    await _patch(client, path, endDate=LONG_AGO)
    answer = await _terminate(client, challenge, ignore=False)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await _get(client, path))["status"] == "ended"
    assert await _unlocked(client, challenge) == {participant["visitorChallengeId"]}


async def test_the_first_winner_number_participants_are_unlocked_and_the_earlier_of_equals_wins(
    client: httpx.AsyncClient,
) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    participants = [await _join(client, challenge) for _ in range(4)]
    for index, points in ((0, 10), (2, 20), (1, 20), (3, 30)):
        await _add(client, participants[index], points)
    assert (await _terminate(client, challenge, ignore=True)).status_code == 204
    assert await _unlocked(client, challenge) == {participants[index]["visitorChallengeId"] for index in (3, 2)}
    refused = await _add(client, participants[0], 1)
    assert (refused.status_code, error_codes(refused)) == (409, [(None, "challenge_not_running")])


async def test_a_challenge_without_winners_unlocks_nothing(client: httpx.AsyncClient) -> None:
    for count in (0, -1):
        challenge = await _challenge(client, winnerNumber=count)
        await _join(client, challenge)
        assert (await _terminate(client, challenge, ignore=True)).status_code == 204
        assert (await _get(client, f"/challenges/{challenge['challengeId']}"))["status"] == "ended"
        assert await _unlocked(client, challenge) == set()


async def test_a_second_termination_changes_nothing(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=1)
    first, second = await _join(client, challenge), await _join(client, challenge)
    await _add(client, first, 10)
    await _terminate(client, challenge, ignore=True)
    await _patch(client, second["path"], points=1_000)
    await _patch(client, f"/challenges/{challenge['challengeId']}", status="active", winnerNumber=2)
    path = f"/challenges/{challenge['challengeId']}"
    before = await _get(client, path), await _get(client, f"{path}/visitorChallenges")
    answer = await _terminate(client, challenge, ignore=True)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await _get(client, path), await _get(client, f"{path}/visitorChallenges")) == before
    assert await _unlocked(client, challenge) == {first["visitorChallengeId"]}


# Concurrent requests


async def _statuses_of(stack: Stack, messages: list[Message]) -> dict[str, int]:
    """Send the messages to random partitions and wait for a result for each. Returns the statuses by request id."""
    ids = {message.request_id for message in messages}
    await send_all(stack, Sent(), random.Random(5), messages)

    async def statuses() -> dict[str, int]:
        results = [record for record in await stack.read(names.results("points")) if record.id in ids]
        return {record.id: record.value["status"] for record in results} if len(results) >= len(messages) else {}

    statuses_by_id: dict[str, int] = await eventually("a result for every message", statuses)
    return statuses_by_id


def _add_points_message(participant: JsonObject, points: int, content_type: str = JSON) -> Message:
    path = {name: participant[name] for name in ("visitorId", "visitorChallengeId")}
    return Message(str(uuid4()), ADD, content_type, {"path": path, "body": {"points": points}})


async def _revision(stack: Stack, participant: JsonObject) -> int:
    rows = await stack.rows(
        "select revision from visitor_challenges where visitor_challenge_id = :id",
        id=participant["visitorChallengeId"],
    )
    return int(rows[0].revision)


async def test_50_concurrent_additions_of_points_are_summed_exactly(stack: Stack, client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    answers = await asyncio.gather(*(_add(client, participant, number) for number in range(1, 51)))
    assert {answer.status_code for answer in answers} == {204}
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (sum(range(51)), 50)
    histories = await _histories(client, participant)
    assert sorted(row["points"] for row in histories) == list(range(1, 51))
    assert _totals_add_up(histories)
    assert histories[-1]["totalPoints"] == state["points"]
    assert parse_time(state["lastEntryDate"]) == max(parse_time(row["participationDate"]) for row in histories)
    assert await _revision(stack, participant) == 51


async def test_points_from_all_partitions_with_duplicates_are_added_once_per_request(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenge = await _challenge(client)
    participants = [await _join(client, challenge) for _ in range(3)]
    rng = random.Random(11)
    points_by_visitor: dict[str, list[int]] = {participant["visitorId"]: [] for participant in participants}
    messages = []
    for _ in range(200):
        participant, points = rng.choice(participants), rng.randrange(1, 100)
        points_by_visitor[participant["visitorId"]].append(points)
        messages.append(_add_points_message(participant, points, rng.choice([JSON, AVRO])))
    duplicated = messages + rng.sample(messages, 60)
    rng.shuffle(duplicated)
    assert set((await _statuses_of(stack, duplicated)).values()) == {204}
    for participant in participants:
        expected = points_by_visitor[participant["visitorId"]]
        state = await _state(client, participant)
        assert (state["points"], state["totalEntryCount"]) == (sum(expected), len(expected))
        histories = await _histories(client, participant)
        assert sorted(row["points"] for row in histories) == sorted(expected)
        assert _totals_add_up(histories)
        assert await _revision(stack, participant) == len(expected) + 1


async def test_accepted_and_refused_points_in_one_batch_get_their_own_answers(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    participant, archived = await _join(client, await _challenge(client)), await _challenge(client)
    archived_participant = await _join(client, archived)
    await _patch(client, f"/challenges/{archived['challengeId']}", status="archived")
    unknown_participant = {**participant, "visitorChallengeId": 2**62}
    accepted = [_add_points_message(participant, 2) for _ in range(40)]
    refused = [
        (_add_points_message(archived_participant, 2), 409),
        (_add_points_message(unknown_participant, 2), 404),
        (_add_points_message(participant, -1_000), 400),
    ]
    messages = accepted + [message for message, _ in refused]
    random.Random(3).shuffle(messages)
    statuses = await _statuses_of(stack, messages)
    assert statuses == {message.request_id: 204 for message in accepted} | {
        message.request_id: status for message, status in refused
    }
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (80, 40)


async def _unlock_count(stack: Stack, participant: JsonObject) -> int:
    """How many changes of this participant unlock its reward."""
    key, topic = str(participant["visitorChallengeId"]), names.changes("points", "visitorChallenge")
    records = [record for record in await stack.read(topic) if record.key == key]
    unlocked_by_revision = {record.value["revision"]: record.value["after"]["rewardUnlocked"] for record in records}
    unlocked = [unlocked_by_revision[revision] for revision in sorted(unlocked_by_revision)]
    return sum(not previous and current for previous, current in zip([False, *unlocked], unlocked, strict=False))


async def test_one_of_5_concurrent_terminations_unlocks_rewards_while_points_arrive(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenge = await _challenge(client, winnerNumber=3)
    participants = [await _join(client, challenge) for _ in range(6)]
    parts = {"path": {"challengeId": challenge["challengeId"]}, "body": {"ignoreEndDate": True}}
    rng = random.Random(17)
    points_before = [_add_points_message(rng.choice(participants), rng.randrange(1, 50)) for _ in range(60)]
    terminations = [Message(str(uuid4()), "challenges.terminate", JSON, parts) for _ in range(5)]
    points_after = [_add_points_message(rng.choice(participants), rng.randrange(1, 50)) for _ in range(60)]
    statuses = await _statuses_of(stack, [*points_before, *terminations, *points_after])
    assert {statuses[message.request_id] for message in terminations} == {204}
    assert {statuses[message.request_id] for message in points_before + points_after} <= {204, 409}

    # No points are added after the termination, so the ranking is still that of the termination.
    ranking = await stack.rows(
        "select visitor_challenge_id from visitor_challenges where challenge_id = :id"
        " order by points desc, precedence desc",
        id=challenge["challengeId"],
    )
    winners = {row.visitor_challenge_id for row in ranking[:3]}
    assert await _unlocked(client, challenge) == winners
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    unlock_counts = {
        participant["visitorChallengeId"]: await _unlock_count(stack, participant) for participant in participants
    }
    assert unlock_counts == {key: int(key in winners) for key in unlock_counts}
    assert (await _get(client, f"/challenges/{challenge['challengeId']}"))["status"] == "ended"


async def test_terminations_on_every_partition_unlock_each_winner_once(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    participants = [await _join(client, challenge) for _ in range(3)]
    parts = {"path": {"challengeId": challenge["challengeId"]}, "body": {"ignoreEndDate": True}}
    sends = (stack.send("challenges.terminate", parts, partition=number % PARTITIONS) for number in range(5))
    request_ids = await asyncio.gather(*sends)
    for request_id in request_ids:
        assert (await stack.result("challenges.terminate", request_id)).value["status"] == 204
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert [await _unlock_count(stack, participant) for participant in participants] == [1, 1, 0]
    assert [await _revision(stack, participant) for participant in participants] == [2, 2, 1]
