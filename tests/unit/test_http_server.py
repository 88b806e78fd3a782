"""The HTTP server of edges and workers on a real socket."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

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


DRAINING = """
import asyncio, sys
import uvicorn
from runtime.http_server import Server

async def answer(scope, receive, send):
    while scope["path"] == "/when-stopping" and not server.should_exit:
        await asyncio.sleep(0.01)
    while scope["path"] == "/when-draining" and (b"connection", b"close") not in server.server_state.default_headers:
        await asyncio.sleep(0.01)
    status = 503 if server.should_exit else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})

config = uvicorn.Config(answer, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, lifespan="off")
server = Server(config, drain_seconds=float(sys.argv[2]))
server.run()
"""
READY, STOPPING = (200, None), (503, "close")
"""The status, and the header Connection, before and after a signal."""


@contextmanager
def _draining_server(seconds: float) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The process and the port of a server that takes calls for so long after SIGTERM."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", DRAINING, str(port), str(seconds)], stdout=subprocess.DEVNULL)
    try:
        _await_answer(port, READY)
        yield process, port
    finally:
        process.kill()
        process.wait()


def _connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=20)


def _call(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    """The status and the header Connection of the answer."""
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


def _await_answer(port: int, expected: tuple[int, str | None]) -> None:
    """Call on new connections until a call gets this answer."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with closing(_connect(port)) as connection, suppress(ConnectionError):
            if _call(connection) == expected:
                return
        time.sleep(0.05)
    raise AssertionError(f"not answered with {expected} within 20 s")


def test_after_sigterm_a_server_takes_calls_for_a_while_and_asks_their_callers_to_close() -> None:
    with (
        _draining_server(3) as (process, port),
        closing(_connect(port)) as kept,
        closing(_connect(port)) as in_flight,
        closing(_connect(port)) as late,
    ):
        assert _call(kept) == READY
        in_flight.request("GET", "/when-stopping")
        process.send_signal(signal.SIGTERM)
        _await_answer(port, STOPPING)
        assert _call(kept) == STOPPING, "it was connected before SIGTERM"
        assert in_flight.getresponse().status == 503
        assert process.wait(20) == -signal.SIGTERM
        with pytest.raises(ConnectionRefusedError):
            late.connect()


def test_after_sigterm_the_last_of_the_calls_in_progress_on_a_connection_closes_it() -> None:
    call = b"GET /when-draining HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for calls in (1, 2):
        with (
            _draining_server(600) as (process, port),
            socket.create_connection(("127.0.0.1", port), timeout=20) as client,
            closing(client.makefile("rb")) as answers,
        ):
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + call * calls)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n", "the others have arrived, too"
            process.send_signal(signal.SIGTERM)
            *_, last = answers.read().split(b"HTTP/1.1 503")
            assert b"connection: close" in last.lower()


def test_more_sigterms_do_not_let_a_server_take_calls_for_longer() -> None:
    with _draining_server(1) as (process, _):
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert process.poll() == -signal.SIGTERM


def test_sigint_ends_a_server_without_delay_also_while_it_drains() -> None:
    for signals in ([signal.SIGINT], [signal.SIGTERM, signal.SIGINT]):
        with _draining_server(600) as (process, port):
            process.send_signal(signals.pop(0))
            if signals:
                _await_answer(port, STOPPING)
                process.send_signal(signals.pop())
            assert process.wait(20) < 0


HANGING = """
import asyncio, sys
import uvicorn
from runtime import http_server

async def hang(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("started", flush=True)
    await receive()
    await asyncio.sleep(600)

http_server.CLOSE_SECONDS = 0.5
config = uvicorn.Config(
    hang, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, lifespan="on", timeout_graceful_shutdown=0
)
http_server.Server(config).run()
"""


def test_a_server_ends_although_its_application_does_not_close() -> None:
    command = [sys.executable, "-c", HANGING, str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1
