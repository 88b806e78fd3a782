"""The HTTP server for probes and for Prometheus: health and metrics of a worker, and the metrics of an edge."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import uvicorn
from starlette.types import ASGIApp

from edge.http_protocol import HttpProtocol, RareLog, Unfinished
from runtime.http_server import Server

CONNECTIONS = 64
"""Open connections. From then on, each new one closes the oldest."""


class _Protocol(HttpProtocol):
    """Whoever opens connections, the next probe is answered: a supervisor would restart a process that refuses it."""

    closed_connections = RareLog()
    unfinished = Unfinished()
    opened_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= CONNECTIONS:
            oldest = min(
                (each for each in self.connections if isinstance(each, _Protocol)), key=attrgetter("opened_at")
            )
            self.connections.discard(oldest)
            oldest.transport.abort()
            self.closed_connections.warning("oldest_connections_closed", limit=CONNECTIONS)
        self.opened_at = self.loop.time()
        super().connection_made(transport)


class ProbeServer(Server):
    """Stops when `exit` is set."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            host,
            port,
            http=_Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            date_header=False,
            # An event loop may accept so many connections before the first one is closed.
            backlog=CONNECTIONS,
        )
        super().__init__(config)
        self.exit = asyncio.Event()

    async def main_loop(self) -> None:
        """uvicorn would wake up ten times per second, to look at `should_exit` and to set the date of its answers."""
        await self.exit.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the process has its own."""
        yield


def start_thread(app: ASGIApp, host: str, port: int) -> None:
    """Serve until the process ends, also while its event loop is busy. Raises OSError if the port is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    server = ProbeServer(app, host, port)
    threading.Thread(target=server.run, args=([listener],), name="metrics", daemon=True).start()
