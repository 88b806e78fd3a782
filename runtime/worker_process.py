"""A worker as a process: its signals, and its health and metrics over HTTP on loopback."""

import asyncio
import gc
import os
import signal
import threading
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
from agents.families.visitors.event_token import TokenKey
from runtime.health import LOOPBACK
from runtime.settings import Settings, WorkerSettings
from storage.tx import Resources
from topics import patches
from topics.supervision import Supervisor

log = structlog.get_logger(__name__)

SERVER_STOP_SECONDS = 5.0
END_SECONDS = 3.0
"""In which Python ends what is left."""


async def run(found: Settings, catalogue: Catalogue) -> int:
    """A worker until SIGTERM or SIGINT; the exit status."""
    patches.apply()
    # What is loaded by now stays; the collector need not look through it.
    gc.collect()
    gc.freeze()
    engine = Engine(found.kafka, found.database, found.worker, catalogue, _resources(found.worker))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stop)
    server = _server(engine, found.worker.health_port)
    serving = Supervisor(engine.fail)
    if found.worker.health_port:
        serving.start("health server", _serve(server))
    status = 1
    try:
        await engine.run()
        status = 0
        log.info("stopped")
    except Exception as error:
        log.critical("worker_ended", error=type(error).__name__, exc_info=error)
    finally:
        serving.let_end()
        server.should_exit = True
        await serving.stop(SERVER_STOP_SECONDS)
        _end_soon(status)
    return status


def _end_soon(status: int) -> None:
    """End the process with this status even where Python waits for tasks that ignore that they are cancelled, or for a
    thread. Faust's do where it could not stop, and such a process keeps its place in the consumer group."""
    end = threading.Timer(END_SECONDS, os._exit, (status,))
    end.daemon = True
    end.start()


def _resources(settings: WorkerSettings) -> Resources:
    """What the handlers of reads need beside the database."""
    secret = settings.event_token_secret
    if secret is None:
        return {}
    return {TokenKey: TokenKey(secret.get_secret_value(), settings.event_token_seconds)}


async def _serve(server: uvicorn.Server) -> None:
    """Raises RuntimeError where it does not start: uvicorn would end the process on the spot."""
    try:
        await server.serve()
    except SystemExit as error:
        raise RuntimeError("the health server did not start") from error


def _server(engine: Engine, port: int) -> uvicorn.Server:
    """`/health/live` answers while the event loop turns and nothing has ended that is needed, `/health/ready` says what
    is missing."""

    async def live(_: Request) -> Response:
        if engine.failure is None:
            return JSONResponse({"status": "live"})
        return JSONResponse({"status": "failed", "reason": type(engine.failure).__name__}, 503)

    async def ready(_: Request) -> Response:
        reasons = engine.readiness.reasons
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
