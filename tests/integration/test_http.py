"""The HTTP API: every status of its operations, and its guarantees for callers."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from edge import keys
from runtime.dev.servers.processes import free_port
from tests.support import data
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.issuer import AUDIENCE
from tests.support.metrics import scrape
from tests.support.raw_http import connect, request
from tests.support.stack import Stack, eventually
from topics.names import VALUE_LIMIT

JSON_TYPE = {"content-type": "application/json"}
PLATE = '{"licensePlate": "A"}'


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "fault"),
    [
        ("GET", "/nowhere", None, {}, 404, (None, "route_not_found")),
        ("GET", "/centers/", None, {}, 404, (None, "route_not_found")),
        ("DELETE", "/centers", None, {}, 405, (None, "method_not_allowed")),
        ("GET", "/visitors/partial", None, {}, 405, (None, "method_not_allowed")),
        ("PATCH", "/visitors/count", "{}", JSON_TYPE, 405, (None, "method_not_allowed")),
        ("GET", f"/visitors/{ABSENT_VISITOR_ID}", None, {}, 404, (None, "visitor_not_found")),
        ("GET", "/visitors/7", None, {}, 400, ("visitorId", "wrong_format")),
        ("GET", "/centers/FR-NO-ONE", None, {}, 404, (None, "center_not_found")),
        ("GET", f"/visitors/{ABSENT_VISITOR_ID}/vehicles", None, {}, 404, (None, "visitor_not_found")),
        ("POST", f"/visitors/{ABSENT_VISITOR_ID}/vehicles", PLATE, JSON_TYPE, 404, (None, "visitor_not_found")),
        ("PATCH", f"/visitors/{ABSENT_VISITOR_ID}", "{}", JSON_TYPE, 404, (None, "visitor_not_found")),
        ("POST", "/centers", "{", JSON_TYPE, 400, (None, "not_json")),
        ("POST", "/centers", '{"4111 1111-11111111": 1}', JSON_TYPE, 400, ("…", "unknown_field")),
        ("GET", "/centers?4111111111111111=1", None, {}, 400, ("…", "unknown_field")),
        ("GET", "/centers?4111111111111111=1&4111111111111111=2", None, {}, 400, ("…", "repeated_parameter")),
        ("POST", "/centers", "[]", JSON_TYPE, 400, (None, "not_an_object")),
        ("POST", "/centers", b"\xff", JSON_TYPE, 400, (None, "not_utf8")),
        ("POST", "/centers", "{}", {"content-type": "text/plain"}, 415, (None, "unsupported_media_type")),
        ("POST", "/centers", "{}", {}, 415, (None, "unsupported_media_type")),
        ("POST", "/centers", "x" * (VALUE_LIMIT + 1), JSON_TYPE, 413, (None, "body_too_large")),
        ("GET", "/centers", "x" * (VALUE_LIMIT + 1), {}, 413, (None, "body_too_large")),
        ("GET", "/centers", "{}", JSON_TYPE, 400, (None, "body_refused")),
        ("DELETE", "/centers/FR-NO-ONE/companies/1", "{}", JSON_TYPE, 400, (None, "body_refused")),
        ("GET", "/centers?sort=%FF", None, {}, 400, (None, "unreadable_query")),
        ("GET", "/centers?limit=0", None, {}, 400, ("limit", "out_of_range")),
        ("GET", "/centers?limit=501", None, {}, 400, ("limit", "out_of_range")),
        ("GET", "/centers?limit=x", None, {}, 400, ("limit", "wrong_type")),
        ("GET", "/centers?offset=0", None, {}, 400, ("offset", "out_of_range")),
        ("GET", "/centers?isActive=1", None, {}, 400, ("isActive", "wrong_type")),
        ("GET", "/centers?country=Narnia", None, {}, 400, ("country", "not_allowed")),
        ("GET", "/centers?colour=red", None, {}, 400, ("colour", "unknown_field")),
        ("GET", "/centers?limit=1&limit=2", None, {}, 400, ("limit", "repeated_parameter")),
        ("GET", "/centers?sort=-shape", None, {}, 400, ("sort", "unknown_sort_field")),
        ("GET", "/centers?fields=label,shape", None, {}, 400, ("fields", "unknown_reply_field")),
        ("GET", "/visits?pcCode=FR-NO-ONE", None, {}, 400, (None, "identification_required")),
        ("POST", "/visits/stay", '{"barcode": "b", "pcCode": "FR-A-1"}', JSON_TYPE, 400, ("visitType", "not_allowed")),
        ("POST", "/visits/entry", '{"pcCode": "FR-A-1"}', JSON_TYPE, 400, (None, "identification_required")),
    ],
)  # fmt: skip
async def test_a_wrong_call_gets_a_status_a_code_and_a_field(
    client: httpx.AsyncClient, method: str, path: str, content: Any, headers: Any, status: int, fault: Any
) -> None:
    options = {"content": content} if content is not None else {}
    answer = await client.request(method, path, headers=headers, **options)
    assert answer.status_code == status, answer.text
    assert fault in error_codes(answer)


@pytest.mark.parametrize("key", ["x" * 129, "", "tab\there"])
async def test_an_invalid_idempotency_key_is_refused(client: httpx.AsyncClient, key: str) -> None:
    answer = await client.post("/centers", json=data.center(), headers={"Idempotency-Key": key})
    assert (answer.status_code, error_codes(answer)) == (400, [("Idempotency-Key", "wrong_idempotency_key")])


async def test_all_faults_of_a_body_are_returned_together(client: httpx.AsyncClient) -> None:
    body = {
        "email": "x",
        "gender": "n",
        "odd": 1,
        "optins": [{"optinType": "no", "optinChannel": "sms", "isActive": 1}],
    }
    answer = await client.post("/visitors", json=body)
    assert answer.status_code == 400
    assert set(error_codes(answer)) >= {
        ("email", "wrong_format"),
        ("gender", "not_allowed"),
        ("odd", "unknown_field"),
        ("firstName", "required"),
        ("optins[0].optinType", "not_allowed"),
        ("optins[0].isActive", "wrong_type"),
    }


@pytest.mark.parametrize(("text", "code"), [('"a\\u0000b"', "nul_refused"), ('"\\ud800"', "surrogate_refused")])
async def test_texts_that_cannot_be_stored_are_refused(client: httpx.AsyncClient, text: str, code: str) -> None:
    body = json.dumps(data.center(label="LABEL")).replace('"LABEL"', text)
    answer = await client.post("/centers", content=body, headers=JSON_TYPE)
    assert (answer.status_code, error_codes(answer)) == (400, [("label", code)])


async def test_a_number_for_a_string_field_is_stored_as_text(client: httpx.AsyncClient) -> None:
    body = json.dumps(data.center(label="LABEL")).replace('"LABEL"', "11.10")
    answer = await client.post("/centers", content=body, headers=JSON_TYPE)
    assert answer.json()["data"]["label"] == "11.10"


@pytest.mark.parametrize(
    ("number", "stored"), [("1e5", "1E+5"), ("1e999999", "1E+999999"), ("9" * 30, "9" * 30), ("-0", "0")]
)
async def test_a_number_for_a_string_field_can_have_any_size(
    client: httpx.AsyncClient, number: str, stored: str
) -> None:
    body = json.dumps(data.center(label="LABEL")).replace('"LABEL"', number)
    answer = await client.post("/centers", content=body, headers=JSON_TYPE)
    assert (answer.status_code, answer.json().get("data", {}).get("label")) == (201, stored)


async def test_a_reply_that_would_be_too_large_says_what_to_do(client: httpx.AsyncClient) -> None:
    legal_text = {"type": "wifi_terms", "releaseDate": "2001-01-01T00:00:00Z"}
    path = f"/legalTexts/{(await data.create(client, '/legalTexts', legal_text))['id']}/locales"
    long_texts = dict.fromkeys(("optinDisplayText", "optinHeaderText", "documentText"), "x" * 200_000)
    for country in ("FR", "BE", "CH", "CA", "LU", "MC", "SN", "ML", "CI", "CM", "GA", "TG", "BJ", "NE", "BF"):
        await data.create(client, f"{path}/fr-{country}", long_texts)
    answer = await client.get(path)
    assert (answer.status_code, error_codes(answer)) == (400, [("limit", "reply_too_large")])
    assert len((await client.get(f"{path}?limit=10")).json()["data"]) == 10


async def test_the_same_key_and_body_are_applied_once_and_get_the_same_answer(client: httpx.AsyncClient) -> None:
    headers, body = {"Idempotency-Key": str(uuid4())}, data.center()
    first = await client.post("/centers", json=body, headers=headers)
    second = await client.post("/centers", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first.headers["Idempotency-Key"] == headers["Idempotency-Key"]
    conflicting = await client.post("/centers", json=data.center(), headers=headers)
    assert (conflicting.status_code, error_codes(conflicting)) == (422, [(None, "key_reused")])


async def test_20_concurrent_calls_with_the_same_key_are_applied_once(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    headers = {"Idempotency-Key": str(uuid4())}
    body = {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}
    answers = await asyncio.gather(*(client.post("/visits/entry", json=body, headers=headers) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len(await stack.rows("select 1 from visits where visitor_id = :id", id=parker["visitorId"])) == 1


@pytest.mark.parametrize("prefix", ["", "a/b %2F "])
async def test_respond_async_returns_202_and_the_location_of_the_answer(client: httpx.AsyncClient, prefix: str) -> None:
    body, key = data.center(), f"{prefix}{uuid4()}"
    headers = {"Prefer": "respond-async", "Idempotency-Key": key}
    accepted = await client.post("/centers", json=body, headers=headers)
    assert accepted.status_code == 202
    envelope = {"metadata": {"version": 1, "_links": {}}}
    assert accepted.json() == {"data": {"requestId": f"local/{key}"}, **envelope}
    assert accepted.headers["Preference-Applied"] == "respond-async"

    async def answer() -> httpx.Response | None:
        response = await _get_target(client, accepted.headers["Location"].encode())
        if response.status_code == 200:
            return response
        assert (response.status_code, error_codes(response)) == (404, [(None, "answer_not_found")])
        assert response.headers["Retry-After"] == "1"
        return None

    stored = (await eventually("the answer", answer)).json()
    repeated = await client.post("/centers", json=body, headers={"Idempotency-Key": key})
    assert repeated.status_code == 201
    assert repeated.json()["data"]["pcCode"] == body["pcCode"]
    assert stored == {"data": {"requestId": f"local/{key}", "status": 201, "body": repeated.json()}, **envelope}


async def test_the_answer_to_an_asynchronous_write_without_a_body_is_null(client: httpx.AsyncClient) -> None:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    accepted = await client.patch(f"/centers/{pc_code}", json={}, headers={"Prefer": "respond-async"})

    async def answer() -> dict[str, Any] | None:
        response = await client.get(accepted.headers["Location"])
        return response.json()["data"] if response.status_code == 200 else None

    stored = await eventually("the answer", answer)
    assert (stored["status"], stored["body"]) == (204, None)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def impatient_client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge with a timeout of one millisecond."""
    edge, url = stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS="0.001")
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url) as client:
        yield client
    edge.kill()


async def test_a_timeout_is_504_and_a_retry_with_the_key_gets_the_answer(
    impatient_client: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    body = data.center()
    answer = await impatient_client.post("/centers", json=body)
    assert (answer.status_code, error_codes(answer)) == (504, [(None, "no_answer")])
    retried = await client.post("/centers", json=body, headers={"Idempotency-Key": answer.headers["Idempotency-Key"]})
    assert retried.status_code == 201


async def test_a_timeout_of_a_read_has_no_idempotency_key(impatient_client: httpx.AsyncClient) -> None:
    answer = await impatient_client.get("/centers", headers={"Idempotency-Key": "k"})
    assert (answer.status_code, error_codes(answer)) == (504, [(None, "no_answer")])
    assert "Idempotency-Key" not in answer.headers
    assert "Idempotency-Key" not in answer.text


async def test_a_read_is_dropped_by_the_worker_once_nobody_waits_for_it(
    stack: Stack, impatient_client: httpx.AsyncClient
) -> None:
    """The edge gives up before the worker begins. The client is gone before that."""

    async def dropped() -> float:
        return (await scrape(stack.processes[0])).value("visitor_reads_expired_total")

    before = await dropped()

    async def is_dropped() -> bool:
        _, writer = await connect(impatient_client.base_url)
        writer.write(request(b"GET /centers HTTP/1.1"))
        writer.close()
        return await dropped() > before

    await eventually("a read that is dropped", is_dropped)


async def test_without_kafka_the_edge_returns_503_and_retry_after(stack: Stack) -> None:
    edge, url = stack.edge(VISITOR_KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}")

    async def is_unavailable() -> bool:
        try:
            async with httpx.AsyncClient() as health_client:
                return (await health_client.get(f"{url}/health")).status_code == 503
        except httpx.HTTPError:
            return False

    await eventually("an edge that reports not-ready", is_unavailable)
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/centers", json=data.center())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert error_codes(answer) == [(None, "not_ready")]
    edge.kill()


GuardedEdge = tuple[httpx.AsyncClient, str]
_KEY_FILE = """
[[keys]]
name = "shop"
sha256 = "{digest}"
scopes = ["visitors:write", "centers:read"]
origin_type = "app"

[[keys]]
name = "reader"
sha256 = "{reader}"
scopes = ["visitors:read", "*:write"]

[[keys]]
name = "accountant"
sha256 = "{accountant}"
scopes = ["visitors:read", "parking:read", "visitors:erase", "visitors:event-token"]
"""
READER, ACCOUNTANT = keys.new_key(), keys.new_key()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file with one API key, which may write visitors and read centers, and the key."""
    secret = keys.new_key()
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    digests = {"digest": secret, "reader": READER, "accountant": ACCOUNTANT}
    file.write_text(_KEY_FILE.format(**{name: keys.digest(key) for name, key in digests.items()}))
    return file, secret


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded_edge(stack: Stack, key_file: tuple[Path, str]) -> AsyncIterator[GuardedEdge]:
    """A client of an edge with API keys, and a key."""
    file, secret = key_file
    edge, url = stack.edge(VISITOR_HTTP_KEYS=str(file), VISITOR_HTTP_IN_FLIGHT="1")
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client, secret
    edge.kill()


async def test_an_api_key_is_required_and_limited_to_its_scopes(guarded_edge: GuardedEdge) -> None:
    client, secret = guarded_edge
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = await client.get("/centers", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    authorization = {"Authorization": f"Bearer {secret}"}
    assert (await client.get("/centers", headers=authorization)).status_code == 200
    refused = await client.post("/centers", json=data.center(), headers=authorization)
    assert (refused.status_code, error_codes(refused)) == (403, [(None, "forbidden")])


@pytest.mark.parametrize(
    ("method", "path", "body", "scope"),
    [
        ("GET", "/visitors/details?visitorId={visitorId}", None, "parking:read"),
        ("GET", "/visitors/{visitorId}/creditCards", None, "parking:read"),
        ("GET", "/visitors/{visitorId}/eventToken?companyId=1", None, "visitors:event-token"),
        ("POST", "/visitors/erase", [{"analyticsId": "nobody"}], "visitors:erase"),
    ],
)
async def test_cards_erasures_and_event_tokens_need_scopes_of_their_own(
    client: httpx.AsyncClient, guarded_edge: GuardedEdge, method: str, path: str, body: Any, scope: str
) -> None:
    guarded, _ = guarded_edge
    parker = await data.visitor_with_vehicle(client)
    url, arguments = path.format(**parker), {} if body is None else {"json": body}
    refused, allowed = [
        await guarded.request(method, url, headers={"Authorization": f"Bearer {key}"}, **arguments)
        for key in (READER, ACCOUNTANT)
    ]
    assert (refused.status_code, error_codes(refused)) == (403, [(None, "forbidden")])
    assert scope in refused.json()["errors"][0]["message"]
    assert allowed.status_code == 200, allowed.text
    assert allowed.json() == (await client.request(method, url, **arguments)).json() or "eventToken" in path


async def test_the_origin_of_a_visitor_is_that_of_the_api_key(
    client: httpx.AsyncClient, guarded_edge: GuardedEdge
) -> None:
    shop, secret = guarded_edge
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    answer = await shop.post("/visitors", json=data.visitor(pc_code), headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["data"]["originType"], answer.json()["data"]["origin"]) == ("app", "shop")


async def test_an_answer_is_found_by_its_caller_only(client: httpx.AsyncClient, guarded_edge: GuardedEdge) -> None:
    shop, secret = guarded_edge
    authorization = {"Authorization": f"Bearer {secret}"}
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    key = str(uuid4())
    answer = await shop.post("/visitors", json=data.visitor(pc_code), headers=authorization | {"Idempotency-Key": key})
    assert answer.status_code == 201
    path = f"/requests/visitors/{key}"
    assert (await shop.get(path, headers=authorization)).json()["data"]["body"] == answer.json()
    assert (await client.get(path)).status_code == 404  # Without API keys, the caller is another one.
    assert (await shop.get(path)).status_code == 401
    assert (await shop.get(f"/requests/centers/{key}", headers=authorization)).status_code == 403
    assert (await client.get(f"/requests/nothing/{key}")).status_code == 404


async def test_a_key_is_revoked_within_seconds_without_a_restart(stack: Stack, tmp_path: Path) -> None:
    secret, file = keys.new_key(), tmp_path / "keys.toml"
    entry = '[[keys]]\nname = "{}"\nsha256 = "{}"\nscopes = ["centers:read"]\n'
    other = entry.format("other", keys.digest(keys.new_key()))
    file.write_text(entry.format("leaked", keys.digest(secret)) + other)
    edge, url = stack.edge(VISITOR_HTTP_KEYS=str(file))
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {secret}"}) as client:
        assert (await client.get("/centers")).status_code == 200
        file.write_text(other)

        async def is_refused() -> bool:
            return (await client.get("/centers")).status_code == 401

        await eventually("a revoked key", is_refused, 5)
    edge.kill()
    assert '"keys_reloaded"' in edge.log.read_text()


async def test_an_edge_reads_the_keys_of_its_issuer_over_http(stack: Stack) -> None:
    port = free_port()
    issuer = stack.spawn("issuer", ["-m", "tests.support.issuer", str(port)], f"http://127.0.0.1:{port}/keys")
    await eventually("an issuer", issuer.ready)
    edge, url = stack.edge(VISITOR_HTTP_OIDC_ISSUER=f"http://127.0.0.1:{port}", VISITOR_HTTP_OIDC_AUDIENCE=AUDIENCE)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        token = (await client.get(f"http://127.0.0.1:{port}/token")).text

        async def status(path: str, credentials: str) -> int:
            return (await client.get(path, headers={"Authorization": f"Bearer {credentials}"})).status_code

        async def is_accepted() -> bool:
            return await status("/centers", token) == 200

        await eventually("the keys of the issuer", is_accepted, 10)
        assert await status("/services", token) == 403
        header, claims, signature = token.split(".")
        assert await status("/centers", f"{header}.{claims}.{signature[::-1]}") == 401
        assert await status("/centers", "no token") == 401
    edge.kill()
    issuer.kill()


async def test_too_many_concurrent_calls_are_429(stack: Stack, guarded_edge: GuardedEdge) -> None:
    client, secret = guarded_edge
    authorization = {"Authorization": f"Bearer {secret}"}
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text("lock table centers in access exclusive mode"))  # The first call waits for it.
        calls = [asyncio.create_task(client.get("/centers", headers=authorization)) for _ in range(2)]
        (first_to_end,), (waiting,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        refused = await first_to_end
    assert ((await waiting).status_code, refused.status_code) == (200, 429)
    assert (refused.headers["Retry-After"], error_codes(refused)) == ("1", [(None, "too_many_calls")])


async def test_openapi_and_its_pages_load_nothing_from_other_hosts(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    for page in ("/docs", "/redoc", "/asyncapi"):
        text = (await client.get(page)).text
        assert re.findall(r"(?:src|href)=[\"'](?:https?:)?//[^\"']+", text) == []
        assets = re.findall(r"(?:src|href)=[\"'](/[^\"']+)", text)
        assert assets
        for asset in assets:
            assert (await client.get(asset)).status_code == 200


async def test_asyncapi_names_no_other_host_and_links_to_the_registry(client: httpx.AsyncClient) -> None:
    answer = await client.get("/asyncapi.json")
    document = answer.json()
    assert (answer.status_code, document["asyncapi"]) == (200, "3.0.0")
    # Example values of fields are URLs of www.example.com.
    assert set(re.findall(r"https?://([\w.-]+)", answer.text)) <= {"www.example.com"}
    messages = document["components"]["messages"]
    link = re.search(r"\((/registry/.+)\)", messages["visits.create"]["description"])
    assert link is not None
    assert (await client.get(link[1])).json()["name"] == "VisitsCreateRequest"
    subject = "visitor.optins.changes.optin-visitor.OptinChange"
    registered = await client.get(f"/registry/subjects/{subject}/versions/latest/schema")
    assert registered.json() == messages["optin.change"]["payload"]["schema"]


async def _get_target(client: httpx.AsyncClient, target: bytes) -> httpx.Response:
    """GET this request target, without any encoding."""
    return await client.get("/", extensions={"target": target})


async def test_a_path_value_is_decoded_once(client: httpx.AsyncClient) -> None:
    answer = await client.get("/centers/FR%2DNO%2DONE")
    assert error_codes(answer) == [(None, "center_not_found")]
    double_encoded = await client.get("/centers/FR%252DNO%252DONE")
    assert error_codes(double_encoded) == [("pcCode", "wrong_format")]


@pytest.mark.parametrize("name", ["a/b", "100%", "%2D", "%2%35", "é", "~.-_", "\N{AUTOMOBILE}", "a b+c", ";?#"])
async def test_a_path_value_can_contain_any_character(client: httpx.AsyncClient, name: str) -> None:
    visitor_id, external_id = (await data.visitor_with_vehicle(client))["visitorId"], f"{name} {uuid4()}"
    body = {"externalType": "partner", "externalId": external_id}
    await data.create(client, f"/visitors/{visitor_id}/externalIds", body)
    for encoded in (quote(external_id, safe=""), "".join(f"%{byte:02x}" for byte in external_id.encode())):
        answer = await _get_target(client, f"/externalIds/partner/{encoded}".encode())
        assert answer.json()["data"]["externalId"] == external_id


@pytest.mark.parametrize("path", ["/visitors/%63ount", "/%76isitors/count", "/visitors/%63%6F%75%6E%74"])
async def test_an_encoded_letter_in_a_path_equals_the_plain_letter(client: httpx.AsyncClient, path: str) -> None:
    assert (await _get_target(client, path.encode())).json()["data"].keys() == {"count"}


@pytest.mark.parametrize("encoded", ["%FF", "a%C3", "%ED%A0%80"])
async def test_a_path_parameter_that_is_not_utf8_is_named(client: httpx.AsyncClient, encoded: str) -> None:
    answer = await _get_target(client, f"/externalIds/partner/{encoded}".encode())
    assert (answer.status_code, error_codes(answer)) == (400, [("externalId", "not_utf8")])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/visitors", "GET, HEAD, OPTIONS, PATCH, POST"),
        ("PUT", "/visitors/count", "GET, HEAD, OPTIONS"),
        ("HEAD", "/visitors/partial", "OPTIONS, POST"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("TRACE", f"/visitors/{ABSENT_VISITOR_ID}/interests/1", "DELETE, GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
        ("POST", "/docs", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_405_lists_all_methods_of_the_path(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert method == "HEAD" or error_codes(answer) == [(None, "method_not_allowed")]


@pytest.mark.parametrize("path", ["/centers?limit=3", "/centers/FR-NO-ONE", "/health", "/docs"])
async def test_head_is_answered_as_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    get_answer, head_answer = await client.get(path), await client.head(path)
    assert (head_answer.status_code, head_answer.content) == (get_answer.status_code, b"")
    assert head_answer.headers["content-type"] == get_answer.headers["content-type"]


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"])
async def test_without_api_keys_the_edge_accepts_the_local_host_names(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get("/centers", headers={"Host": name})).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "[::2]", ""])
@pytest.mark.parametrize("path", ["/centers", "/nowhere", "/openapi.json", "/health"])
async def test_without_api_keys_the_edge_refuses_other_host_names(
    client: httpx.AsyncClient, name: str, path: str
) -> None:
    answer = await client.get(path, headers={"Host": name})
    assert (answer.status_code, error_codes(answer)) == (403, [(None, "unknown_host")])


FORWARDED = [
    ("Forwarded", "for=192.0.2.1"),
    ("Via", "1.1 proxy"),
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Host", "api.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Real-IP", "192.0.2.1"),
]


@pytest.mark.parametrize(("name", "value"), FORWARDED)
async def test_without_api_keys_the_edge_refuses_what_a_proxy_forwards(
    client: httpx.AsyncClient, name: str, value: str
) -> None:
    """A proxy on the same machine would let everybody in."""
    answer = await client.get("/centers", headers={name: value})
    assert (answer.status_code, error_codes(answer)) == (403, [(None, "forwarded")])


async def test_with_api_keys_the_edge_accepts_any_host_name_and_proxy(guarded_edge: GuardedEdge) -> None:
    client, secret = guarded_edge
    headers = {"Host": "api.example", "Authorization": f"Bearer {secret}"}
    answer = await client.get("/centers", headers=headers | dict(FORWARDED))
    assert answer.status_code == 200


async def test_an_idle_connection_stays_open_longer_than_a_client_pool_keeps_it(client: httpx.AsyncClient) -> None:
    """The client must close first; otherwise its next call can use a connection that the edge is closing."""
    pool_seconds = httpx.Limits().keepalive_expiry
    assert pool_seconds is not None
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    with closing(writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(pool_seconds + 1):
                await reader.read(-1)  # Reads the rest of the answer, and then waits for the end of the connection.


async def test_metrics_have_a_port_of_their_own_and_the_docs_can_be_switched_off(stack: Stack) -> None:
    edge, url = stack.edge(VISITOR_HTTP_DOCS="false")
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        assert (await client.get("/centers")).status_code == 200
        assert "visitor_http_calls_total" in (await client.get(edge.metrics_url)).text
        for path in ("/metrics", "/", "/docs", "/redoc", "/openapi.json", "/asyncapi", "/asyncapi.json"):
            assert (await client.get(path)).status_code == 404, path
    edge.kill()
