"""Connections of an edge whose clients leave, or are too many."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import pytest_asyncio
import sqlalchemy as sa

from edge.calls import PATIENCE_SECONDS
from runtime import probe_server
from runtime.console.app import STREAMS
from tests.support import data, impatient
from tests.support.metrics import scrape
from tests.support.raw_http import Connection, allow_files, connect, exchange, read_to_end, request, status_and_code
from tests.support.stack import Process, Stack, eventually
from topics import names

CONNECTIONS = 20
CALLS, SECONDS = "visitor_http_calls_total", "visitor_http_seconds_count"
REFUSED = "visitor_http_connections_refused_total"


@dataclass
class Edge:
    process: Process
    url: str

    async def count(self, metric: str, **labels: str) -> float:
        return (await scrape(self.process)).value(metric, **labels)

    async def await_count(self, expected: float, metric: str, **labels: str) -> None:
        async def is_reached() -> bool:
            return await self.count(metric, **labels) == expected

        await eventually(f"{metric} {labels} is {expected}", is_reached)

    @property
    def log(self) -> str:
        return self.process.log.read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(stack: Stack) -> AsyncIterator[Edge]:
    process, url = stack.edge(
        VISITOR_HTTP_CONSOLE="true",
        VISITOR_HTTP_CONNECTIONS=str(CONNECTIONS),
        VISITOR_HTTP_IN_FLIGHT="2",
        VISITOR_HTTP_READS_AT_ONCE="1",
    )
    await eventually("a ready edge", process.ready)
    yield Edge(process, url)
    process.kill()


def _leave(connection: Connection, *, abruptly: bool = False) -> None:
    """Close the connection, or abruptly reset it."""
    _, writer = connection
    if abruptly:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def _leave_in_body(edge: Edge, path: str, framing: bytes, part: bytes, *, abruptly: bool) -> None:
    """Leave when the edge reads the body, and has got this part of it."""
    connection = reader, writer = await connect(edge.url)
    headers = (b"Expect: 100-continue", b"Content-Type: application/json", framing)
    writer.write(request(b"POST %s HTTP/1.1" % path.encode(), *headers))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(part)
    await writer.drain()
    _leave(connection, abruptly=abruptly)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["announced", "chunked"])
@pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
async def test_a_client_that_leaves_in_its_body_writes_nothing_and_is_no_error(
    stack: Stack, edge: Edge, is_chunked: bool, abruptly: bool
) -> None:
    """What it has sent is a complete body, except that it announced more."""
    center = data.center()
    body, log = json.dumps(center).encode(), edge.log
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % (len(body) + 1)
    part = b"%x\r\n%b\r\n" % (len(body), body) if is_chunked else body
    calls, measured = [await edge.count(metric, operation="centers.create") for metric in (CALLS, SECONDS)]
    requests = await stack.count(names.requests("centers"))
    for path in ("/registry/subjects/a", "/console/api/dead-letters/plan", "/centers"):
        await _leave_in_body(edge, path, framing, part, abruptly=abruptly)
    await edge.await_count(calls + 1, CALLS, operation="centers.create")
    assert await edge.count(SECONDS, operation="centers.create") == measured + 1
    assert await stack.count(names.requests("centers")) == requests
    assert await stack.rows("select 1 from centers where pc_code = :pc_code", pc_code=center["pcCode"]) == []
    assert edge.log == log


@asynccontextmanager
async def _centers_locked(stack: Stack) -> AsyncIterator[None]:
    """No call about centers is answered meanwhile."""
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text("lock table centers in access exclusive mode"))
        yield


async def _send(edge: Edge, method: str, body: Any = None) -> Connection:
    """Send a complete call about centers."""
    connection = _, writer = await connect(edge.url)
    content = b"" if body is None else json.dumps(body).encode()
    headers = (b"Content-Type: application/json", b"Content-Length: %d" % len(content))
    writer.write(request(b"%s /centers HTTP/1.1" % method.encode(), *headers) + content)
    return connection


async def _await_messages(stack: Stack, topic: str, number: int) -> None:
    async def have_arrived() -> bool:
        return await stack.count(topic) == number

    await eventually(f"{number} messages in {topic}", have_arrived)


async def test_clients_that_leave_before_the_answer_give_their_calls_in_flight_back(stack: Stack, edge: Edge) -> None:
    topic, log = names.requests("centers"), edge.log
    created = await edge.count(CALLS, operation="centers.create", status="201")
    for round_number in (1, 2):
        centers, requests = [data.center() for _ in range(2)], await stack.count(topic)
        async with _centers_locked(stack):
            connections = [await _send(edge, "POST", center) for center in centers]
            await _await_messages(stack, topic, requests + 2)
            refused = await exchange(edge.url, request(b"GET /centers HTTP/1.1", b"Connection: close"))
            assert status_and_code(refused) == (429, "too_many_calls")
            for connection, abruptly in zip(connections, (False, True), strict=True):
                _leave(connection, abruptly=abruptly)
        await edge.await_count(created + 2 * round_number, CALLS, operation="centers.create", status="201")
        rows = await stack.rows(
            "select 1 from centers where pc_code = any(:codes)", codes=[c["pcCode"] for c in centers]
        )
        assert len(rows) == 2
    assert edge.log == log


async def test_a_read_whose_client_left_before_its_turn_is_not_sent(stack: Stack, edge: Edge) -> None:
    log, queries = edge.log, await stack.count(names.QUERIES)
    gone = await edge.count(CALLS, operation="centers.list", status="400")
    async with _centers_locked(stack):
        first = await _send(edge, "GET")
        await _await_messages(stack, names.QUERIES, queries + 1)
        second = await _send(edge, "GET")

        async def waits_for_its_turn() -> bool:
            refused = await exchange(
                edge.url, request(b"DELETE /centers/FR-A-1/companies/1 HTTP/1.1", b"Connection: close")
            )
            return status_and_code(refused) == (429, "too_many_calls")

        await eventually("a read that waits for its turn", waits_for_its_turn)
        await asyncio.sleep(
            2 * PATIENCE_SECONDS
        )  # The edge looks for the caller of a read that waits longer than this.
        _leave(second)
    assert (await first[0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    _leave(first)
    await edge.await_count(gone + 1, CALLS, operation="centers.list", status="400")
    assert await stack.count(names.QUERIES) == queries + 1
    assert edge.log == log


async def test_pages_that_leave_the_console_give_their_streams_back(edge: Edge) -> None:
    log = edge.log

    async def open_and_leave() -> bool:
        connection = reader, writer = await connect(edge.url)
        writer.write(request(b"GET /console/api/events HTTP/1.1"))
        status_line = await reader.readuntil(b"\r\n")
        _leave(connection)
        return status_line.startswith(b"HTTP/1.1 200")

    for _ in range(STREAMS + 1):
        await eventually("a stream", open_and_leave)
    assert edge.log == log


async def test_connections_beyond_the_limit_are_refused_until_others_leave(edge: Edge) -> None:
    refused = await edge.count(REFUSED)
    open_connections = []
    for number in range(CONNECTIONS):
        connection = reader, writer = await connect(edge.url)
        if number % 2:  # A connection that is kept after its call counts as well as one without a call.
            writer.write(request(b"GET /health HTTP/1.1"))
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        open_connections.append(connection)

    call = request(b"GET /centers?limit=1 HTTP/1.1", b"Connection: close")
    answers = [await exchange(edge.url, call) for _ in range(4)]
    assert [status_and_code(answer) for answer in answers] == [(503, "too_many_connections")] * 4
    assert all(b"\r\nretry-after: 1\r\n" in answer.lower() for answer in answers)
    assert await edge.count(REFUSED) == refused + 4
    lines = [json.loads(line) for line in edge.log.splitlines() if "connections_refused" in line]
    assert {(line["limit"], line["setting"]) for line in lines} == {(CONNECTIONS, "VISITOR_HTTP_CONNECTIONS")}
    kept = open_connections[1]
    kept[1].write(request(b"GET /centers?limit=1 HTTP/1.1"))
    await kept[0].readuntil(b"HTTP/1.1 200")

    for connection in open_connections:
        _leave(connection)

    async def is_served() -> bool:
        return (await exchange(edge.url, call)).startswith(b"HTTP/1.1 200")

    await eventually("a call that is served", is_served)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def impatient_edge(stack: Stack) -> AsyncIterator[Edge]:
    process, url = stack.edge("tests.support.impatient")
    await eventually("a ready edge", process.ready)
    yield Edge(process, url)
    process.kill()


@asynccontextmanager
async def _silent_connections(url: str, count: int) -> AsyncIterator[None]:
    allow_files(2 * count)
    connections = await asyncio.gather(*(connect(url) for _ in range(count)))
    try:
        yield
    finally:
        for _, writer in connections:
            writer.close()


async def test_as_many_silent_connections_as_an_edge_may_open_files_are_refused_and_closed(
    impatient_edge: Edge,
) -> None:
    call = request(b"GET /centers?limit=1 HTTP/1.1", b"Connection: close")
    async with _silent_connections(impatient_edge.url, 1_006):

        async def is_served() -> bool:
            with suppress(ConnectionError):  # If very many connections are refused at once, some get no answer.
                return (await exchange(impatient_edge.url, call)).startswith(b"HTTP/1.1 200")
            return False

        await eventually("a call that is served", is_served, 10 * impatient.HEADERS_SECONDS)
    lines = [json.loads(line) for line in impatient_edge.log.splitlines() if line.startswith("{")]
    limits = {line["event"]: line["limit"] for line in lines if "limit" in line}
    assert limits["few_file_descriptors"] == impatient.FILES
    assert limits["connections_refused"] < impatient.FILES - 100


@pytest.mark.parametrize(
    "start",
    [request(b"POST /centers HTTP/1.1")[:-2] + b"X-Slow: ", request(b"POST /centers HTTP/1.1", b"Content-Length: 9")],
    ids=["headers", "body"],
)
async def test_an_edge_answers_408_to_a_call_that_arrives_too_slowly(impatient_edge: Edge, start: bytes) -> None:
    reader, writer = await connect(impatient_edge.url)
    writer.write(start + b"a")
    answer = await read_to_end(reader)
    writer.close()
    assert status_and_code(answer) == (408, "request_timeout")


@pytest.mark.parametrize("process", [0, 1], ids=["worker", "edge"])
async def test_silent_connections_take_few_files_and_no_threads_from_the_port_of_health_and_metrics(
    stack: Stack, process: int
) -> None:
    observed = stack.processes[process]
    state = psutil.Process(observed.child.pid)
    files, threads = state.num_fds(), state.num_threads()
    async with _silent_connections(observed.metrics_url, 300):
        for _ in range(3):
            assert (await scrape(observed)).families
        assert await observed.ready()
        assert state.num_fds() <= files + probe_server.CONNECTIONS + 20
        assert state.num_threads() <= threads + 5
    assert "oldest_connections_closed" in observed.log.read_text()
