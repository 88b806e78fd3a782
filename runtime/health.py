"""Health over HTTP on loopback, and the question that `visitor health` asks."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agents.engine.telemetry import Readiness

LOOPBACK = "127.0.0.1"


def worker_server(readiness: Readiness, port: int) -> uvicorn.Server:
    """`/health/live` answers while the event loop turns, `/health/ready` says what is missing."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        reasons = readiness.reasons
        if reasons:
            return JSONResponse({"status": "not ready", "reasons": reasons}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]
    config = uvicorn.Config(Starlette(routes=routes), LOOPBACK, port, log_config=None, access_log=False, lifespan="off")
    return _Server(config)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The worker has signal handlers of its own."""
        yield


def ask(url: str, timeout: float) -> tuple[bool, str]:
    """Whether a process says that it is well, and what it says."""
    try:
        answer = httpx.get(url, timeout=timeout)
    except httpx.HTTPError as error:
        return False, f"{url} does not answer: {type(error).__name__}"
    return answer.is_success, answer.text
