"""Visitors: partial ones, search, counts, contact flags, external ids, details and event tokens."""

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
from storage.tx import Tx
from tests.support import data
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.stack import EVENT_TOKEN_SECRET, Stack, eventually
from tests.support.transaction import handler_tx
from topics.envelope import AVRO


async def _visitor(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    return await data.create(client, "/visitors", data.visitor(pc_code, **fields))


def _partial(center: str, **fields: Any) -> dict[str, Any]:
    return {
        "firstName": "Ada", "email": data.new_email(), "countryCode": "FR", "preferredCenter": center, "optins": [],
        **fields,
    }  # fmt: skip


# partial visitors


async def test_the_preferred_center_of_a_partial_visitor_becomes_its_favorite(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    visitor = await data.create(client, "/visitors/partial", _partial(center, lastName=None))
    assert (visitor["accountType"], visitor["registrationDate"], visitor["lastName"]) == ("partial", None, None)
    favorites = (await client.get(f"/visitors/{visitor['visitorId']}/centers")).json()["data"]
    assert [(row["pcCode"], row["isFavorite"]) for row in favorites] == [(center, True)]
    unknown_center = await client.post("/visitors/partial", json=_partial("FR-NO-ONE"))
    assert (unknown_center.status_code, error_codes(unknown_center)) == (400, [("preferredCenter", "center_not_found")])
    duplicate = await client.post("/visitors/partial", json=_partial(center, email=visitor["email"].upper()))
    assert (duplicate.status_code, error_codes(duplicate)) == (409, [("email", "email_taken")])


async def test_a_full_visitor_upgrades_the_partial_one_with_the_same_email(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    partial = await data.create(client, "/visitors/partial", _partial(center))
    full = await data.create(client, "/visitors", data.visitor(center, email=partial["email"]))
    assert (full["visitorId"], full["barcode"]) == (partial["visitorId"], partial["barcode"])
    assert (full["accountType"], full["upgradePcCode"]) == ("full", center)
    assert full["registrationDate"] is not None


ONE_MAILBOX = {
    "a letter and its mark": ("ren\u00e9.{}@example.com", "rene\u0301.{}@example.com"),
    "the same in capitals": ("ren\u00e9.{}@example.com", "RENE\u0301.{}@EXAMPLE.COM"),
    "a capital whose mark is never part of its code point": ("\u01f0.{}@example.com", "J\u030c.{}@example.com"),
    "a domain in A-labels": ("{}@b\u00fccher.example.de", "{}@xn--bcher-kva.example.de"),
    "a domain with separate marks": ("{}@b\u00fccher.example.de", "{}@BU\u0308CHER.Example.de"),
    "a domain in full width": ("{}@example.com", "{}@\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.com"),
    "a Chinese full stop": ("{}@b\u00fccher.example.de", "{}@b\u00fccher\u3002example\u3002de"),
}


@pytest.mark.parametrize("spelling", ONE_MAILBOX)
async def test_spellings_of_a_mailbox_are_one_visitor(stack: Stack, client: httpx.AsyncClient, spelling: str) -> None:
    local = data.new_email()[:20]
    first, second = [template.format(local) for template in ONE_MAILBOX[spelling]]
    visitor, other = await _visitor(client, email=first), await _visitor(client)
    center = visitor["acquisitionPcCode"]
    assert visitor["email"] == first
    for answer in (
        await client.post("/visitors", json=data.visitor(center, email=second)),
        await client.post("/visitors/partial", json=_partial(center, email=second)),
        await client.patch(f"/visitors/{other['visitorId']}", json={"email": second}),
    ):
        assert (answer.status_code, error_codes(answer)) == (409, [("email", "email_taken")])
    request_id = await stack.send("visitors.create", {"body": data.visitor(center, email=second)})
    assert (await stack.result("visitors.create", request_id)).value["status"] == 409
    for email in (first, second):
        assert await _search(client, email=email) == [visitor["visitorId"]]
        assert await _search(client, query=email, queryBy="email") == [visitor["visitorId"]]


async def test_a_full_visitor_upgrades_the_partial_one_with_the_same_mailbox(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    local = data.new_email()[:20]
    partial = await data.create(client, "/visitors/partial", _partial(center, email=f"e\u0301{local}@bücher.de"))
    body = data.visitor(center, email=f"\u00e9{local}@xn--bcher-kva.de")
    full = await data.create(client, "/visitors", body)
    assert (full["visitorId"], full["accountType"], full["email"]) == (partial["visitorId"], "full", body["email"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{}@strasse.de", "{}@straße.de"), ("strasse.{}@example.com", "straße.{}@example.com"),
        ("i{}@example.com", "İ{}@example.com"), ("{}ss@example.com", "{}ẞ@example.com"),
        ("rene.{}@example.com", "rené.{}@example.com"),
    ],
)  # fmt: skip
async def test_mailboxes_that_differ_only_in_letters_that_search_ignores_are_two_visitors(
    stack: Stack, client: httpx.AsyncClient, first: str, second: str
) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    local = data.new_email()[:20]
    partial = await data.create(client, "/visitors/partial", _partial(center, email=first.format(local)))
    parts = {"body": data.visitor(center, email=second.format(local))}
    full = (await stack.result("visitors.create", await stack.send("visitors.create", parts))).value["body"]["data"]
    assert full["visitorId"] != partial["visitorId"]
    for visitor in (partial, full):
        assert await _search(client, email=visitor["email"]) == [visitor["visitorId"]]
    unchanged = (await client.get(f"/visitors/{partial['visitorId']}")).json()["data"]
    assert (unchanged["email"], unchanged["accountType"]) == (first.format(local), "partial")


@pytest.mark.parametrize("email", ["{}..b@docomo.ne.jp", ".{}@docomo.ne.jp", "{}.@docomo.ne.jp", "{}...b.@EZweb.ne.jp"])
async def test_an_address_with_dots_anywhere_is_accepted_at_carriers_that_deliver_to_it(
    stack: Stack, client: httpx.AsyncClient, email: str
) -> None:
    email = email.format(data.new_email()[:20])
    visitor = await _visitor(client, email=email)
    assert visitor["email"] == email
    body = data.visitor(visitor["acquisitionPcCode"], email=email.upper())
    duplicate = (await stack.result("visitors.create", await stack.send("visitors.create", {"body": body}))).value
    assert duplicate["status"] == 409
    for visitor_ids in (await _search(client, email=email), await _search(client, query=email[:10], queryBy="email")):
        assert visitor_ids == [visitor["visitorId"]]


@pytest.mark.parametrize(
    "email",
    [
        "a..b@example.com", ".a@example.com", "a.@gmail.com", "..@docomo.ne.jp", '"a..b"@docomo.ne.jp',
        "a..b@docomo..ne.jp", "a b@docomo.ne.jp", "a@b@docomo.ne.jp", "@docomo.ne.jp", "a..b", "a@localhost",
        "a\u200b@example.com", "a\uff20example.com",
    ],
)  # fmt: skip
async def test_an_invalid_email_address_is_refused(client: httpx.AsyncClient, email: str) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    answer = await client.post("/visitors", json=data.visitor(center, email=email))
    assert (answer.status_code, error_codes(answer)) == (400, [("email", "wrong_format")])


async def test_an_upgrade_keeps_the_origin_and_the_external_ids_of_a_visitor(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    first, second = [(await data.create(client, "/centers", data.center()))["pcCode"] for _ in range(2)]
    request_id = await stack.send("visitors.createPartial", {"body": _partial(first)}, source="kiosk/hall-1")
    partial = (await stack.result("visitors.createPartial", request_id)).value["body"]["data"]
    path = f"/visitors/{partial['visitorId']}"
    await data.create(client, f"{path}/externalIds", {"externalType": "crm_id", "externalId": str(uuid4())})
    external_ids = (await client.get(f"{path}/externalIds")).json()["data"]
    async with stack.engine.begin() as conn:
        statement = f"update visitors set acquisition_pc_code = '{first}' where visitor_id = '{partial['visitorId']}'"
        await conn.exec_driver_sql(statement)
    full = await data.create(client, "/visitors", data.visitor(second, email=partial["email"]))
    assert (full["acquisitionPcCode"], full["upgradePcCode"]) == (first, second)
    assert (full["originType"], full["origin"]) == ("kiosk", "hall-1")
    assert full["creationDate"] == partial["creationDate"]
    assert (await client.get(f"{path}/externalIds")).json()["data"] == external_ids


@pytest.mark.parametrize("path", ["/visitors", "/visitors/partial"])
async def test_all_missing_references_of_a_new_visitor_are_reported_together(
    client: httpx.AsyncClient, path: str
) -> None:
    optins = [{"optinType": "terms", "optinChannel": "none", "isActive": True}] * 2
    optins[1] = {**optins[1], "legalTextId": 2**62}
    pc_code = "FR-NO-ONE"
    body, field = _partial(pc_code), "preferredCenter"
    if path == "/visitors":
        body, field = data.visitor(pc_code), "acquisitionPcCode"
    answer = await client.post(path, json={**body, "optins": optins})
    assert answer.status_code == 400
    assert error_codes(answer) == [(field, "center_not_found"), ("optins[1].legalTextId", "legal_text_not_found")]


async def test_an_upgrade_with_an_unknown_center_names_the_field_that_was_sent(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    partial = await data.create(client, "/visitors/partial", _partial(center))
    answer = await client.post("/visitors", json=data.visitor("FR-NO-ONE", email=partial["email"]))
    assert (answer.status_code, error_codes(answer)) == (400, [("acquisitionPcCode", "center_not_found")])


async def test_the_optins_of_an_upgrade_supersede_older_ones_and_have_the_same_time(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    optin = {"optinType": "commercial", "optinChannel": "email", "isActive": True}
    partial = await data.create(
        client, "/visitors/partial", _partial(center, optins=[optin, {**optin, "contextId": 1}])
    )
    optins = [optin, {**optin, "optinChannel": "sms"}, {**optin, "isActive": False}]
    await data.create(client, "/visitors", data.visitor(center, email=partial["email"], optins=optins))
    rows = (await client.get(f"/visitors/{partial['visitorId']}/optins")).json()["data"]
    assert [row["isActive"] for row in rows] == [False, True, False, True, False]
    assert len({row["creationDate"] for row in rows[2:]}) == 1
    assert rows[0]["optoutDate"] == rows[2]["optoutDate"] == rows[2]["creationDate"]


async def test_concurrent_creates_with_one_email_make_one_visitor(client: httpx.AsyncClient) -> None:
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    email = data.new_email()
    answers = await asyncio.gather(
        *(client.post("/visitors", json=data.visitor(center, email=email)) for _ in range(5)),
        *(client.post("/visitors/partial", json=_partial(center, email=email)) for _ in range(5)),
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert set(statuses) == {201, 409}
    assert len({answer.json()["data"]["visitorId"] for answer in answers if answer.status_code == 201}) == 1


async def test_concurrent_creates_of_a_partial_and_a_full_visitor_make_one_full_visitor(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """In either order. A full visitor is never refused because a partial visitor has its email."""
    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    emails = [data.new_email() for _ in range(40)]
    request_ids = []
    for email in emails:
        # Different partitions have different lanes, so the two transactions run concurrently.
        body = _partial(center, email=email)
        partial = await stack.send("visitors.createPartial", {"body": body}, partition=0)
        full = await stack.send("visitors.create", {"body": data.visitor(center, email=email)}, partition=1)
        request_ids.append((partial, full))
    for partial, full in request_ids:
        assert (await stack.result("visitors.createPartial", partial)).value["status"] in (201, 409)
        assert (await stack.result("visitors.create", full)).value["status"] == 201
    rows = await stack.rows("select account_type from visitors where email = any(:emails)", emails=emails)
    assert [row.account_type for row in rows] == ["full"] * 40


async def test_a_full_visitor_waits_for_the_partial_one_that_is_being_created(
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
        create = asyncio.create_task(data.create(client, "/visitors", data.visitor(center, email=email)))

        async def is_waiting() -> bool:
            statement = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%visitors%'"
            return bool(await stack.rows(statement))

        await eventually("a create that waits", is_waiting)
        await conn.commit()
    visitor = await create
    assert (visitor["accountType"], visitor["upgradePcCode"], visitor["origin"]) == ("full", center, "b")


async def test_new_visitors_of_one_batch_have_the_outcomes_that_they_have_one_by_one(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    locked = await _visitor(client)
    center = locked["acquisitionPcCode"]
    partial = await data.create(client, "/visitors/partial", _partial(center))
    local = f"batch-{uuid4().hex}"
    optin = {"optinType": "loyalty", "optinChannel": "sms", "isActive": True}
    bodies = [
        data.visitor(center, email=f"{local}@x.example", optins=[optin, {**optin, "isActive": False}, optin]),
        data.visitor(center, email=locked["email"]),
        data.visitor("FR-NO-ONE", optins=[{**optin, "legalTextId": 2**40}]),
        data.visitor(center, email=f"{local.upper()}@x.example"),
        data.visitor(center, email=partial["email"], optins=[optin]),
        data.visitor(center, email=partial["email"]),
        data.visitor(center, email=f"{local}@y.example", optins=[optin]),
    ]
    answers = await stack.in_one_batch(
        f"select 1 from visitors where visitor_id = '{locked['visitorId']}' for update",
        ("visitors.update", {"path": {"visitorId": locked["visitorId"]}, "body": {"addressCity": "Paris"}}),
        [("visitors.create", {"body": body}) for body in bodies],
    )
    assert [answer["status"] for answer in answers] == [201, 409, 400, 409, 201, 409, 201]
    assert [error["field"] for error in answers[2]["body"]["errors"]] == [
        "acquisitionPcCode", "optins[0].legalTextId",
    ]  # fmt: skip
    first, upgraded, last = (answers[index]["body"]["data"] for index in (0, 4, 6))
    assert (upgraded["visitorId"], upgraded["barcode"]) == (partial["visitorId"], partial["barcode"])
    assert (upgraded["accountType"], upgraded["upgradePcCode"]) == ("full", center)
    assert {row["email"] for row in (first, last)} == {f"{local}@x.example", f"{local}@y.example"}
    for visitor, active in ((first, [False, False, True]), (upgraded, [True]), (last, [True])):
        path = f"/visitors/{visitor['visitorId']}"
        assert (await client.get(path)).json()["data"] == visitor
        assert [row["isActive"] for row in (await client.get(f"{path}/optins")).json()["data"]] == active
        ids = (await client.get(f"{path}/externalIds")).json()["data"]
        assert [row["externalType"] for row in ids] == ["analytics"]


# search


async def _search(client: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/visitors", params=query)
    assert answer.status_code == 200, answer.text
    return [row["visitorId"] for row in answer.json()["data"]]


@pytest.mark.parametrize(
    ("query_by", "text"),
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
async def test_a_query_is_a_prefix_and_ignores_case_and_accents(
    client: httpx.AsyncClient, query_by: str, text: str
) -> None:
    visitor = await _visitor(client, firstName="Éloïse", lastName="Müller-Lüdenscheidt")
    center = visitor["acquisitionPcCode"]
    assert await _search(client, query=text, queryBy=query_by, acquisitionPcCode=center) == [visitor["visitorId"]]
    assert await _search(client, query=f"{text}x", queryBy=query_by, acquisitionPcCode=center) == []


async def test_visitors_are_found_by_email_plate_and_external_id(client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    visitor = (await client.get(f"/visitors/{parker['visitorId']}")).json()["data"]
    external = {"externalType": "crm_id", "externalId": f"CRM-É{uuid4()}"}
    await data.create(client, f"/visitors/{parker['visitorId']}/externalIds", external)
    for query_by, text in (
        ("email", visitor["email"][:15].upper()),
        ("licensePlate", parker["licensePlate"].lower().replace("-", " ")[:9]),
        ("externalId", external["externalId"].lower().replace("é", "e")[:20]),
    ):
        assert await _search(client, query=text, queryBy=query_by) == [parker["visitorId"]], query_by
    await client.delete(f"/visitors/{parker['visitorId']}/vehicles/{parker['vehicleId']}")
    assert await _search(client, query=parker["licensePlate"], queryBy="licensePlate") == []


@pytest.mark.parametrize("text", ["jose", "JOSÉ", "josé.łu", "jose.lu"])
async def test_an_email_is_found_without_its_accents(client: httpx.AsyncClient, text: str) -> None:
    visitor = await _visitor(client, email=f"José.Łukasz.{data.new_email()}")
    filters = {"acquisitionPcCode": visitor["acquisitionPcCode"]}
    assert await _search(client, query=text, queryBy="email", **filters) == [visitor["visitorId"]]
    assert await _search(client, email=visitor["email"].upper()) == [visitor["visitorId"]]
    await client.patch(f"/visitors/{visitor['visitorId']}", json={"email": data.new_email()})
    assert await _search(client, query=text, queryBy="email", **filters) == []


@pytest.mark.parametrize("text", ["mü", "MU ", "mu-ab"])
async def test_a_plate_is_found_without_its_accents(client: httpx.AsyncClient, text: str) -> None:
    visitor = await _visitor(client)
    path, filters = f"/visitors/{visitor['visitorId']}/vehicles", {"acquisitionPcCode": visitor["acquisitionPcCode"]}
    vehicle = await data.create(client, path, data.vehicle(licensePlate="MÜ-AB 1"))
    assert await _search(client, query=text, queryBy="licensePlate", **filters) == [visitor["visitorId"]]
    await client.patch(f"{path}/{vehicle['vehicleId']}", json={"licensePlate": "OS-AB 1"})
    assert await _search(client, query=text, queryBy="licensePlate", **filters) == []


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
async def test_a_search_ignores_the_kinds_of_quotes_dashes_and_spaces(
    client: httpx.AsyncClient, name: str, texts: list[str]
) -> None:
    visitor = await _visitor(client, firstName="Zora", lastName=name)
    for text in texts:
        for query in ({"queryBy": "lastName", "query": text}, {"queryBy": "fullname", "query": f"zora {text}"}):
            visitor_ids = await _search(client, **query, acquisitionPcCode=visitor["acquisitionPcCode"])
            assert visitor_ids == [visitor["visitorId"]], query
    assert (await client.get(f"/visitors/{visitor['visitorId']}")).json()["data"]["lastName"] == name


@pytest.mark.parametrize("query_by", ["email", "firstName", "lastName", "licensePlate", "fullname"])
@pytest.mark.parametrize("text", ["", " ", "\u0301"])
async def test_a_query_without_searchable_characters_finds_nobody(
    client: httpx.AsyncClient, query_by: str, text: str
) -> None:
    await data.visitor_with_vehicle(client)
    assert await _search(client, query=text, queryBy=query_by) == []


@pytest.mark.parametrize(
    ("name", "text"), [("Łukasz", "lu"), ("Søren", "SOREN"), ("Œdipe", "oed"), ("Strauß", "strauss")]
)
async def test_letters_without_a_plain_form_are_found_by_their_usual_replacement(
    client: httpx.AsyncClient, name: str, text: str
) -> None:
    visitor = await _visitor(client, firstName=name)
    assert await _search(client, query=text, queryBy="firstName", acquisitionPcCode=visitor["acquisitionPcCode"]) == [
        visitor["visitorId"]
    ]


async def test_only_a_query_by_external_id_may_contain_a_card_number(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    number = "4111111111111111"
    external = {"externalType": "partner", "externalId": f"{number}{uuid4()}"}
    await data.create(client, f"/visitors/{visitor['visitorId']}/externalIds", external)
    assert await _search(client, query=number, queryBy="externalId") == [visitor["visitorId"]]
    for query_by in ("email", "firstName", "lastName", "licensePlate", "fullname"):
        answer = await client.get("/visitors", params={"query": number, "queryBy": query_by})
        assert (answer.status_code, error_codes(answer)) == (400, [("query", "card_number_refused")]), query_by
    for path, field in (("/visitors", "originType"), ("/visitors/count", "originType")):
        answer = await client.get(path, params={field: number})
        assert (answer.status_code, error_codes(answer)) == (400, [(field, "card_number_refused")])
    answer = await client.get(f"/visitors/{visitor['visitorId']}/eventToken", params={"companyId": number})
    assert (answer.status_code, error_codes(answer)) == (400, [("companyId", "card_number_refused")])


async def test_texts_that_exceed_an_index_entry_are_too_long(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    long_text = "".join(random.SystemRandom().choices([chr(number) for number in range(0x4E00, 0x9FA5)], k=1000))
    answer = await client.patch(f"/visitors/{visitor['visitorId']}", json={"firstName": long_text})
    assert (answer.status_code, error_codes(answer)) == (400, [(None, "too_long")])
    external = {"externalType": "partner", "externalId": long_text}
    answer = await client.post(f"/visitors/{visitor['visitorId']}/externalIds", json=external)
    assert (answer.status_code, error_codes(answer)) == (400, [(None, "too_long")])
    answer = await client.post("/visitors", json=data.visitor(visitor["acquisitionPcCode"], lastName=long_text))
    assert (answer.status_code, error_codes(answer)) == (400, [(None, "too_long")])
    assert (await client.get(f"/visitors/{visitor['visitorId']}")).json()["data"] == visitor


async def test_query_and_query_by_must_be_sent_together(client: httpx.AsyncClient) -> None:
    for query, field in (({"query": "a"}, "queryBy"), ({"queryBy": "email"}, "query")):
        answer = await client.get("/visitors", params=query)
        assert (answer.status_code, error_codes(answer)) == (400, [(field, "required")])


async def test_visitors_are_filtered(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client, countryCode="TV")
    filters = {"acquisitionPcCode": visitor["acquisitionPcCode"]}
    for query in (
        {"email": visitor["email"].upper()},
        {"barcode": visitor["barcode"]},
        {"countryCode": "TV", **filters},
        {"accountType": "full", **filters},
        {"originType": "api", **filters},
        {"updatedSince": visitor["updateDate"], **filters},
        {"createdSince": visitor["creationDate"], **filters},
        {"isSmartparker": "false", **filters},
    ):
        assert await _search(client, **query) == [visitor["visitorId"]], query
    for query in (
        {"barcode": "of nobody"},
        {"accountType": "partial", **filters},
        {"isSmartparker": "true", **filters},
    ):
        assert await _search(client, **query) == [], query
    path = f"/visitors/{visitor['visitorId']}/parkings"
    parking = await data.create(client, path, {"parkingPartner": "designa"})
    assert await _search(client, isSmartparker="true", **filters) == [visitor["visitorId"]]
    assert (await client.delete(f"{path}/{parking['parkingId']}")).status_code == 204
    assert await _search(client, isSmartparker="true", **filters) == []
    assert await _search(client, isSmartparker="false", **filters) == [visitor["visitorId"]]


async def test_visitors_are_counted(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    filters, registration_date = {"acquisitionPcCode": visitor["acquisitionPcCode"]}, visitor["registrationDate"]

    async def count(**query: Any) -> int:
        return int((await client.get("/visitors/count", params={**filters, **query})).json()["data"]["count"])

    assert await count() == 1
    assert await count(registeredSince=registration_date, accountType="full", originType="api") == 1
    assert await count(registeredUntil=registration_date) == 0
    assert await count(accountType="partial") == 0


# flags


async def test_contacts_of_several_visitors_are_flagged_all_or_none(stack: Stack, client: httpx.AsyncClient) -> None:
    first, second = await _visitor(client), await _visitor(client, phoneInvalid=True)
    flags = [
        {"visitorId": first["visitorId"], "emailInvalid": True},
        {"visitorId": second["visitorId"], "phoneInvalid": False},
    ]
    answer = await client.patch("/visitors", json=flags)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == [
        {"visitorId": first["visitorId"], "emailInvalid": True, "phoneInvalid": None},
        {"visitorId": second["visitorId"], "emailInvalid": None, "phoneInvalid": False},
    ]
    unknown = [{"visitorId": ABSENT_VISITOR_ID}, {"visitorId": str(uuid4())}]
    refused = await client.patch("/visitors", json=[unknown[0], {**flags[0], "emailInvalid": False}, unknown[1]])
    assert refused.status_code == 400
    assert error_codes(refused) == [(f"[{index}].visitorId", "visitor_not_found") for index in (0, 2)]
    assert (await client.get(f"/visitors/{first['visitorId']}")).json()["data"]["emailInvalid"] is True
    malformed = await client.patch("/visitors", json=[{"emailInvalid": 1}])
    assert sorted(error_codes(malformed)) == [("[0].emailInvalid", "wrong_type"), ("[0].visitorId", "required")]
    request_id = await stack.send("visitors.flagContacts", {"body": flags}, content_type=AVRO)
    assert (await stack.result("visitors.flagContacts", request_id)).value["status"] == 200


async def test_a_later_entry_overrides_the_flags_of_an_earlier_one_for_the_same_visitor(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    visitor = await _visitor(client)
    entry = {"visitorId": visitor["visitorId"]}
    flags = [{**entry, "emailInvalid": True, "phoneInvalid": True}, {**entry, "emailInvalid": False}]
    answer = await client.patch("/visitors", json=flags)
    assert answer.json()["data"] == [{**entry, "emailInvalid": False, "phoneInvalid": True}] * 2
    updated = (await client.get(f"/visitors/{visitor['visitorId']}")).json()["data"]
    assert (updated["emailInvalid"], updated["phoneInvalid"]) == (False, True)
    rows = await stack.rows("select revision from visitors where visitor_id = :id", id=UUID(visitor["visitorId"]))
    assert [row.revision for row in rows] == [2]


async def test_the_update_date_never_goes_back(stack: Stack, client: httpx.AsyncClient) -> None:
    """A transaction that waited for the visitor's lock may have an earlier time than the one that held the lock."""
    visitor = await _visitor(client)
    visitor_id, earlier = UUID(visitor["visitorId"]), datetime.now(UTC) - timedelta(hours=1)
    async with stack.engine.connect() as conn:
        tx = handler_tx(conn, earlier)
        updated = await VISITORS.update(tx, {"gender": "u"}, visitor_id=visitor_id)
        assert updated.update_date.isoformat().replace("+00:00", "Z") == visitor["updateDate"]
        operation = CATALOGUE.by_name["visitors.flagContacts"]
        assert operation.handler is not None
        body = {"body": [{"visitorId": visitor["visitorId"], "emailInvalid": True}]}
        page = await operation.handler(tx, operation.request.model_validate(body))
        assert page.items[0].update_date == updated.update_date
        later = datetime.now(UTC)
        later_tx = Tx(conn, tx.cause, later)
        assert (await VISITORS.update(later_tx, {"gender": "f"}, visitor_id=visitor_id)).update_date == later
        await conn.rollback()


# external ids


async def test_an_external_id_is_unique_by_type_and_center_for_its_visitor_and_among_visitors(
    client: httpx.AsyncClient,
) -> None:
    first, second = await _visitor(client), await _visitor(client)
    path, center = f"/visitors/{first['visitorId']}/externalIds", first["acquisitionPcCode"]
    body = {"externalType": "designa", "externalId": str(uuid4())}
    without_center = await data.create(client, path, body)
    with_center = await data.create(client, path, {**body, "pcCode": center})
    same_type = await client.post(path, json={**body, "externalId": "other"})
    assert (same_type.status_code, error_codes(same_type)) == (409, [("externalType", "external_id_exists")])
    same_id = await client.post(f"/visitors/{second['visitorId']}/externalIds", json=body)
    assert (same_id.status_code, error_codes(same_id)) == (409, [("externalId", "external_id_exists")])

    assert (await client.get(f"{path}/designa")).json()["data"] == without_center
    assert (await client.get(f"{path}/designa", params={"pcCode": center})).json()["data"] == with_center
    assert (await client.get(f"{path}/google")).status_code == 404
    listed = (await client.get(path, params={"pcCode": center})).json()["data"]
    assert listed == [with_center]
    assert (await client.delete(f"{path}/designa")).status_code == 204
    assert (await client.get(f"{path}/designa")).json()["data"] == with_center
    assert (await client.delete(f"{path}/designa")).status_code == 204
    assert (await client.delete(f"{path}/designa")).status_code == 404


async def test_analytics_ids_can_be_neither_created_nor_deleted_by_callers(client: httpx.AsyncClient) -> None:
    path = f"/visitors/{(await _visitor(client))['visitorId']}/externalIds"
    answer = await client.post(path, json={"externalType": "analytics", "externalId": "a"})
    assert (answer.status_code, error_codes(answer)) == (400, [("externalType", "not_allowed")])
    answer = await client.delete(f"{path}/analytics")
    assert (answer.status_code, error_codes(answer)) == (400, [("externalType", "not_allowed")])
    assert (await client.get(f"{path}/analytics")).status_code == 200


async def test_an_external_id_with_a_slash_is_resolved(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    external_id = f"a/b %{uuid4()}"
    body = {"externalType": "partner", "externalId": external_id}
    created = await data.create(client, f"/visitors/{visitor['visitorId']}/externalIds", body)
    encoded = external_id.replace("%", "%25").replace("/", "%2F").replace(" ", "%20")
    assert (await client.get(f"/externalIds/partner/{encoded}")).json()["data"] == created
    assert (await client.get(f"/externalIds/google/{encoded}")).status_code == 404


async def test_the_external_ids_of_several_visitors_are_listed_together(client: httpx.AsyncClient) -> None:
    first, second = await _visitor(client), await _visitor(client)
    ids = f"{first['visitorId']},{second['visitorId']},{ABSENT_VISITOR_ID}"
    rows = (await client.get("/externalIds", params={"visitorId": ids})).json()["data"]
    assert [(row["visitorId"], row["externalType"]) for row in rows] == [
        (first["visitorId"], "analytics"), (second["visitorId"], "analytics"),
    ]  # fmt: skip
    query = {"visitorId": ids, "externalType": "google,designa"}
    assert (await client.get("/externalIds", params=query)).json()["data"] == []


async def test_a_batch_accepts_500_visitor_ids_with_any_digits(client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    card_like_id = "41111111-1111-1111-a000-000000000000"  # its digits are a test card number
    ids = [visitor["visitorId"], card_like_id, *(str(uuid4()) for _ in range(498))]
    answer = await client.get("/externalIds", params={"visitorId": ",".join(ids)})
    assert answer.status_code == 200, answer.text
    assert [row["visitorId"] for row in answer.json()["data"]] == [visitor["visitorId"]]
    too_many = await client.get("/externalIds", params={"visitorId": ",".join([*ids, ABSENT_VISITOR_ID])})
    assert (too_many.status_code, error_codes(too_many)) == (400, [("visitorId", "too_many")])


@pytest.mark.parametrize(
    "malformed",
    [
        "x",
        ABSENT_VISITOR_ID.replace("-", ""),
        f"{{{ABSENT_VISITOR_ID}}}",
        f"urn:uuid:{ABSENT_VISITOR_ID}",
        f"{ABSENT_VISITOR_ID} 1",
    ],
)
async def test_each_item_of_a_comma_list_is_validated(client: httpx.AsyncClient, malformed: str) -> None:
    query = {"visitorId": f"{ABSENT_VISITOR_ID},{malformed}", "externalType": "google,nothing", "pcCode": "FR-A-1,fr"}
    answer = await client.get("/externalIds", params=query)
    assert answer.status_code == 400
    assert sorted(error_codes(answer)) == [
        ("externalType", "not_allowed"), ("pcCode", "wrong_format"), ("visitorId", "wrong_format"),
    ]  # fmt: skip
    with_spaces = await client.get(
        "/externalIds",
        params={"visitorId": f" {ABSENT_VISITOR_ID} , ,{ABSENT_VISITOR_ID}", "externalType": "google, fid"},
    )
    assert (with_spaces.status_code, with_spaces.json()["data"]) == (200, [])


# details


async def test_details_list_visitors_with_all_their_records(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    path = f"/visitors/{parker['visitorId']}"
    optin = {"optinType": "terms", "optinChannel": "none", "isActive": True}
    reward = {"pcCode": parker["pcCode"], "startDate": "2024-01-01T00:00:00Z", "balance": 1, "threshold": 2}
    records = {
        "optins": await data.create(client, f"{path}/optins", optin),
        "rewards": await data.create(client, f"{path}/rewards", {**reward, "outsideOptin": False}),
        "visitorCenters": await data.create(
            client, f"{path}/centers", {"pcCode": parker["pcCode"], "isFavorite": True}
        ),
    }
    deleted = await data.create(client, f"{path}/vehicles", data.vehicle())
    await client.delete(f"{path}/vehicles/{deleted['vehicleId']}")
    (details,) = (await client.get("/visitors/details", params={"visitorId": parker["visitorId"]})).json()["data"]
    assert {name: details[name] for name in records} == {name: [row] for name, row in records.items()}
    assert [row["vehicleId"] for row in details["vehicles"]] == [parker["vehicleId"]]
    assert [row["externalType"] for row in details["externalIds"]] == ["analytics"]
    assert details["creditCards"] == []
    visitor = (await client.get(path)).json()["data"]
    assert {name: details[name] for name in visitor} == visitor

    created = visitor["creationDate"]
    since = (await client.get("/visitors/details", params={"creationDateGte": created, "limit": 1})).json()
    assert [row["visitorId"] for row in since["data"]] == [parker["visitorId"]]
    until = (await client.get("/visitors/details", params={"creationDateLt": created, "sort": "-creationDate"})).json()
    assert parker["visitorId"] not in [row["visitorId"] for row in until["data"]]


# event tokens


async def test_an_event_token_is_signed_and_has_its_expiry(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor = await _visitor(client)
    path = f"/visitors/{visitor['visitorId']}/eventToken"
    event_token = (await client.get(path, params={"companyId": "acme"})).json()["data"]
    claims = jwt.decode(event_token["token"], EVENT_TOKEN_SECRET, algorithms=["HS256"])
    assert (claims["visitorId"], claims["companyId"]) == (visitor["visitorId"], "acme")
    assert claims["exp"] - claims["iat"] == 3600
    assert datetime.fromisoformat(event_token["expiresAt"]).timestamp() == claims["exp"]
    assert (await client.get(path)).status_code == 400
    unknown_visitor = await client.get(f"/visitors/{ABSENT_VISITOR_ID}/eventToken", params={"companyId": "acme"})
    assert (unknown_visitor.status_code, error_codes(unknown_visitor)) == (404, [(None, "visitor_not_found")])
    operation = CATALOGUE.by_name["visitors.eventToken"]
    assert operation.handler is not None
    parts = {"path": {"visitorId": visitor["visitorId"]}, "query": {"companyId": "acme"}}
    now = datetime.now(UTC)
    async with stack.engine.connect() as conn:
        without_secret = handler_tx(conn, now)
        with pytest.raises(Unavailable, match="not_configured"):
            await operation.handler(without_secret, operation.request.model_validate(parts))
