"""Finding, counting and flagging visitors, partial ones, and the ids that others know them by, rule by rule."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest

from agents.catalogue import CATALOGUE
from agents.families.visitors.visitor_table import VISITORS
from schemas.faults import Unavailable
from storage.tx import Caller, Cause, Tx
from tests.support import data
from tests.support.data import NOBODY
from tests.support.stack import EVENT_TOKEN_SECRET, Stack, eventually
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


ONE_MAILBOX = {
    "a letter and its mark": ("ren\u00e9.{}@example.com", "rene\u0301.{}@example.com"),
    "capitals of them": ("ren\u00e9.{}@example.com", "RENE\u0301.{}@EXAMPLE.COM"),
    "a capital that no code point has with its mark": ("\u01f0.{}@example.com", "J\u030c.{}@example.com"),
    "a domain in A-labels": ("{}@b\u00fccher.example.de", "{}@xn--bcher-kva.example.de"),
    "a domain with marks apart": ("{}@b\u00fccher.example.de", "{}@BU\u0308CHER.Example.de"),
    "a domain in full width": ("{}@example.com", "{}@\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.com"),
    "a full stop of Chinese": ("{}@b\u00fccher.example.de", "{}@b\u00fccher\u3002example\u3002de"),
}


@pytest.mark.parametrize("how", ONE_MAILBOX)
async def test_one_mailbox_is_one_visitor_whatever_its_code_points(
    stack: Stack, client: httpx.AsyncClient, how: str
) -> None:
    local = data.new_email()[:20]
    first, second = [form.format(local) for form in ONE_MAILBOX[how]]
    made, other = await _visitor(client, email=first), await _visitor(client)
    center = made["acquisitionPcCode"]
    assert made["email"] == first
    for answer in (
        await client.post("/visitors", json=data.visitor(center, email=second)),
        await client.post("/visitors/partial", json=_partial(center, email=second)),
        await client.patch(f"/visitors/{other['visitorId']}", json={"email": second}),
    ):
        assert (answer.status_code, _codes(answer)) == (409, [("email", "email_taken")])
    request_id = await stack.send("visitors.create", {"body": data.visitor(center, email=second)})
    assert (await stack.result("visitors.create", request_id)).value["status"] == 409
    for email in (first, second):
        assert await _found(client, email=email) == [made["visitorId"]]
        assert await _found(client, query=email, queryBy="email") == [made["visitorId"]]


async def test_a_full_visitor_upgrades_the_partial_one_of_the_same_mailbox(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    local = data.new_email()[:20]
    partial = await data.create(client, "/visitors/partial", _partial(center, email=f"e\u0301{local}@bücher.de"))
    body = data.visitor(center, email=f"\u00e9{local}@xn--bcher-kva.de")
    full = await data.create(client, "/visitors", body)
    assert (full["visitorId"], full["accountType"], full["email"]) == (partial["visitorId"], "full", body["email"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{}@strasse.de", "{}@straße.de"), ("strasse.{}@example.com", "straße.{}@example.com"),
        ("i{}@example.com", "İ{}@example.com"), ("{}ss@example.com", "{}ẞ@example.com"),
        ("rene.{}@example.com", "rené.{}@example.com"),
    ],
)  # fmt: skip
async def test_two_mailboxes_are_two_visitors_also_where_folding_makes_them_one(
    stack: Stack, client: httpx.AsyncClient, one: str, other: str
) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    local = data.new_email()[:20]
    partial = await data.create(client, "/visitors/partial", _partial(center, email=one.format(local)))
    parts = {"body": data.visitor(center, email=other.format(local))}
    full = (await stack.result("visitors.create", await stack.send("visitors.create", parts))).value["body"]["data"]
    assert full["visitorId"] != partial["visitorId"]
    for made in (partial, full):
        assert await _found(client, email=made["email"]) == [made["visitorId"]]
    kept = (await client.get(f"/visitors/{partial['visitorId']}")).json()["data"]
    assert (kept["email"], kept["accountType"]) == (one.format(local), "partial")


@pytest.mark.parametrize("email", ["{}..b@docomo.ne.jp", ".{}@docomo.ne.jp", "{}.@docomo.ne.jp", "{}...b.@EZweb.ne.jp"])
async def test_an_address_with_dots_anywhere_is_accepted_of_carriers_that_deliver_to_it(
    stack: Stack, client: httpx.AsyncClient, email: str
) -> None:
    email = email.format(data.new_email()[:20])
    made = await _visitor(client, email=email)
    assert made["email"] == email
    body = data.visitor(made["acquisitionPcCode"], email=email.upper())
    taken = (await stack.result("visitors.create", await stack.send("visitors.create", {"body": body}))).value
    assert taken["status"] == 409
    for found in (await _found(client, email=email), await _found(client, query=email[:10], queryBy="email")):
        assert found == [made["visitorId"]]


@pytest.mark.parametrize(
    "email",
    [
        "a..b@example.com", ".a@example.com", "a.@gmail.com", "..@docomo.ne.jp", '"a..b"@docomo.ne.jp',
        "a..b@docomo..ne.jp", "a b@docomo.ne.jp", "a@b@docomo.ne.jp", "@docomo.ne.jp", "a..b", "a@localhost",
        "a\u200b@example.com", "a\uff20example.com",
    ],
)  # fmt: skip
async def test_what_is_no_address_is_refused(client: httpx.AsyncClient, email: str) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    answer = await client.post("/visitors", json=data.visitor(center, email=email))
    assert (answer.status_code, _codes(answer)) == (400, [("email", "wrong_format")])


async def test_an_upgrade_keeps_where_a_visitor_came_from_and_its_external_ids(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    first, second = [(await data.create(client, "/centers", data.center()))["pcCode"] for _ in range(2)]
    request_id = await stack.send("visitors.createPartial", {"body": _partial(first)}, source="kiosk/hall-1")
    partial = (await stack.result("visitors.createPartial", request_id)).value["body"]["data"]
    path = f"/visitors/{partial['visitorId']}"
    await data.create(client, f"{path}/externalIds", {"externalType": "crm_id", "externalId": str(uuid4())})
    known = (await client.get(f"{path}/externalIds")).json()["data"]
    async with stack.engine.begin() as conn:
        acquired = f"update visitors set acquisition_pc_code = '{first}' where visitor_id = '{partial['visitorId']}'"
        await conn.exec_driver_sql(acquired)
    full = await data.create(client, "/visitors", data.visitor(second, email=partial["email"]))
    assert (full["acquisitionPcCode"], full["upgradePcCode"]) == (first, second)
    assert (full["originType"], full["origin"]) == ("kiosk", "hall-1")
    assert full["creationDate"] == partial["creationDate"]
    assert (await client.get(f"{path}/externalIds")).json()["data"] == known


@pytest.mark.parametrize("path", ["/visitors", "/visitors/partial"])
async def test_all_that_a_new_visitor_names_and_that_is_not_there_is_told_at_once(
    client: httpx.AsyncClient, path: str
) -> None:
    optins = [{"optinType": "terms", "optinChannel": "none", "isActive": True}] * 2
    optins[1] = {**optins[1], "legalTextId": 2**62}
    nowhere = "FR-NO-ONE"
    body, field = (
        (data.visitor(nowhere), "acquisitionPcCode") if path == "/visitors" else (_partial(nowhere), "preferredCenter")
    )
    answer = await client.post(path, json={**body, "optins": optins})
    assert answer.status_code == 400
    assert _codes(answer) == [(field, "center_not_found"), ("optins[1].legalTextId", "legal_text_not_found")]


async def test_an_upgrade_with_an_unknown_center_names_the_field_that_was_sent(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    partial = await data.create(client, "/visitors/partial", _partial(center))
    answer = await client.post("/visitors", json=data.visitor("FR-NO-ONE", email=partial["email"]))
    assert (answer.status_code, _codes(answer)) == (400, [("acquisitionPcCode", "center_not_found")])


async def test_the_optins_of_an_upgrade_supersede_and_have_one_time(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    optin = {"optinType": "commercial", "optinChannel": "email", "isActive": True}
    partial = await data.create(
        client, "/visitors/partial", _partial(center, optins=[optin, {**optin, "contextId": 1}])
    )
    again = [optin, {**optin, "optinChannel": "sms"}, {**optin, "isActive": False}]
    await data.create(client, "/visitors", data.visitor(center, email=partial["email"], optins=again))
    rows = (await client.get(f"/visitors/{partial['visitorId']}/optins")).json()["data"]
    assert [row["isActive"] for row in rows] == [False, True, False, True, False]
    assert len({row["creationDate"] for row in rows[2:]}) == 1
    assert rows[0]["optoutDate"] == rows[2]["optoutDate"] == rows[2]["creationDate"]


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


async def test_a_partial_and_a_full_visitor_at_once_end_as_one_full_visitor(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Whoever comes first: the full one is never told that the email is taken by a partial visitor."""
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    emails = [data.new_email() for _ in range(40)]
    pairs = []
    for email in emails:
        # In different lanes, so that their transactions run side by side.
        body = _partial(center, email=email)
        partial = await stack.send("visitors.createPartial", {"body": body}, partition=0)
        full = await stack.send("visitors.create", {"body": data.visitor(center, email=email)}, partition=1)
        pairs.append((partial, full))
    for partial, full in pairs:
        assert (await stack.result("visitors.createPartial", partial)).value["status"] in (201, 409)
        assert (await stack.result("visitors.create", full)).value["status"] == 201
    rows = await stack.rows("select account_type from visitors where email = any(:emails)", emails=emails)
    assert [row.account_type for row in rows] == ["full"] * 40


async def test_a_full_visitor_waits_for_the_partial_one_that_is_being_added(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    email = data.new_email()
    async with stack.engine.connect() as conn:
        await conn.exec_driver_sql(
            "insert into visitors (visitor_id, first_name, first_name_key, email, email_key, barcode, country_code,"
            " account_type, origin_type, origin, creation_date, update_date, revision) values"
            f" ('{uuid4()}', 'A', 'a', '{email}', '{email}', '{uuid4()}', 'FR', 'partial', 'a', 'b', now(), now(), 1)"
        )
        creating = asyncio.create_task(data.create(client, "/visitors", data.visitor(center, email=email)))

        async def waits() -> bool:
            waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%visitors%'"
            return bool(await stack.rows(waiting))

        await eventually("a create that waits", waits)
        await conn.commit()
    made = await creating
    assert (made["accountType"], made["upgradePcCode"], made["origin"]) == ("full", center, "b")


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


@pytest.mark.parametrize("text", ["jose", "JOSÉ", "josé.łu", "jose.lu"])
async def test_an_email_is_found_without_its_accents(client: httpx.AsyncClient, text: str) -> None:
    made = await _visitor(client, email=f"José.Łukasz.{data.new_email()}")
    mine = {"acquisitionPcCode": made["acquisitionPcCode"]}
    assert await _found(client, query=text, queryBy="email", **mine) == [made["visitorId"]]
    assert await _found(client, email=made["email"].upper()) == [made["visitorId"]]
    await client.patch(f"/visitors/{made['visitorId']}", json={"email": data.new_email()})
    assert await _found(client, query=text, queryBy="email", **mine) == []


@pytest.mark.parametrize("text", ["mü", "MU ", "mu-ab"])
async def test_a_plate_is_found_without_its_accents(client: httpx.AsyncClient, text: str) -> None:
    made = await _visitor(client)
    path, mine = f"/visitors/{made['visitorId']}/vehicles", {"acquisitionPcCode": made["acquisitionPcCode"]}
    car = await data.create(client, path, data.vehicle(licensePlate="MÜ-AB 1"))
    assert await _found(client, query=text, queryBy="licensePlate", **mine) == [made["visitorId"]]
    await client.patch(f"{path}/{car['vehicleId']}", json={"licensePlate": "OS-AB 1"})
    assert await _found(client, query=text, queryBy="licensePlate", **mine) == []


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("O\u2019Brien", ["O'Brien", "o\u2019bri", "O`Brien", "o\u00b4brien", "O\u02bcBrien"]),
        ("O'Brien", ["O\u2019Brien", "o'b"]),
        ("Smith\u2011Jones", ["smith-jones", "Smith\u2013J", "smith\u2011jones"]),
        ("Saint-Just", ["saint\u2010just", "SAINT\u2212JUST"]),
        ("de\u00a0la\u202fTour", ["de la tour", "De  La"]),
        ("\u201cBuck\u201d Rogers", ['"buck" r', "\u00abBuck\u00bb"]),
        ("Mo\u00adham\u200bmadi", ["mohammadi"]),
    ],
)  # fmt: skip
async def test_quotes_dashes_and_blanks_of_all_kinds_are_found_by_any_of_their_kind(
    client: httpx.AsyncClient, name: str, texts: list[str]
) -> None:
    made = await _visitor(client, firstName="Zora", lastName=name)
    for text in texts:
        for query in ({"queryBy": "lastName", "query": text}, {"queryBy": "fullname", "query": f"zora {text}"}):
            found = await _found(client, **query, acquisitionPcCode=made["acquisitionPcCode"])
            assert found == [made["visitorId"]], query
    assert (await client.get(f"/visitors/{made['visitorId']}")).json()["data"]["lastName"] == name


@pytest.mark.parametrize("by", ["email", "firstName", "lastName", "licensePlate", "fullname"])
@pytest.mark.parametrize("text", ["", " ", "\u0301"])
async def test_a_query_in_which_there_is_nothing_to_search_for_finds_nobody(
    client: httpx.AsyncClient, by: str, text: str
) -> None:
    await data.parker(client)
    assert await _found(client, query=text, queryBy=by) == []


@pytest.mark.parametrize(
    ("name", "text"), [("Łukasz", "lu"), ("Søren", "SOREN"), ("Œdipe", "oed"), ("Strauß", "strauss")]
)
async def test_letters_without_a_plain_form_are_found_by_what_people_write(
    client: httpx.AsyncClient, name: str, text: str
) -> None:
    made = await _visitor(client, firstName=name)
    assert await _found(client, query=text, queryBy="firstName", acquisitionPcCode=made["acquisitionPcCode"]) == [
        made["visitorId"]
    ]


async def test_only_an_external_id_may_be_searched_by_the_digits_of_a_card(client: httpx.AsyncClient) -> None:
    made = await _visitor(client)
    number = "4111111111111111"
    external = {"externalType": "partner", "externalId": f"{number}{uuid4()}"}
    await data.create(client, f"/visitors/{made['visitorId']}/externalIds", external)
    assert await _found(client, query=number, queryBy="externalId") == [made["visitorId"]]
    for by in ("email", "firstName", "lastName", "licensePlate", "fullname"):
        answer = await client.get("/visitors", params={"query": number, "queryBy": by})
        assert (answer.status_code, _codes(answer)) == (400, [("query", "card_number_refused")]), by
    for path, field in (("/visitors", "originType"), ("/visitors/count", "originType")):
        answer = await client.get(path, params={field: number})
        assert (answer.status_code, _codes(answer)) == (400, [(field, "card_number_refused")])
    answer = await client.get(f"/visitors/{made['visitorId']}/eventToken", params={"companyId": number})
    assert (answer.status_code, _codes(answer)) == (400, [("companyId", "card_number_refused")])


async def test_texts_that_no_index_holds_are_too_long(client: httpx.AsyncClient) -> None:
    made = await _visitor(client)
    long = "".join(random.SystemRandom().choices([chr(number) for number in range(0x4E00, 0x9FA5)], k=1000))
    answer = await client.patch(f"/visitors/{made['visitorId']}", json={"firstName": long})
    assert (answer.status_code, _codes(answer)) == (400, [(None, "too_long")])
    external = {"externalType": "partner", "externalId": long}
    answer = await client.post(f"/visitors/{made['visitorId']}/externalIds", json=external)
    assert (answer.status_code, _codes(answer)) == (400, [(None, "too_long")])
    answer = await client.post("/visitors", json=data.visitor(made["acquisitionPcCode"], lastName=long))
    assert (answer.status_code, _codes(answer)) == (400, [(None, "too_long")])
    assert (await client.get(f"/visitors/{made['visitorId']}")).json()["data"] == made


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
    path = f"/visitors/{made['visitorId']}/parkings"
    parking = await data.create(client, path, {"parkingPartner": "designa"})
    assert await _found(client, isSmartparker="true", **mine) == [made["visitorId"]]
    assert (await client.delete(f"{path}/{parking['parkingId']}")).status_code == 204
    assert await _found(client, isSmartparker="true", **mine) == []
    assert await _found(client, isSmartparker="false", **mine) == [made["visitorId"]]


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
    nobodies = [{"visitorId": NOBODY}, {"visitorId": str(uuid4())}]
    wrong = await client.patch("/visitors", json=[nobodies[0], {**flags[0], "emailInvalid": False}, nobodies[1]])
    assert wrong.status_code == 400
    assert _codes(wrong) == [(f"[{place}].visitorId", "visitor_not_found") for place in (0, 2)]
    assert (await client.get(f"/visitors/{one['visitorId']}")).json()["data"]["emailInvalid"] is True
    faulty = await client.patch("/visitors", json=[{"emailInvalid": 1}])
    assert sorted(_codes(faulty)) == [("[0].emailInvalid", "wrong_type"), ("[0].visitorId", "required")]
    request_id = await stack.send("visitors.flagContacts", {"body": flags}, content_type=AVRO)
    assert (await stack.result("visitors.flagContacts", request_id)).value["status"] == 200


async def test_of_two_entries_about_one_visitor_the_later_flag_counts(stack: Stack, client: httpx.AsyncClient) -> None:
    made = await _visitor(client)
    mine = {"visitorId": made["visitorId"]}
    flags = [{**mine, "emailInvalid": True, "phoneInvalid": True}, {**mine, "emailInvalid": False}]
    answer = await client.patch("/visitors", json=flags)
    assert answer.json()["data"] == [{**mine, "emailInvalid": False, "phoneInvalid": True}] * 2
    found = (await client.get(f"/visitors/{made['visitorId']}")).json()["data"]
    assert (found["emailInvalid"], found["phoneInvalid"]) == (False, True)
    revisions = await stack.rows("select revision from visitors where visitor_id = :id", id=UUID(made["visitorId"]))
    assert [row.revision for row in revisions] == [2]


async def test_the_update_date_never_goes_back(stack: Stack, client: httpx.AsyncClient) -> None:
    """Whoever waited for a visitor's lock may have begun before who had it."""
    made = await _visitor(client)
    visitor_id, then = UUID(made["visitorId"]), datetime.now(UTC) - timedelta(hours=1)
    async with stack.engine.connect() as conn:
        tx = Tx(conn, Cause("test", Caller("test", "test"), then), then)
        updated = await VISITORS.update(tx, {"gender": "u"}, visitor_id=visitor_id)
        assert updated.update_date.isoformat().replace("+00:00", "Z") == made["updateDate"]
        flagged = CATALOGUE.by_name["visitors.flagContacts"]
        assert flagged.handler is not None
        body = {"body": [{"visitorId": made["visitorId"], "emailInvalid": True}]}
        page = await flagged.handler(tx, flagged.request.model_validate(body))
        assert page.items[0].update_date == updated.update_date
        later = datetime.now(UTC)
        after = Tx(conn, tx.cause, later)
        assert (await VISITORS.update(after, {"gender": "f"}, visitor_id=visitor_id)).update_date == later
        await conn.rollback()


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


async def test_500_visitors_whatever_the_digits_of_their_ids(client: httpx.AsyncClient) -> None:
    made = await _visitor(client)
    digits = "41111111-1111-1111-a000-000000000000"  # of a test card
    ids = [made["visitorId"], digits, *(str(uuid4()) for _ in range(498))]
    found = await client.get("/externalIds", params={"visitorId": ",".join(ids)})
    assert found.status_code == 200, found.text
    assert [row["visitorId"] for row in found.json()["data"]] == [made["visitorId"]]
    many = await client.get("/externalIds", params={"visitorId": ",".join([*ids, NOBODY])})
    assert (many.status_code, _codes(many)) == (400, [("visitorId", "too_many")])


@pytest.mark.parametrize("wrong", ["x", NOBODY.replace("-", ""), f"{{{NOBODY}}}", f"urn:uuid:{NOBODY}", f"{NOBODY} 1"])
async def test_each_part_of_a_list_is_checked(client: httpx.AsyncClient, wrong: str) -> None:
    query = {"visitorId": f"{NOBODY},{wrong}", "externalType": "google,nothing", "pcCode": "FR-A-1,fr"}
    answer = await client.get("/externalIds", params=query)
    assert answer.status_code == 400
    assert sorted(_codes(answer)) == [
        ("externalType", "not_allowed"), ("pcCode", "wrong_format"), ("visitorId", "wrong_format"),
    ]  # fmt: skip
    spaced = await client.get(
        "/externalIds", params={"visitorId": f" {NOBODY} , ,{NOBODY}", "externalType": "google, fid"}
    )
    assert (spaced.status_code, spaced.json()["data"]) == (200, [])


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
    operation = CATALOGUE.by_name["visitors.eventToken"]
    assert operation.handler is not None
    asked = {"path": {"visitorId": visitor["visitorId"]}, "query": {"companyId": "acme"}}
    now = datetime.now(UTC)
    async with stack.engine.connect() as conn:
        without_secret = Tx(conn, Cause("test", Caller("test", "test"), now), now)
        with pytest.raises(Unavailable, match="not_configured"):
            await operation.handler(without_secret, operation.request.model_validate(asked))
