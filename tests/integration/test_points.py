"""Rewards, challenges and the points of their participants, rule by rule."""

import asyncio
import json
import random
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support import data, oracle
from tests.support.load import Message, send_all
from tests.support.oracle import Sent
from tests.support.stack import PARTITIONS, Stack, eventually, request_topic
from topics import names
from topics.envelope import AVRO, JSON, RequestHeaders

LONG_AGO, FAR_OFF = "2001-02-03T04:05:06Z", "2101-02-03T04:05:06Z"
ADD = "visitorChallenges.addPoints"
OUTSIDE: dict[str, dict[str, str]] = {
    "a draft": {"status": "draft"},
    "ended": {"status": "ended"},
    "not begun": {"startDate": FAR_OFF},
    "over": {"endDate": LONG_AGO},
}
Known = dict[str, Any]


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


def _moment(text: str) -> datetime:
    """Times do not compare as texts: one has a fraction, another has none."""
    return datetime.fromisoformat(text)


async def _get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["data"] if isinstance(found, dict) else found


async def _patch(client: httpx.AsyncClient, path: str, **fields: Any) -> None:
    answer = await client.patch(path, json=fields)
    assert (answer.status_code, answer.content) == (204, b""), answer.text


async def _center(client: httpx.AsyncClient) -> str:
    return str((await data.create(client, "/centers", data.center()))["pcCode"])


async def _challenge(client: httpx.AsyncClient, **fields: Any) -> Known:
    return await data.create(client, "/challenges", data.challenge(await _center(client), **fields))


async def _join(client: httpx.AsyncClient, challenge: Known, **fields: Any) -> Known:
    """A new visitor's part in a challenge: its first state, and its `path`."""
    person = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    path = f"/visitors/{person['visitorId']}/visitorChallenges"
    made = await data.create(client, path, {"challengeId": challenge["challengeId"], **fields})
    return {**made, "path": f"{path}/{made['visitorChallengeId']}"}


async def _add(client: httpx.AsyncClient, participant: Known, points: int) -> httpx.Response:
    return await client.post(f"{participant['path']}/points", json={"points": points})


async def _state(client: httpx.AsyncClient, participant: Known) -> Known:
    rows = await _get(client, f"/visitors/{participant['visitorId']}/visitorChallenges")
    return next(row for row in rows if row["visitorChallengeId"] == participant["visitorChallengeId"])


async def _histories(client: httpx.AsyncClient, participant: Known, **query: Any) -> list[Known]:
    found: list[Known] = await _get(client, f"/visitors/{participant['visitorId']}/challengeHistories", **query)
    return found


async def _unlocked(client: httpx.AsyncClient, challenge: Known) -> set[int]:
    path = f"/challenges/{challenge['challengeId']}/visitorChallenges"
    return {row["visitorChallengeId"] for row in await _get(client, path, rewardUnlocked=True, limit=500)}


async def _terminate(client: httpx.AsyncClient, challenge: Known, *, ignore: bool) -> httpx.Response:
    return await client.post(f"/challenges/{challenge['challengeId']}/terminate", json={"ignoreEndDate": ignore})


def _chains(histories: list[Known]) -> bool:
    """Each total is the one before and the points."""
    totals = [0, *(row["totalPoints"] for row in histories)]
    return all(before + row["points"] == row["totalPoints"] for before, row in zip(totals, histories, strict=False))


# rewards


async def _collector(client: httpx.AsyncClient) -> Known:
    person = await data.create(client, "/visitors", data.visitor(await _center(client)))
    return {**person, "pcCode": person["acquisitionPcCode"], "path": f"/visitors/{person['visitorId']}/rewards"}


def _reward(known: Known, **fields: Any) -> dict[str, Any]:
    return {
        "pcCode": known["pcCode"], "startDate": LONG_AGO, "balance": 0, "outsideOptin": False, "threshold": 10,
        **fields,
    }  # fmt: skip


async def test_a_reward_is_converted_once_its_balance_reaches_the_threshold(client: httpx.AsyncClient) -> None:
    known = await _collector(client)
    reached = {"9.999999999": False, "10": True, "10.01": True}
    for balance, converted in reached.items():
        made = await data.create(client, known["path"], _reward(known, balance=float(balance)))
        assert made["isConverted"] is converted, balance
    made = await data.create(client, known["path"], _reward(known, balance=9))
    path = f"{known['path']}/{made['rewardId']}"
    for change, converted in (({"balance": 10}, True), ({"threshold": 11}, False), ({"threshold": -1}, True)):
        await _patch(client, path, outsideOptin=False, **change)
        assert (await _get(client, path))["isConverted"] is converted, change


async def test_a_change_of_a_reward_needs_outside_optin_and_changes_only_what_is_sent(
    client: httpx.AsyncClient,
) -> None:
    known = await _collector(client)
    made = await data.create(client, known["path"], _reward(known, endDate=FAR_OFF, isScan=True))
    path = f"{known['path']}/{made['rewardId']}"
    refused = await client.patch(path, json={"balance": 5})
    assert (refused.status_code, _codes(refused)) == (400, [("outsideOptin", "required")])
    await _patch(client, path, outsideOptin=True, endDate=None)
    found = await _get(client, path)
    assert found == {**made, "outsideOptin": True, "endDate": None, "updateDate": found["updateDate"]}
    assert _moment(found["updateDate"]) > _moment(made["updateDate"])


@pytest.mark.parametrize("balance", ["31.40", "0.1", "0.3", "-7.005", "12345678901234567890.123456789"])
async def test_a_balance_comes_back_exactly(client: httpx.AsyncClient, balance: str) -> None:
    known = await _collector(client)
    body = json.dumps(_reward(known, balance="@")).replace('"@"', balance)
    made = await client.post(known["path"], content=body, headers={"content-type": "application/json"})
    assert made.status_code == 201, made.text
    path = f"{known['path']}/{made.json()['data']['rewardId']}"
    for answer in (made, await client.get(path)):
        assert str(answer.json(parse_float=Decimal)["data"]["balance"]) == balance


ZEROS = ("31.4000000000", "31.40000000000000000000000000", "0E-10", "0E50", "1E2", "-0.0", f"7.005{'0' * 60}")


async def test_a_balance_is_exact_whatever_zeros_it_ends_with(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await _collector(client)
    for balance in ZEROS:
        body = json.dumps(_reward(known, balance="@")).replace('"@"', balance)
        made = await client.post(known["path"], content=body, headers={"content-type": "application/json"})
        assert made.status_code == 201, (balance, made.text)
        path = f"{known['path']}/{made.json()['data']['rewardId']}"
        changed = f'{{"outsideOptin": true, "balance": {balance}}}'
        patched = await client.patch(path, content=changed, headers={"content-type": "application/json"})
        assert patched.status_code == 204, (balance, patched.text)
        for answer in (made, await client.get(path)):
            assert answer.json(parse_float=Decimal)["data"]["balance"] == Decimal(balance)
    assert len(await _get(client, known["path"])) == len(ZEROS)

    path = {"visitorId": known["visitorId"]}
    for balance in ZEROS:
        value = json.dumps({"path": path, "body": _reward(known, balance="@")}).replace('"@"', balance)
        request_id = str(uuid4())
        headers = RequestHeaders(request_id, "rewards.create", "gateway/test", JSON).encode()
        await stack.raw(request_topic("rewards.create"), value.encode(), headers)
        result = (await stack.result("rewards.create", request_id)).value
        assert (result["status"], result["body"]["data"]["balance"]) == (201, Decimal(balance))


@pytest.mark.parametrize("balance", ["NaN", "Infinity", '"31.40"', "true", "null", "0.1234567891", "1e30"])
async def test_a_balance_is_a_number_with_at_most_9_decimals(client: httpx.AsyncClient, balance: str) -> None:
    known = await _collector(client)
    body = json.dumps(_reward(known, balance="@")).replace('"@"', balance)
    answer = await client.post(known["path"], content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert _codes(answer) == [(None, "not_json")] or [field for field, _ in _codes(answer)] == ["balance"]
    assert await _get(client, known["path"]) == []


async def test_rewards_are_filtered_by_center(client: httpx.AsyncClient) -> None:
    known, elsewhere = await _collector(client), await _center(client)
    here = await data.create(client, known["path"], _reward(known))
    there = await data.create(client, known["path"], _reward(known, pcCode=elsewhere))
    assert await _get(client, known["path"]) == [here, there]
    assert await _get(client, known["path"], pcCode=elsewhere) == [there]


async def test_a_reward_is_found_under_its_own_visitor_only(client: httpx.AsyncClient) -> None:
    known, other = await _collector(client), await _collector(client)
    made = await data.create(client, known["path"], _reward(known))
    path = f"{other['path']}/{made['rewardId']}"
    for answer in (await client.get(path), await client.patch(path, json={"outsideOptin": True})):
        assert (answer.status_code, _codes(answer)) == (404, [(None, "reward_not_found")])
    assert await _get(client, f"{known['path']}/{made['rewardId']}") == made


async def test_a_reward_needs_a_center_and_a_visitor_that_exist(client: httpx.AsyncClient) -> None:
    known = await _collector(client)
    answer = await client.post(known["path"], json=_reward(known, pcCode="FR-NO-ONE"))
    assert (answer.status_code, _codes(answer)) == (400, [("pcCode", "center_not_found")])
    answer = await client.post(f"/visitors/{data.NOBODY}/rewards", json=_reward(known))
    assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])


# challenges


def _texts(**texts: str) -> list[dict[str, str]]:
    return [{"localeCode": code.replace("_", "-"), "value": value} for code, value in texts.items()]


async def test_a_challenge_is_read_as_it_was_made(client: httpx.AsyncClient) -> None:
    fields = {"timezone": "Europe/Paris", "imageUrl": "https://example.com/a.png", "rewardExpirationSeconds": 86_400}
    body = data.challenge(await _center(client), displayName=_texts(fr_FR="Pas", en_GB="Steps"), **fields)
    made = await data.create(client, "/challenges", body)
    sent = {name: value for name, value in body.items() if name != "displayName"}
    assert {name: made[name] for name in sent} == sent
    assert [(text["localeCode"], text["value"]) for text in made["displayName"]] == [
        ("fr-FR", "Pas"),
        ("en-GB", "Steps"),
    ]
    assert made["createdAt"] == made["updatedAt"]
    for text in made["displayName"]:
        assert text["creationDate"] == text["updateDate"] == made["createdAt"]
    answer = await client.get(f"/challenges/{made['challengeId']}")
    assert answer.json() == {"data": made, "metadata": {"version": 1, "_links": {}}}


async def test_a_change_of_a_challenge_moves_updated_at_and_null_clears_the_image(client: httpx.AsyncClient) -> None:
    made = await _challenge(client, imageUrl="https://example.com/a.png", displayName=_texts(fr_FR="Pas"))
    path = f"/challenges/{made['challengeId']}"
    await _patch(client, path, imageUrl=None, winnerNumber=7)
    found = await _get(client, path)
    assert found == {**made, "imageUrl": None, "winnerNumber": 7, "updatedAt": found["updatedAt"]}
    assert _moment(found["updatedAt"]) > _moment(made["updatedAt"])
    refused = await client.patch(path, json={"winnerNumber": None, "timezone": None})
    assert sorted(_codes(refused)) == [("timezone", "null_refused"), ("winnerNumber", "null_refused")]


async def test_texts_are_replaced_by_locale_and_the_others_stay(client: httpx.AsyncClient) -> None:
    made = await _challenge(client, displayName=_texts(fr_FR="Pas", en_GB="Steps"), description=_texts(fr_FR="Long"))
    path = f"/challenges/{made['challengeId']}"
    await _patch(client, path, displayName=_texts(FR_fr="Marche", de_DE="Schritte"))
    found = await _get(client, path)
    old = {text["localeCode"]: text for text in made["displayName"]}
    new = {text["localeCode"]: text for text in found["displayName"]}
    assert new.keys() == {"fr-FR", "en-GB", "de-DE"}
    assert new["en-GB"] == old["en-GB"]
    assert new["fr-FR"] == {**old["fr-FR"], "value": "Marche", "updateDate": found["updatedAt"]}
    assert new["de-DE"]["creationDate"] == new["de-DE"]["updateDate"] == found["updatedAt"]
    assert found["description"] == made["description"]


async def test_unknown_locales_timezones_and_centers_are_400(client: httpx.AsyncClient) -> None:
    made = await _challenge(client)
    unknown = {
        "displayName": _texts(xx_XX="?"),
        "rewardDetail": _texts(fr_FR="oui", xx_YY="?"),
        "timezone": "Mars/Base",
    }
    codes = [
        ("displayName[0].localeCode", "unknown_locale"),
        ("rewardDetail[1].localeCode", "unknown_locale"),
        ("timezone", "unknown_timezone"),
    ]
    created = await client.post("/challenges", json=data.challenge(made["pcCode"], **unknown))
    changed = await client.patch(f"/challenges/{made['challengeId']}", json=unknown)
    for answer in (created, changed):
        assert (answer.status_code, sorted(_codes(answer), key=str)) == (400, codes)
    created = await client.post("/challenges", json=data.challenge("FR-NO-ONE"))
    changed = await client.patch(f"/challenges/{made['challengeId']}", json={"pcCode": "FR-NO-ONE"})
    for answer in (created, changed):
        assert (answer.status_code, _codes(answer)) == (400, [("pcCode", "center_not_found")])
    assert await _get(client, f"/challenges/{made['challengeId']}") == made


async def test_the_texts_of_a_list_are_limited_together(client: httpx.AsyncClient) -> None:
    made = await _challenge(client)
    path = f"/challenges/{made['challengeId']}"
    for code in ("fr_FR", "en_GB", "de_DE", "nl_NL", "it_IT"):
        await _patch(client, path, displayName=_texts(**{code: "x" * 200_000}))
    refused = await client.patch(path, json={"displayName": _texts(es_ES="x")})
    assert (refused.status_code, _codes(refused)) == (400, [("displayName", "too_long")])
    await _patch(client, path, displayName=_texts(fr_FR="x" * 199_999, es_ES="x"), description=_texts(fr_FR="Long"))
    whole = data.challenge(made["pcCode"], rewardDetail=[
        {"localeCode": code, "value": "x" * 200_000} for code in ("fr-FR", "en-GB", "de-DE", "nl-NL", "it-IT")
    ])  # fmt: skip
    await data.create(client, "/challenges", whole)
    whole["rewardDetail"].append({"localeCode": "es-ES", "value": "x"})
    refused = await client.post("/challenges", json=whole)
    assert (refused.status_code, _codes(refused)) == (400, [("rewardDetail", "too_long")])


async def test_an_unknown_challenge_is_404(client: httpx.AsyncClient) -> None:
    path = f"/challenges/{2**62}"
    for answer in (
        await client.get(path),
        await client.patch(path, json={"winnerNumber": 1}),
        await client.get(f"{path}/visitorChallenges"),
        await client.post(f"{path}/terminate", json={"ignoreEndDate": True}),
    ):
        assert (answer.status_code, _codes(answer)) == (404, [(None, "challenge_not_found")])


async def test_challenges_are_filtered_by_center_type_status_and_dates(client: httpx.AsyncClient) -> None:
    early = await _challenge(client, startDate="2020-01-01T00:00:00Z", endDate="2020-02-01T00:00:00Z", status="draft")
    pc_code = early["pcCode"]
    body = data.challenge(pc_code, startDate="2020-01-02T00:00:00Z", endDate="2020-02-02T00:00:00Z")
    late = await data.create(client, "/challenges", body)
    other = await _challenge(client)

    async def listed(**query: str) -> list[Known]:
        found: list[Known] = await _get(client, "/challenges", pcCode=pc_code, **query)
        return found

    assert await listed() == [early, late]
    assert await listed(type="step_counter", status="active") == [late]
    assert await listed(startDate="2020-01-02T00:00:00Z") == [late]
    assert await listed(startDate="2020-01-01T00:00:00Z") == [early, late]
    assert await listed(startDate="2020-01-02T00:00:01Z") == []
    assert await listed(endDate="2020-02-01T00:00:00Z") == [early]
    assert await listed(endDate="2020-01-31T23:59:59Z") == []
    assert await listed(sort="-challengeId", limit="1") == [late]
    assert await _get(client, "/challenges", pcCode=other["pcCode"]) == [other]
    wrong = await client.get("/challenges", params={"type": "chess"})
    assert (wrong.status_code, _codes(wrong)) == (400, [("type", "not_allowed")])


# Joining


async def test_who_joins_starts_with_nothing(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge, registeredAt="2017-07-24T19:32:28+02:00")
    started = {
        "challengeId": challenge["challengeId"], "points": 0, "totalEntryCount": 0, "bonusEntryCount": 0,
        "lastEntryDate": None, "rewardUnlocked": False, "rewardReceived": False,
        "registeredDate": "2017-07-24T17:32:28Z",
    }  # fmt: skip
    assert {name: participant[name] for name in started} == started
    assert participant["creationDate"] == participant["updateDate"]
    now = await _join(client, challenge)
    dates = (participant["creationDate"], now["registeredDate"], now["creationDate"])
    assert sorted(dates, key=_moment) == list(dates)


async def test_a_visitor_joins_a_challenge_once(client: httpx.AsyncClient) -> None:
    first, second = await _challenge(client), await _challenge(client)
    participant = await _join(client, first)
    path = f"/visitors/{participant['visitorId']}/visitorChallenges"
    again = await client.post(path, json={"challengeId": first["challengeId"]})
    assert (again.status_code, _codes(again)) == (409, [("challengeId", "visitor_challenge_exists")])
    other = await data.create(client, path, {"challengeId": second["challengeId"]})
    assert [row["visitorChallengeId"] for row in await _get(client, path)] == [
        participant["visitorChallengeId"], other["visitorChallengeId"],
    ]  # fmt: skip


async def test_of_20_joins_at_once_one_succeeds(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    person = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    parts = {"path": {"visitorId": person["visitorId"]}, "body": {"challengeId": challenge["challengeId"]}}
    messages = [Message(str(uuid4()), "visitorChallenges.create", JSON, parts) for _ in range(20)]
    answered = await _answered(stack, messages)
    assert sorted(answered.values()) == [201] + [409] * 19
    assert len(await _get(client, f"/visitors/{person['visitorId']}/visitorChallenges")) == 1


@pytest.mark.parametrize("what", OUTSIDE)
async def test_nobody_joins_a_challenge_that_does_not_run(client: httpx.AsyncClient, what: str) -> None:
    challenge = await _challenge(client, **OUTSIDE[what])
    person = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    path = f"/visitors/{person['visitorId']}/visitorChallenges"
    answer = await client.post(path, json={"challengeId": challenge["challengeId"]})
    assert (answer.status_code, _codes(answer)) == (409, [(None, "challenge_not_running")])
    assert await _get(client, path) == []


async def test_an_unknown_challenge_is_400_and_an_unknown_visitor_404(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    person = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    answer = await client.post(f"/visitors/{person['visitorId']}/visitorChallenges", json={"challengeId": 2**62})
    assert (answer.status_code, _codes(answer)) == (400, [("challengeId", "challenge_not_found")])
    for challenge_id in (challenge["challengeId"], 2**62):
        answer = await client.post(f"/visitors/{data.NOBODY}/visitorChallenges", json={"challengeId": challenge_id})
        assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])


async def test_nobody_joins_a_challenge_that_is_just_ending(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    person = await data.create(client, "/visitors", data.visitor(challenge["pcCode"]))
    parts = {"path": {"visitorId": person["visitorId"]}, "body": {"challengeId": challenge["challengeId"]}}
    async with stack.engine.begin() as conn:
        ending = f"update challenges set status = 'ended' where challenge_id = {challenge['challengeId']}"
        await conn.exec_driver_sql(ending)
        request_id = await stack.send("visitorChallenges.create", parts)
        await eventually("a join that waits", lambda: stack.rows("select 1 from pg_locks where not granted"))
    assert (await stack.result("visitorChallenges.create", request_id)).value["status"] == 409


async def test_a_visitors_challenges_are_filtered_by_center_type_and_date(client: httpx.AsyncClient) -> None:
    first, second = await _challenge(client), await _challenge(client)
    one = await _join(client, first, registeredAt="2020-01-01T00:00:00Z")
    path = f"/visitors/{one['visitorId']}/visitorChallenges"
    joining = {"challengeId": second["challengeId"], "registeredAt": "2020-01-02T00:00:00Z"}
    two = await data.create(client, path, joining)
    ids = [one["visitorChallengeId"], two["visitorChallengeId"]]

    async def listed(**query: str) -> list[int]:
        return [row["visitorChallengeId"] for row in await _get(client, path, **query)]

    assert await listed(type="step_counter") == ids
    assert await listed(pcCode=second["pcCode"]) == ids[1:]
    assert await listed(registerDateSince="2020-01-02T00:00:00Z") == ids[1:]
    assert await listed(registerDateUntil="2020-01-02T00:00:00Z") == ids[:1]
    assert await listed(limit="1", offset="1") == ids[1:]


# Points


async def test_points_add_up_count_an_entry_and_go_into_the_history(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    answer = await _add(client, participant, 30)
    assert (answer.status_code, answer.content) == (204, b"")
    first = await _state(client, participant)
    assert (first["points"], first["totalEntryCount"], first["bonusEntryCount"]) == (30, 1, 0)
    assert (await _add(client, participant, -10)).status_code == 204
    second = await _state(client, participant)
    assert (second["points"], second["totalEntryCount"]) == (20, 2)
    for name in ("lastEntryDate", "updateDate"):
        assert _moment(participant["creationDate"]) < _moment(first[name]) < _moment(second[name])

    histories = await _histories(client, participant)
    same = {
        "challengeId": participant["challengeId"], "visitorId": participant["visitorId"],
        "visitorChallengeId": participant["visitorChallengeId"], "bonusActivated": False, "origin": "local",
        "action": "increment",
    }  # fmt: skip
    assert [{name: row[name] for name in same} for row in histories] == [same, same]
    assert [(row["points"], row["totalPoints"]) for row in histories] == [(30, 30), (-10, 20)]
    assert [row["participationDate"] for row in histories] == [first["lastEntryDate"], second["lastEntryDate"]]


async def test_points_never_go_below_zero_or_beyond_64_bits(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _add(client, participant, 5)
    refused = await _add(client, participant, -6)
    assert (refused.status_code, _codes(refused)) == (400, [("points", "points_below_zero")])
    refused = await _add(client, participant, 2**63 - 5)
    assert (refused.status_code, _codes(refused)) == (400, [("points", "out_of_range")])
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (5, 1)
    assert (await _add(client, participant, -5)).status_code == 204
    assert (await _add(client, participant, 2**63 - 1)).status_code == 204
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (2**63 - 1, 3)
    assert [row["totalPoints"] for row in await _histories(client, participant)] == [5, 0, 2**63 - 1]


@pytest.mark.parametrize("what", OUTSIDE)
async def test_points_outside_the_running_time_are_409(client: httpx.AsyncClient, what: str) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    await _patch(client, f"/challenges/{challenge['challengeId']}", **OUTSIDE[what])
    answer = await _add(client, participant, 5)
    assert (answer.status_code, _codes(answer)) == (409, [(None, "challenge_not_running")])
    assert (await _state(client, participant))["totalEntryCount"] == 0
    assert await _histories(client, participant) == []


async def test_a_participant_is_found_under_its_own_visitor_only(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    mine, other = await _join(client, challenge), await _join(client, challenge)
    path = f"/visitors/{other['visitorId']}/visitorChallenges/{mine['visitorChallengeId']}"
    for answer in (
        await client.post(f"{path}/points", json={"points": 5}),
        await client.patch(path, json={"points": 5}),
        await client.delete(path),
    ):
        assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_challenge_not_found")])
    assert (await _state(client, mine))["points"] == (await _state(client, other))["points"] == 0


async def test_corrected_points_and_a_raised_bonus_go_into_the_history(client: httpx.AsyncClient) -> None:
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
    assert _chains(rows)
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"], state["bonusEntryCount"]) == (21, 2, 2)


async def test_a_correction_changes_only_what_is_sent(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _add(client, participant, 3)
    before = await _state(client, participant)
    changed = {"lastEntryDate": None, "rewardUnlocked": True, "rewardReceived": True, "totalEntryCount": 9}
    await _patch(client, participant["path"], **changed)
    after = await _state(client, participant)
    assert after == {**before, **changed, "updateDate": after["updateDate"]}
    assert _moment(after["updateDate"]) > _moment(before["updateDate"])
    assert len(await _histories(client, participant)) == 1
    refused = await client.patch(participant["path"], json={"points": None, "rewardUnlocked": None})
    assert sorted(_codes(refused)) == [("points", "null_refused"), ("rewardUnlocked", "null_refused")]
    refused = await client.patch(participant["path"], json={"points": -1})
    assert (refused.status_code, _codes(refused)) == (400, [("points", "points_below_zero")])
    assert await _state(client, participant) == after


async def test_an_entry_count_at_its_end_refuses_points_and_harms_nobody(client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    await _patch(client, participant["path"], totalEntryCount=2**63 - 1)
    refused = await _add(client, participant, 1)
    assert refused.status_code == 400, refused.text
    assert (await _state(client, participant))["points"] == 0


async def test_who_leaves_takes_the_histories_along_and_the_others_move_up(
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
    gone = await client.delete(first["path"])
    assert (gone.status_code, gone.content) == (204, b"")
    assert await position() == 1
    for answer in (await client.delete(first["path"]), await _add(client, first, 1)):
        assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_challenge_not_found")])
    assert await _histories(client, first) == []
    counts = await stack.rows(
        "select level, bucket, participants from ranking_counts where challenge_id = :id", id=challenge["challengeId"]
    )
    assert [tuple(row) for row in counts] == [(0, 50, 1)]


async def test_who_leaves_while_being_erased_is_taken_from_the_counts_once(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenges = [await _challenge(client) for _ in range(3)]
    for number in range(15):
        first = await _join(client, challenges[0])
        visitor, parts = f"/visitors/{first['visitorId']}", [first]
        analytics = (await _get(client, f"{visitor}/externalIds/analytics"))["externalId"]
        for challenge in challenges[1:]:
            body = {"challengeId": challenge["challengeId"]}
            made = await data.create(client, f"{visitor}/visitorChallenges", body)
            parts.append({**made, "path": f"{visitor}/visitorChallenges/{made['visitorChallengeId']}"})
        assert [(await _add(client, part, 1 + number)).status_code for part in parts] == [204] * 3
        erased, *others = await asyncio.gather(
            client.post("/visitors/erase", json=[{"analyticsId": analytics}]),
            *(client.delete(part["path"]) for part in parts),
            *(_add(client, part, 70) for part in parts),
        )
        assert erased.json()["data"] == {"success": [analytics], "failed": []}
        assert {answer.status_code for answer in others} <= {204, 404}
    await _join(client, challenges[0])
    assert await stack.rows(
        "select * from ranking_counts where challenge_id = any(:ids)", ids=[row["challengeId"] for row in challenges]
    ) == []  # fmt: skip


async def test_who_has_left_may_join_again_from_nothing(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    await _add(client, participant, 7)
    await client.delete(participant["path"])
    path = f"/visitors/{participant['visitorId']}/visitorChallenges"
    again = await data.create(client, path, {"challengeId": challenge["challengeId"]})
    assert again["visitorChallengeId"] != participant["visitorChallengeId"]
    assert (again["points"], await _histories(client, participant)) == (0, [])


async def test_challenge_histories_are_a_bare_array_of_all_rows_oldest_first(client: httpx.AsyncClient) -> None:
    first, second = await _challenge(client), await _challenge(client)
    participant = await _join(client, first)
    path = f"/visitors/{participant['visitorId']}"
    other = await data.create(client, f"{path}/visitorChallenges", {"challengeId": second["challengeId"]})
    other["path"] = f"{path}/visitorChallenges/{other['visitorChallengeId']}"
    answers = await asyncio.gather(*(_add(client, participant, 1) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {204}
    await _add(client, other, 5)
    answer = await client.get(f"{path}/challengeHistories")
    assert isinstance(answer.json(), list)
    assert [row["totalPoints"] for row in answer.json()] == [*range(1, 31), 5]
    assert await _histories(client, participant, challengeId=first["challengeId"]) == answer.json()[:-1]
    assert await _histories(client, participant, challengeId=second["challengeId"]) == answer.json()[-1:]
    unknown = await client.get(f"/visitors/{data.NOBODY}/challengeHistories")
    assert (unknown.status_code, _codes(unknown)) == (404, [(None, "visitor_not_found")])


# Participants and the end


async def test_participants_are_filtered_by_their_unlocked_reward(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    one, other = await _join(client, challenge), await _join(client, challenge)
    await _join(client, await _challenge(client))
    await _patch(client, other["path"], rewardUnlocked=True)
    path = f"/challenges/{challenge['challengeId']}/visitorChallenges"
    states = [await _state(client, one), await _state(client, other)]
    assert await _get(client, path) == states
    assert await _get(client, path, rewardUnlocked=True) == states[1:]
    assert await _get(client, path, rewardUnlocked=False) == states[:1]


async def test_a_challenge_is_terminated_after_its_end_date_unless_that_is_ignored(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    early = await _terminate(client, challenge, ignore=False)
    assert (early.status_code, _codes(early)) == (409, [(None, "challenge_not_over")])
    path = f"/challenges/{challenge['challengeId']}"
    assert await _get(client, path) == challenge
    assert await _unlocked(client, challenge) == set()
    await _patch(client, path, endDate=LONG_AGO)
    answer = await _terminate(client, challenge, ignore=False)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await _get(client, path))["status"] == "ended"
    assert await _unlocked(client, challenge) == {participant["visitorChallengeId"]}


async def test_the_first_winner_number_are_unlocked_and_among_equals_who_was_first(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    people = [await _join(client, challenge) for _ in range(4)]
    for number, points in ((0, 10), (2, 20), (1, 20), (3, 30)):
        await _add(client, people[number], points)
    assert (await _terminate(client, challenge, ignore=True)).status_code == 204
    assert await _unlocked(client, challenge) == {people[number]["visitorChallengeId"] for number in (3, 2)}
    refused = await _add(client, people[0], 1)
    assert (refused.status_code, _codes(refused)) == (409, [(None, "challenge_not_running")])


async def test_a_challenge_without_winners_unlocks_nothing(client: httpx.AsyncClient) -> None:
    for count in (0, -1):
        challenge = await _challenge(client, winnerNumber=count)
        await _join(client, challenge)
        assert (await _terminate(client, challenge, ignore=True)).status_code == 204
        assert (await _get(client, f"/challenges/{challenge['challengeId']}"))["status"] == "ended"
        assert await _unlocked(client, challenge) == set()


async def test_a_second_end_changes_nothing(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=1)
    first, second = await _join(client, challenge), await _join(client, challenge)
    await _add(client, first, 10)
    await _terminate(client, challenge, ignore=True)
    await _patch(client, second["path"], points=1_000)
    await _patch(client, f"/challenges/{challenge['challengeId']}", status="active", winnerNumber=2)
    path = f"/challenges/{challenge['challengeId']}"
    before = await _get(client, path), await _get(client, f"{path}/visitorChallenges")
    again = await _terminate(client, challenge, ignore=True)
    assert (again.status_code, again.content) == (204, b"")
    assert (await _get(client, path), await _get(client, f"{path}/visitorChallenges")) == before
    assert await _unlocked(client, challenge) == {first["visitorChallengeId"]}


# All at once


async def _answered(stack: Stack, messages: list[Message]) -> dict[str, int]:
    """Send to partitions by chance; the status of each request, once every message has its result."""
    ids = {message.request_id for message in messages}
    await send_all(stack, Sent(), random.Random(5), messages)

    async def told() -> dict[str, int]:
        results = [record for record in await stack.read(names.results("points")) if record.id in ids]
        return {record.id: record.value["status"] for record in results} if len(results) >= len(messages) else {}

    found: dict[str, int] = await eventually("a result for every message", told)
    return found


def _adding(participant: Known, points: int, content_type: str = JSON) -> Message:
    path = {name: participant[name] for name in ("visitorId", "visitorChallengeId")}
    return Message(str(uuid4()), ADD, content_type, {"path": path, "body": {"points": points}})


async def _revision(stack: Stack, participant: Known) -> int:
    rows = await stack.rows(
        "select revision from visitor_challenges where visitor_challenge_id = :id",
        id=participant["visitorChallengeId"],
    )
    return int(rows[0].revision)


async def test_50_points_at_once_add_up_exactly(stack: Stack, client: httpx.AsyncClient) -> None:
    participant = await _join(client, await _challenge(client))
    answers = await asyncio.gather(*(_add(client, participant, number) for number in range(1, 51)))
    assert {answer.status_code for answer in answers} == {204}
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (sum(range(51)), 50)
    histories = await _histories(client, participant)
    assert sorted(row["points"] for row in histories) == list(range(1, 51))
    assert _chains(histories)
    assert histories[-1]["totalPoints"] == state["points"]
    assert _moment(state["lastEntryDate"]) == max(_moment(row["participationDate"]) for row in histories)
    assert await _revision(stack, participant) == 51


async def test_points_from_all_partitions_with_duplicates_count_each_request_once(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenge = await _challenge(client)
    people = [await _join(client, challenge) for _ in range(3)]
    rng = random.Random(11)
    wanted: dict[str, list[int]] = {person["visitorId"]: [] for person in people}
    messages = []
    for _ in range(200):
        person, points = rng.choice(people), rng.randrange(1, 100)
        wanted[person["visitorId"]].append(points)
        messages.append(_adding(person, points, rng.choice([JSON, AVRO])))
    doubled = messages + rng.sample(messages, 60)
    rng.shuffle(doubled)
    assert set((await _answered(stack, doubled)).values()) == {204}
    for person in people:
        added = wanted[person["visitorId"]]
        state = await _state(client, person)
        assert (state["points"], state["totalEntryCount"]) == (sum(added), len(added))
        histories = await _histories(client, person)
        assert sorted(row["points"] for row in histories) == sorted(added)
        assert _chains(histories)
        assert await _revision(stack, person) == len(added) + 1


async def test_good_and_bad_points_of_one_batch_each_get_their_own_answer(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    participant, closed = await _join(client, await _challenge(client)), await _challenge(client)
    late = await _join(client, closed)
    await _patch(client, f"/challenges/{closed['challengeId']}", status="archived")
    nobody = {**participant, "visitorChallengeId": 2**62}
    good = [_adding(participant, 2) for _ in range(40)]
    refused = [(_adding(late, 2), 409), (_adding(nobody, 2), 404), (_adding(participant, -1_000), 400)]
    messages = good + [message for message, _ in refused]
    random.Random(3).shuffle(messages)
    answered = await _answered(stack, messages)
    assert answered == {message.request_id: 204 for message in good} | {
        message.request_id: status for message, status in refused
    }
    state = await _state(client, participant)
    assert (state["points"], state["totalEntryCount"]) == (80, 40)


async def _unlockings(stack: Stack, participant: Known) -> int:
    """How often the changes of a participant tell that its reward became unlocked."""
    key = f"visitorChallenge:{participant['visitorChallengeId']}"
    records = [record for record in await stack.read(names.changes("points")) if record.key == key]
    states = {record.value["revision"]: record.value["after"]["rewardUnlocked"] for record in records}
    unlocked = [states[revision] for revision in sorted(states)]
    return sum(not before and after for before, after in zip([False, *unlocked], unlocked, strict=False))


async def test_of_5_ends_at_once_one_unlocks_while_points_still_come_in(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenge = await _challenge(client, winnerNumber=3)
    people = [await _join(client, challenge) for _ in range(6)]
    parts = {"path": {"challengeId": challenge["challengeId"]}, "body": {"ignoreEndDate": True}}
    rng = random.Random(17)
    early = [_adding(rng.choice(people), rng.randrange(1, 50)) for _ in range(60)]
    ends = [Message(str(uuid4()), "challenges.terminate", JSON, parts) for _ in range(5)]
    late = [_adding(rng.choice(people), rng.randrange(1, 50)) for _ in range(60)]
    answered = await _answered(stack, [*early, *ends, *late])
    assert {answered[message.request_id] for message in ends} == {204}
    assert {answered[message.request_id] for message in early + late} <= {204, 409}

    # Nothing was added after the end, so the ranking is still the one that was rewarded.
    order = await stack.rows(
        "select visitor_challenge_id from visitor_challenges where challenge_id = :id"
        " order by points desc, precedence desc",
        id=challenge["challengeId"],
    )
    winners = {row.visitor_challenge_id for row in order[:3]}
    assert await _unlocked(client, challenge) == winners
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    told = {person["visitorChallengeId"]: await _unlockings(stack, person) for person in people}
    assert told == {key: int(key in winners) for key in told}
    assert (await _get(client, f"/challenges/{challenge['challengeId']}"))["status"] == "ended"


async def test_ends_sent_to_every_partition_at_once_unlock_each_winner_once(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    people = [await _join(client, challenge) for _ in range(3)]
    parts = {"path": {"challengeId": challenge["challengeId"]}, "body": {"ignoreEndDate": True}}
    sending = (stack.send("challenges.terminate", parts, partition=number % PARTITIONS) for number in range(5))
    ids = await asyncio.gather(*sending)
    for request_id in ids:
        assert (await stack.result("challenges.terminate", request_id)).value["status"] == 204
    await eventually("all changes published", lambda: oracle.outbox_empty(stack))
    assert [await _unlockings(stack, person) for person in people] == [1, 1, 0]
    assert [await _revision(stack, person) for person in people] == [2, 2, 1]
