"""Bounded work: searches and filters use indexes, and the number of statements depends on neither page nor body."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from agents.catalogue import CATALOGUE
from agents.families.checkins.checkins import CHECKINS
from agents.families.optins.optins import OPTINS, OptinQuery
from agents.families.visitors import search
from agents.families.visitors.visitor_table import VISITORS
from storage import folding
from storage.folding import fold
from storage.lists import filters
from tests.support import data
from tests.support.plans import plan_of
from tests.support.scene import FACTS, Scene, adds_to, listings
from tests.support.stack import Stack
from tests.support.transaction import handle, handler_tx

VISITOR_COUNT, CHILD_COUNT = 100_000, 50_000
FILL = (
    "insert into visitors (visitor_id, first_name, first_name_key, last_name, last_name_key, email, email_key, barcode,"
    " country_code, account_type, origin_type, origin, creation_date, update_date, registration_date, revision)"
    " select gen_random_uuid(), md5('f' || n), md5('f' || n), md5('l' || n), md5('l' || n), md5('e' || n),"
    " md5('e' || n), 'search ' || n, 'FR', 'full', 'api', 'search', moment, moment, moment, 1"
    f" from generate_series(1, {VISITOR_COUNT}) as n, lateral (select now() - n * interval '1 minute' as moment) as at",
    "insert into external_ids (external_id, folded_id, visitor_id, external_type, creation_date, update_date, revision)"
    " select barcode, barcode, visitor_id, 'partner', now(), now(), 1 from visitors where origin = 'search'"
    f" limit {CHILD_COUNT}",
    "insert into vehicles (license_plate, plate_key, visitor_id, creation_date, update_date, revision)"
    " select barcode, upper(md5(barcode)), visitor_id, now(), now(), 1 from visitors where origin = 'search'"
    f" limit {CHILD_COUNT}",
    "insert into optins (visitor_id, optin_type, optin_channel, context_id, is_active, creation_date, update_date,"
    " revision) select visitor_id, 'loyalty', 'none', n % 7, false, now(), now(), 1"
    " from (select visitor_id from visitors where origin = 'search' limit 500) as few, generate_series(1, 40) as n",
    "insert into checkins (visitor_id, pc_code, service_id, origin, creation_date, update_date, revision)"
    " select visitor_id, pc_code, service_id, 'partner', visitors.creation_date, now(), 1"
    " from (select * from visitors where origin = 'search' limit 20000) as visitors,"
    " (select * from services order by service_id desc limit 1) as services",
)


@pytest_asyncio.fixture(scope="module")
async def search_data(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction with 100,000 visitors and their records. It never commits, since deleting the rows
    would take minutes."""
    center = (await data.visitor_with_vehicle(client))["pcCode"]
    await data.create(client, "/services", data.service(center))
    async with stack.engine.connect() as conn:
        for statement in FILL:
            await conn.exec_driver_sql(statement)
        await conn.exec_driver_sql("analyze visitors, external_ids, vehicles, optins, checkins")
        yield conn
        await conn.rollback()


@pytest.mark.parametrize("query_by", ["email", "firstName", "lastName", "licensePlate", "externalId", "fullname"])
async def test_a_prefix_search_among_100_000_visitors_uses_an_index(
    search_data: AsyncConnection, query_by: search.QueryBy
) -> None:
    text = {"externalId": "search 1234", "fullname": "abcd efgh", "licensePlate": "abcd"}.get(query_by, "abcd")
    statement = (
        sa.select(VISITORS.sql).where(search.SEARCHES[query_by](text)).order_by(VISITORS.columns.visitor_id).limit(26)
    )
    _assert_index(await plan_of(search_data, statement, {}, "auto"))


def _assert_index(nodes: list[dict[str, Any]]) -> None:
    assert [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"] == []
    assert any("Index Name" in node for node in nodes)


_V, _C, _O = VISITORS.columns, CHECKINS.columns, OPTINS.columns
_MOMENT = sa.bindparam("moment", type_=sa.TIMESTAMP(timezone=True))
LISTS = {
    "visitors updated since": sa.select(VISITORS.sql).where(_V.update_date >= _MOMENT),
    "visitors created since": sa.select(VISITORS.sql).where(_V.creation_date >= _MOMENT),
    "visitors registered since": sa.select(sa.func.count()).where(_V.registration_date >= _MOMENT),
    "visitors of a center": sa.select(VISITORS.sql)
    .where(_V.acquisition_pc_code == sa.bindparam("center", type_=sa.Text))
    .order_by(_V.visitor_id),
    "checkins since": sa.select(CHECKINS.sql).where(_C.creation_date >= _MOMENT),
    "checkins of a center since": sa.select(CHECKINS.sql).where(
        _C.pc_code == sa.bindparam("center", type_=sa.Text), _C.creation_date >= _MOMENT
    ),
    "checkins of a service since": sa.select(CHECKINS.sql).where(_C.service_id == 1, _C.creation_date >= _MOMENT),
    "latest optins": sa.select(OPTINS.sql)
    .where(_O.visitor_id == sa.bindparam("visitor", type_=sa.Uuid), *filters(OPTINS, OptinQuery(latest=True)))
    .order_by(_O.optin_id),
}


@pytest.mark.parametrize("name", LISTS)
async def test_a_filtered_list_of_many_rows_uses_an_index(search_data: AsyncConnection, name: str) -> None:
    rows = await search_data.exec_driver_sql(
        "select visitor_id::text, (now() - interval '1 hour')::text from optins where optin_type = 'loyalty' limit 1"
    )
    visitor, an_hour_ago = rows.one()
    parameters = {"moment": an_hour_ago, "center": "FR-NO-ONE", "visitor": visitor}
    nodes = await plan_of(search_data, LISTS[name].limit(26), parameters, "auto")
    _assert_index(nodes)
    # An index scan of optins_pkey would read the newer optins of all visitors.
    assert "optins_pkey" not in {node.get("Index Name") for node in nodes}


async def test_derived_columns_are_filled_in_pages(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_PAGE", 2)
    columns = {"name_key": ("name", fold), "folded_email": ("email", folding.fold_beyond_mailbox)}
    async with stack.engine.connect() as conn:
        columns_of = "id uuid, name text, name_key text, email text, folded_email text"
        await conn.exec_driver_sql(f"create temporary table filled ({columns_of}) on commit drop")
        await conn.exec_driver_sql(
            "insert into filled select gen_random_uuid(), nullif('É' || n, 'É3'), 'old', 'é' || n, null"
            " from generate_series(1, 5) as n"
        )
        await conn.run_sync(lambda sync_conn: folding.fill(sync_conn, "filled", "id", columns))
        rows = await conn.exec_driver_sql("select name_key, folded_email from filled order by email")
        assert [tuple(row) for row in rows] == [
            ("e1", "e1"), ("e2", "e2"), (None, "e3"), ("e4", "e4"), ("e5", "e5")
        ]  # fmt: skip
        await conn.rollback()


@contextmanager
def _record_statements(stack: Stack) -> Iterator[list[str]]:
    statements: list[str] = []

    def record(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    sa.event.listen(stack.engine.sync_engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        sa.event.remove(stack.engine.sync_engine, "before_cursor_execute", record)


async def _rows_and_statements(stack: Stack, name: str, parts: dict[str, Any]) -> tuple[int, int]:
    """Run a query. Return the number of rows in its reply, and the number of statements that it took."""
    operation = CATALOGUE.by_name[name]
    assert operation.handler is not None
    now = datetime.now(UTC)
    with _record_statements(stack) as statements:
        async with stack.engine.connect() as conn:
            page = await operation.handler(handler_tx(conn, now), operation.request.model_validate(parts))
    return len(page.items), len(statements)


PAGED = [name for name in listings() if any(fact["name"] == "limit" for fact in FACTS[name]["query"])]


@pytest.mark.parametrize("operation", PAGED)
async def test_the_number_of_statements_does_not_grow_with_the_page(
    stack: Stack, client: httpx.AsyncClient, operation: str
) -> None:
    scene = Scene(client)
    child = adds_to(operation)
    for _ in range(3 if child else 0):
        await scene.add_row(str(child), operation)
    parts = await scene.parts(operation)
    small, large = [
        await _rows_and_statements(stack, operation, {**parts, "query": {**parts.get("query", {}), "limit": limit}})
        for limit in (1, 3)
    ]
    # The summary has one row for all sessions of a month.
    assert (small[0], large[0]) == (1, 1 if operation == "parkingHistories.summary" else 3)
    assert small[1] == large[1]


async def _statements_of_write(stack: Stack, name: str, body: Any) -> int:
    """Apply a request, roll it back, and return the number of statements that it took."""
    operation = CATALOGUE.by_name[name]
    now = datetime.now(UTC)
    with _record_statements(stack) as statements:
        async with stack.engine.connect() as conn:
            request = operation.request.model_validate({"body": body})
            await handle(operation, handler_tx(conn, now), request)
            await conn.rollback()
    return len(statements)


async def test_the_number_of_statements_does_not_grow_with_the_body(stack: Stack, client: httpx.AsyncClient) -> None:
    visitors = [(await data.visitor_with_vehicle(client))["visitorId"] for _ in range(3)]
    flags = [{"visitorId": visitor_id, "emailInvalid": True} for visitor_id in visitors]
    single = await _statements_of_write(stack, "visitors.flagContacts", flags[:1])
    assert await _statements_of_write(stack, "visitors.flagContacts", flags) == single == 2

    erasures = [{"analyticsId": await data.analytics_id(client, visitor_id)} for visitor_id in visitors]
    single = await _statements_of_write(stack, "visitors.eraseByAnalyticsId", erasures[:1])
    # Each further visitor takes one statement, which removes it from the standings.
    assert await _statements_of_write(stack, "visitors.eraseByAnalyticsId", erasures) == single + 2

    center = (await data.create(client, "/centers", data.center()))["pcCode"]
    optin = {"optinType": "loyalty", "optinChannel": "none", "isActive": True}

    async def statements_of_create(count: int) -> int:
        optins = [{**optin, "contextId": number} for number in range(count)]
        return await _statements_of_write(stack, "visitors.create", data.visitor(center, optins=optins))

    assert await statements_of_create(3) == await statements_of_create(1)
