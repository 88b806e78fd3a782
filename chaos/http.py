"""HTTP calls that are repeated, at another edge, until one answers with a final status."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from chaos.oracle import Violation

GIVE_UP_SECONDS = 180.0
_PAUSE_SECONDS = 0.3


class Http:
    """`edge_urls` are those through the proxies of the callers. Counts the calls."""

    def __init__(self, edge_urls: Callable[[], list[str]]) -> None:
        self.edge_urls = edge_urls
        self._client = httpx.AsyncClient(timeout=12)
        self.calls = 0
        self.attempts = 0

    async def close(self) -> None:
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        edge: int | None = None,
    ) -> httpx.Response:
        """Repeat a call, each time at a random edge or always at `edge`, until the answer is final.

        Raises Violation after GIVE_UP_SECONDS, and at once if the service says that it has a bug."""
        self.calls += 1
        deadline = time.monotonic() + GIVE_UP_SECONDS
        last: httpx.Response | httpx.HTTPError | None = None
        while time.monotonic() < deadline:
            try:
                last = answer = await self.attempt(method, path, body, headers, edge=edge)
            except httpx.HTTPError as error:
                last = error
            else:
                if is_final(answer):
                    return answer
            await asyncio.sleep(_PAUSE_SECONDS)
        detail = last.text if isinstance(last, httpx.Response) else repr(last)
        raise Violation(f"each call is answered within {GIVE_UP_SECONDS:.0f} s", f"{method} {path}: {detail}")

    async def attempt(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        edge: int | None = None,
    ) -> httpx.Response:
        """Make a call once. Raises httpx.HTTPError, and Violation for an answer 500."""
        self.attempts += 1
        urls = self.edge_urls()
        url = random.choice(urls) if edge is None else urls[edge]
        answer = await self._client.request(method, url + path, json=body, headers=headers)
        if answer.status_code == 500:
            raise Violation("no fault of the infrastructure is answered as a bug", f"{method} {path}: {answer.text}")
        return answer


def is_final(answer: httpx.Response) -> bool:
    """False if the contract says that the call may be repeated with the same key."""
    return answer.status_code < 500 and answer.status_code != 429


def expect(answer: httpx.Response, status: int) -> httpx.Response:
    """Raises Violation for another status."""
    if answer.status_code != status:
        raise Violation(
            f"valid calls are answered by {status}",
            f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}",
        )
    return answer
