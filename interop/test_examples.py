"""The programs in `examples/` do what their comments promise. `make -C examples` starts them, as their README says."""

import asyncio
import io
import os
import signal
import sqlite3
import struct
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
import pytest_asyncio

from interop.programs import Builds, run
from tests.support import data
from tests.support.servers import Kafka, KafkaAndPostgres
from tests.support.stack import Record, Stack, eventually
from topics import names, releases

EXAMPLES = Path(__file__).parents[1] / "examples"
LANGUAGES = ("python", "java", "javascript", "go")
PROGRAMS = [EXAMPLES / language for language in LANGUAGES]
CENTER = "FR-SC-4TEMPS"
"""The center that the programs name."""
OPTIN_CHANGES = "visitor.optins.changes.optin"


@dataclass
class Example:
    """A program that may be started several times. Its database keeps its content."""

    name: str
    stack: Stack
    process: "subprocess.Popen[str] | None" = None

    @property
    def database(self) -> Path:
        return self.stack.home / f"{self.name}.db"

    def start(self) -> None:
        environment = self.stack.environment(
            KAFKA_BOOTSTRAP=self.stack.servers.kafka,
            REGISTRY_URL=f"{self.stack.url}/registry",
            DATABASE=str(self.database),
        )
        self.process = subprocess.Popen(
            ["make", "--no-print-directory", "-C", EXAMPLES, self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment, start_new_session=True,
        )  # fmt: skip

    def write(self, *lines: str) -> None:
        """Write lines to the standard input."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.writelines(f"{line}\n" for line in lines)
        self.process.stdin.flush()

    async def output(self) -> str:
        """End the input, wait for the end of the program, and return what it printed. Fails if its status is not 0."""
        assert self.process is not None
        output, _ = await asyncio.to_thread(self.process.communicate, timeout=90)
        assert self.process.returncode == 0, output
        return output

    def signal(self, number: int) -> None:
        """Send a signal to the program, as the terminal does, and wait until it has ended."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.communicate(timeout=30)
        self.process = None

    def rows(self, statement: str) -> list[Any]:
        """The rows of a query on the program's database; none if there is no table yet."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database)) as connection:
            try:
                return connection.execute(statement).fetchall()
            except sqlite3.OperationalError:
                return []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def built(builds: Builds) -> None:
    for folder in PROGRAMS:
        await asyncio.to_thread(builds.wait, folder)
    await asyncio.to_thread(run, "make", "build", cwd=EXAMPLES)  # what is missing: the virtual environment


def test_make_builds_all_programs(built: None) -> None:
    """Waiting for the builds counts against the time limit of this test, and of no other."""
    run("make", "--question", "build", cwd=EXAMPLES)  # fails if anything is left to build


# --- the gateways


@dataclass
class Visits:
    """The visits of one gateway: those it was to send, its requests in Kafka, and those that the service stored."""

    sent: list[str]
    requests: list[Record]
    stored: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def visits(
    built: None, own_stack: Stack, kafka_and_postgres: KafkaAndPostgres
) -> AsyncIterator[dict[str, Visits]]:
    """Visits by language. Five were sent while everything ran and five while the broker was away. Then the gateway was
    killed and started again, five more were sent, and the broker came back."""
    kafka, _ = kafka_and_postgres
    worker = own_stack.worker()
    await eventually("a ready worker", worker.ready)
    await _created(own_stack, "centers.create", body=data.center(pcCode=CENTER))
    plates = {language: await _new_plate(own_stack) for language in LANGUAGES}
    gateways = {language: Example(f"{language}-gateway", own_stack) for language in LANGUAGES}
    lines = {language: list(islice(cycle(("entry", "exit")), 15)) for language in LANGUAGES}
    try:
        await _send_visits(own_stack, kafka, gateways, plates, lines)
        requests = await own_stack.read(names.requests("visits"))
        yield {
            language: Visits(
                lines[language],
                [request for request in requests if request.key == plates[language]],
                await _stored(own_stack, plates[language]),
            )
            for language in LANGUAGES
        }
    finally:
        for gateway in gateways.values():
            gateway.signal(signal.SIGKILL)


async def _send_visits(
    stack: Stack, kafka: Kafka, gateways: dict[str, Example], plates: dict[str, str], visit_types: dict[str, list[str]]
) -> None:
    def start_all() -> None:
        for gateway in gateways.values():
            gateway.start()

    def write_all(start: int, end: int) -> None:
        for language, gateway in gateways.items():
            gateway.write(*(f"{visit_type} {plates[language]}" for visit_type in visit_types[language][start:end]))

    async def all_stored(number: int) -> bool:
        return all([len(await _stored(stack, plate)) == number for plate in plates.values()])

    async def all_buffered(number: int) -> bool:
        return all(len(gateway.rows("select id from visits")) == number for gateway in gateways.values())

    start_all()
    write_all(0, 5)
    await eventually("the first visits in the table", lambda: all_stored(5))
    kafka.kill()
    write_all(5, 10)
    await eventually("the next visits in the buffers", lambda: all_buffered(5))
    for gateway in gateways.values():
        gateway.signal(signal.SIGKILL)
    start_all()
    write_all(10, 15)
    await eventually("the last visits in the buffers", lambda: all_buffered(10))
    kafka.start()
    await asyncio.gather(*(gateway.output() for gateway in gateways.values()))
    await eventually("all visits in the table", lambda: all_stored(15))


async def _created(stack: Stack, operation: str, **parts: Any) -> dict[str, Any]:
    result = await stack.result(operation, await stack.send(operation, parts))
    assert result.value["status"] == 201, result.value
    record: dict[str, Any] = result.value["body"]["data"]
    return record


async def _new_plate(stack: Stack) -> str:
    """The plate of a new visitor's vehicle."""
    owner = await _created(stack, "visitors.create", body=data.visitor(CENTER))
    car = await _created(stack, "vehicles.create", path={"visitorId": owner["visitorId"]}, body=data.vehicle())
    return str(car["licensePlate"])


async def _stored(stack: Stack, plate: str) -> list[str]:
    """The types of the stored visits with this plate, in the order of their dates."""
    rows = await stack.rows(
        "select visit_type from visits where license_plate = :plate order by visit_date", plate=plate
    )
    return [visit_type for (visit_type,) in rows]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_gateway_loses_no_visit_and_doubles_none(visits: dict[str, Visits], language: str) -> None:
    assert visits[language].stored == visits[language].sent


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_gateway_sends_visits_in_order_with_stable_ids(visits: dict[str, Visits], language: str) -> None:
    by_id = {request.id: request.value for request in visits[language].requests}  # the first of equal ids comes first
    assert [value["path"]["visitType"] for value in by_id.values()] == visits[language].sent
    dates = [value["body"]["visitDate"] for value in by_id.values()]
    assert dates == sorted(dates)


# --- the upstream systems


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def center(client: httpx.AsyncClient) -> None:
    await data.create(client, "/centers", data.center(pcCode=CENTER))


@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_upstream_system_gets_its_result(
    built: None, center: None, stack: Stack, client: httpx.AsyncClient, language: str
) -> None:
    upstream = Example(f"{language}-upstream", stack)
    upstream.start()
    visitor_id = (await upstream.output()).removeprefix("created visitor ").strip()
    visitor = (await client.get(f"/visitors/{visitor_id}")).json()["data"]
    assert (visitor["firstName"], visitor["originType"], visitor["origin"]) == ("Ada", "upstream", "loyalty-eu")
    optins = (await client.get(f"/visitors/{visitor_id}/optins")).json()["data"]
    assert [optin["optinType"] for optin in optins] == ["commercial"]


# --- the CRM systems


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crms(built: None, center: None, stack: Stack) -> AsyncIterator[dict[str, Example]]:
    """The running CRMs, by language."""
    examples = {language: Example(f"{language}-crm", stack) for language in LANGUAGES}
    for example in examples.values():
        example.start()
    yield examples
    for example in examples.values():
        example.signal(signal.SIGKILL)


Optin = tuple[str, str, str, str, bool]


async def _optins_of_the_service(stack: Stack) -> list[Optin]:
    rows = await stack.rows("select optin_id, visitor_id, optin_type, optin_channel, is_active from optins")
    return sorted((str(row[0]), str(row[1]), *row[2:]) for row in rows)


def _optins_of(crm: Example) -> list[Optin]:
    rows = crm.rows("select optin_id, visitor_id, optin_type, optin_channel, is_active from optins")
    return sorted((*row[:4], bool(row[4])) for row in rows)


async def _await_equal_tables(stack: Stack, crms: dict[str, Example]) -> list[Optin]:
    optins = await _optins_of_the_service(stack)
    for language, crm in crms.items():

        async def is_equal(crm: Example = crm) -> bool:
            return _optins_of(crm) == optins

        await eventually(f"the service's optins in the table of the CRM in {language}", is_equal)
    return optins


async def _visitor_with_optins(client: httpx.AsyncClient) -> str:
    """The id of a new visitor with an active commercial optin, which superseded one, and a loyalty optin."""
    visitor_id: str = (await data.create(client, "/visitors", data.visitor(CENTER)))["visitorId"]
    for optin_type in ("commercial", "commercial", "loyalty"):
        body = {"optinType": optin_type, "optinChannel": "email", "isActive": True}
        await data.create(client, f"/visitors/{visitor_id}/optins", body)
    return visitor_id


async def test_a_crm_has_the_optins_of_the_service_after_updates_deletions_an_erasure_and_a_restart(
    crms: dict[str, Example], stack: Stack, client: httpx.AsyncClient
) -> None:
    changed, erased = await _visitor_with_optins(client), await _visitor_with_optins(client)
    optins = await _await_equal_tables(stack, crms)
    assert len([optin for optin in optins if optin[1] == erased]) == 3

    for crm in crms.values():
        crm.signal(signal.SIGINT)
    answer = await client.delete(
        f"/visitors/{changed}/optins", params={"optinType": "loyalty", "optinChannel": "email"}
    )
    assert answer.is_success, answer.text
    analytics_id = await data.analytics_id(client, erased)
    answer = await client.post("/visitors/erase", json=[{"analyticsId": analytics_id}])
    assert answer.is_success, answer.text
    kept = await _visitor_with_optins(client)
    for crm in crms.values():
        crm.start()

    optins = await _await_equal_tables(stack, crms)
    assert {visitor_id for _, visitor_id, *_ in optins} >= {changed, kept}
    assert erased not in {visitor_id for _, visitor_id, *_ in optins}


async def test_a_crm_reads_changes_of_an_earlier_release(crms: dict[str, Example], stack: Stack) -> None:
    optin_id = "1000000000"

    async def write(value: bytes | None) -> None:
        await stack.raw(OPTIN_CHANGES, value, [("content-type", b"application/avro")], key=optin_id)

    async def all_have(expected: Sequence[tuple[str, int]]) -> bool:
        statement = f"select optin_type, revision from optins where optin_id = '{optin_id}'"
        return all(crm.rows(statement) == expected for crm in crms.values())

    await write(_change_of_release_0_1_0(optin_id, revision=2, optin_type="loyalty"))
    await write(_change_of_release_0_1_0(optin_id, revision=1, optin_type="commercial"))
    await eventually("the change in the tables", lambda: all_have([("loyalty", 2)]))
    await write(None)
    await eventually("no such optin in the tables", lambda: all_have([]))


def _change_of_release_0_1_0(optin_id: str, revision: int, optin_type: str) -> bytes:
    schema = next(
        schema for schema in releases.released()
        if (schema.version, schema.kind, schema.name) == ("0.1.0", "changes", "optin")
    )  # fmt: skip
    now, visitor_id = datetime.now(UTC), data.ABSENT_VISITOR_ID
    optin = {
        "optinId": int(optin_id), "visitorId": visitor_id, "optinType": optin_type, "optinChannel": "email",
        "isActive": True, "creationDate": now, "updateDate": now,
    }  # fmt: skip
    change = {
        "resource": "optin", "id": optin_id, "revision": revision, "action": "updated", "visitorId": visitor_id,
        "occurredAt": now, "causedBy": "a test", "after": optin,
    }  # fmt: skip
    value = io.BytesIO(struct.pack(">bI", 0, schema.id))
    value.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(value, fastavro.parse_schema(schema.schema), change)
    return value.getvalue()
