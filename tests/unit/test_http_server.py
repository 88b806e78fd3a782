"""The HTTP server of edges and workers on a real socket."""

import subprocess
import sys

from runtime.dev.servers.processes import free_port

PROGRAM = """
import encodings.idna, os, resource, sys
import uvicorn
from runtime.http_server import Server

async def use_up_all_files(scope, receive, send):
    await receive()
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

config = uvicorn.Config(use_up_all_files, host="127.0.0.1", port=int(sys.argv[1]), loop=sys.argv[2], log_config=None)
Server(config).run()
"""


def test_a_server_that_gets_no_socket_ends_and_says_where_it_does_not_listen() -> None:
    for loop in ("uvloop", "asyncio"):
        port = free_port()
        command = [sys.executable, "-c", PROGRAM, str(port), loop]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (ended.returncode, "not_listening" in ended.stdout, str(port) in ended.stdout) == (1, True, True), ended
