"""The process of an edge: its HTTP server and its exit status."""

import sys

import structlog
import uvicorn
from prometheus_client import make_asgi_app

from agents.catalogue import Catalogue
from edge.app import Edge, Mounted
from edge.authentication import Authentication
from edge.http_protocol import HttpProtocol
from runtime import probe_server
from runtime.http_server import Server
from runtime.settings import Settings
from telemetry.metrics import EDGE
from topics import patches

log = structlog.get_logger(__name__)

IDLE_SECONDS = 75
"""How long the edge keeps an idle connection. This is nginx's default, and longer than the 60 s of most load balancers.
The client should close first: a call fails if the edge closes the connection at the same moment."""


RESERVED_FILES = 200
"""File descriptors for the connections to Kafka, for those that are being refused, for log files and the like."""


def run(settings: Settings, catalogue: Catalogue) -> int:
    """Run an edge until SIGTERM or SIGINT. Returns the exit status. Raises WrongKeyFile."""

    def stop() -> None:
        server.should_exit = True

    def is_stopping() -> bool:
        return server.should_exit

    def create_console(authentication: Authentication) -> Mounted:
        from runtime.console.app import Console  # an edge without it needs no database driver

        return Console(settings, authentication, is_stopping)

    patches.apply()
    mount = create_console if settings.http.console else None
    edge = Edge(settings.kafka, settings.http, catalogue, ended=stop, mount=mount, is_stopping=is_stopping)
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
        # The protocol refuses connections from this number on.
        limit_concurrency=_connection_limit(settings.http.connections) + 1,
        timeout_graceful_shutdown=int(settings.http.timeout_seconds) + 2,
    )
    server = Server(config, settings.http.drain_seconds)
    if settings.http.metrics_port:
        # In a thread of its own, so that the metrics can be read while the event loop is busy.
        probe_server.start_thread(make_asgi_app(EDGE), settings.http.metrics_host, settings.http.metrics_port)
    try:
        server.run()
    except KeyboardInterrupt:
        return 0
    return 0 if edge.failure is None else 1


def _connection_limit(connections: int) -> int:
    """`connections`, or fewer if the process may not open so many files. Raises the process's limit as far as it
    may."""
    try:
        import resource
    except ImportError:  # Windows
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= connections + RESERVED_FILES:
        return connections
    unlimited = hard == resource.RLIM_INFINITY
    soft = connections + RESERVED_FILES if unlimited else min(hard, connections + RESERVED_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < connections + RESERVED_FILES:
        log.warning(
            "few_file_descriptors", limit=soft, hint="raise the limit of open files, or VISITOR_HTTP_CONNECTIONS"
        )
    return max(1, min(connections, soft - RESERVED_FILES))
