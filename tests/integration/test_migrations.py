"""The migrations: their tables compared with those of the code, and their effect on existing rows."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from structlog.testing import capture_logs

import storage.dead_letter_marks
import storage.deletions
import storage.inbox
import storage.outbox
import storage.republications  # noqa: F401 - the imports declare the tables
from agents.catalogue import CATALOGUE
from schemas.faults import Conflict, NotFound
from storage import folding, migrate
from storage.migrate import Schema
from storage.table import METADATA
from tests.support import data
from tests.support.stack import Stack
from tests.support.transaction import handle, handler_tx


def _differences(connection: sa.Connection) -> Any:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA)


async def test_the_migrations_create_the_tables_that_the_code_declares(stack: Stack) -> None:
    async with stack.engine.connect() as conn:
        assert await conn.run_sync(_differences) == []
        sequences = await conn.run_sync(lambda connection: sa.inspect(connection).get_sequence_names())
    assert "challenge_arrivals" in sequences


@pytest_asyncio.fixture
async def conn(stack: Stack) -> AsyncIterator[AsyncConnection]:
    """A connection to a new, empty database, in one transaction as in `visitor migrate`."""
    url, name = sa.make_url(stack.servers.database), f"migrations_{uuid4().hex}"
    server = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with server.connect() as admin:
        await admin.exec_driver_sql(f"create database {name}")
    engine = create_async_engine(url.set(database=name))
    try:
        async with engine.connect() as connection:
            yield connection
            await connection.rollback()
    finally:
        await engine.dispose()
        async with server.connect() as admin:
            await admin.exec_driver_sql(f"drop database {name}")
        await server.dispose()


async def _upgrade(conn: AsyncConnection, revision: str) -> None:
    config = migrate._config()

    def upgrade(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    await conn.run_sync(upgrade)


def _down_revision(revision: str) -> str:
    down_revision = ScriptDirectory.from_config(migrate._config()).get_revision(revision).down_revision
    assert isinstance(down_revision, str)
    return down_revision


LONG_AGO = datetime(2001, 2, 3, tzinfo=UTC)
_VISITOR_COLUMNS = (
    "visitor_id, first_name, first_name_key, last_name, last_name_key, email, email_key, barcode, country_code,"
    " account_type, origin_type, origin, creation_date, update_date, revision"
)
_VISITOR = (
    f"insert into visitors ({_VISITOR_COLUMNS}) values"
    " (:visitor_id, :name, :key, :name, :key, :email, :email_key, :barcode, 'FR', :account_type, 'api', 'a', :moment,"
    " :moment, 7)"
)
_VEHICLE = (
    "insert into vehicles (visitor_id, license_plate, plate_key, plain_plate, creation_date, update_date, revision)"
    " values (:visitor_id, :plate, :plate_key, null, now(), now(), 1)"
)


async def _add_visitor(
    conn: AsyncConnection, email: str, *, days: int = 0, account_type: str = "full", name: str = "Zora"
) -> UUID:
    """Insert a visitor with the keys that older versions stored: casefolded, but not normalised."""
    visitor_id = uuid4()
    parameters = {
        "visitor_id": visitor_id, "barcode": str(visitor_id), "name": name, "key": name.lower(), "email": email,
        "email_key": email.casefold(), "account_type": account_type, "moment": LONG_AGO + timedelta(days=days),
    }  # fmt: skip
    await conn.execute(sa.text(_VISITOR), parameters)
    return visitor_id


async def _email_keys(conn: AsyncConnection) -> dict[UUID, str]:
    rows = await conn.exec_driver_sql("select visitor_id, email_key from visitors")
    return {row.visitor_id: row.email_key for row in rows}


async def _call(conn: AsyncConnection, name: str, **parts: Any) -> Any:
    operation = CATALOGUE.by_name[name]
    tx = handler_tx(conn, datetime.now(UTC), arrived=LONG_AGO)
    return await handle(operation, tx, operation.request.model_validate(parts))


async def test_of_visitors_who_share_a_mailbox_after_an_upgrade_all_stay_and_one_keeps_it(
    conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_PAGE", 2)
    await _upgrade(conn, _down_revision("0012"))
    plain = await _add_visitor(conn, "Zora@example.com")
    accented = await _add_visitor(conn, "RENE\u0301@b\u00fccher.de")
    first, second, third = [
        await _add_visitor(conn, email, days=days)
        for days, email in enumerate(("l\u00e9a@example.com", "le\u0301a@example.com", "LE\u0301A@\uff45xample.com"))
    ]
    partial = await _add_visitor(conn, "noe\u0301@example.com", account_type="partial")
    full = await _add_visitor(conn, "no\u00e9@example.com", days=1)
    # A visitor whose email key does not change keeps the mailbox.
    ascii_partial = await _add_visitor(conn, "ava@xn--bcher-kva.de", account_type="partial")
    ascii_full = await _add_visitor(conn, "ava@b\u00fccher.de", days=1)
    # Their keys are swapped: the new key of one visitor is the old key of another.
    sharp = await _add_visitor(conn, "stra\u00dfe@example.com", days=1)
    plain_s = await _add_visitor(conn, "x@stra\u00dfe.de")
    swapped = await _add_visitor(conn, "x@xn--strae-oqa.de", days=1)

    with capture_logs() as log_entries:
        await _upgrade(conn, "head")

    email_keys = await _email_keys(conn)
    assert len(email_keys) == 12
    with_mailbox = (plain, accented, first, full, ascii_full, sharp, plain_s)
    assert {visitor_id: email_keys[visitor_id] for visitor_id in with_mailbox} == {
        plain: "zora@example.com", accented: "ren\u00e9@xn--bcher-kva.de", first: "l\u00e9a@example.com",
        full: "no\u00e9@example.com", ascii_full: "ava@xn--bcher-kva.de", sharp: "stra\u00dfe@example.com",
        plain_s: "x@xn--strae-oqa.de",
    }  # fmt: skip
    without_mailbox = (second, third, partial, ascii_partial, swapped)
    for visitor_id in without_mailbox:
        assert email_keys[visitor_id].partition(" ")[2] == str(visitor_id)
    assert [(entry["event"], entry["visitors"]) for entry in log_entries] == [("mailboxes_shared", 5)]

    visitor = await _call(conn, "visitors.get", path={"visitorId": str(second)})
    assert (visitor.email, visitor.visitor_id) == ("le\u0301a@example.com", second)
    by_email = await _call(conn, "visitors.list", query={"email": "LE\u0301A@example.com"})
    assert [row.visitor_id for row in by_email.items] == [first]
    by_prefix = await _call(conn, "visitors.list", query={"query": "lea@", "queryBy": "email", "sort": "creationDate"})
    assert [row.visitor_id for row in by_prefix.items] == [first, second, third]
    center = data.center()
    await _call(conn, "centers.create", body=center)
    with pytest.raises(Conflict) as error:
        await _call(conn, "visitors.create", body=data.visitor(center["pcCode"], email="noe\u0301@EXAMPLE.com"))
    assert error.value.code == "email_taken"
    body = data.visitor(center["pcCode"], email="strasse@example.com")
    assert (await _call(conn, "visitors.create", body=body)).visitor_id != sharp


PLATES = ["GO\u0308-XY 101", "\uff21\uff22 \u0661\u0662", "-", "AX-100"]


async def test_old_vehicles_and_names_are_found_by_the_new_rules(conn: AsyncConnection) -> None:
    await _upgrade(conn, _down_revision("0012"))
    visitor_id = await _add_visitor(conn, "zora@example.com", name="O\u2019Brien")
    for plate in PLATES:
        old_key = "".join(character for character in plate.upper() if character.isalnum())
        await conn.execute(sa.text(_VEHICLE), {"visitor_id": visitor_id, "plate": plate, "plate_key": old_key})
    await conn.exec_driver_sql(
        "insert into external_ids (external_id, folded_id, visitor_id, external_type, creation_date, update_date,"
        f" revision) values ('A\u2011B', 'a\u2011b', '{visitor_id}', 'partner', now(), now(), 1)"
    )
    await _upgrade(conn, "head")

    path = {"visitorId": str(visitor_id)}
    vehicles = (await _call(conn, "vehicles.list", path=path)).items
    assert [vehicle.license_plate for vehicle in vehicles] == [
        "GO\u0308-XY 101",
        "\uff21\uff22 \u0661\u0662",
        "-",
        "AX-100",
    ]
    for plate, indexes in (("g\u00f6xy101", [0]), ("AB12", [1]), ("ax100", [3]), ("-", []), ("???", []), ("", [])):
        matches = (await _call(conn, "vehicles.list", path=path, query={"licensePlate": plate})).items
        expected = [vehicles[index].vehicle_id for index in indexes]
        assert [vehicle.vehicle_id for vehicle in matches] == expected, plate
    for query_by, query in (
        ("lastName", "O'B"), ("firstName", "o\u2019brien"), ("licensePlate", "goxy"), ("externalId", "a-b"),
    ):  # fmt: skip
        visitors = await _call(conn, "visitors.list", query={"queryBy": query_by, "query": query})
        assert [row.visitor_id for row in visitors.items] == [visitor_id], query_by
    center = data.center()
    await _call(conn, "centers.create", body=center)
    with pytest.raises(NotFound):
        await _call(conn, "visits.list", query={"licensePlate": "-", "pcCode": center["pcCode"]})
    visits = await _call(conn, "visits.list", query={"licensePlate": "G\u00d6XY101", "pcCode": center["pcCode"]})
    assert visits.items == []


INSERT_CHANGE = (
    "insert into outbox (topic, key, partition_key, change_id, change_type, value, created_at)"
    " values (:topic, :key, :partition_key, :change_id, :change_type, 'x', now())"
)
CHANGES_PER_FAMILY = [
    ("visitor.optins.changes", "optin:17", str(UUID(int=1)), "optin:17:1", "optin.created"),
    ("visitor.optins.changes", "legalText:17", "legalText:17", "legalText:17:1", "legalText.created"),
    ("visitor.centers.changes", "center:a:b", "center:a:b", "center:a:b:2", "center.deleted"),
]
"""Rows as earlier releases insert them."""
CHANGES_PER_RESOURCE = [
    ("visitor.optins.changes.optin", "17", str(UUID(int=1)), "optin:17:1", "optin.created"),
    ("visitor.optins.changes.legalText", "17", "17", "legalText:17:1", "legalText.created"),
    ("visitor.centers.changes.center", "a:b", "a:b", "center:a:b:2", "center.deleted"),
]


async def test_changes_of_earlier_releases_are_published_on_the_topics_of_their_resources(
    conn: AsyncConnection,
) -> None:
    await _upgrade(conn, _down_revision("0014"))
    columns = ("topic", "key", "partition_key", "change_id", "change_type")

    async def insert(rows: list[tuple[str, ...]]) -> None:
        await conn.execute(sa.text(INSERT_CHANGE), [dict(zip(columns, row, strict=True)) for row in rows])

    await insert(CHANGES_PER_FAMILY)  # before the migration
    await _upgrade(conn, "head")
    await insert(CHANGES_PER_FAMILY)  # by a worker of an earlier release that still runs
    await insert(CHANGES_PER_RESOURCE)

    rows = await conn.exec_driver_sql(f"select {', '.join(columns)} from outbox order by id")
    assert [tuple(row) for row in rows] == 3 * CHANGES_PER_RESOURCE
    assert {row[0] for row in CHANGES_PER_RESOURCE} <= {topic for topic, _ in CATALOGUE.change_topics}


@pytest.mark.parametrize(
    ("schema", "advice"),
    [
        (Schema(None), "run `visitor migrate`"),
        (Schema("0009"), "run `visitor migrate`"),
        (Schema("9999"), "start the release that"),
        (Schema("9999", oldest_revision="9998"), "start the release that"),
    ],
)
def test_a_worker_says_what_to_do_about_a_schema_that_it_cannot_use(schema: Schema, advice: str) -> None:
    assert advice in (migrate.mismatch(schema) or "")


@pytest.mark.parametrize("schema", [Schema(migrate.newest()), Schema("9999", oldest_revision=migrate.newest())])
def test_a_worker_uses_the_schema_of_its_release_and_of_later_ones_that_allow_it(schema: Schema) -> None:
    assert migrate.mismatch(schema) is None


async def test_an_entry_finds_room_for_its_dates_in_full_tables(conn: AsyncConnection) -> None:
    """PostgreSQL need not touch the indexes if the new version of a row stays in the page of the old one."""
    await _upgrade(conn, "head")
    await conn.exec_driver_sql(
        f"insert into visitors ({_VISITOR_COLUMNS}) select gen_random_uuid(), 'F', 'f', 'L', 'l', n || '@example.com',"
        " n || '@example.com', gen_random_uuid()::text, 'FR', 'full', 'api', 'test', now(), now(), 1"
        " from generate_series(1, 2000) as n"
    )
    await conn.exec_driver_sql(
        "insert into vehicles (visitor_id, license_plate, plate_key, creation_date, update_date, revision)"
        " select visitor_id, 'A-1', 'A1', now(), now(), 1 from visitors"
    )
    for table, date in (("visitors", "last_visit_date"), ("vehicles", "last_parking_session")):
        first_of_page = "(ctid::text::point)[1] = 1"
        old_pages = await _pages(conn, f"select visitor_id, ctid from {table} where {first_of_page}")
        new_pages = await _pages(
            conn, f"update {table} set {date} = now() where {first_of_page} returning visitor_id, ctid"
        )
        assert len(old_pages) > 10
        assert new_pages == old_pages


async def _pages(conn: AsyncConnection, statement: str) -> dict[UUID, str]:
    """The page of each row that the statement returns."""
    rows = await conn.exec_driver_sql(f"with rows as ({statement}) select visitor_id, (ctid::text::point)[0] from rows")
    return {row[0]: row[1] for row in rows}
