"""Finding, counting and flagging visitors, partial ones, and the ids that others know them by, rule by rule."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from tests.support import data
from tests.support.data import NOBODY
from tests.support.stack import EVENT_TOKEN_SECRET, Stack
from topics.envelope import AVRO


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


async def _visitor(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    return await data.create(client, "/visitors", data.visitor(pc_code, **fields))


def _partial(center: str, **fields: Any) -> dict[str, Any]:
    return {
        "firstName": "Ada", "email": data.new_email(), "countryCode": "FR", "preferredCenter": center, "optins": [],
        **fields,
    }  # fmt: skip


# partial visitors


async def test_a_partial_visitor_gets_its_preferred_center_as_a_favourite(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    made = await data.create(client, "/visitors/partial", _partial(center, lastName=None))
    assert (made["accountType"], made["registrationDate"], made["lastName"]) == ("partial", None, None)
    favorites = (await client.get(f"/visitors/{made['visitorId']}/centers")).json()["data"]
    assert [(row["pcCode"], row["isFavorite"]) for row in favorites] == [(center, True)]
    wrong = await client.post("/visitors/partial", json=_partial("FR-NO-ONE"))
    assert (wrong.status_code, _codes(wrong)) == (400, [("preferredCenter", "center_not_found")])
    again = await client.post("/visitors/partial", json=_partial(center, email=made["email"].upper()))
    assert (again.status_code, _codes(again)) == (409, [("email", "email_taken")])


async def test_a_full_visitor_upgrades_the_partial_one_with_its_email(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    partial = await data.create(client, "/visitors/partial", _partial(center))
    full = await data.create(client, "/visitors", data.visitor(center, email=partial["email"]))
    assert (full["visitorId"], full["barcode"]) == (partial["visitorId"], partial["barcode"])
    assert (full["accountType"], full["upgradePcCode"]) == ("full", center)
    assert full["registrationDate"] is not None


async def test_one_email_by_two_creates_at_once_is_one_visitor(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    email = data.new_email()
    answers = await asyncio.gather(
        *(client.post("/visitors", json=data.visitor(center, email=email)) for _ in range(5)),
        *(client.post("/visitors/partial", json=_partial(center, email=email)) for _ in range(5)),
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert set(statuses) == {201, 409}
    assert len({answer.json()["data"]["visitorId"] for answer in answers if answer.status_code == 201}) == 1


# finding


async def _found(client: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/visitors", params=query)
    assert answer.status_code == 200, answer.text
    return [row["visitorId"] for row in answer.json()["data"]]


@pytest.mark.parametrize(
    ("by", "text"),
    [
        ("firstName", "elois"),
        ("firstName", "ÉLOÏSE"),
        ("lastName", "muller-L"),
        ("fullname", "eloise mul"),
        ("fullname", "Müller-Lüdenscheidt él"),
        ("fullname", "Eloïse"),
        ("fullname", "  eloise   MULLER"),
    ],
)
async def test_a_query_is_a_prefix_without_regard_to_case_and_accents(
    client: httpx.AsyncClient, by: str, text: str
) -> None:
    made = await _visitor(client, firstName="Éloïse", lastName="Müller-Lüdenscheidt")
    center = made["acquisitionPcCode"]
    assert await _found(client, query=text, queryBy=by, acquisitionPcCode=center) == [made["visitorId"]]
    assert await _found(client, query=f"{text}x", queryBy=by, acquisitionPcCode=center) == []


async def test_a_query_by_email_plate_and_external_id(client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    person = (await client.get(f"/visitors/{known['visitorId']}")).json()["data"]
    external = {"externalType": "crm_id", "externalId": f"CRM-É{uuid4()}"}
    await data.create(client, f"/visitors/{known['visitorId']}/externalIds", external)
    for by, text in (
        ("email", person["email"][:15].upper()),
        ("licensePlate", known["licensePlate"].lower().replace("-", " ")[:9]),
        ("externalId", external["externalId"].lower().replace("é", "e")[:20]),
    ):
        assert await _found(client, query=text, queryBy=by) == [known["visitorId"]], by
    await client.delete(f"/visitors/{known['visitorId']}/vehicles/{known['vehicleId']}")
    assert await _found(client, query=known["licensePlate"], queryBy="licensePlate") == []


async def test_query_and_query_by_need_each_other(client: httpx.AsyncClient) -> None:
    for query, field in (({"query": "a"}, "queryBy"), ({"queryBy": "email"}, "query")):
        answer = await client.get("/visitors", params=query)
        assert (answer.status_code, _codes(answer)) == (400, [(field, "required")])


async def test_visitors_are_filtered(client: httpx.AsyncClient) -> None:
    made = await _visitor(client, countryCode="TV")
    mine = {"acquisitionPcCode": made["acquisitionPcCode"]}
    for query in (
        {"email": made["email"].upper()},
        {"barcode": made["barcode"]},
        {"countryCode": "TV", **mine},
        {"accountType": "full", **mine},
        {"originType": "api", **mine},
        {"updatedSince": made["updateDate"], **mine},
        {"createdSince": made["creationDate"], **mine},
        {"isSmartparker": "false", **mine},
    ):
        assert await _found(client, **query) == [made["visitorId"]], query
    for query in ({"barcode": "of nobody"}, {"accountType": "partial", **mine}, {"isSmartparker": "true", **mine}):
        assert await _found(client, **query) == [], query
    await data.create(client, f"/visitors/{made['visitorId']}/parkings", {"parkingPartner": "designa"})
    assert await _found(client, isSmartparker="true", **mine) == [made["visitorId"]]


async def test_visitors_are_counted(client: httpx.AsyncClient) -> None:
    made = await _visitor(client)
    mine, moment = {"acquisitionPcCode": made["acquisitionPcCode"]}, made["registrationDate"]

    async def counted(**query: Any) -> int:
        return int((await client.get("/visitors/count", params={**mine, **query})).json()["data"]["count"])

    assert await counted() == 1
    assert await counted(registeredSince=moment, accountType="full", originType="api") == 1
    assert await counted(registeredUntil=moment) == 0
    assert await counted(accountType="partial") == 0


# flags


async def test_contacts_of_several_visitors_are_flagged_all_or_none(stack: Stack, client: httpx.AsyncClient) -> None:
    one, other = await _visitor(client), await _visitor(client, phoneInvalid=True)
    flags = [
        {"visitorId": one["visitorId"], "emailInvalid": True},
        {"visitorId": other["visitorId"], "phoneInvalid": False},
    ]
    answer = await client.patch("/visitors", json=flags)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == [
        {"visitorId": one["visitorId"], "emailInvalid": True, "phoneInvalid": None},
        {"visitorId": other["visitorId"], "emailInvalid": None, "phoneInvalid": False},
    ]
    wrong = await client.patch("/visitors", json=[{**flags[0], "emailInvalid": False}, {"visitorId": NOBODY}])
    assert (wrong.status_code, _codes(wrong)) == (400, [("[1].visitorId", "visitor_not_found")])
    assert (await client.get(f"/visitors/{one['visitorId']}")).json()["data"]["emailInvalid"] is True
    faulty = await client.patch("/visitors", json=[{"emailInvalid": 1}])
    assert sorted(_codes(faulty)) == [("[0].emailInvalid", "wrong_type"), ("[0].visitorId", "required")]
    request_id = await stack.send("visitors.flagContacts", {"body": flags}, content_type=AVRO)
    assert (await stack.result("visitors.flagContacts", request_id)).value["status"] == 200


# external ids


async def test_one_external_id_of_a_type_for_each_center_and_one_visitor_for_each_id(client: httpx.AsyncClient) -> None:
    one, other = await _visitor(client), await _visitor(client)
    path, center = f"/visitors/{one['visitorId']}/externalIds", one["acquisitionPcCode"]
    body = {"externalType": "designa", "externalId": str(uuid4())}
    made = await data.create(client, path, body)
    at_center = await data.create(client, path, {**body, "pcCode": center})
    again = await client.post(path, json={**body, "externalId": "other"})
    assert (again.status_code, _codes(again)) == (409, [("externalType", "external_id_exists")])
    taken = await client.post(f"/visitors/{other['visitorId']}/externalIds", json=body)
    assert (taken.status_code, _codes(taken)) == (409, [("externalId", "external_id_exists")])

    assert (await client.get(f"{path}/designa")).json()["data"] == made
    assert (await client.get(f"{path}/designa", params={"pcCode": center})).json()["data"] == at_center
    assert (await client.get(f"{path}/google")).status_code == 404
    listed = (await client.get(path, params={"pcCode": center})).json()["data"]
    assert listed == [at_center]
    assert (await client.delete(f"{path}/designa")).status_code == 204
    assert (await client.get(f"{path}/designa")).json()["data"] == at_center
    assert (await client.delete(f"{path}/designa")).status_code == 204
    assert (await client.delete(f"{path}/designa")).status_code == 404


async def test_which_types_can_be_created_and_deleted(client: httpx.AsyncClient) -> None:
    path = f"/visitors/{(await _visitor(client))['visitorId']}/externalIds"
    answer = await client.post(path, json={"externalType": "analytics", "externalId": "a"})
    assert (answer.status_code, _codes(answer)) == (400, [("externalType", "not_allowed")])
    answer = await client.delete(f"{path}/analytics")
    assert (answer.status_code, _codes(answer)) == (400, [("externalType", "not_allowed")])
    assert (await client.get(f"{path}/analytics")).status_code == 200


async def test_an_external_id_with_a_slash_is_resolved(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    external = f"a/b %{uuid4()}"
    body = {"externalType": "partner", "externalId": external}
    made = await data.create(client, f"/visitors/{visitor['visitorId']}/externalIds", body)
    encoded = external.replace("%", "%25").replace("/", "%2F").replace(" ", "%20")
    assert (await client.get(f"/externalIds/partner/{encoded}")).json()["data"] == made
    assert (await client.get(f"/externalIds/google/{encoded}")).status_code == 404


async def test_external_ids_of_several_visitors(client: httpx.AsyncClient) -> None:
    one, other = await _visitor(client), await _visitor(client)
    ids = f"{one['visitorId']},{other['visitorId']},{NOBODY}"
    found = (await client.get("/externalIds", params={"visitorId": ids})).json()["data"]
    assert [(row["visitorId"], row["externalType"]) for row in found] == [
        (one["visitorId"], "analytics"), (other["visitorId"], "analytics"),
    ]  # fmt: skip
    query = {"visitorId": ids, "externalType": "google,designa"}
    assert (await client.get("/externalIds", params=query)).json()["data"] == []
    wrong = await client.get("/externalIds", params={"visitorId": "x"})
    assert (wrong.status_code, _codes(wrong)) == (400, [("visitorId", "wrong_format")])


# details


async def test_details_answer_whole_visitors_with_their_children(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    path = f"/visitors/{known['visitorId']}"
    optin = {"optinType": "terms", "optinChannel": "none", "isActive": True}
    reward = {"pcCode": known["pcCode"], "startDate": "2024-01-01T00:00:00Z", "balance": 1, "threshold": 2}
    made = {
        "optins": await data.create(client, f"{path}/optins", optin),
        "rewards": await data.create(client, f"{path}/rewards", {**reward, "outsideOptin": False}),
        "visitorCenters": await data.create(client, f"{path}/centers", {"pcCode": known["pcCode"], "isFavorite": True}),
    }
    gone = await data.create(client, f"{path}/vehicles", data.vehicle())
    await client.delete(f"{path}/vehicles/{gone['vehicleId']}")
    (found,) = (await client.get("/visitors/details", params={"visitorId": known["visitorId"]})).json()["data"]
    assert {name: found[name] for name in made} == {name: [row] for name, row in made.items()}
    assert [row["vehicleId"] for row in found["vehicles"]] == [known["vehicleId"]]
    assert [row["externalType"] for row in found["externalIds"]] == ["analytics"]
    assert found["creditCards"] == []
    whole = (await client.get(path)).json()["data"]
    assert {name: found[name] for name in whole} == whole

    created = whole["creationDate"]
    since = (await client.get("/visitors/details", params={"creationDateGte": created, "limit": 1})).json()
    assert [row["visitorId"] for row in since["data"]] == [known["visitorId"]]
    until = (await client.get("/visitors/details", params={"creationDateLt": created, "sort": "-creationDate"})).json()
    assert known["visitorId"] not in [row["visitorId"] for row in until["data"]]


# event tokens


async def test_an_event_token_is_signed_and_says_when_it_expires(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    path = f"/visitors/{visitor['visitorId']}/eventToken"
    found = (await client.get(path, params={"companyId": "acme"})).json()["data"]
    claims = jwt.decode(found["token"], EVENT_TOKEN_SECRET, algorithms=["HS256"])
    assert (claims["visitorId"], claims["companyId"]) == (visitor["visitorId"], "acme")
    assert claims["exp"] - claims["iat"] == 3600
    assert datetime.fromisoformat(found["expiresAt"]).timestamp() == claims["exp"]
    assert (await client.get(path)).status_code == 400
    nobody = await client.get(f"/visitors/{NOBODY}/eventToken", params={"companyId": "acme"})
    assert (nobody.status_code, _codes(nobody)) == (404, [(None, "visitor_not_found")])
