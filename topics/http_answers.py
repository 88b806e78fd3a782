"""Reads answers of other HTTP servers, with limits of time and size. The timeouts of httpx are those of single reads: a
server that sends one byte after the other would hold its client for ever."""

import asyncio
from typing import Any, NamedTuple

import httpx

ANSWER_LIMIT = 4 * 2**20
"""Bytes of an answer. The keys of an issuer have some thousand, a schema at most a million."""


class Answer(NamedTuple):
    status: int
    content: bytes


async def request(client: httpx.AsyncClient, method: str, url: str, seconds: float, **options: Any) -> Answer:
    """Send a request, and read the whole answer within `seconds`. `options` are those of `httpx.AsyncClient.request`.
    Raises httpx.HTTPError, httpx.InvalidURL, and ValueError if the answer is too long."""
    content = bytearray()
    try:
        async with asyncio.timeout(seconds), client.stream(method, url, **options) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > ANSWER_LIMIT:
                    raise ValueError(f"the answer has more than {ANSWER_LIMIT} bytes")
    except TimeoutError:
        raise httpx.ReadTimeout(f"no complete answer within {seconds:g} s") from None
    return Answer(response.status_code, bytes(content))
