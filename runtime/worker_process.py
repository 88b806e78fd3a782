"""The process of a worker: its signals, its exit status, and its health and metrics over HTTP on loopback."""

import asyncio
import gc
import os
import signal
import threading

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agents.catalogue import Catalogue
from agents.engine.engine import Engine, explain
from agents.families.visitors.event_token import TokenKey
from runtime.probe_server import ProbeServer
from runtime.settings import Settings, WorkerSettings
from storage.tx import Resources
from telemetry import traces
from telemetry.metrics import WORKER
from topics import patches
from topics.supervision import Supervisor

log = structlog.get_logger(__name__)

SERVER_STOP_SECONDS = 2.0
"""Time that the health server has to stop before it is cancelled."""
EXIT_SECONDS = 2.0
"""Time that Python has to end the remaining tasks and threads before the process exits."""


async def run(settings: Settings, catalogue: Catalogue) -> int:
    """Run a worker until SIGTERM or SIGINT. Returns the exit status."""
    patches.apply()
    # All objects loaded so far stay in use, so the garbage collector need not scan them.
    gc.collect()
    gc.freeze()
    engine = Engine(
        settings.kafka,
        settings.database,
        settings.worker,
        catalogue,
        _resources(settings.worker),
        settings.schema_registry,
    )
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, engine.stop)
    server = _server(engine, settings.worker.health_host, settings.worker.health_port)
    supervisor = Supervisor(engine.fail)
    if settings.worker.health_port:
        supervisor.start("health server", _serve(server))
    status = 1
    try:
        with traces.exported("visitor-worker"):
            await engine.run()
        status = 0
        log.info("stopped")
    except Exception as error:
        log.critical("worker_ended", error=type(error).__name__, reason=explain(error), exc_info=error)
    finally:
        supervisor.let_end()
        server.exit.set()
        await supervisor.stop(SERVER_STOP_SECONDS)
        _force_exit_later(status)
    return status


def _force_exit_later(status: int) -> None:
    """Exit after EXIT_SECONDS even if Python still waits for a thread, or for tasks that ignore their cancellation. If
    Faust fails to stop, it has such tasks, and the process would stay a member of the consumer group."""
    timer = threading.Timer(EXIT_SECONDS, os._exit, (status,))
    timer.daemon = True
    timer.start()


def _resources(settings: WorkerSettings) -> Resources:
    """What the handlers of reads need beside the database."""
    secret = settings.event_token_secret
    if secret is None:
        return {}
    return {TokenKey: TokenKey(secret.get_secret_value(), settings.event_token_seconds)}


async def _serve(server: ProbeServer) -> None:
    """Raises RuntimeError if the server does not start. uvicorn itself would exit the process immediately."""
    try:
        await server.serve()
    except SystemExit as error:
        raise RuntimeError("the health server did not start") from error


def _server(engine: Engine, host: str, port: int) -> ProbeServer:
    """The health server. `/health/live` answers 200 while the event loop runs and the engine has not failed.
    `/health/ready` lists the reasons why the worker is not ready."""

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
        return Response(generate_latest(WORKER), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]
    return ProbeServer(Starlette(routes=routes), host, port)
