"""A worker as a process: its signals, and its health and metrics over HTTP on loopback."""

import asyncio
import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agents.catalogue import Catalogue
from agents.engine.engine import Engine
from agents.engine.telemetry import Readiness
from runtime.health import LOOPBACK
from runtime.settings import Settings

log = structlog.get_logger(__name__)


async def run(found: Settings, catalogue: Catalogue) -> int:
    """A worker until SIGTERM or SIGINT; the exit status."""
    # What is loaded by now stays; the collector need not look through it.
    gc.collect()
    gc.freeze()
    engine = Engine(found.kafka, found.database, found.worker, catalogue)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stop)
    server = _server(engine.readiness, found.worker.health_port) if found.worker.health_port else None
    serving = asyncio.create_task(server.serve()) if server else None
    try:
        await engine.run()
    except Exception as error:
        log.critical("worker_ended", error=type(error).__name__, exc_info=error)
        return 1
    finally:
        if server is not None and serving is not None:
            server.should_exit = True
            await serving
    log.info("stopped")
    return 0


def _server(readiness: Readiness, port: int) -> uvicorn.Server:
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
