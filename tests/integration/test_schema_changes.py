"""Schema changes while workers apply requests: by an operator, or by the migrations of the next release."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from storage import database
from storage.database import connect, is_too_slow, is_transient
from storage.settings import DatabaseSettings
from tests.support import data
from tests.support.stack import Stack, eventually
from topics import names

SCHEMA_CHANGES = (
    ("alter table centers alter label type varchar(2000)",),
    ("alter table centers alter label type text",),
    ("alter table centers alter center_code type integer",),
    ("alter table centers alter center_code type bigint",),
    ("alter table centers add column colour text not null default 'blue'",),
    ("create index centers_colour_idx on centers (colour)",),
    ("alter table centers drop column colour",),
    ("create domain label as text", "alter table centers alter label type label"),
    ("alter table centers alter label type text", "drop domain label"),
    ("alter table inbox alter operation type varchar(100)",),
    ("alter table inbox alter operation type text",),
    ("alter table outbox alter change_type type varchar(100)",),
    ("alter table outbox alter change_type type text",),
)
"""Each entry is one transaction. The code can read all these types. At the end the schema is unchanged."""


async def _execute(engine: AsyncEngine, statements: Sequence[str]) -> None:
    async with engine.begin() as conn:
        for statement in statements:
            await conn.execute(sa.text(statement))


async def test_no_request_fails_while_its_columns_are_altered(stack: Stack, client: httpx.AsyncClient) -> None:
    path = f"/centers/{(await data.create(client, '/centers', data.center()))['pcCode']}"
    before = await stack.count(names.DEAD_LETTERS)
    statuses_by_method: dict[str, list[int]] = {"GET": [], "PATCH": [], "DELETE": []}
    ended = asyncio.Event()

    async def call(method: str, url: str, **options: Any) -> None:
        while not ended.is_set():
            statuses_by_method[method].append((await client.request(method, url, **options)).status_code)

    callers = [
        asyncio.create_task(call("GET", path)),
        asyncio.create_task(call("PATCH", path, json={"centerCode": 7})),
        asyncio.create_task(call("DELETE", f"{path}/companies/1")),
    ]
    for statements in SCHEMA_CHANGES:
        await _execute(stack.engine, statements)
        minimum = {method: len(statuses) + 3 for method, statuses in statuses_by_method.items()}

        async def all_called_again(minimum: dict[str, int] = minimum) -> bool:
            return all(len(statuses_by_method[method]) >= count for method, count in minimum.items())

        await eventually("three more answers to each method", all_called_again)
    # Cancelling a call could interrupt httpx while it closes expired connections; it would never close the others.
    ended.set()
    await asyncio.gather(*callers)
    assert {method: set(statuses) for method, statuses in statuses_by_method.items()} == {
        "GET": {200}, "PATCH": {204}, "DELETE": {404},
    }  # fmt: skip
    assert await stack.count(names.DEAD_LETTERS) == before


@pytest_asyncio.fixture(loop_scope="session")
async def engine(stack: Stack) -> AsyncIterator[AsyncEngine]:
    """A database engine as in a worker, with one connection, and a table to alter."""
    await _execute(stack.engine, ["create table changed (id bigint, name text)", "insert into changed values (1, 'a')"])
    worker_engine = connect(DatabaseSettings(url=SecretStr(stack.servers.database)), connections=1)
    yield worker_engine
    await worker_engine.dispose()
    await _execute(stack.engine, ["drop table changed"])


@pytest.mark.parametrize(
    ("statement", "schema_change"),
    [
        ("select * from changed", "alter table changed alter name type varchar(9)"),
        ("update changed set name = 'b' returning name", "alter table changed alter name type varchar(9)"),
        ("select changed from changed", "alter table changed add column age bigint"),  # a composite value
    ],
)
async def test_a_stale_schema_cache_of_a_connection_is_cleared_and_the_work_is_retried(
    stack: Stack, engine: AsyncEngine, statement: str, schema_change: str
) -> None:
    async def work() -> None:
        async with engine.connect() as conn, conn.begin(), conn.begin_nested():
            await conn.execute(sa.text(statement))

    await work()
    await _execute(stack.engine, [schema_change])
    with pytest.raises(DBAPIError) as error:
        await work()
    assert is_transient(error.value)
    await work()


async def test_a_write_that_times_out_on_a_lock_is_retried_and_not_counted_as_too_slow(
    stack: Stack, engine: AsyncEngine
) -> None:
    """A migration can lock a table for longer than the statement timeout."""
    assert database.LOCK_TIMEOUT.total_seconds() < database.STATEMENT_TIMEOUT
    waiting_engine = connect(DatabaseSettings(url=SecretStr(stack.servers.database)), connections=1)
    async with stack.engine.begin() as holder:
        await holder.execute(sa.text("lock table changed in access exclusive mode"))
        with pytest.raises(DBAPIError) as error:
            async with waiting_engine.begin() as conn:
                await conn.execute(sa.text("update changed set name = 'c'"))
    assert (is_transient(error.value), is_too_slow(error.value)) == (True, False)
    await waiting_engine.dispose()
