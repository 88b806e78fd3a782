"""The conventions of HTTP that clients, proxies and browsers rely on."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from edge.codings import COMPRESSED_BYTES
from tests.support import data
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.raw_http import connect, exchange, request, status_and_code
from tests.support.stack import Stack, eventually
from topics.names import VALUE_LIMIT

JSON_TYPE = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/visitors", "GET, HEAD, OPTIONS, PATCH, POST"),
        ("OPTIONS", f"/visitors/{ABSENT_VISITOR_ID}", "GET, HEAD, OPTIONS, PATCH"),
        ("OPTIONS", "/docs", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_lists_the_methods_of_a_path(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["Allow"], answer.content) == (204, allowed, b"")


async def test_options_of_an_unknown_path_is_404(client: httpx.AsyncClient) -> None:
    answer = await client.options("/nowhere")
    assert (answer.status_code, error_codes(answer)) == (404, [(None, "route_not_found")])


async def test_the_root_leads_to_pages_that_exist(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'<a href="([^"]+)"', answer.text)
    assert {"/docs", "/asyncapi"} <= set(links)
    for link in links:
        assert (await client.get(link)).status_code == 200, link


@pytest.mark.parametrize("path", ["/centers", "/nowhere", "/centers?limit=x", "/visits/entry", "/docs", "/health"])
async def test_every_answer_has_a_request_id_and_protects_browsers(client: httpx.AsyncClient, path: str) -> None:
    first, second = await client.get(path), await client.get(path)
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert first.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in first.headers["Content-Security-Policy"]
    assert ("default-src 'none'" in first.headers["Content-Security-Policy"]) == (path != "/docs")
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert ("no-store" in first.headers["Cache-Control"]) == (path != "/docs")


async def test_the_callers_request_id_is_returned(client: httpx.AsyncClient) -> None:
    answer = await client.get("/centers", headers={"X-Request-Id": "app-1/7:a=b"})
    assert answer.headers["X-Request-Id"] == "app-1/7:a=b"
    for wrong in ("", "a b", "x" * 129, 'a"b'):
        answer = await client.get("/centers", headers={"X-Request-Id": wrong})
        assert len(answer.headers["X-Request-Id"]) == 32


async def test_a_failed_call_is_logged_with_its_request_id(stack: Stack) -> None:
    edge, url = stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS="0.001")
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url) as impatient:
        answer = await impatient.get("/centers", headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 504
    lines = [json.loads(line) for line in edge.log.read_text().splitlines() if line.startswith("{")]
    logged = [(line["event"], line["operation"], line["status"]) for line in lines if line.get("call_id") == "find-me"]
    assert logged == [("call_failed", "centers.list", 504)]
    edge.kill()


@pytest.mark.parametrize("sent", ['"{key}"', "{key}"])
async def test_a_quoted_idempotency_key_is_the_same_key(client: httpx.AsyncClient, sent: str) -> None:
    body, key = data.center(), str(uuid4())
    first = await client.post("/centers", json=body, headers={"Idempotency-Key": key})
    again = await client.post("/centers", json=body, headers={"Idempotency-Key": sent.format(key=key)})
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["Idempotency-Key"] == sent.format(key=key)


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b"],
        ["a", "a"],
        ['"a"', "a"],
        ['"a'],
        ['"a"b"'],
        ['"a\\b"'],
        ['""'],
        ['" a"'],
        [f'"{"x" * 129}"'],
        ['"é"'],
    ],
)
async def test_two_idempotency_keys_or_a_malformed_one_are_refused(
    client: httpx.AsyncClient, values: list[str]
) -> None:
    headers = [(b"Idempotency-Key", value.encode("latin-1")) for value in values]
    answer = await client.post("/centers", json=data.center(), headers=headers)
    assert (answer.status_code, error_codes(answer)) == (400, [("Idempotency-Key", "wrong_idempotency_key")])


async def test_an_escaped_quote_is_part_of_the_key(client: httpx.AsyncClient) -> None:
    body, key = data.center(), f'a"{uuid4()}\\'
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for sent in (quoted, key):
        assert (await client.post("/centers", json=body, headers={"Idempotency-Key": sent})).status_code == 201


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["respond-async"], 202),
        (["Respond-Async"], 202),
        (["return=minimal", "respond-async"], 202),
        (["return=minimal, respond-async; foo=1, handling=lenient"], 202),
        (['foo="a, b"; c="\\"", respond-async'], 202),
        (["respond-async, wait=0"], 202),
        (["respond-async, wait=30"], 201),
        (['respond-async, wait = "30"'], 201),
        (["wait=0"], 201),
        (['foo="respond-async"'], 201),
        (["foo=respond-async"], 201),
        (["foo; respond-async"], 201),
        (["respond-asynchronously"], 201),
        (['foo="respond-async'], 201),
    ],
)
async def test_prefer_is_read_by_rfc_7240(client: httpx.AsyncClient, lines: list[str], status: int) -> None:
    answer = await client.post("/centers", json=data.center(), headers=[("Prefer", line) for line in lines])
    assert answer.status_code == status
    assert ("Preference-Applied" in answer.headers) == (status == 202)


async def test_a_merge_patch_changes_a_record(client: httpx.AsyncClient) -> None:
    pc_code = (await data.create(client, "/centers", data.center(walletContextId=7)))["pcCode"]
    headers = {"content-type": "application/merge-patch+json; charset=utf-8"}
    patch = json.dumps({"label": "New", "walletContextId": None})
    assert (await client.patch(f"/centers/{pc_code}", content=patch, headers=headers)).status_code == 204
    center = (await client.get(f"/centers/{pc_code}")).json()["data"]
    assert (center["label"], center["walletContextId"]) == ("New", None)


@pytest.mark.parametrize(("method", "path", "body"), [("POST", "/centers", "{}"), ("PATCH", "/visitors", "[]")])
async def test_a_merge_patch_elsewhere_is_415(client: httpx.AsyncClient, method: str, path: str, body: str) -> None:
    answer = await client.request(method, path, content=body, headers={"content-type": "application/merge-patch+json"})
    assert (answer.status_code, error_codes(answer)) == (415, [(None, "unsupported_media_type")])


async def _pages(client: httpx.AsyncClient, url: str) -> list[list[Any]]:
    """The records of each page, from the first one along the links to the next one."""
    pages = []
    while True:
        answer = await client.get(url)
        body = answer.json()
        pages.append(body if isinstance(body, list) else body["data"])
        if isinstance(body, dict):
            assert {name: link["url"] for name, link in answer.links.items()} == body["metadata"]["_links"]
        if "next" not in answer.links:
            return pages
        url = answer.links["next"]["url"]


async def test_a_list_without_envelope_links_its_pages(client: httpx.AsyncClient) -> None:
    visitor = await data.visitor_with_vehicle(client)
    visit = {"barcode": visitor["barcode"], "pcCode": visitor["pcCode"]}
    for _ in range(5):
        assert (await client.post("/visits/entry", json=visit)).status_code == 201
    url = f"/visits?visitorId={visitor['visitorId']}&pcCode={visitor['pcCode']}"
    assert [len(page) for page in await _pages(client, f"{url}&limit=2&sort=-visitDate")] == [2, 2, 1]
    assert [len(page) for page in await _pages(client, f"{url}&limit=5")] == [5]
    assert [len(page) for page in await _pages(client, url)] == [5]
    middle = await client.get(f"{url}&limit=2&offset=2")
    assert {name: link["url"] for name, link in middle.links.items()} == {
        "self": f"{url}&limit=2&offset=2", "first": f"{url}&limit=2",
        "prev": f"{url}&limit=2", "next": f"{url}&limit=2&offset=4",
    }  # fmt: skip


async def test_a_list_with_envelope_has_the_same_links_in_its_header(client: httpx.AsyncClient) -> None:
    visitor = await data.visitor_with_vehicle(client)
    for _ in range(2):
        await data.create(client, f"/visitors/{visitor['visitorId']}/vehicles", data.vehicle())
    url = f"/visitors/{visitor['visitorId']}/vehicles?limit=1&sort=licensePlate&fields=licensePlate"
    assert [len(page) for page in await _pages(client, url)] == [1, 1, 1]


async def test_a_list_that_is_not_paged_has_no_next_page(client: httpx.AsyncClient) -> None:
    visitor = await data.visitor_with_vehicle(client)
    url = f"/visitors/{visitor['visitorId']}/challengeHistories"
    answer = await client.get(url)
    assert {name: link["url"] for name, link in answer.links.items()} == {"self": url, "first": url}


async def test_a_link_header_that_proxies_would_refuse_is_left_out(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await data.create(client, "/centers", data.center())
    for fields, has_header in ((10, True), (160, False)):
        answer = await client.get(f"/centers?limit=1&offset=1&sort={','.join(['label'] * fields)}")
        assert answer.status_code == 200, answer.text
        assert ("Link" in answer.headers) == has_header
        assert answer.json()["metadata"]["_links"].keys() == {"self", "first", "prev", "next"}


@pytest.mark.parametrize("accepted", ["gzip", "GZIP", "deflate, x-gzip;q=0.5", "*", "br, *;q=0.1"])
async def test_a_large_answer_is_compressed_for_callers_that_accept_it(
    client: httpx.AsyncClient, accepted: str
) -> None:
    plain = await client.get("/centers?limit=500", headers={"Accept-Encoding": "identity"})
    assert len(plain.content) > COMPRESSED_BYTES
    async with client.stream("GET", "/centers?limit=500", headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert len(raw) < len(plain.content) / 2
    assert json.loads(gzip.decompress(raw)).keys() == plain.json().keys()


@pytest.mark.parametrize("accepted", ["", "identity", "gzip;q=0", "gzip;q=0.000, *", "*;q=0", "br"])
async def test_other_callers_get_an_answer_as_it_is(client: httpx.AsyncClient, accepted: str) -> None:
    for path in ("/centers?limit=500", "/openapi.json"):
        answer = await client.get(path, headers={"Accept-Encoding": accepted})
        assert (answer.status_code, answer.headers.get("Content-Encoding")) == (200, None)


async def test_a_small_answer_is_not_compressed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/visitors/count", headers={"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.headers.get("Content-Encoding")) == (200, None)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/static-offline-docs/swagger-ui-bundle.js"])
async def test_a_page_is_sent_only_if_it_changed(client: httpx.AsyncClient, path: str) -> None:
    for accepted in ("gzip", "identity"):
        page = await client.get(path, headers={"Accept-Encoding": accepted})
        tag = page.headers["ETag"]
        for sent in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            again = await client.get(path, headers={"Accept-Encoding": accepted, "If-None-Match": sent})
            assert (again.status_code, again.content) == (304, b"")
        changed = await client.get(path, headers={"If-None-Match": '"x"'})
        assert (changed.status_code, changed.content) == (200, page.content)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def open_edge(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge that scripts of one origin may call."""
    edge, url = stack.edge(VISITOR_HTTP_CORS_ORIGINS="https://app.example, https://other.example:8443")
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client
    edge.kill()


_PREFLIGHT = {
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, if-match, prefer",
}


async def test_scripts_of_an_allowed_origin_may_call_and_read_headers(open_edge: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://app.example"}
    preflight = await open_edge.options("/centers/FR-NO-ONE", headers=origin | _PREFLIGHT)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    answer = await open_edge.get("/centers", headers=origin)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")
    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {"ETag", "Location", "Link", "Idempotency-Key", "X-Request-Id", "Retry-After"}
    assert {name.strip() for name in answer.headers["Vary"].split(",")} == {"Accept-Encoding", "Origin"}


async def test_scripts_of_other_origins_may_not(open_edge: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://evil.example"}
    assert (await open_edge.options("/centers", headers=origin | _PREFLIGHT)).status_code == 400
    assert "Access-Control-Allow-Origin" not in (await open_edge.get("/centers", headers=origin)).headers


async def test_by_default_no_script_may_call(client: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://app.example"}
    answers = [
        await client.get("/centers", headers=origin),
        await client.options("/centers", headers=origin | _PREFLIGHT),
    ]
    assert [answer.status_code for answer in answers] == [200, 204]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "target", [b"/centers?sort=" + b"x" * 70_000, b"/" + b"x" * 70_000, b"/centers?sort=" + b"x" * 4_000_000]
)
async def test_an_overlong_url_is_414(client: httpx.AsyncClient, target: bytes) -> None:
    answer = await exchange(client.base_url, request(b"GET %s HTTP/1.1" % target))
    assert status_and_code(answer) == (414, "target_too_long")


async def test_a_url_of_64_kib_is_accepted(client: httpx.AsyncClient) -> None:
    target = b"/centers?sort=" + b"label,-label," * 5_000 + b"label"
    answer = await exchange(client.base_url, request(b"GET %s HTTP/1.1" % target, b"Connection: close"))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"too_long" in answer


@pytest.mark.parametrize(
    "headers", [(b"X-Filler: " + b"x" * 70_000,), (b"X-Filler: x",) * 10_000, (b"X-Filler: " + b"x" * 4_000_000,)]
)
async def test_too_large_headers_are_431(client: httpx.AsyncClient, headers: tuple[bytes, ...]) -> None:
    answer = await exchange(client.base_url, request(b"GET /centers HTTP/1.1", *headers))
    assert status_and_code(answer) == (431, "headers_too_large")


async def test_a_header_without_end_is_431(client: httpx.AsyncClient) -> None:
    chunks = [b"x" * 50_000] * 20
    answer = await exchange(client.base_url, b"GET /centers HTTP/1.1\r\nHost: localhost\r\nX-Filler: ", *chunks)
    assert status_and_code(answer) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "request_bytes",
    [
        request(b"POST /centers HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request(b"POST /centers HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
        request(b"POST /centers HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
        request(b"POST /centers HTTP/1.1", b"Content-Length: +5") + b"hello",
        request(b"POST /centers HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        request(b"POST /centers HTTP/1.1", b"Transfer-Encoding: identity") + b"hello",
        request(b"GET /centers HTTP/1.1", b"Host: localhost"),
        b"GET /centers HTTP/1.1\r\n\r\n",
        request(b"GET /centers HTTP/1.1", b"X-Folded: a", b" b"),
        request(b"GET /centers HTTP/1.1", b"X-Blank : a"),
        request(b"GET /cen ters HTTP/1.1"),
        b"hello\r\n\r\n",
    ],
)
async def test_a_request_with_ambiguous_framing_is_refused_and_its_connection_closed(
    client: httpx.AsyncClient, request_bytes: bytes
) -> None:
    """RFC 9112, sections 3.2, 6.1 and 6.3: what one server takes for a body, another takes for the next request."""
    smuggled = request(b"GET /health HTTP/1.1")
    answer = await exchange(client.base_url, request_bytes + smuggled)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_and_code(answer) == (400, "not_http")


async def test_a_broken_second_request_does_not_disturb_the_answer_to_the_first(client: httpx.AsyncClient) -> None:
    answer = await exchange(client.base_url, request(b"GET /centers?limit=1 HTTP/1.1") + b"hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"_links"' in answer


_EXPECTS = (b"Expect: 100-continue", b"Content-Type: application/json")


@pytest.mark.parametrize(
    ("line", "headers", "refusal"),
    [
        (b"POST /nowhere HTTP/1.1", (b"Content-Length: 9",), (404, "route_not_found")),
        (b"PUT /centers HTTP/1.1", (b"Content-Length: 9",), (405, "method_not_allowed")),
        (b"POST /centers HTTP/1.1", (b"Content-Length: %d" % (VALUE_LIMIT + 1),), (413, "body_too_large")),
        (b"POST /centers HTTP/1.1", (b"Content-Length: 9", b"Idempotency-Key:"), (400, "wrong_idempotency_key")),
    ],
)
async def test_a_call_that_is_refused_anyway_need_not_send_its_body(
    client: httpx.AsyncClient, line: bytes, headers: tuple[bytes, ...], refusal: Any
) -> None:
    answer = await exchange(client.base_url, request(line, *_EXPECTS, *headers))
    assert b"100 Continue" not in answer
    assert status_and_code(answer) == refusal


async def test_a_call_that_waits_is_told_to_continue(client: httpx.AsyncClient) -> None:
    body = json.dumps(data.center()).encode()
    reader, writer = await connect(client.base_url)
    with closing(writer):
        writer.write(request(b"POST /centers HTTP/1.1", *_EXPECTS, b"Content-Length: %d" % len(body)))
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" not in head


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of the next answer on a connection."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        return int(head.split()[1]), await reader.readexactly(length)


async def test_an_offer_to_upgrade_is_ignored(client: httpx.AsyncClient) -> None:
    """Java's HTTP client sends it with each call."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    center = json.dumps(data.center()).encode()
    json_offer = (*offer, b"Content-Type: application/json")
    post = request(b"POST /centers HTTP/1.1", *json_offer, b"Content-Length: %d" % len(center))
    chunked = request(b"POST /centers HTTP/1.1", *json_offer, b"Transfer-Encoding: chunked")
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(center), center)
    get = request(b"GET /centers?limit=1 HTTP/1.1", *offer)
    reader, writer = await connect(client.base_url)
    statuses = []
    with closing(writer):
        for sent in ((post + center,), (get,), (post, center), (chunked, chunks)):
            for chunk in sent:
                writer.write(chunk)
                await writer.drain()
            statuses.append((await _answer(reader))[0])
    assert statuses == [201, 200, 409, 409]
