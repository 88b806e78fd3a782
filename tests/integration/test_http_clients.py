"""Requests as common HTTP clients send them: compressed bodies, missing bodies, headers of tracing libraries."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support import data
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.stack import Stack
from topics import names
from topics.names import VALUE_LIMIT

JSON_TYPE = {"content-type": "application/json"}
GZIP = {"content-encoding": "gzip"}
TRACE = "00-1234567890123456789012345678abcd-1234567890123456-01"


def _status_and_codes(answer: httpx.Response) -> tuple[int, list[tuple[str | None, str]]]:
    """The status, and the field and code of each error."""
    return answer.status_code, error_codes(answer)


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10):
        yield body[start : start + 10]


async def _post_center(client: httpx.AsyncClient, content: Any, headers: Mapping[str, str]) -> httpx.Response:
    return await client.post("/centers", content=content, headers=JSON_TYPE | headers)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity", "identity, gzip", "gzip,,"])
async def test_a_body_can_be_compressed_with_gzip(client: httpx.AsyncClient, coding: str) -> None:
    center = data.center()
    body = json.dumps(center).encode()
    content = gzip.compress(body) if "gzip" in coding.lower() else body
    for request_content in (content, _in_chunks(content)):
        answer = await _post_center(
            client, request_content, {"content-encoding": coding, "Idempotency-Key": center["pcCode"]}
        )
        assert (answer.status_code, answer.json()["data"]["pcCode"]) == (201, center["pcCode"])


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, br", "gzip, gzip", "gzip;q=1"])
async def test_another_content_coding_is_415_and_the_answer_names_gzip(client: httpx.AsyncClient, coding: str) -> None:
    answer = await _post_center(client, zlib.compress(b"{}"), {"content-encoding": coding})
    assert _status_and_codes(answer) == (415, [(None, "unsupported_content_coding")])
    assert answer.headers["Accept-Encoding"] == "gzip"


async def test_content_codings_of_several_headers_are_combined(client: httpx.AsyncClient) -> None:
    headers = [*JSON_TYPE.items(), *GZIP.items(), ("content-encoding", "br")]
    answer = await client.post("/centers", content=gzip.compress(b"{}"), headers=headers)
    assert _status_and_codes(answer) == (415, [(None, "unsupported_content_coding")])


async def test_a_wrong_content_type_is_415_without_accept_encoding(client: httpx.AsyncClient) -> None:
    """RFC 9110, 15.5.16: Accept-Encoding in a 415 means that the content coding caused it."""
    answer = await client.post("/centers", content=gzip.compress(b"x"), headers={"content-type": "text/plain"} | GZIP)
    assert _status_and_codes(answer) == (415, [(None, "unsupported_media_type")])
    assert "Accept-Encoding" not in answer.headers


_COMPRESSED = gzip.compress(b'{"pcCode": 1}')


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        _COMPRESSED[:-1],
        _COMPRESSED[:1],
        _COMPRESSED + b"x",
        _COMPRESSED + _COMPRESSED,
        _COMPRESSED[:-8] + b"\0" * 8,
        zlib.compress(b"{}"),
    ],
    ids=["not-gzip", "cut", "one-byte", "trailing-garbage", "two-streams", "wrong-checksum", "zlib"],
)
async def test_a_broken_gzip_body_is_400(client: httpx.AsyncClient, content: bytes) -> None:
    assert _status_and_codes(await _post_center(client, content, GZIP)) == (400, [(None, "not_gzip")])


@pytest.mark.parametrize("size", [VALUE_LIMIT + 1, 100 * VALUE_LIMIT], ids=["one-byte-more", "bomb"])
async def test_a_small_body_that_expands_beyond_the_limit_is_413(client: httpx.AsyncClient, size: int) -> None:
    content = gzip.compress(b" " * size)
    assert len(content) < VALUE_LIMIT
    assert _status_and_codes(await _post_center(client, content, GZIP)) == (413, [(None, "body_too_large")])


async def test_a_body_that_expands_to_the_limit_is_accepted(client: httpx.AsyncClient) -> None:
    body = json.dumps(data.center()).encode().ljust(VALUE_LIMIT)
    assert (await _post_center(client, gzip.compress(body), GZIP)).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [{}, JSON_TYPE, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "text/plain"}, GZIP],
    ids=["no-type", "json", "curl", "fetch", "gzip"],
)
async def test_a_patch_that_changes_nothing_needs_no_body(
    client: httpx.AsyncClient, headers: Mapping[str, str]
) -> None:
    path = f"/centers/{(await data.create(client, '/centers', data.center()))['pcCode']}"
    for content in (None, b"", _in_chunks(b"")):
        answer = await client.patch(path, content=content, headers=headers)
        assert answer.status_code == 204, answer.text
    assert (await client.patch(path, content=b"null", headers=JSON_TYPE)).status_code == 204


@pytest.mark.parametrize("headers", [{}, JSON_TYPE, {"content-type": "application/x-www-form-urlencoded"}])
async def test_without_a_body_the_missing_fields_are_named(
    client: httpx.AsyncClient, headers: Mapping[str, str]
) -> None:
    answer = await client.post("/centers", headers=headers)
    assert answer.status_code == 400
    assert set(error_codes(answer)) >= {("pcCode", "required"), ("label", "required")}


@pytest.mark.parametrize(("content", "headers"), [(None, {}), (None, JSON_TYPE), (b"null", JSON_TYPE)])
async def test_a_missing_array_body_is_400(
    client: httpx.AsyncClient, content: bytes | None, headers: Mapping[str, str]
) -> None:
    """A "replace all" without a body must not delete all."""
    answer = await client.put(f"/visitors/{ABSENT_VISITOR_ID}/interests", content=content, headers=headers)
    assert _status_and_codes(answer) == (400, [(None, "body_required")])


@pytest.mark.parametrize("headers", [{}, JSON_TYPE, GZIP])
async def test_a_get_or_delete_without_a_body_can_have_body_headers(
    client: httpx.AsyncClient, headers: Mapping[str, str]
) -> None:
    assert (await client.get("/centers", headers=headers)).status_code == 200
    deleted = await client.delete(f"/visitors/{ABSENT_VISITOR_ID}/vehicles/1", headers=headers)
    assert _status_and_codes(deleted) == (404, [(None, "vehicle_not_found")])


async def test_bodies_compressed_by_aiohttp_are_accepted(stack: Stack) -> None:
    async with aiohttp.ClientSession(stack.url) as session:
        async with session.post("/centers", json=data.center(), compress="gzip") as answer:
            assert answer.status == 201
        async with session.post("/centers", json=data.center(), compress="gzip", chunked=True) as answer:
            assert answer.status == 201


async def _sent_traceparents(stack: Stack, client: httpx.AsyncClient, *values: bytes) -> list[str | None]:
    """The `traceparent` of a call's request, result and change messages."""
    center = data.center()
    headers = [(b"traceparent", value) for value in values]
    answer = await client.post("/centers", json=center, headers=[*headers, (b"Idempotency-Key", center["pcCode"])])
    assert answer.status_code == 201, answer.text
    topics = (names.requests("centers"), names.results("centers"), names.changes("centers", "center"))
    records = [await stack.await_record(topic, lambda record: center["pcCode"] in record.id) for topic in topics]
    return [record.headers.get("traceparent") for record in records]


async def test_a_traceparent_is_copied_to_the_request_the_result_and_the_change(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    assert await _sent_traceparents(stack, client, TRACE.encode()) == [TRACE] * 3
    assert await _sent_traceparents(stack, client, TRACE.encode(), TRACE.encode()) == [TRACE] * 3


@pytest.mark.parametrize(
    "values",
    [
        [b"x" * 1_001],
        [b""],
        [TRACE.upper().encode()],
        [b"\xe9\xff"],
        [TRACE.encode(), TRACE.replace("01", "00").encode()],
    ],
    ids=["long", "empty", "upper-case", "not-ascii", "two-that-differ"],
)
async def test_an_invalid_traceparent_is_ignored(stack: Stack, client: httpx.AsyncClient, values: list[bytes]) -> None:
    assert await _sent_traceparents(stack, client, *values) == [None] * 3


_HEADER_NAMES = (
    "traceparent",
    "Idempotency-Key",
    "Prefer",
    "ce_id",
    "ce_type",
    "ce_source",
    "correlation-id",
    "reply-to",
)
_HEADER_VALUES = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20),
    st.integers(100, 1_200).map(lambda size: "x" * size),
)


@settings(max_examples=40, deadline=None, print_blob=True, phases=[Phase.generate])
@given(headers=st.lists(st.tuples(st.sampled_from(_HEADER_NAMES), _HEADER_VALUES), max_size=4))
async def test_a_call_is_answered_with_any_header_values(
    client: httpx.AsyncClient, headers: list[tuple[str, str]]
) -> None:
    """No header value may lead to a message that the worker cannot read: the caller would get a 504."""
    encoded_headers = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers]
    answer = await client.post("/centers", json=data.center(), headers=encoded_headers)
    # hypothesis can generate the same key twice.
    refused = [(400, [("Idempotency-Key", "wrong_idempotency_key")]), (422, [(None, "key_reused")])]
    assert answer.status_code in (201, 202) or _status_and_codes(answer) in refused
