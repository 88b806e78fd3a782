"""The HTTP server of edges and workers."""

import math
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger(__name__)

_CLOSE = (b"connection", b"close")
CLOSE_SECONDS = 4.0
"""Seconds for what the application closes after its last call, for example its connections to Kafka."""


class Server(uvicorn.Server):
    """Ends the process if it listens on no address.

    An event loop passes over an address for which it gets no socket, without an error. So without file descriptors,
    uvicorn would run for ever, and no caller would reach it.

    After SIGTERM, the server takes calls for another `drain_seconds`, and asks their callers to close their
    connections: a proxy needs time to notice that this server is not ready, and sends it calls until then. SIGINT ends
    the server without this delay.

    If the config limits the time of the calls in flight (`timeout_graceful_shutdown`), the time for the rest is
    limited, too: CLOSE_SECONDS later, the process ends with status 1."""

    def __init__(self, config: uvicorn.Config, drain_seconds: float = 0.0) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._stops_at = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if any(server.sockets for server in self.servers):
            return
        log.error("not_listening", host=self.config.host, port=self.config.port, hint="raise the limit of open files")
        await self.lifespan.shutdown()
        sys.exit(1)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        drain_seconds = self._drain_seconds if sig == signal.SIGTERM else 0.0
        self._stops_at = min(self._stops_at, time.monotonic() + drain_seconds)
        calls_seconds = self.config.timeout_graceful_shutdown
        if calls_seconds is not None:
            timer = threading.Timer(drain_seconds + calls_seconds + CLOSE_SECONDS, os._exit, (1,))
            timer.daemon = True
            timer.start()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn stops when this is true. It asks ten times per second."""
        if not await super().on_tick(counter):
            return False
        if _CLOSE not in self.config.encoded_headers:
            self.config.encoded_headers.append(_CLOSE)
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
            self._close_after_calls()
        is_draining = time.monotonic() < self._stops_at < math.inf
        return not is_draining

    def _close_after_calls(self) -> None:
        """Calls that were sent before SIGTERM have the headers of then. The last one of each connection closes it,
        unless its answer has begun: a client may send the next call as soon as it has an answer without this header."""
        for connection in self.server_state.connections:
            if isinstance(connection, HttpToolsProtocol) and connection.cycle and not connection.cycle.response_started:
                connection.cycle.keep_alive = False
