"""Messages of one sender that the worker cannot read, in any number, do not harm the others. Nor do reads of one
caller, bodies that it sends slowly, and answers that it does not read."""

import asyncio
import functools
import json
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from edge import keys
from tests.support import bombs, data, metrics
from tests.support.memory import MemoryPeak
from tests.support.raw_http import Connection, allow_files, connect, request
from tests.support.stack import PARTITIONS, Process, Record, Stack, eventually
from topics import names

TOPIC = names.requests("visits")
CENTERS = names.requests("centers")
FLOOD = 2_500
"""Several times as many as a batch has, so that the last of them waits for several pauses."""
BOMBS = {"zstd": 950, "gzip": 400, "lz4": 400, "snappy": 100}
"""The decompressed size of a batch in mebibytes, by codec."""
HEADERS = 8_000_000
"""The number of headers of one record. They have 16 MB in a batch, and 600 MB as objects of Python."""
SMALL_BOMBS, SMALL_BOMB = 100, 15
"""How many batches of a few kilobytes a partition gets, and the decompressed size of each in mebibytes. It is within
the limit of a batch."""
CROWD = 1_500_000
"""The number of records in one batch of a megabyte."""
PAGE = 500
"""Visitors with their details in one answer: the largest page."""
CALLS = 300
RATE = 25
"""Calls per second of the caller that sends too many. Of CALLS at once, those of ten seconds are admitted."""
MEMORY_LIMIT = 256 * 2**20
SLOW_BODIES = 300
BODY_BYTES = 2**20 - 100
"""What arrives of a body of a mebibyte."""
STRANGERS = 3_000
HEADER_BYTES = 60_000
UNREAD_ANSWERS = 200
TEXT_CHARACTERS = 200_000
"""Five articles with four texts of this length make an answer of 4 MB."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    # It stays in its groups while a test suspends it.
    process = own_stack.worker(VISITOR_WORKER_SESSION_SECONDS="30")
    await eventually("a ready worker", process.ready)
    return process


async def _flood(stack: Stack, topic: str, count: int) -> None:
    """Write unreadable messages to partition 0."""
    for future in [await stack.producer.send(topic, b"no request", partition=0) for _ in range(count)]:
        await future


async def _request(stack: Stack, partition: int, topic: str = "visits") -> None:
    """Send a request and wait for its result."""
    if topic == "centers":
        request_id = await stack.send("centers.create", {"body": data.center()}, partition=partition)
        await stack.result("centers.create", request_id)
    else:
        await stack.result("visits.create", await _send_visit(stack, partition))


async def _send_visit(stack: Stack, partition: int) -> str:
    """Send a request of an unknown visitor, and return its id."""
    parts = {"path": {"visitType": "entry"}, "body": {"barcode": "unknown", "pcCode": data.new_code()}}
    return await stack.send("visits.create", parts, partition=partition)


async def _dead_letters(stack: Stack, topic: str) -> int:
    """How many messages of a topic are dead letters."""
    return len([letter for letter in await stack.read(names.DEAD_LETTERS) if letter.headers["error-topic"] == topic])


def _events(process: Process, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


async def test_a_flood_of_unreadable_messages_pauses_only_its_own_partition(own_stack: Stack, worker: Process) -> None:
    await _flood(own_stack, TOPIC, FLOOD)

    async def paused() -> bool:
        return bool(_events(worker, "flood"))

    await eventually("a pause of the partition", paused)
    await _request(own_stack, partition=1)
    await _request(own_stack, partition=0, topic="centers")
    assert await _dead_letters(own_stack, TOPIC) < FLOOD
    await _request(own_stack, partition=0)

    assert await worker.ready()
    floods = _events(worker, "flood")
    assert {(flood["topic"], flood["partition"]) for flood in floods} == {(TOPIC, 0)}
    assert [flood["pause"] for flood in floods] == sorted(flood["pause"] for flood in floods)
    assert sum(sum(flood["reasons"].values()) for flood in floods) > FLOOD - 200
    assert await _dead_letters(own_stack, TOPIC) == FLOOD
    scraped = await metrics.scrape(worker)
    assert scraped.value("visitor_floods_total", topic=TOPIC, partition="0") == len(floods)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bomber(own_stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    """Without idempotence: the bytes of a bomb have no sequence number, so one is missing where it was counted."""
    async with AIOKafkaProducer(bootstrap_servers=own_stack.servers.kafka, max_request_size=32 * 2**20) as producer:
        yield producer


async def _send_batch(producer: AIOKafkaProducer, topic: str, partition: int, encoded: bytes) -> int:
    """Send a record batch of these bytes, and return its first offset."""
    batch = producer.create_batch()
    batch.append(key=None, value=b"replaced", timestamp=None)
    batch._build = lambda: encoded
    metadata = await (await producer.send_batch(batch, topic, partition=partition))
    offset: int = metadata.offset
    return offset


async def test_batches_that_expand_to_hundreds_of_megabytes_become_dead_letters(
    own_stack: Stack, worker: Process, bomber: AIOKafkaProducer
) -> None:
    edge, url = own_stack.edge()
    await eventually("a ready edge", edge.ready)
    offsets = []
    memory = MemoryPeak(worker.child.pid, edge.child.pid)
    async with memory.watched():
        encodings = [functools.partial(bombs.bomb, codec, mebibytes) for codec, mebibytes in BOMBS.items()]
        for encode in [*encodings, functools.partial(bombs.headers, HEADERS, "zstd")]:
            encoded = await asyncio.to_thread(encode)
            offsets.append(await _send_batch(bomber, TOPIC, 2, encoded))
            for partition in range(PARTITIONS):
                await _send_batch(bomber, names.REPLIES, partition, encoded)
        await _request(own_stack, partition=2)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            assert (await client.get("/centers")).status_code == 200

    letters = [
        letter for letter in await own_stack.read(names.DEAD_LETTERS) if letter.headers["error-partition"] == "2"
    ]
    assert sorted(int(letter.headers["error-offset"]) for letter in letters) == offsets
    assert {letter.headers["error-code"] for letter in letters} == {"batch_too_large"}
    assert memory.peak < MEMORY_LIMIT
    line = await own_stack.consume(TOPIC, lambda line: (line["partition"], line["offset"]) == (2, offsets[0]))
    assert "exceeds" in line["value"]["unreadable"]


async def test_many_batches_that_expand_within_the_limit_are_read_in_turn(
    own_stack: Stack, worker: Process, bomber: AIOKafkaProducer
) -> None:
    """One fetch has all of them, and they would not fit into memory together."""
    encoded = await asyncio.to_thread(bombs.bomb, "zstd", SMALL_BOMB)
    memory = MemoryPeak(worker.child.pid)
    async with memory.watched():
        # A fast worker would read them one by one.
        worker.child.send_signal(signal.SIGSTOP)
        for _ in range(SMALL_BOMBS):
            for partition in range(PARTITIONS):
                await _send_batch(bomber, CENTERS, partition, encoded)
        request_id = await _send_visit(own_stack, partition=2)
        worker.child.send_signal(signal.SIGCONT)
        result = await own_stack.result("visits.create", request_id)

        def is_later(letter: Record) -> bool:
            return letter.headers["error-topic"] == CENTERS and letter.timestamp > result.timestamp

        await own_stack.await_record(names.DEAD_LETTERS, is_later)
    assert memory.peak < MEMORY_LIMIT
    assert await worker.ready()
    # The next worker need not read the rest.
    await own_stack.delete_records(CENTERS)


async def test_a_batch_of_more_records_than_fit_into_memory_is_read_in_parts(
    own_stack: Stack, worker: Process, bomber: AIOKafkaProducer
) -> None:
    encoded = bombs.crowd(CROWD)
    memory = MemoryPeak(worker.child.pid)
    async with memory.watched():
        await _send_batch(bomber, TOPIC, 3, encoded)
        await _request(own_stack, partition=1)

        async def paused() -> bool:
            return any(flood["partition"] == 3 for flood in _events(worker, "flood"))

        await eventually("a pause of the partition", paused)
        await _request(own_stack, partition=1)
    assert await _dead_letters(own_stack, TOPIC) < CROWD
    assert memory.peak < MEMORY_LIMIT
    # The next worker need not read the rest.
    await own_stack.delete_records(TOPIC)


async def test_large_reads_of_one_caller_do_not_delay_those_of_others(
    own_stack: Stack, worker: Process, tmp_path: Path
) -> None:
    """Each answer has details of 500 visitors, so a slow machine needs some time for all of them. The other caller gets
    its answers within the usual time."""
    await _create_visitors(own_stack)
    greedy, modest, file = keys.new_key(), keys.new_key(), tmp_path / "keys.toml"
    scopes = 'scopes = ["visitors:read", "parking:read", "centers:read"]\n'
    file.write_text(
        f'[[keys]]\nname = "greedy"\nsha256 = "{keys.digest(greedy)}"\nrate = {RATE}\n{scopes}'
        f'[[keys]]\nname = "modest"\nsha256 = "{keys.digest(modest)}"\n{scopes}'
    )
    edge, url = own_stack.edge(VISITOR_HTTP_KEYS=str(file), VISITOR_HTTP_TIMEOUT_SECONDS="30")
    await eventually("a ready edge", edge.ready)
    memory = MemoryPeak(worker.child.pid, edge.child.pid)
    async with memory.watched(), _client(url, greedy) as flooding, _client(url, modest, seconds=10) as client:
        calls = [asyncio.create_task(flooding.get("/visitors/details", params={"limit": PAGE})) for _ in range(CALLS)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        others = [(await client.get(path)).status_code for path in 5 * ["/centers", "/visitors"]]
        answers = await asyncio.gather(*calls)
    assert others == [200] * len(others)
    assert memory.peak < MEMORY_LIMIT

    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert len([answer for answer in answers if answer.status_code == 200]) >= 32
    too_many = [answer for answer in refused if answer.json()["errors"][0]["code"] == "rate_exceeded"]
    assert len(too_many) == CALLS - 10 * RATE
    assert all(1 <= int(answer.headers["Retry-After"]) <= 10 for answer in too_many)
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {f'"caller";q={10 * RATE};w=10'}
    edge.kill()


class Callers(NamedTuple):
    """An edge, and the keys of two callers."""

    edge: Process
    url: str
    greedy: str
    modest: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def callers(
    own_stack: Stack, worker: Process, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callers]:
    greedy, modest, file = keys.new_key(), keys.new_key(), tmp_path_factory.mktemp("keys") / "keys.toml"
    entry = '[[keys]]\nname = "{}"\nsha256 = "{}"\nscopes = ["*:read", "*:write"]\n'
    file.write_text("".join(entry.format(f"caller{n}", keys.digest(key)) for n, key in enumerate((greedy, modest))))
    edge, url = own_stack.edge(VISITOR_HTTP_KEYS=str(file))
    await eventually("a ready edge", edge.ready)
    yield Callers(edge, url, greedy, modest)
    edge.kill()


async def _statuses(client: httpx.AsyncClient) -> list[int]:
    return [(await client.get(path)).status_code for path in 5 * ["/centers", "/visitors"]]


class _Sending(NamedTuple):
    """A connection with a call, and the task that reads the code of its error. It reads from the start: the answer to a
    refused call is lost when the edge closes the connection."""

    connection: Connection
    code: "asyncio.Task[str]"


async def _begin_body(url: str, key: str) -> _Sending:
    """Send most of a large body."""
    connection = reader, writer = await connect(url)
    code = asyncio.create_task(_code(reader))
    headers = (b"Authorization: Bearer " + key.encode(), b"Content-Type: application/json", b"Content-Length: 1048576")
    writer.write(request(b"POST /centers HTTP/1.1", *headers) + b" " * BODY_BYTES)
    with suppress(ConnectionError):
        await writer.drain()
    return _Sending(connection, code)


async def _first_codes(reading: Sequence["asyncio.Task[str]"], seconds: float) -> Counter[str]:
    """The codes of the errors that have arrived after these seconds. The other connections have no answer yet."""
    done, waiting = await asyncio.wait(reading, timeout=seconds)
    for task in waiting:
        task.cancel()
    return Counter(task.result() for task in done)


async def test_slow_bodies_of_one_caller_leave_the_others_memory_and_connections(callers: Callers) -> None:
    memory = MemoryPeak(callers.edge.child.pid)
    async with memory.watched(), _client(callers.url, callers.modest) as client:
        sending = await asyncio.gather(*(_begin_body(callers.url, callers.greedy) for _ in range(SLOW_BODIES)))
        connections = [each.connection for each in sending]
        others = await _statuses(client)
        codes = await _first_codes([each.code for each in sending], seconds=5)

        async def are_closed() -> bool:
            """Those of refused calls, long before the time limit for a request."""
            return len([reader for reader, _ in connections if reader.at_eof()]) == codes["too_many_bytes"]

        await eventually("the end of the refused connections", are_closed, 10)
    for _, writer in connections:
        writer.close()
    assert others == [200] * len(others)
    assert codes.keys() == {"too_many_bytes"}
    assert 0 < SLOW_BODIES - codes["too_many_bytes"] <= 32
    assert memory.peak < MEMORY_LIMIT


async def _send_large_call(url: str, end: bytes) -> Connection:
    connection = _, writer = await connect(url)
    headers = request(b"GET /" + b"a" * (HEADER_BYTES // 2) + b" HTTP/1.1", b"X-Large: " + b"b" * (HEADER_BYTES // 2))
    writer.write(headers.removesuffix(b"\r\n") + end)
    with suppress(ConnectionError):
        await writer.drain()
    return connection


@pytest.mark.parametrize(
    "end",
    [b"\r\n", b"X-Incomplete: ", b"Content-Length: 100000\r\n\r\n" + 100_000 * b"c"],
    ids=["idle", "unfinished", "body"],
)
async def test_large_calls_of_strangers_leave_the_callers_memory(callers: Callers, end: bytes) -> None:
    allow_files(STRANGERS + 500)
    memory, connections = MemoryPeak(callers.edge.child.pid), list[Connection]()
    async with memory.watched(), _client(callers.url, callers.modest) as client:
        for _ in range(STRANGERS // 100):
            connections += await asyncio.gather(*(_send_large_call(callers.url, end) for _ in range(100)))
        others = await _statuses(client)
    for _, writer in connections:
        writer.close()
    assert others == [200] * len(others)
    assert memory.peak < MEMORY_LIMIT


async def _ask_for_articles(url: str, key: str) -> Connection:
    """Send a call, and take no more of its answer than fits into small buffers."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    parsed = httpx.URL(url)
    await asyncio.get_running_loop().sock_connect(client, (parsed.host, parsed.port))
    connection = _, writer = await asyncio.open_connection(sock=client, limit=1024)
    writer.write(request(b"GET /articles HTTP/1.1", b"Authorization: Bearer " + key.encode()))
    return connection


async def test_answers_that_one_caller_does_not_read_leave_the_others_memory_and_turns(callers: Callers) -> None:
    memory = MemoryPeak(callers.edge.child.pid)
    async with _client(callers.url, callers.modest) as client:
        article = {"genericName": "a", "mainImageUrl": "https://a.example", "status": "draft"}
        article |= {"publishDate": "2001-01-01T00:00:00Z"}
        texts = [{"localeCode": locale, "value": "x" * TEXT_CHARACTERS} for locale in ("fr-FR", "de-DE")]
        for _ in range(5):
            await data.create(client, "/articles", article | {"title": texts, "content": texts})
        async with memory.watched():
            connections = []
            codes: Counter[str] = Counter()
            for _ in range(UNREAD_ANSWERS):
                connections.append(await _ask_for_articles(callers.url, callers.greedy))
                codes[await _code(connections[-1][0])] += 1
            others = await _statuses(client)
        for _, writer in connections:
            writer.transport.abort()

        async def is_served() -> bool:
            answer = await client.get("/articles", headers={"Authorization": f"Bearer {callers.greedy}"})
            return answer.status_code == 200

        await eventually("the greedy caller's answer", is_served, 10)
    assert others == [200] * len(others)
    assert codes.keys() == {"", "too_many_bytes"}
    assert codes[""] <= 10
    assert memory.peak < MEMORY_LIMIT


async def _code(reader: asyncio.StreamReader) -> str:
    """The code of an error, or nothing if an answer of another kind begins."""
    status = (await reader.readuntil(b"\r\n")).split()[1]
    if status == b"200":
        return ""
    answer = await reader.readuntil(b"]}")
    code: str = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"][0]["code"]
    return code


def _client(url: str, key: str, seconds: float = 90) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=seconds, limits=limits)


async def _create_visitors(stack: Stack) -> None:
    center = data.center()
    await stack.result("centers.create", await stack.send("centers.create", {"body": center}))
    sent = [await stack.send("visitors.create", {"body": data.visitor(center["pcCode"])}) for _ in range(PAGE)]
    await asyncio.gather(*(stack.result("visitors.create", request_id) for request_id in sent))


async def test_a_restart_in_a_flood_of_unreadable_reads_harms_no_others(own_stack: Stack, worker: Process) -> None:
    """A worker that starts in the middle of the flood goes on with it, and answers the reads of other partitions."""
    await _flood(own_stack, names.QUERIES, FLOOD)

    async def paused() -> bool:
        return any(flood["topic"] == names.QUERIES for flood in _events(worker, "flood"))

    await eventually("a pause of the partition", paused)
    worker.kill()
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    await _list_centers(own_stack, partition=1)
    await _list_centers(own_stack, partition=0)
    letters = [letter.headers for letter in await own_stack.read(names.DEAD_LETTERS)]
    offsets = {letter["error-offset"] for letter in letters if letter["error-topic"] == names.QUERIES}
    assert len(offsets) == FLOOD
    assert worker.terminate() == 0


async def _list_centers(stack: Stack, partition: int) -> None:
    """Over Kafka."""
    request_id = await stack.send("centers.list", {}, partition=partition)
    assert (await stack.result("centers.list", request_id)).value["status"] == 200
