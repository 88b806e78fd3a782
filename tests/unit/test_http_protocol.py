"""Connections whose clients are slow, wrong, or too many, on a server without Kafka."""

import asyncio
import functools
import gc
import re
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress

import pytest
import structlog
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge import http_protocol
from edge.http_protocol import HttpProtocol
from telemetry.metrics import EDGE
from tests.support.raw_http import Connection, read_to_end, status_and_code
from tests.support.stack import eventually

CONNECTIONS = 20
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
LARGE = bytes(32 * 2**20)


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers /large with a large body, /early before it has read the body of the request, and other paths after that:
    /headers with all headers, others with the length of the body. /late takes longer than a request may. /wait has no
    answer, and ends when the client has left."""
    request = Request(scope, receive)
    path = request.url.path
    if path == "/late":
        await asyncio.sleep(0.7)
    with suppress(ClientDisconnect):
        body = LARGE if path == "/large" else b"early" if path == "/early" else b"%d" % len(await request.body())
        if path == "/wait":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if path == "/headers":
            body = b"\n".join(b"%b: %b" % header for header in scope["headers"])
        await Response(body)(scope, receive, send)


@pytest.fixture(autouse=True)
def no_refused_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a log line about them, of which there is one in some seconds."""
    monkeypatch.setattr(HttpProtocol, "refused_connections", http_protocol._RefusedConnections())


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for tests of these limits: a busy machine can exceed them."""
    limits = {"HEADERS_SECONDS": 0.3, "REQUEST_SECONDS": 0.6, "WRITE_SECONDS": 0.3, "WATCH_SECONDS": 0.02}
    for name, seconds in (limits | {"LINGER_SECONDS": 0.1}).items():
        monkeypatch.setattr(http_protocol, name, seconds)


Counted = Callable[[str], float]


@pytest.fixture
def counted() -> Counted:
    """By how much a metric has increased during the test."""

    def value(name: str) -> float:
        return EDGE.get_sample_value(name) or 0.0

    before = {name: value(name) for name in ("visitor_http_timeouts_total", "visitor_http_connections_refused_total")}
    return lambda name: value(name) - before[name]


async def _has_started(server: uvicorn.Server) -> bool:
    return server.started


Connect = Callable[[], Awaitable[Connection]]


@asynccontextmanager
async def _serving(idle_seconds: int = 75, app: ASGIApp = _app) -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        port=0,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=idle_seconds,
        limit_concurrency=CONNECTIONS + 1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually("a server", lambda: _has_started(server))
    try:
        yield server
    finally:
        server.force_exit = server.should_exit = True
        await serving


@asynccontextmanager
async def _served() -> AsyncIterator[Connect]:
    async with _serving() as server:
        yield lambda: asyncio.open_connection(*_address(server))


def _address(server: uvicorn.Server) -> tuple[str, int]:
    return "127.0.0.1", server.servers[0].sockets[0].getsockname()[1]


async def _has_no_connections(server: uvicorn.Server) -> bool:
    return not server.server_state.connections


async def _trickle(writer: asyncio.StreamWriter, start: bytes) -> None:
    """Send one byte after the other, and never the last one."""
    writer.write(start)
    while not writer.is_closing():
        writer.write(b"a")
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("start", [HEAD + b"X-Slow: ", HEAD + b"Content-Length: 1000\r\n\r\n"], ids=["headers", "body"])
async def test_a_request_that_arrives_too_slowly_is_408_and_its_connection_is_closed(
    start: bytes, counted: Counted
) -> None:
    async with _served() as connect:
        reader, writer = await connect()
        trickling = asyncio.create_task(_trickle(writer, start))
        answer = await read_to_end(reader)
        trickling.cancel()
        writer.close()
    assert status_and_code(answer) == (408, "request_timeout")
    assert counted("visitor_http_timeouts_total") == 1
    assert b"connection: close" in answer.lower()


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(sent)
            assert await read_to_end(reader) == b""


@pytest.mark.usefixtures("short_limits")
async def test_blank_lines_do_not_keep_an_idle_connection() -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n0")
            writer.write(b"\r\n")
            assert await read_to_end(reader) == b""


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("next_request", [b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n"])
async def test_a_client_that_does_not_read_its_answer_is_disconnected(next_request: bytes, counted: Counted) -> None:
    async with _serving() as server:
        reader, writer = await asyncio.open_connection(*_address(server))
        with closing(writer):
            writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n" + next_request)
            await eventually("the end of the connection", lambda: _has_no_connections(server))
            received = 0
            with suppress(ConnectionResetError):
                while chunk := await reader.read(2**16):
                    received += len(chunk)
            assert received < len(LARGE)
    assert counted("visitor_http_timeouts_total") >= 1


@pytest.mark.usefixtures("short_limits")
async def test_a_client_that_reads_its_answer_slowly_gets_all_of_it(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_SECONDS", 1)
    async with _serving() as server:
        # The systems take little of the answer, so that it waits in the edge.
        server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, _address(server))
        reader, writer = await asyncio.open_connection(sock=client)
        with closing(writer):
            writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(100):
                await reader.readexactly(2**16)
                await asyncio.sleep(0.02)
            assert len(await reader.readexactly(len(LARGE) - 100 * 2**16)) == len(LARGE) - 100 * 2**16
    assert counted("visitor_http_timeouts_total") == 0


MALFORMED_CHUNK = b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("path", [b"/", b"/late"])
@pytest.mark.parametrize(
    "last",
    [HEAD + MALFORMED_CHUNK, HEAD + b"Content-Length: 9\r\n\r\n1", HEAD, HEAD.replace(b"Host", b"Ho st") + b"\r\n"],
)
@pytest.mark.parametrize("before", [1, 2])
async def test_requests_before_a_refused_one_are_answered(
    path: bytes, last: bytes, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab" % path * before + last)
            answer = await read_to_end(reader)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert statuses[:before] == [b"200"] * before
    assert set(statuses[before:]) <= {b"400", b"408"}
    assert caplog.records == []


async def test_a_refused_client_is_not_asked_for_its_body(caplog: pytest.LogCaptureFixture) -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(HEAD + b"Expect: 100-continue\r\n" + MALFORMED_CHUNK)
            assert status_and_code(await read_to_end(reader)) == (400, "not_http")
    assert caplog.records == []


@pytest.mark.usefixtures("short_limits")
async def test_a_client_that_does_not_send_the_rest_of_an_answered_request_is_disconnected(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the time limit for a request."""
    for name in ("REQUEST_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(http_protocol, name, 60)  # The test writes and reads 32 MiB, which takes a while.
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            async with asyncio.timeout(http_protocol.REQUEST_SECONDS):
                answer = await read_to_end(reader)
    assert len(answer.partition(b"\r\n\r\n")[2]) == len(LARGE)
    assert counted("visitor_http_timeouts_total") == 1


async def test_headers_that_are_not_complete_are_limited_on_all_connections_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "UNFINISHED_LIMIT", 50_000)
    start = HEAD + b"X-Large: " + b"a" * 30_000

    async def is_free() -> bool:
        return HttpProtocol.unfinished.count == 0

    async with _served() as connect:
        first, second = [await connect() for _ in range(2)]
        for _, writer in (first, second):
            writer.write(start)
        answer = await read_to_end(second[0])
        for _, writer in (first, second):
            writer.close()
        await eventually("the end of both connections", is_free)
        _, writer = third = await connect()
        writer.write(start + b"\r\nContent-Length: 1\r\n\r\na")
        served = await third[0].readuntil(b"\r\n")
        writer.close()
    assert status_and_code(answer) == (503, "edge_full")
    assert served.startswith(b"HTTP/1.1 200")


async def test_headers_of_64_kib_are_accepted_in_any_number_of_parts() -> None:
    parts = [b"X-Part: " + b"a" * 10_900 + b"\r\n" for _ in range(6)]

    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            sent = HEAD
            writer.write(sent)
            for part in parts:
                sent += part
                writer.write(part)
                await eventually("the part", functools.partial(_is_received, len(sent)))
            writer.write(b"Connection: close\r\nContent-Length: 1\r\n\r\na")
            answer = await read_to_end(reader)
    assert answer.startswith(b"HTTP/1.1 200")


async def _is_received(count: int) -> bool:
    return HttpProtocol.unfinished.count == count


async def test_a_connection_has_few_calls_that_wait_for_their_turn() -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(100 * b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na")
            answers = await read_to_end(reader)
    assert answers.count(b"HTTP/1.1 200 OK") == http_protocol.PIPELINE_LIMIT + 1


@pytest.mark.usefixtures("short_limits")
async def test_connections_beyond_the_limit_are_refused_and_logged_once(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEADERS_SECONDS", 3)  # Until then, the test opens all connections.
    async with _served() as connect:
        with structlog.testing.capture_logs() as logs:
            silent = [await connect() for _ in range(CONNECTIONS)]
            refused = [await connect() for _ in range(3)]
            answers = [await read_to_end(reader) for reader, _ in refused]
            for reader, _ in silent:
                await read_to_end(reader)
        last = await connect()
        last[1].write(HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nab")
        served = await read_to_end(last[0])
    for _, writer in [*silent, *refused, last]:
        writer.close()
    assert [status_and_code(answer) for answer in answers] == [(503, "too_many_connections")] * 3
    assert [(line["event"], line["limit"]) for line in logs] == [("connections_refused", CONNECTIONS)]
    assert served.split()[1] == b"200"
    assert counted("visitor_http_connections_refused_total") == len(refused)
    assert counted("visitor_http_timeouts_total") == len(silent)


async def test_few_refused_connections_are_kept_for_their_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LINGERING_LIMIT", 2), ("LINGER_SECONDS", 60), ("HEADERS_SECONDS", 60)):
        monkeypatch.setattr(http_protocol, name, value)
    lingering = HttpProtocol.refused_connections.lingering

    async def are_none() -> bool:
        return not lingering

    async with _served() as connect:
        silent = [await connect() for _ in range(CONNECTIONS)]
        refused = [await connect() for _ in range(5)]
        answers = [await read_to_end(reader) for reader, _ in refused]
        assert len(lingering) == 2
        for _, writer in [*silent, *refused]:
            writer.close()
        await eventually("the end of the refused connections", are_none)
    assert {status_and_code(answer) for answer in answers} == {(503, "too_many_connections")}


def _reset(writer: asyncio.StreamWriter) -> None:
    """Leave without a farewell."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def test_a_client_that_resets_an_idle_connection_leaves_nothing_in_memory() -> None:
    async def is_forgotten() -> bool:
        gc.collect()
        return connection() is None

    async with _serving() as server:
        reader, writer = await asyncio.open_connection(*_address(server))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n0")
        connection = weakref.ref(next(iter(server.server_state.connections)))
        _reset(writer)
        await eventually("a connection that is forgotten", is_forgotten, seconds=5)


@pytest.mark.parametrize("leave", [asyncio.StreamWriter.close, _reset], ids=["closed", "reset"])
async def test_each_call_of_a_pipeline_ends_when_its_client_leaves(
    leave: Callable[[asyncio.StreamWriter], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with _serving() as server:

        async def is_called() -> bool:
            return len(server.server_state.tasks) == 1

        async def is_ended() -> bool:
            return not server.server_state.tasks

        _, writer = await asyncio.open_connection(*_address(server))
        writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        await eventually("a call", is_called)
        leave(writer)
        await eventually("the end of the connection", lambda: _has_no_connections(server))
        await eventually("the end of the call", is_ended, seconds=5)
    assert caplog.records == []


@pytest.mark.usefixtures("short_limits")
async def test_a_body_for_which_the_application_made_the_client_wait_has_its_whole_time_limit(
    monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_SECONDS", 60)
    may_read = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_read.wait()
        await _app(scope, receive, send)

    async with _serving(app=app) as server:

        async def is_paused() -> bool:
            return any(
                isinstance(each, HttpProtocol) and each.flow.read_paused for each in server.server_state.connections
            )

        async def is_read() -> bool:
            return not await is_paused()

        reader, writer = await asyncio.open_connection(*_address(server))
        with closing(writer):
            writer.write(HEAD + b"Content-Length: 100001\r\n\r\n" + bytes(100_000))
            await eventually("a client that must wait", is_paused)
            may_read.set()
            await eventually("an application that reads", is_read)
            await asyncio.sleep(2 * http_protocol.HEADERS_SECONDS)
            writer.write(b"a")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert counted("visitor_http_timeouts_total") == 0


EARLY = HEAD.replace(b"/", b"/early", 1) + b"Content-Length: 5\r\n\r\n"


@pytest.mark.usefixtures("short_limits")
async def test_a_connection_is_idle_after_the_body_of_a_call_that_was_answered_early(
    monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    """The time limit of idle connections holds, not that of headers, and its end is no timeout of a request."""
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 10)
    async with _serving(idle_seconds=1) as server:
        reader, writer = await asyncio.open_connection(*_address(server))
        with closing(writer):
            writer.write(EARLY)
            await reader.readuntil(b"early")
            writer.write(b"12345")
            assert await read_to_end(reader) == b""
    assert counted("visitor_http_timeouts_total") == 0


@pytest.mark.usefixtures("short_limits")
async def test_a_request_that_follows_the_body_of_a_call_that_was_answered_early_has_its_own_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is not idle."""
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 10)
    monkeypatch.setattr(http_protocol, "HEADERS_SECONDS", 1.5)
    async with _serving(idle_seconds=1) as server:
        reader, writer = await asyncio.open_connection(*_address(server))
        with closing(writer):
            writer.write(EARLY)
            await reader.readuntil(b"early")
            writer.write(b"12345" + HEAD)
            assert status_and_code(await read_to_end(reader)) == (408, "request_timeout")


OFFER = b"Upgrade: h2c\r\nConnection: Upgrade, close\r\n"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("rest", [b"", b"\r\n", HEAD], ids=["nothing", "blank-line", "next"])
async def test_a_call_that_offers_an_upgrade_may_be_the_last_of_its_connection(framing: bytes, rest: bytes) -> None:
    """What follows it does no harm."""
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(HEAD + OFFER + framing + rest)
            answer = await read_to_end(reader)
    assert (answer[:12], answer[-1:]) == (b"HTTP/1.1 200", b"2")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_call_of_http_1_0_that_offers_an_upgrade_needs_no_host() -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(b"GET /headers HTTP/1.0\r\nX-Other: 1\r\n" + OFFER + b"\r\n")
            answer = await read_to_end(reader)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-other: 1" in answer


@pytest.mark.parametrize(
    "before",
    [
        HEAD + b"Content-Length: 127000\r\n\r\n" + bytes(127_000),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1f018\r\n" + bytes(127_000) + b"\r\n0\r\n\r\n",
        3 * (HEAD + b"X-Large: " + b"a" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers"],
)
async def test_calls_before_a_request_do_not_count_for_its_headers(before: bytes) -> None:
    async with _serving() as server:
        # The server gets everything at once.
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, _address(server))
        await loop.sock_sendall(client, before + HEAD + b"X-Large: " + b"a" * 6_000)
        reader, writer = await asyncio.open_connection(sock=client)
        with closing(writer):
            for _ in range(before.count(b"POST")):
                await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
            writer.write(b"\r\nConnection: close\r\nContent-Length: 1\r\n\r\na")
            answer = await read_to_end(reader)
    assert b"HTTP/1.1 200 OK\r\n" in answer


async def test_a_full_memory_for_headers_refuses_no_headers_that_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "UNFINISHED_LIMIT", 20_000)
    large, small = HEAD + b"X-Large: " + b"a" * 19_900, HEAD + b"X-Small: " + b"a" * 10_000

    async with _served() as connect:
        _, occupying = await connect()
        reader, writer = await connect()
        with closing(occupying), closing(writer):
            occupying.write(large)
            await eventually("large headers", functools.partial(_is_received, len(large)))
            writer.write(small)
            await eventually("small headers", functools.partial(_is_received, len(large) + len(small)))
            writer.write(b"\r\nConnection: close\r\nContent-Length: 1\r\n\r\na")
            answer = await read_to_end(reader)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("count", "status"), [(200, 200), (201, 431)])
async def test_a_call_has_at_most_200_headers(count: int, status: int) -> None:
    headers = b"Connection: close\r\nContent-Length: 1\r\n" + b"A: b\r\n" * (count - 3)
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(HEAD + headers + b"\r\na")
            answer = await read_to_end(reader)
    assert int(answer.split()[1]) == status
    if status == 431:
        assert status_and_code(answer) == (431, "headers_too_large")
        assert b"64 KiB and 200 headers" in answer


LAST_CHUNK = b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"


@pytest.mark.parametrize(
    "trailers",
    [b"X-Long: " + b"a" * 300_000, b"X-Many: a\r\n" * 30_000, b"A:\r\n" * 300, b"X" * 300_000],
    ids=["value", "bytes", "number", "name"],
)
async def test_trailers_are_limited_like_headers(trailers: bytes) -> None:
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(HEAD + LAST_CHUNK + trailers)
            answer = await read_to_end(reader)
    assert status_and_code(answer) == (431, "headers_too_large")
    assert HttpProtocol.unfinished.count == 0


async def test_trailers_that_are_not_complete_are_counted_until_they_are() -> None:
    trailer = b"X-Trailer: " + b"a" * 10_000
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            for last_bytes in (b"\r\n\r\n", b"\r\nX-Other: a\r\n\r\n"):
                writer.write(HEAD + LAST_CHUNK)
                start = len(HEAD + LAST_CHUNK)
                await eventually("the last chunk", functools.partial(_is_received, start))
                writer.write(trailer)
                await eventually("the trailer", functools.partial(_is_received, start + len(trailer)))
                writer.write(last_bytes)
                assert (await reader.readuntil(b"\r\n\r\n1")).startswith(b"HTTP/1.1 200")
                assert await _is_received(0)


async def test_chunks_without_trailers_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "UNFINISHED_ALLOWANCE", 0)
    monkeypatch.setattr(http_protocol, "UNFINISHED_LIMIT", 50_000)
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, bytes(size)) for size in [1, 10, 20_000, 100_000] * 5)
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            writer.write(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
            answer = await read_to_end(reader)
    assert answer.endswith(b"\r\n\r\n600055")


async def test_trailers_without_end_of_a_call_that_is_answered_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 60)
    async with _serving() as server:

        async def is_refused() -> bool:
            return any(isinstance(each, HttpProtocol) and each._is_refused for each in server.server_state.connections)

        reader, writer = await asyncio.open_connection(*_address(server))
        with closing(writer):
            writer.write(EARLY.replace(b"Content-Length: 5\r\n\r\n", LAST_CHUNK))
            await reader.readuntil(b"early")
            parser = next(iter(server.server_state.connections)).parser
            writer.write(b"X-Long: " + b"a" * 300_000)
            await eventually("a refusal", is_refused, seconds=5)
            assert next(iter(server.server_state.connections)).parser is not parser
            assert await _is_received(0)


async def test_trailers_are_no_headers_of_the_call() -> None:
    """RFC 9110, section 6.5.1: they could give a key, or pass a check, depending on when they arrive."""
    async with _served() as connect:
        reader, writer = await connect()
        with closing(writer):
            head = HEAD.replace(b"/", b"/headers", 1) + b"Connection: close\r\n"
            writer.write(head + LAST_CHUNK + b"Authorization: Bearer a\r\nIdempotency-Key: b\r\n\r\n")
            answer = await read_to_end(reader)
    assert answer.partition(b"\r\n\r\n")[2].split(b"\n") == [
        b"host: localhost",
        b"connection: close",
        b"transfer-encoding: chunked",
    ]


async def test_a_full_memory_for_headers_refuses_no_headers_that_arrive_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "UNFINISHED_LIMIT", 20_000)
    part = HEAD + b"X-Large: " + b"a" * 19_900

    async with _served() as connect:
        _, occupying = await connect()
        reader, writer = await connect()
        with closing(occupying), closing(writer):
            occupying.write(part)
            await eventually("large headers", functools.partial(_is_received, len(part)))
            writer.write(part + b"a" * 10_000 + b"\r\nConnection: close\r\nContent-Length: 1\r\n\r\na")
            answer = await read_to_end(reader)
    assert answer.startswith(b"HTTP/1.1 200")
