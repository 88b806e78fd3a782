"""Changes of the schema under running workers: an operator's or the next release's migration, while requests flow."""

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
from storage.database import DatabaseSettings, connect, is_too_slow, is_transient
from tests.support import data
from tests.support.stack import Stack, eventually
from topics import names

CHANGES = (
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
"""Each is one transaction, and of a type that the code can read; together they leave the schema as it was."""


async def _change(engine: AsyncEngine, statements: Sequence[str]) -> None:
    async with engine.begin() as conn:
        for statement in statements:
            await conn.execute(sa.text(statement))


async def test_no_request_fails_while_the_columns_that_it_uses_change(stack: Stack, client: httpx.AsyncClient) -> None:
    path = f"/centers/{(await data.create(client, '/centers', data.center()))['pcCode']}"
    before = await stack.count(names.DEAD_LETTERS)
    answered: dict[str, list[int]] = {"GET": [], "PATCH": [], "DELETE": []}

    async def call(method: str, url: str, **parts: Any) -> None:
        while True:
            answered[method].append((await client.request(method, url, **parts)).status_code)

    callers = [
        asyncio.create_task(call("GET", path)),
        asyncio.create_task(call("PATCH", path, json={"centerCode": 7})),
        asyncio.create_task(call("DELETE", f"{path}/companies/1")),
    ]
    for statements in CHANGES:
        await _change(stack.engine, statements)
        wanted = {method: len(statuses) + 3 for method, statuses in answered.items()}

        async def went_on(wanted: dict[str, int] = wanted) -> bool:
            return all(len(answered[method]) >= count for method, count in wanted.items())

        await eventually("calls answered after a change", went_on)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert {method: set(statuses) for method, statuses in answered.items()} == {
        "GET": {200}, "PATCH": {204}, "DELETE": {404},
    }  # fmt: skip
    assert await stack.count(names.DEAD_LETTERS) == before


@pytest_asyncio.fixture(loop_scope="session")
async def engine(stack: Stack) -> AsyncIterator[AsyncEngine]:
    """The engine of a worker, with one connection, and a table to change."""
    await _change(stack.engine, ["create table changed (id bigint, name text)", "insert into changed values (1, 'a')"])
    found = connect(DatabaseSettings(url=SecretStr(stack.servers.database)), connections=1)
    yield found
    await found.dispose()
    await _change(stack.engine, ["drop table changed"])


@pytest.mark.parametrize(
    ("statement", "change"),
    [
        ("select * from changed", "alter table changed alter name type varchar(9)"),
        ("update changed set name = 'b' returning name", "alter table changed alter name type varchar(9)"),
        ("select changed from changed", "alter table changed add column age bigint"),  # a composite value
    ],
)
async def test_what_a_connection_remembers_of_the_schema_is_forgotten_and_the_work_repeated(
    stack: Stack, engine: AsyncEngine, statement: str, change: str
) -> None:
    async def work() -> None:
        async with engine.connect() as conn, conn.begin(), conn.begin_nested():
            await conn.execute(sa.text(statement))

    await work()
    await _change(stack.engine, [change])
    with pytest.raises(DBAPIError) as refused:
        await work()
    assert is_transient(refused.value)
    await work()


async def test_a_write_that_waits_for_the_lock_of_another_is_repeated_and_not_too_slow(
    stack: Stack, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration may hold a table for longer than a statement may take."""
    assert database.LOCK_TIMEOUT < database.STATEMENT_TIMEOUT
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 1)
    waiting = connect(DatabaseSettings(url=SecretStr(stack.servers.database)), connections=1)
    async with stack.engine.begin() as holder:
        await holder.execute(sa.text("lock table changed in access exclusive mode"))
        with pytest.raises(DBAPIError) as refused:
            async with waiting.begin() as conn:
                await conn.execute(sa.text("update changed set name = 'c'"))
    assert (is_transient(refused.value), is_too_slow(refused.value)) == (True, False)
    await waiting.dispose()
