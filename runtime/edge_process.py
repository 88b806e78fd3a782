"""An edge as a process: its server, and its exit status."""

import uvicorn

from agents.catalogue import Catalogue
from edge.app import Edge
from runtime.settings import Settings
from topics import patches

IDLE_SECONDS = 75
"""How long the edge keeps a connection that nobody uses. As nginx does, and longer than the 60 of most load balancers:
a call on a connection that is just being closed fails."""


def run(found: Settings, catalogue: Catalogue) -> int:
    """An edge until SIGTERM or SIGINT; the exit status. Raises WrongKeyFile."""

    def stop() -> None:
        server.should_exit = True

    patches.apply()
    edge = Edge(found.kafka, found.http, catalogue, ended=stop)
    config = uvicorn.Config(
        edge.asgi,
        host=found.http.host,
        port=found.http.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Not the default, which goes on without what the application could not start.
        lifespan="on",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(found.http.timeout_seconds) + 2,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except KeyboardInterrupt:
        return 0
    return 0 if edge.failure is None else 1
