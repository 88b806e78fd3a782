"""Schemas of other releases and systems: the company's registry and the messages that wait for it."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from pydantic import HttpUrl

from agents.catalogue import CATALOGUE
from agents.engine import schema_lookup
from agents.engine.batches import Batch
from agents.engine.breaker import Breaker
from agents.engine.decode import Decoder, InvalidRecord
from agents.engine.lanes import Lane
from agents.engine.outbound import Outbound
from agents.engine.processor import BatchProcessor
from agents.engine.schema_lookup import LOOKUP_LIMIT, LOOKUPS, SchemaLookup
from agents.engine.turns import BATCH_LIMIT, ReadsFirst, next_turn
from agents.wire import Wire
from runtime.consume import Values
from storage.database import connect
from storage.settings import DatabaseSettings
from topics import avro, names
from topics.codec import Codec
from topics.envelope import AVRO, RequestHeaders
from topics.schema_registry import RegistryUnavailable, SchemaRegistry
from topics.settings import SchemaRegistrySettings

WIRE = Wire(CATALOGUE)
SCHEMA = WIRE.requests["visits.create"]
ID = avro.schema_id(SCHEMA)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[httpx.Request], Any]], SchemaRegistry]:
    """Makes a client of a registry that answers each request with the response of a function."""
    create = httpx.AsyncClient

    def client_of(answer: Callable[[httpx.Request], Any]) -> SchemaRegistry:
        def client(**arguments: Any) -> httpx.AsyncClient:
            return create(**arguments | {"transport": httpx.MockTransport(answer)})

        monkeypatch.setattr("topics.schema_registry.httpx.AsyncClient", client)
        return SchemaRegistry(SchemaRegistrySettings(url=HttpUrl("http://registry.example/apis/ccompat/v7")))

    return client_of


@pytest.mark.parametrize(
    "text",
    [
        "null", "[]", '"text"', "{}", "<html>", "[" * 100_000, '{"schema": null}', '{"schema": {"type": "record"}}',
        '{"schema": "{"}',
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
async def test_an_odd_answer_about_a_schema_is_a_failure_that_names_the_request(registry: Any, text: str) -> None:
    client = registry(lambda _: httpx.Response(200, text=text))
    with pytest.raises(RegistryUnavailable, match="GET schemas/ids/7: "):
        await client.schema(7)


@pytest.mark.parametrize(
    "text",
    ["null", "[]", *(f'{{"id": {number}}}' for number in ("null", '"x"', "[]", "Infinity", "-1", 2**31)), "{}"],
)
async def test_an_odd_answer_to_a_registration_is_a_failure_that_names_the_request(registry: Any, text: str) -> None:
    client = registry(lambda _: httpx.Response(200, text=text))
    with pytest.raises(RegistryUnavailable, match="POST subjects/a%2Fb/versions: "):
        await client.register("a/b", SCHEMA)


class _Endless(httpx.AsyncByteStream):
    """An answer that does not end. `pause` is the time between two of its parts, in seconds."""

    def __init__(self, part: bytes, pause: float) -> None:
        self._part = part
        self._pause = pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield self._part
            await asyncio.sleep(self._pause)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(_Endless(b" ", 0.01), "within 0.1 s"), (_Endless(bytes(2**16), 0), "more than 4194304 bytes")],
)
async def test_an_answer_that_does_not_end_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, registry: Any, answer: _Endless, reason: str
) -> None:
    if answer._pause:
        monkeypatch.setattr("topics.schema_registry.TIMEOUT", 0.1)
    client = registry(lambda _: httpx.Response(200, stream=answer))
    with pytest.raises(RegistryUnavailable, match=f"POST subjects/a/versions: .*{reason}"):
        await client.register("a", SCHEMA)


@pytest.mark.parametrize(
    "schema", ['"string"', '["null"]', '{"type": "array", "items": ' * 2_000 + '"int"' + "}" * 2_000]
)
async def test_a_schema_of_the_registry_that_no_request_can_have_is_none(registry: Any, schema: str) -> None:
    client = registry(lambda _: httpx.Response(200, json={"schema": schema}))
    assert await client.schema(7) is None


HUGE = {"type": "fixed", "name": "B", "size": 10**400, "logicalType": "decimal", "precision": 1}


async def test_a_value_whose_schema_cannot_be_used_is_shown_as_unreadable(registry: Any) -> None:
    values = Values(registry(lambda _: httpx.Response(200, json={"schema": '{"type": "map", "values": "string"}'})))
    shown = await values.read(AVRO, b"\x00\x00\x00\x00\x07\x00")
    assert "the schema with the id 7 is invalid" in shown["unreadable"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "record", "name": ["a", "."], "namespace": "a", "fields": []},
        {"type": "record", "name": "A", "fields": None},
        {"type": "record", "name": "A", "fields": [{"name": "a", "type": HUGE}]},
    ],
)
def test_a_schema_that_cannot_be_read_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="the schema with the id 7 is invalid"):
        Codec([]).add(7, schema)


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    nested: Any = "int"
    for _ in range(2_000):
        nested = avro.array_of(nested)
    with pytest.raises(ValueError, match="the schema with the id 7 is invalid"):
        Codec([]).add(7, {"type": "record", "name": "A", "fields": [{"name": "a", "type": nested}]})


KNOWN = 1_000_000
"""The id that the registry has given the schema of `centers.get`."""


class _Database:
    """Has no schemas. `asked` are the ids that it was asked about."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["_Database"]:
        yield self

    async def execute(self, _: Any, parameters: dict[str, list[int]]) -> list[Any]:
        self.asked += parameters["ids"]
        return []


class _Company:
    """The company's registry, which has one schema. It does not answer about the ids in `hanging`, and refuses those in
    `failing`."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.at_once = self.most_at_once = 0
        self.hanging: set[int] = set()
        self.failing: set[int] = set()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        schema_id = int(request.url.path.rpartition("/")[2])
        self.asked.append(schema_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(3600 if schema_id in self.hanging else 0)
        finally:
            self.at_once -= 1
        if schema_id in self.failing:
            return httpx.Response(500)
        if schema_id == KNOWN:
            return httpx.Response(200, json={"schema": avro.schema_text(WIRE.requests["centers.get"])})
        return httpx.Response(404)


class _Worker:
    """Decodes messages as a worker does, and leaves those that a batch leaves to the next one."""

    def __init__(self, registry: Any) -> None:
        self.company, self.database, wire = _Company(), _Database(), Wire(CATALOGUE)
        lookup = SchemaLookup(wire, cast(Any, self.database), registry(self.company.answer))
        self.decoder = Decoder(CATALOGUE, wire, lookup)
        self.reasons: dict[tuple[int, int], str] = {}
        """Why messages are dead letters, by partition and offset."""

    async def decode(self, records: Iterable[Any]) -> list[Any]:
        """Decode one batch. Returns the records that are left."""
        records, left = list(records), []
        for record, decoded in zip(records, await self.decoder.decode_all(records, next_turn), strict=True):
            if decoded is None:
                left.append(record)
            else:
                assert isinstance(decoded, InvalidRecord)
                self.reasons[record.partition, record.offset] = decoded.reason.code
        return left


@pytest.fixture
def worker(registry: Any) -> _Worker:
    return _Worker(registry)


def _record(schema_id: int, offset: int, partition: int = 0) -> Any:
    """A message for visits.create. With the schema of another operation, it is a dead letter, too, but another one."""
    headers = RequestHeaders("a", "visits.create", "test", AVRO).encode()
    value = b"\x00" + schema_id.to_bytes(4, "big") + b"garbage"
    return SimpleNamespace(
        topic=names.requests("visits"), partition=partition, offset=offset, timestamp=float(offset), key=None,
        headers=headers, value=value, generation_id=1,
    )  # fmt: skip


async def test_a_batch_of_garbage_requests_few_schemas_at_once_and_delays_no_other_partition(worker: _Worker) -> None:
    garbage = [_record(offset + 1, offset) for offset in range(BATCH_LIMIT)]
    left = await worker.decode([*garbage, _record(KNOWN, BATCH_LIMIT), _record(KNOWN + 1, 0, 1), _record(KNOWN, 1, 1)])
    assert {partition: worker.reasons.get((1, partition)) for partition in range(2)} == {
        0: "unknown_schema", 1: "wrong_schema",
    }  # fmt: skip
    assert len(worker.company.asked) == LOOKUP_LIMIT
    assert worker.company.most_at_once == LOOKUPS
    batches = 1
    while left:
        batches += 1
        assert left == sorted(left, key=lambda record: record.offset)
        left = await worker.decode(left)
    assert batches < 2 * BATCH_LIMIT / LOOKUP_LIMIT
    assert worker.reasons.pop((0, BATCH_LIMIT)) == "wrong_schema"
    assert len(worker.company.asked) == len(set(worker.company.asked)) == BATCH_LIMIT + 2


@pytest.mark.parametrize("fault", ["hanging", "failing"])
async def test_a_message_whose_schema_the_registry_does_not_answer_waits_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, worker: _Worker, fault: str
) -> None:
    monkeypatch.setattr(schema_lookup, "LOOKUP_SECONDS", 1.0)
    faulty: set[int] = getattr(worker.company, fault)
    faulty.add(KNOWN)
    left = await worker.decode([_record(1, 0), _record(KNOWN, 1), _record(2, 2), _record(3, 0, 1)])
    assert worker.reasons == {(0, 0): "unknown_schema", (1, 0): "unknown_schema"}
    assert [record.offset for record in left] == [1, 2]
    with pytest.raises(RegistryUnavailable, match=str(KNOWN)):
        await worker.decode(left)
    faulty.clear()
    assert await worker.decode(left) == []
    assert worker.reasons[0, 1] == "wrong_schema"


async def test_an_unknown_id_is_not_requested_again_at_once(worker: _Worker) -> None:
    for offset in range(3):
        assert await worker.decode([_record(1, offset)]) == []
    assert worker.company.asked == worker.database.asked == [1]


@pytest.mark.parametrize("schema_id", [2**31, 2**32 - 1])
async def test_an_id_that_no_schema_can_have_is_unknown_without_a_question(worker: _Worker, schema_id: int) -> None:
    assert await worker.decode([_record(schema_id, 0), _record(1, 1)]) == []
    assert worker.reasons == {(0, 0): "unknown_schema", (0, 1): "unknown_schema"}
    assert worker.company.asked == worker.database.asked == [1]


class _Others:
    """A registry in which each id has a schema of another system."""

    def __init__(self) -> None:
        self.asked = 0

    async def schema(self, schema_id: int) -> avro.Schema:
        self.asked += 1
        text = f"{schema_id:020000}"
        return {"type": "record", "name": "Order", "namespace": "crm", "doc": text, "fields": []}


async def test_schemas_of_other_systems_are_not_kept() -> None:
    others = _Others()
    worker = _Worker(lambda _: others)
    ids = range(1, 5_001)
    tracemalloc.start()
    try:
        for first in range(0, len(ids), LOOKUP_LIMIT):
            assert await worker.decode([_record(each, each) for each in ids[first : first + LOOKUP_LIMIT]]) == []
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert {worker.reasons[0, each] for each in ids} == {"wrong_schema"}
    assert kept < len(ids) * 20_000 / 10
    await worker.decode([_record(ids[-1], 5_001)])
    assert (worker.reasons[0, 5_001], others.asked) == ("wrong_schema", len(ids))


class _Broker:
    """Takes dead letters."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    async def send(self, messages: Iterable[Any]) -> None:
        for message in messages:
            self.offsets.append(int(dict(message.headers)["error-offset"]))


async def test_the_messages_that_a_batch_leaves_stay_in_their_partition(worker: _Worker) -> None:
    engine, broker = connect(DatabaseSettings(), connections=1), _Broker()
    processor = BatchProcessor(
        decoder=worker.decoder, wire=WIRE, outbound=Outbound(cast(Any, broker), cast(Any, None), {}), writes=engine,
        reads=engine, breaker=Breaker(1), reads_first=ReadsFirst(), resources=cast(Any, None), changed=lambda _: None,
    )  # fmt: skip
    source = SimpleNamespace(acknowledge=lambda _: None)
    lane = Lane((names.requests("visits"), 0), 1, cast(Any, source), set())
    offsets = list(range(LOOKUP_LIMIT + 5))
    for offset in offsets:
        lane.put(cast(Any, SimpleNamespace(message=_record(offset + 1, offset))))
    for concluded in (offsets[:LOOKUP_LIMIT], offsets):
        batch = Batch(parked=False, locks_are_held=False)
        batch.add(lane, lane.take(BATCH_LIMIT))
        await processor.read(batch)
        assert broker.offsets == concluded
        lane.give_back(batch.deliveries)
        assert lane.next_offset == len(concluded)
    assert not lane.has_work
