"""Callers that are restricted to centers or countries, on a real edge and worker: each operation that they may call,
and what an attacker with such a key would try."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from edge.identity import CENTER_OF
from tests.support import data
from tests.support.answers import error_codes
from tests.support.edges import bearer, entry
from tests.support.scene import FACTS, PREREQUISITES, Parts, Scene, adds_to, send
from tests.support.stack import WIRE, Stack, eventually
from topics.envelope import AVRO, JSON

CODE = data.new_code().removeprefix("FR")
OWN = f"CH{CODE}"
"""The center to which the callers are restricted: `paris` by its code, `geneva` by its country."""
FOREIGN = {"paris": f"{OWN}0", "geneva": f"FR-CH-{CODE.removeprefix('-T-')}"}
"""By caller, a center that it must not reach: its code begins with that of the own one, or contains the country."""
CENTERS = {"paris": f"centers = ['{OWN}']", "geneva": "countries = ['CH']", "other": f"centers = {[*FOREIGN.values()]}"}
SCOPES = ("*:read", "*:write", "visitors:erase", "visitors:event-token", "operator")
KEYS = "".join(entry(caller, caller, centers, SCOPES) for caller, centers in CENTERS.items())

LISTS = [name for name in CENTER_OF if CATALOGUE.by_name[name].shape in ("page", "array")]
BY_QUERY, BY_BODY = ([name for name, part in CENTER_OF.items() if part == each] for each in ("query", "body"))
FORBIDDEN = sorted(FACTS.keys() - CENTER_OF.keys())
SHARED = frozenset(("visitorId", "barcode", "vehicleId", "licensePlate", "parkingId", "cardId"))
"""Ids of records that belong to no center: both centers have records of the same visitor."""

Refusal = tuple[int, list[tuple[str | None, str]]]
OTHER_CENTER = (403, [("pcCode", "other_center")])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def restricted(
    stack: Stack, client: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge with these keys. The centers exist."""
    for code in (OWN, *FOREIGN.values()):
        await data.create(client, "/centers", data.center(pcCode=code))
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(KEYS)
    edge, url = stack.edge(VISITOR_HTTP_KEYS=str(file))
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client_of_edge:
        yield client_of_edge
    edge.kill()


@dataclass
class Centers:
    """The own center of the callers and a foreign one, with records of the same visitor."""

    own: Scene
    foreign: Scene

    @classmethod
    async def create(cls, client: httpx.AsyncClient, foreign_code: str) -> "Centers":
        own, foreign = Scene(client), Scene(client)
        own.values["pcCode"], foreign.values["pcCode"] = OWN, foreign_code
        await own.value_of("visitorId")
        return cls(own, foreign)

    async def parts(self, operation: str) -> tuple[Parts, Parts]:
        """The parts of a request about the own center, and of one about the foreign center."""
        own_parts = await _parts(self.own, operation)
        self.share()
        return own_parts, await _parts(self.foreign, operation)

    def share(self) -> None:
        """Let the foreign center have records about the same visitor, parking and so on."""
        self.foreign.values |= {name: self.own.values[name] for name in SHARED & self.own.values.keys()}


async def _parts(scene: Scene, operation: str) -> Parts:
    parts = await scene.parts(operation)
    if CENTER_OF.get(operation) == "query":
        parts["query"] = {**parts.get("query", {}), "pcCode": scene.values["pcCode"]}
    return parts


async def _records(stack: Stack, pc_code: str) -> list[Any]:
    """All rows of a center, of every table."""
    tables = [table.sql.name for table in CATALOGUE.tables if "pc_code" in table.columns]
    selects = (f"select '{name}', to_jsonb(t)::text from {name} t where pc_code = :pc_code" for name in tables)
    return await stack.rows(" union all ".join(selects) + " order by 1, 2", pc_code=pc_code)


def _refusal(answer: httpx.Response) -> Refusal:
    return answer.status_code, error_codes(answer)


def _is_refused(answer: httpx.Response) -> bool:
    return answer.status_code in (400, 403, 404)


# The operations that they may call


@pytest.mark.parametrize("operation", CENTER_OF)
async def test_a_restricted_caller_may_call_it_for_its_own_centers_only(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient, operation: str
) -> None:
    declared = CATALOGUE.by_name[operation]
    for caller, foreign_code in FOREIGN.items():
        own_parts, foreign_parts = await (await Centers.create(client, foreign_code)).parts(operation)
        own_records, foreign_records = await _records(stack, OWN), await _records(stack, foreign_code)
        refused = await send(restricted, declared, foreign_parts, **bearer(caller))
        assert _refusal(refused) == OTHER_CENTER
        allowed = await send(restricted, declared, own_parts, **bearer(caller))
        assert allowed.status_code == declared.status, allowed.text
        assert foreign_code not in allowed.text
        assert await _records(stack, foreign_code) == foreign_records
        assert (await _records(stack, OWN) != own_records) == (not declared.is_query)


@pytest.mark.parametrize("operation", LISTS)
async def test_records_of_other_centers_are_in_no_list_and_in_no_count(
    client: httpx.AsyncClient, restricted: httpx.AsyncClient, operation: str
) -> None:
    declared, adding = CATALOGUE.by_name[operation], str(adds_to(operation))
    for caller, foreign_code in FOREIGN.items():
        centers = await Centers.create(client, foreign_code)
        await centers.own.add_row(adding, operation)
        own_parts, foreign_parts = await centers.parts(operation)
        for _ in range(2):
            before = await send(restricted, declared, own_parts, **bearer(caller))
            await centers.foreign.add_row(adding, operation)
            after = await send(restricted, declared, own_parts, **bearer(caller))
            assert _items(after) == _items(before) != []
        assert _items(await send(client, declared, foreign_parts)) != []


def _items(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    items: list[Any] = body if isinstance(body, list) else body["data"]
    return items


WITH_IDS = [
    name
    for name in CENTER_OF
    if {param["name"] for param in FACTS[name]["path_params"]} - {"pcCode", "visitorId", "visitType"}
]


@pytest.mark.parametrize("operation", WITH_IDS)
async def test_a_record_of_another_center_is_not_found_by_its_id(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient, operation: str
) -> None:
    for caller, foreign_code in FOREIGN.items():
        own_parts, foreign_parts = await (await Centers.create(client, foreign_code)).parts(operation)
        records = await _records(stack, foreign_code)
        mixed = {**own_parts, "path": {**foreign_parts["path"], "pcCode": OWN}}
        answer = await send(restricted, CATALOGUE.by_name[operation], mixed, **bearer(caller))
        assert answer.status_code == 404
        assert await _records(stack, foreign_code) == records


async def test_a_checkin_at_a_service_of_another_center_is_refused(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    for caller, foreign_code in FOREIGN.items():
        centers = await Centers.create(client, foreign_code)
        for operation in ("checkins.create", "checkins.createByBarcode"):
            own_parts, foreign_parts = await centers.parts(operation)
            records = await _records(stack, foreign_code)
            own_parts["body"]["serviceId"] = foreign_parts["body"]["serviceId"]
            answer = await send(restricted, CATALOGUE.by_name[operation], own_parts, **bearer(caller))
            assert _refusal(answer) == (400, [("serviceId", "service_of_another_center")])
            assert await _records(stack, foreign_code) == records


async def test_no_update_moves_a_record_to_or_from_another_center(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    foreign_code = FOREIGN["paris"]
    centers = await Centers.create(client, foreign_code)
    own_company, foreign_company = [await scene.value_of("centerCompanyId") for scene in (centers.own, centers.foreign)]
    own_service, foreign_service = [await scene.value_of("serviceId") for scene in (centers.own, centers.foreign)]
    records = [await _records(stack, code) for code in (OWN, foreign_code)]
    for path, code in (
        (f"/centers/{OWN}", foreign_code),
        (f"/centers/{foreign_code}", OWN),
        (f"/centers/{OWN}/companies/{own_company}", foreign_code),
        (f"/centers/{OWN}/companies/{foreign_company}", OWN),
        (f"/centers/{foreign_code}/companies/{foreign_company}", OWN),
        (f"/services/{own_service}", foreign_code),
        (f"/services/{foreign_service}", OWN),
    ):
        answer = await restricted.patch(path, json={"pcCode": code}, headers=bearer("paris"))
        assert _is_refused(answer), (path, answer.text)
    assert [await _records(stack, code) for code in (OWN, foreign_code)] == records


async def test_a_record_that_another_caller_moves_leaves_the_list(
    client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    centers = await Centers.create(client, FOREIGN["paris"])
    service_id = await centers.own.value_of("serviceId")

    async def listed(code: str, **headers: str) -> bool:
        query = {"pcCode": code, "sort": "-serviceId", "limit": 1}
        services = _items(await restricted.get("/services", params=query, headers=headers))
        return service_id in [service["serviceId"] for service in services]

    assert await listed(OWN, **bearer("paris"))
    assert (await client.patch(f"/services/{service_id}", json={"pcCode": FOREIGN["paris"]})).status_code == 204
    assert not await listed(OWN, **bearer("paris"))
    assert await listed(FOREIGN["paris"], **bearer("other"))


# All other operations


async def test_a_restricted_caller_may_call_nothing_else(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    shared = await Centers.create(client, FOREIGN["paris"])
    refusals = {}
    for name in FORBIDDEN:
        # Each prerequisite can be created once for a visitor.
        centers = await Centers.create(client, FOREIGN["paris"]) if name in PREREQUISITES else shared
        parts, records = await centers.own.parts(name), await _records(stack, OWN)
        refusals[name] = _refusal(await send(restricted, CATALOGUE.by_name[name], parts, **bearer("paris")))
        assert await _records(stack, OWN) == records, name
    assert refusals == dict.fromkeys(FORBIDDEN, (403, [(None, "not_restricted")]))


# Attacks

_TWICE = ("pcCode={own}&pcCode={foreign}", "pcCode={foreign}&pcCode={own}", "pcCode={own}&%70c%43ode={foreign}")
_OTHER_NAMES = ("PCCODE", "PcCode", "pc_code", "pcCode[]", "pcCode%20", "%20pcCode", "pcCode%00", "acquisitionPcCode")
_OTHER_VALUES = ("", "*", "%25", "{own},{foreign}", "{own}%00", "{own}%0A", "{own}%20", "%20{own}", "{lower}", "%2543H")
QUERIES = (
    "",
    *_TWICE,
    *(f"pcCode={{own}}&{name}={{foreign}}" for name in _OTHER_NAMES),
    *(f"{name}={{own}}" for name in _OTHER_NAMES),
    *(f"pcCode={value}" for value in _OTHER_VALUES),
    "pcCode={own}%26pcCode={foreign}",
    "pcCode={own};pcCode={foreign}",
)


@pytest.mark.parametrize("operation", BY_QUERY)
async def test_a_query_that_names_its_center_in_another_way_is_refused(
    client: httpx.AsyncClient, restricted: httpx.AsyncClient, operation: str
) -> None:
    parts = await Scene(client).parts(operation)
    parts.get("query", {}).pop("pcCode", None)
    for caller, foreign_code in FOREIGN.items():
        for query in QUERIES:
            code = query.format(own=OWN, foreign=foreign_code, lower=OWN.lower())
            answer = await _send_query(restricted, operation, parts, code, caller)
            assert _is_refused(answer), (query, answer.text)
        assert (await _send_query(restricted, operation, parts, f"pcCode={OWN}", caller)).status_code == 200


async def _send_query(
    restricted: httpx.AsyncClient, operation: str, parts: Parts, query: str, caller: str
) -> httpx.Response:
    declared = CATALOGUE.by_name[operation]
    others = "&".join(f"{name}={value}" for name, value in parts.get("query", {}).items())
    target = f"{declared.path.format(**parts.get('path', {}))}?{others}&{query}"
    return await _send_target(restricted, target, caller)


async def _send_target(restricted: httpx.AsyncClient, target: str, caller: str) -> httpx.Response:
    """GET a target as it is: the client would normalise it."""
    return await restricted.get("/", headers=bearer(caller), extensions={"target": target.encode()})


TARGETS = (
    "/centers/{foreign}",
    "/centers/%46{foreign_rest}",
    "/centers/{foreign}?pcCode={own}",
    "/centers/{foreign}/companies?pcCode={own}",
    "/centers/{own}/../{foreign}",
    "/centers/{own}/%2e%2e/{foreign}",
    "/centers/{own}%2F..%2F{foreign}",
    "/centers/{own}%2F..%2F{foreign}/companies",
    "/centers//{foreign}",
    "/centers/{own},{foreign}",
    "/centers/{own};{foreign}",
    "/centers/{foreign}%00{own}",
    "/centers/{own}%00",
    "/centers/{own}%0A",
    "/centers/{own}%20",
    "/centers/{lower}",
    "/CENTERS/{own}",
    "/centers/%2543{own_rest}",
    "/centers/{own}?pcCode={foreign}",
    "http://localhost/centers/{foreign}",
)


@pytest.mark.parametrize("target", TARGETS)
async def test_a_path_that_names_its_center_in_another_way_is_refused(
    restricted: httpx.AsyncClient, target: str
) -> None:
    for caller, foreign_code in FOREIGN.items():
        codes = {"own": OWN, "foreign": foreign_code, "lower": OWN.lower()}
        path = target.format(**codes, foreign_rest=foreign_code[1:], own_rest=OWN[1:])
        answer = await _send_target(restricted, path, caller)
        assert _is_refused(answer), answer.text
        assert (await _send_target(restricted, f"/centers/%43{OWN[1:]}", caller)).status_code == 200


def _bodies(body: Any, foreign: Any) -> dict[str, bytes]:
    """Bodies that a caller may try, by what is wrong with them. `body` is about the own center, `foreign` is not."""
    rest = json.dumps({name: value for name, value in body.items() if name != "pcCode"})[1:]
    own_code, foreign_code = body["pcCode"], foreign["pcCode"]
    return {
        "foreign center last": f'{{"pcCode": "{own_code}", "pcCode": "{foreign_code}", {rest}'.encode(),
        "escaped name": f'{{"pcCode": "{own_code}", "pc\\u0043ode": "{foreign_code}", {rest}'.encode(),
        "escaped value": f'{{"pcCode": "\\u0046{foreign_code[1:]}", {rest}'.encode(),
        **{
            f"also {name}": json.dumps(body | {name: foreign_code}).encode()
            for name in ("PCCODE", "pc_code", "pcCode ", "__proto__", "path", "query", "body")
        },
        **{
            f"value {value!r}": json.dumps(body | {"pcCode": value}).encode()
            for value in (None, 1, [own_code], {"$ne": 0}, own_code.lower(), f"{own_code}\0", f" {own_code}", "*")
        },
        "no center": f"{{{rest}".encode(),
        "several records": json.dumps([body, foreign]).encode(),
        "request message": json.dumps({"path": {}, "query": {"pcCode": own_code}, "body": foreign}).encode(),
        "other encoding": json.dumps(body).encode("utf-16"),
        "two documents": json.dumps(body).encode() + json.dumps(foreign).encode(),
    }


@pytest.mark.parametrize("operation", BY_BODY)
async def test_a_body_that_names_its_center_in_another_way_is_refused(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient, operation: str
) -> None:
    declared = CATALOGUE.by_name[operation]
    for caller, foreign_code in FOREIGN.items():
        own_parts, foreign_parts = await (await Centers.create(client, foreign_code)).parts(operation)
        url = declared.path.format(**own_parts.get("path", {}))
        records = [await _records(stack, code) for code in (OWN, foreign_code)]

        async def post(body: bytes, query: str = "", url: str = url, caller: str = caller) -> httpx.Response:
            headers = bearer(caller) | {"content-type": JSON}
            return await restricted.post(url + query, content=body, headers=headers)

        for attack, body in _bodies(own_parts["body"], foreign_parts["body"]).items():
            answer = await post(body)
            assert _is_refused(answer), (attack, answer.text)
        own_body, foreign_body = [json.dumps(parts["body"]).encode() for parts in (own_parts, foreign_parts)]
        assert _refusal(await post(foreign_body, f"?pcCode={OWN}")) == (400, [("pcCode", "unknown_field")])
        assert _refusal(await post(own_body, f"?pcCode={foreign_code}")) == (400, [("pcCode", "unknown_field")])
        assert [await _records(stack, code) for code in (OWN, foreign_code)] == records


async def test_a_call_in_the_form_of_a_message_is_refused(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    """Kafka's consumers of requests read Avro and CloudEvents. The edge does not."""
    foreign_code = FOREIGN["paris"]
    _, parts = await (await Centers.create(client, foreign_code)).parts("visits.create")
    records = await _records(stack, foreign_code)
    avro = WIRE.write_request(CATALOGUE.by_name["visits.create"], AVRO, parts)
    event = json.dumps(
        {"specversion": "1.0", "id": "1", "source": "api/other", "type": "visitor.visits.create"} | parts
    )
    for content, content_type in ((avro, AVRO), (event.encode(), "application/cloudevents+json")):
        for sent_type, status in ((content_type, 415), (JSON, 400)):
            headers = bearer("paris") | {"content-type": sent_type}
            answer = await restricted.post("/visits/entry", content=content, headers=headers)
            assert answer.status_code == status, answer.text
    assert await _records(stack, foreign_code) == records


async def test_headers_of_messages_do_not_change_what_a_call_is_about(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    """The headers of a request message are those of the edge, whatever headers a call has."""
    centers = await Centers.create(client, FOREIGN["paris"])
    service_id, records = await centers.foreign.value_of("serviceId"), await _records(stack, FOREIGN["paris"])
    headers = {
        "ce_type": "visitor.services.update", "ce_source": "api/other", "ce_id": "other/1",
        "X-HTTP-Method-Override": "PATCH", "X-Original-URL": f"/services/{service_id}",
    }  # fmt: skip
    answer = await restricted.post("/services", json=data.service(OWN), headers=bearer("paris") | headers)
    assert (answer.status_code, answer.json()["data"]["pcCode"]) == (201, OWN)
    (request,) = await stack.rows(
        "select source, operation from inbox where request_id = :id", id=f"paris/{answer.headers['Idempotency-Key']}"
    )
    assert tuple(request) == ("api/paris", "services.create")
    assert await _records(stack, FOREIGN["paris"]) == records


# Stored answers


async def test_a_key_of_another_caller_replays_and_reads_nothing(
    stack: Stack, client: httpx.AsyncClient, restricted: httpx.AsyncClient
) -> None:
    foreign_code, key = FOREIGN["paris"], str(uuid4())
    own_parts, foreign_parts = await (await Centers.create(client, foreign_code)).parts("rewards.create")
    path = CATALOGUE.by_name["rewards.create"].path.format(**own_parts["path"])

    async def post(caller: str, parts: Parts, **headers: str) -> httpx.Response:
        return await restricted.post(
            path, json=parts["body"], headers=bearer(caller) | {"Idempotency-Key": key} | headers
        )

    written = await post("other", foreign_parts, Prefer="respond-async")
    location = written.headers["Location"]

    async def is_stored() -> bool:
        return (await restricted.get(location, headers=bearer("other"))).status_code == 200

    await eventually("the answer", is_stored)
    records = await _records(stack, foreign_code)
    for target in (
        location,
        f"/requests/points/other%2F{key}",
        f"/requests/points/..%2Fother%2F{key}",
        f"/requests/points/../other/{key}",
        f"/requests/%70oints/{key}?source=api/other",
    ):
        assert _is_refused(await _send_target(restricted, target, "paris")), target
    assert _refusal(await post("paris", foreign_parts)) == OTHER_CENTER
    own = await post("paris", own_parts)
    assert (own.status_code, own.json()["data"]["pcCode"]) == (201, OWN)
    assert (await restricted.get(location, headers=bearer("paris"))).json()["data"]["body"] == own.json()
    for parts, status in ((foreign_parts, 403), (own_parts, 201)):
        again = await post("paris", parts, Prefer="respond-async, wait=10")
        assert again.status_code == status
    assert await _records(stack, foreign_code) == records
