"""The HTTP server of edges and workers."""

import socket
import sys

import structlog
import uvicorn

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Ends the process if it listens on no address.

    An event loop passes over an address for which it gets no socket, without an error. So without file descriptors,
    uvicorn would run for ever, and no caller would reach it."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if any(server.sockets for server in self.servers):
            return
        log.error("not_listening", host=self.config.host, port=self.config.port, hint="raise the limit of open files")
        await self.lifespan.shutdown()
        sys.exit(1)
