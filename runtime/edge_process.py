"""The process of an edge: its HTTP server and its exit status."""

import sys

import uvicorn

from agents.catalogue import Catalogue
from edge.app import Edge
from edge.http_protocol import HttpProtocol
from runtime.settings import Settings
from topics import patches

IDLE_SECONDS = 75
"""How long the edge keeps an idle connection. This is nginx's default, and longer than the 60 s of most load balancers.
The client should close first: a call fails if the edge closes the connection at the same moment."""


def run(settings: Settings, catalogue: Catalogue) -> int:
    """Run an edge until SIGTERM or SIGINT. Returns the exit status. Raises WrongKeyFile."""

    def stop() -> None:
        server.should_exit = True

    patches.apply()
    edge = Edge(settings.kafka, settings.http, catalogue, ended=stop)
    config = uvicorn.Config(
        edge.asgi,
        http=HttpProtocol,
        ws="none",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        host=settings.http.host,
        port=settings.http.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # The edge does not use the caller's address.
        proxy_headers=False,
        # With the default, uvicorn would serve the application although its start failed.
        lifespan="on",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(settings.http.timeout_seconds) + 2,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except KeyboardInterrupt:
        return 0
    return 0 if edge.failure is None else 1
