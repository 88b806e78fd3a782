"""Kafka Connect with stock parts (a converter, transforms, a sink) turns change topics into tables that equal ours."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest_asyncio
import sqlalchemy as sa
from pydantic.alias_generators import to_snake
from sqlalchemy.engine import make_url

from agents.families.optins.optins import OPTINS
from agents.families.parking.histories import HISTORIES
from agents.families.parking.vehicles import VEHICLES
from interop.programs import Builds, running
from runtime.dev.servers.processes import free_port
from storage.table import Table
from tests.support import data
from tests.support.stack import PARTITIONS, Stack, eventually
from topics import names

CONNECT = Path(__file__).parent / "connect"
PROGRAMS = [CONNECT]
COPIED: tuple[Table[Any], ...] = (OPTINS, VEHICLES, HISTORIES)
"""Our tables that Connect copies. A copy has the same name in the schema `crm`, and our key as text in its column
`id`."""

Rows = dict[str, dict[str, Any]]
"""The rows of a table by id, with our column names."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def connect(stack: Stack, builds: Builds) -> AsyncIterator[None]:
    """A Connect worker with a connector for each table. On each partition, the first record is a tombstone, as it may
    be after compaction."""
    folder = await asyncio.to_thread(builds.wait, CONNECT)
    await _execute(stack, (folder / "tables.sql").read_text())
    for table in COPIED:
        await _send_tombstones(stack, table)
    database, port = make_url(stack.servers.database), free_port()
    connectors = [f"{table.name}.properties" for table in COPIED]
    worker_class = "org.apache.kafka.connect.cli.ConnectStandalone"
    with running(
        "connect", ["java", "-Xmx512m", "-cp", "target/lib/*", worker_class, "worker.properties", *connectors],
        cwd=folder, log=stack.home / "connect.log", health_url=f"http://127.0.0.1:{port}/health",
        KAFKA_BOOTSTRAP=stack.servers.kafka,
        REGISTRY_URL=f"{stack.url}/registry",
        CONNECT_OFFSETS=str(stack.home / "connect.offsets"),
        CONNECT_PORT=str(port),
        JDBC_URL=f"jdbc:postgresql://{database.host}:{database.port}/{database.database}",
        JDBC_USER=str(database.username),
        JDBC_PASSWORD=str(database.password),
    ) as worker:  # fmt: skip
        await eventually("a ready Connect worker", worker.ready, seconds=180)
        yield


async def test_tables_follow_updates_deletions_and_an_erasure(
    connect: None, stack: Stack, client: httpx.AsyncClient
) -> None:
    kept, erased = await _visitor(client), await _visitor(client)
    await _await_equal_tables(stack)

    await _call(client, "PATCH", f"{kept['path']}/vehicles/{kept['vehicleId']}", {"yearOfManufacture": 2019})
    await _call(client, "PATCH", f"{kept['path']}/vehicles/{kept['vehicleId']}", {"color": "red"})
    await _call(client, "DELETE", f"{kept['path']}/optins/{kept['optinId']}")
    await _call(client, "DELETE", f"{kept['path']}/parkingHistories/{kept['parkingHistoryId']}")
    analytics_id = await data.analytics_id(client, erased["visitorId"])
    await _call(client, "POST", "/visitors/erase", [{"analyticsId": analytics_id}])
    await _await_equal_tables(stack)

    optins, vehicles, histories = [await _copy(stack, table) for table in COPIED]
    assert vehicles[str(kept["vehicleId"])]["year_of_manufacture"] == 2019
    assert optins[str(kept["optinId"])]["is_active"] is False
    assert str(kept["parkingHistoryId"]) not in histories
    assert str(erased["vehicleId"]) not in vehicles
    assert str(erased["optinId"]) not in optins


async def _visitor(client: httpx.AsyncClient) -> dict[str, Any]:
    """Create a visitor with a vehicle, an optin and two parking sessions. The result has their ids and the visitor's
    path."""
    visitor = await data.visitor_with_vehicle(client)
    path = f"/visitors/{visitor['visitorId']}"
    optin = await data.create(
        client, f"{path}/optins", {"optinType": "terms", "optinChannel": "none", "isActive": True}
    )
    card = {
        "firstName": "Zora", "lastName": "Quill", "year": 2030, "month": 1, "fingerprint": data.new_code(),
        "cardType": "visa", "firstSixDigits": "411111", "lastFourDigits": "1111", "paymentMethodToken": data.new_code(),
    }  # fmt: skip
    parking = {
        "currency": "EUR", "accessDevice": "gate 1", "pcCode": visitor["pcCode"],
        "cardId": (await data.create(client, f"{path}/creditCards", card))["cardId"],
        "parkingId": (await data.create(client, f"{path}/parkings", {"parkingPartner": "designa"}))["parkingId"],
    }  # fmt: skip
    paid = {
        "amount": 450, "transactionFullAmount": 4.5, "transactionTaxAmount": 0.123456789, "paidAtKiosk": True,
        "parkingSessionStart": "2026-03-01T10:00:00.123Z", "parkingSessionEnd": "2026-03-01T12:30:00+02:00",
    }  # fmt: skip
    await data.create(client, f"{path}/parkingHistories", parking | paid)
    history = await data.create(client, f"{path}/parkingHistories", parking)
    return visitor | optin | history | {"path": path}


async def _execute(stack: Stack, script: str) -> None:
    async with stack.engine.begin() as conn:
        for statement in script.split(";"):
            await conn.execute(sa.text(statement))


async def _send_tombstones(stack: Stack, table: Table[Any]) -> None:
    """Send the tombstone of an entity that never existed to each partition."""
    topic = names.changes(table.family, table.resource)
    for partition in range(PARTITIONS):
        await stack.raw(topic, None, [], key="0", partition=partition)


async def _call(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> None:
    answer = await client.request(method, path, json=body)
    assert answer.is_success, answer.text


async def _await_equal_tables(stack: Stack) -> None:
    for table in COPIED:
        original = await _original(stack, table)
        try:
            await eventually(f"crm.{table.name} that equals {table.name}", partial(_equals, stack, table, original))
        except AssertionError:
            log = (stack.home / "connect.log").read_text()
            assert await _copy(stack, table) == original, "\n".join(re.findall(".* ERROR .*", log))


async def _equals(stack: Stack, table: Table[Any], original: Rows) -> bool:
    return await _copy(stack, table) == original


async def _copy(stack: Stack, table: Table[Any]) -> Rows:
    """The rows of the table that Connect maintains."""
    rows = [row._asdict() for row in await stack.rows(f"select * from crm.{table.name}")]
    return {row.pop("id"): {to_snake(name): _comparable(value) for name, value in row.items()} for row in rows}


async def _original(stack: Stack, table: Table[Any]) -> Rows:
    """The rows of our table, with the columns that a change has."""
    columns = [to_snake(field) for field in table.row.model_fields]
    rows = [row._asdict() for row in await stack.rows(f"select {', '.join(columns)} from {table.name}")]
    return {str(row[table.key]): {name: _comparable(value) for name, value in row.items()} for row in rows}


def _comparable(value: Any) -> Any:
    """A value as Connect's logical types can represent it: times in UTC and with milliseconds, UUIDs as text."""
    match value:
        case datetime():
            moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
            return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        case UUID():
            return str(value)
    return value
