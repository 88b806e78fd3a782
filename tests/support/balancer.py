"""A load balancer in front of edges: it sends calls only to edges that are ready, and never repeats a call."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.dev.servers.processes import free_port

CHECK_SECONDS = 0.25
"""The interval of the health checks."""
_OF_ONE_CONNECTION = {"connection", "content-length", "host", "transfer-encoding"}
"""Headers that are not forwarded."""


class Balancer:
    """Forwards each call to one of the edges at `urls`, which may change, on connections that it keeps. `errors` has
    the calls that an edge did not answer; their callers get 502, or 503 if no edge is ready."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.errors: list[str] = []
        self._ready: set[str] = set()
        self._client = httpx.AsyncClient(timeout=30)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The URL of the balancer."""
        port = free_port()
        app = Starlette(routes=[Route("/{path:path}", self._forward, methods=["GET", "POST"])])
        server = _Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="off"))
        async with self._client, asyncio.TaskGroup() as group:
            checks = group.create_task(self._check())
            serving = group.create_task(server.serve())
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                checks.cancel()
                server.should_exit = True
                await asyncio.wait([serving])

    async def is_ready(self, url: str) -> bool:
        """True if the balancer sends calls to the edge."""
        return url in self._ready

    async def _check(self) -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            while True:
                self._ready = {url for url in self.urls if await _answers(client, url)}
                await asyncio.sleep(CHECK_SECONDS)

    async def _forward(self, request: Request) -> Response:
        if not self._ready:
            self.errors.append("no edge is ready")
            return Response(status_code=503)
        url = random.choice(sorted(self._ready))
        headers = [(name, value) for name, value in request.headers.items() if name not in _OF_ONE_CONNECTION]
        target = f"{url}{request.url.path}?{request.url.query}"
        try:
            answer = await self._client.request(request.method, target, content=await request.body(), headers=headers)
        except httpx.TransportError as error:
            self.errors.append(repr(error))
            return Response(status_code=502)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    with suppress(httpx.TransportError):
        return (await client.get(f"{url}/health")).is_success
    return False


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the test."""
        yield
