"""Messages that other releases wrote: during a rolling upgrade, after one, and after a return to the older release."""

import asyncio
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import fastavro
import httpx
import pytest

from agents.wire import Wire
from tests.support import next_release
from tests.support.registry import Registry
from tests.support.stack import PARTITIONS, WIRE, Process, Record, Stack, eventually
from topics import avro, names, releases
from topics.codec import Codec
from topics.envelope import AVRO, RequestHeaders

NEXT_WIRE = next_release.wire()
NEXT_MODULE = "tests.support.next_release"
TOPIC = names.requests("optins")
RELEASE_DATE = avro.datetime.fromisoformat("2026-01-01T00:00:00+00:00")
MESSAGES = 60


async def _send(stack: Stack, value: bytes, request_id: str, partition: int) -> str:
    headers = RequestHeaders(request_id, "legalTexts.create", "crm/north", AVRO).encode()
    await stack.raw(TOPIC, value, headers, partition=partition)
    return request_id


def _value(wire: Wire, **fields: Any) -> bytes:
    """A request as a producer of this release writes it."""
    body = {"type": "terms", "releaseDate": RELEASE_DATE, "requireConsent": True} | fields
    schema_id = avro.schema_id(wire.requests["legalTexts.create"])
    return wire.codec.write(schema_id, {"body": body})


async def _send_of_both(stack: Stack, label: str) -> Sequence[str]:
    """Send messages of this and of the next release to all partitions, and return their ids."""
    sent = []
    for number in range(MESSAGES):
        for name, value in (("this", _value(WIRE)), ("next", _value(NEXT_WIRE, note="new"))):
            sent.append(await _send(stack, value, f"{label}-{name}-{number}", number % PARTITIONS))
    return sent


async def _send_of_this(stack: Stack, label: str) -> Sequence[str]:
    """Send messages of this release to all partitions, and return their ids."""
    value = _value(WIRE)
    return [await _send(stack, value, f"{label}-{number}", number % PARTITIONS) for number in range(MESSAGES)]


async def _assert_all_are_applied(stack: Stack, request_ids: Sequence[str]) -> None:
    results = await asyncio.gather(*(stack.result("legalTexts.create", each) for each in request_ids))
    assert {_status(result) for result in results} == {201}
    assert await stack.read(names.DEAD_LETTERS) == []


def _status(result: Record) -> int:
    """The status of a result, whatever id its schema has."""
    assert result.raw is not None
    schema_id = avro.schema_id(WIRE.results["legalTexts.create"])
    decoded: dict[str, int] = WIRE.codec.read(b"\0" + schema_id.to_bytes(4, "big") + result.raw[5:])
    return decoded["status"]


async def _start(stack: Stack, *modules: str) -> list[Process]:
    workers = [stack.worker(module) for module in modules]
    for worker in workers:
        await eventually("a ready worker", worker.ready)
    return workers


def _stop(workers: Sequence[Process]) -> None:
    for worker in workers:
        assert worker.terminate() == 0


@pytest.fixture
def company_registry() -> Iterator[Registry]:
    registry = Registry()
    yield registry
    registry.stop()


def test_the_schemas_of_the_next_release_differ_and_are_compatible() -> None:
    this, other = (wire.requests["legalTexts.create"] for wire in (WIRE, NEXT_WIRE))
    names_of_fields = [[field["name"] for field in _body(schema)["fields"]] for schema in (this, other)]
    assert names_of_fields == [
        ["releaseDate", "requireConsent", "type"],
        ["note", "requireConsent", "type", "releaseDate"],
    ]
    assert avro.schema_id(this) != avro.schema_id(other)


def _body(schema: avro.Schema) -> avro.Schema:
    body: avro.Schema = next(field["type"] for field in schema["fields"] if field["name"] == "body")
    return body


async def test_in_a_rolling_upgrade_both_releases_apply_the_messages_of_both(own_stack: Stack) -> None:
    workers = await _start(own_stack, "runtime.cli", NEXT_MODULE)
    await _assert_all_are_applied(own_stack, await _send_of_both(own_stack, "upgrade"))
    _stop(workers[:1])
    workers[:1] = await _start(own_stack, NEXT_MODULE)
    await _assert_all_are_applied(own_stack, await _send_of_both(own_stack, "upgraded"))
    _stop(workers)


async def test_the_new_release_applies_messages_that_waited_for_it(own_stack: Stack) -> None:
    _stop(await _start(own_stack, "runtime.cli"))
    released = next(each for each in releases.released() if (each.kind, each.name) == ("requests", "legalTexts.create"))
    codec = Codec([released.schema])
    codec.assign(avro.schema_id(released.schema), released.id)
    record = {"body": {"type": "terms", "releaseDate": RELEASE_DATE, "requireConsent": None}}
    of_0_1_0 = await _send(own_stack, codec.write(avro.schema_id(released.schema), record), "waiting-0.1.0", 0)
    sent = await _send_of_both(own_stack, "waiting")
    workers = await _start(own_stack, NEXT_MODULE)
    await _assert_all_are_applied(own_stack, [of_0_1_0, *sent])
    _stop(workers)


async def test_the_old_release_applies_messages_of_the_new_one_after_a_rollback(own_stack: Stack) -> None:
    _stop(await _start(own_stack, NEXT_MODULE))
    sent = await _send_of_both(own_stack, "rollback")
    workers = await _start(own_stack, "runtime.cli")
    await _assert_all_are_applied(own_stack, sent)
    _stop(workers)


async def test_the_old_release_refuses_a_new_enum_value_with_400_and_the_new_one_applies_it(own_stack: Stack) -> None:
    for module, status in (("runtime.cli", 400), (NEXT_MODULE, 201)):
        workers = await _start(own_stack, module)
        request_id = await _send(own_stack, _value(NEXT_WIRE, type=next_release.NEW_TYPE), f"enum-{status}", 0)
        assert _status(await own_stack.result("legalTexts.create", request_id)) == status
        _stop(workers)
    assert await own_stack.read(names.DEAD_LETTERS) == []


async def test_a_crm_reads_changes_of_two_releases(own_stack: Stack) -> None:
    topic = names.changes("optins", "legalText")
    released = next(each for each in releases.released() if (each.kind, each.name) == ("changes", "legalText"))
    codec = Codec([released.schema])
    codec.assign(avro.schema_id(released.schema), released.id)
    change = {
        "resource": "legalText", "id": "0", "revision": 1, "action": "deleted", "visitorId": None,
        "occurredAt": RELEASE_DATE, "causedBy": "0.1.0", "after": None,
    }  # fmt: skip
    await own_stack.raw(topic, codec.write(avro.schema_id(released.schema), change), [], key="0", partition=0)
    workers = await _start(own_stack, "runtime.cli")
    edge, url = own_stack.edge(VISITOR_HTTP_DRAIN_SECONDS="0")
    await eventually("a ready edge", edge.ready)
    request_id = await _send(own_stack, _value(WIRE), "change", 0)
    await own_stack.await_record(topic, lambda record: record.value["causedBy"] == request_id)

    async with httpx.AsyncClient(base_url=url) as registry:
        causes = {}
        for record in await own_stack.read(topic):
            assert record.raw is not None
            schema_id = int.from_bytes(record.raw[1:5], "big")
            schema = (await registry.get(f"/registry/schemas/ids/{schema_id}")).json()["schema"]
            decoded = fastavro.schemaless_reader(io.BytesIO(record.raw[5:]), json.loads(schema), None)
            causes[decoded["causedBy"]] = schema_id
    assert causes["0.1.0"] == released.id
    assert causes[request_id] == avro.schema_id(WIRE.changes["legalText"])
    line = await own_stack.consume(topic, lambda message: message["key"] == "0")
    assert line["value"]["causedBy"] == "0.1.0"
    edge.terminate()
    _stop(workers)


async def test_the_companys_registry_assigns_the_ids_and_resolves_unknown_ones(
    own_stack: Stack, company_registry: Registry
) -> None:
    settings = {
        "VISITOR_SCHEMA_REGISTRY_URL": company_registry.url,
        "VISITOR_SCHEMA_REGISTRY_USERNAME": "visitor",
        "VISITOR_SCHEMA_REGISTRY_PASSWORD": "a password",
    }
    worker = own_stack.worker(**settings)
    await eventually("a ready worker", worker.ready)
    assert company_registry.authorizations == {"Basic dmlzaXRvcjphIHBhc3N3b3Jk"}
    change_topic = names.changes("optins", "legalText")
    change_subject = f"{change_topic}-visitor.LegalTextChange"
    assert company_registry.compatibility[change_subject] == "FULL_TRANSITIVE"
    assert f"{TOPIC}-visitor.LegalTextsCreateRequest" in company_registry.subjects

    schema = NEXT_WIRE.requests["legalTexts.create"]
    codec = Codec([schema])
    codec.assign(avro.schema_id(schema), company_registry.register("crm", avro.schema_text(schema)))
    body = {"type": "terms", "releaseDate": RELEASE_DATE, "requireConsent": None, "note": "by the CRM"}
    value = codec.write(avro.schema_id(schema), {"body": body})

    company_registry.stop()
    request_id = await _send(own_stack, value, "registry", 0)
    others = [await _send(own_stack, _value(WIRE), f"registry-{number}", 1) for number in range(MESSAGES)]
    await _assert_all_are_applied(own_stack, others)
    await asyncio.sleep(OUTAGE_SECONDS)
    assert request_id not in [record.id for record in await own_stack.read(names.results("optins"))]
    company_registry.start()

    await _assert_all_are_applied(own_stack, [request_id])
    result = await own_stack.result("legalTexts.create", request_id)
    assert result.raw is not None
    written_with = company_registry.schemas[int.from_bytes(result.raw[1:5], "big") - 1]
    assert written_with == avro.schema_text(WIRE.results["legalTexts.create"])
    assert worker.terminate() == 0


OUTAGE_SECONDS = 30.0
"""How long the registry is unreachable while a message waits for it."""


async def test_this_release_works_on_the_schema_of_the_next_one_and_not_on_one_without_what_it_needs(
    own_stack: Stack,
) -> None:
    """The last test of the module, because no worker starts after it."""
    (running,) = await _start(own_stack, "runtime.cli")
    await next_release.upgrade(own_stack.engine, "9000")
    await _assert_all_are_applied(own_stack, await _send_of_this(own_stack, "migrated"))
    _stop([running])

    migrated = await own_stack.command("migrate")
    assert migrated.returncode == 0
    assert migrated.stdout == "The database is at revision 9000 of a later release, which this release can use.\n"
    workers = await _start(own_stack, "runtime.cli")
    await _assert_all_are_applied(own_stack, await _send_of_this(own_stack, "returned"))
    _stop(workers)

    await next_release.upgrade(own_stack.engine, "9001")
    refused = await own_stack.command("migrate")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("visitor: the database is at 9001, which this release can neither use nor migrate")
    assert refused.stderr.count("\n") == 1
    worker = own_stack.worker()

    async def reported() -> bool:
        return "the database is at 9001" in worker.log.read_text()

    await eventually("a worker that says why it does not start", reported)
    assert not await worker.ready()
    assert worker.terminate() == 0
