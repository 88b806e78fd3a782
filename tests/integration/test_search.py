"""Reads that stay bounded: prefix search among 200,000 visitors, and statements that do not grow with a page."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from agents.catalogue import CATALOGUE
from agents.visitors import search
from agents.visitors.visitor import VISITORS
from storage.tx import Caller, Cause, Tx
from tests.support import data
from tests.support.plans import plan_of
from tests.support.stack import Stack

MANY = 200_000
FILL = (
    "insert into visitors (visitor_id, first_name, first_name_key, last_name, last_name_key, email, email_key, barcode,"
    " country_code, account_type, origin_type, origin, creation_date, update_date, revision)"
    " select gen_random_uuid(), md5('f' || n), md5('f' || n), md5('l' || n), md5('l' || n), md5('e' || n),"
    " md5('e' || n), 'search ' || n, 'FR', 'full', 'api', 'search', now(), now(), 1"
    f" from generate_series(1, {MANY}) as n",
    "insert into external_ids (external_id, folded_id, visitor_id, external_type, creation_date, update_date, revision)"
    " select barcode, barcode, visitor_id, 'partner', now(), now(), 1 from visitors where origin = 'search'",
    "insert into vehicles (license_plate, plate_key, visitor_id, creation_date, update_date, revision)"
    " select barcode, upper(md5(barcode)), visitor_id, now(), now(), 1 from visitors where origin = 'search'",
)
EMPTY = tuple(
    f"delete from {table} where visitor_id in (select visitor_id from visitors where origin = 'search')"
    for table in ("external_ids", "vehicles", "visitors")
)


async def _all(stack: Stack, statements: tuple[str, ...]) -> None:
    async with stack.engine.begin() as conn:
        for statement in statements:
            await conn.exec_driver_sql(statement)
    async with stack.engine.connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        await conn.exec_driver_sql("vacuum analyze visitors, external_ids, vehicles")


@pytest_asyncio.fixture(scope="module")
async def many(stack: Stack) -> AsyncIterator[None]:
    try:
        await _all(stack, FILL)
        yield
    finally:
        await _all(stack, EMPTY)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("by", ["email", "firstName", "lastName", "licensePlate", "externalId", "fullname"])
async def test_a_prefix_search_among_200_000_uses_an_index(stack: Stack, by: search.QueryBy) -> None:
    text = {"externalId": "search 1234", "fullname": "abcd efgh", "licensePlate": "abcd"}.get(by, "abcd")
    found = sa.select(VISITORS.sql).where(search.SEARCHES[by](text)).order_by(VISITORS.columns.visitor_id).limit(26)
    nodes = await plan_of(stack, found, {}, "auto")
    assert [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"] == []
    assert any("Index Name" in node for node in nodes)


@contextmanager
def _counted(stack: Stack) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    sa.event.listen(stack.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(stack.engine.sync_engine, "before_cursor_execute", note)


async def _statements(stack: Stack, operation: str, parts: dict[str, Any]) -> tuple[int, int]:
    """How many rows an operation answers, and with how many statements."""
    found = CATALOGUE.by_name[operation]
    assert found.handler is not None
    cause = Cause("test", Caller("test", "test"), datetime.now(UTC))
    with _counted(stack) as statements:
        async with stack.engine.connect() as conn:
            page = await found.handler(Tx(conn, cause, datetime.now(UTC)), found.request.model_validate(parts))
    return len(page.items), len(statements)


async def test_the_number_of_statements_does_not_grow_with_the_page(stack: Stack, client: httpx.AsyncClient) -> None:
    known = await data.parker(client)
    path, center = f"/visitors/{known['visitorId']}", known["pcCode"]
    for _ in range(3):
        await data.parker(client)
        await data.create(client, "/services", data.service(center))
        challenge = await data.create(client, "/challenges", data.challenge(center))
        await data.create(client, f"{path}/visitorChallenges", {"challengeId": challenge["challengeId"]})
    whose = {"visitorId": known["visitorId"]}
    for operation, parts in (
        ("visitors.details", {"query": {}}),
        ("services.list", {"query": {"pcCode": center}}),
        ("rankings.list", {"path": whose, "query": {}}),
    ):
        one = await _statements(stack, operation, {**parts, "query": {**parts["query"], "limit": 1}})
        more = await _statements(stack, operation, {**parts, "query": {**parts["query"], "limit": 3}})
        assert (one[0], more[0]) == (1, 3), operation
        assert one[1] == more[1], operation
