"""What the migrations make, held against what the code works with, and what they do to rows that are there."""

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

import storage.inbox
import storage.outbox  # noqa: F401 - declares its table, as the inbox does
from agents.catalogue import CATALOGUE
from schemas.faults import Conflict, NotFound
from storage import folding, migrate
from storage.table import METADATA
from storage.tx import Caller, Cause, Tx
from tests.support import data
from tests.support.stack import Stack


def _differences(connection: sa.Connection) -> Any:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA)


async def test_the_migrations_make_the_tables_of_the_code(stack: Stack) -> None:
    async with stack.engine.connect() as conn:
        assert await conn.run_sync(_differences) == []
        sequences = await conn.run_sync(lambda connection: sa.inspect(connection).get_sequence_names())
    assert "challenge_arrivals" in sequences


@pytest_asyncio.fixture
async def conn(stack: Stack) -> AsyncIterator[AsyncConnection]:
    """An empty database of its own, in one transaction as for `visitor migrate`."""
    url, name = sa.make_url(stack.servers.database), f"migrations_{uuid4().hex}"
    server = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with server.connect() as admin:
        await admin.exec_driver_sql(f"create database {name}")
    engine = create_async_engine(url.set(database=name))
    try:
        async with engine.connect() as found:
            yield found
            await found.rollback()
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


def _before(revision: str) -> str:
    found = ScriptDirectory.from_config(migrate._config()).get_revision(revision).down_revision
    assert isinstance(found, str)
    return found


LONG_AGO = datetime(2001, 2, 3, tzinfo=UTC)
_VISITOR = (
    "insert into visitors (visitor_id, first_name, first_name_key, last_name, last_name_key, email, email_key, barcode,"
    " country_code, account_type, origin_type, origin, creation_date, update_date, revision) values"
    " (:visitor_id, :name, :key, :name, :key, :email, :email_key, :barcode, 'FR', :account_type, 'api', 'a', :moment,"
    " :moment, 7)"
)
_VEHICLE = (
    "insert into vehicles (visitor_id, license_plate, plate_key, plain_plate, creation_date, update_date, revision)"
    " values (:visitor_id, :plate, :plate_key, null, now(), now(), 1)"
)


async def _add(conn: AsyncConnection, email: str, *, days: int = 0, kind: str = "full", name: str = "Zora") -> UUID:
    """A visitor with the keys that the versions before made: casefold, and nothing normalised."""
    visitor_id = uuid4()
    row = {
        "visitor_id": visitor_id, "barcode": str(visitor_id), "name": name, "key": name.lower(), "email": email,
        "email_key": email.casefold(), "account_type": kind, "moment": LONG_AGO + timedelta(days=days),
    }  # fmt: skip
    await conn.execute(sa.text(_VISITOR), row)
    return visitor_id


async def _keys(conn: AsyncConnection) -> dict[UUID, str]:
    found = await conn.exec_driver_sql("select visitor_id, email_key from visitors")
    return {row.visitor_id: row.email_key for row in found}


async def _ask(conn: AsyncConnection, operation: str, **parts: Any) -> Any:
    found = CATALOGUE.by_name[operation]
    assert found.handler is not None
    tx = Tx(conn, Cause("test", Caller("test", "test"), LONG_AGO), datetime.now(UTC))
    return await found.handler(tx, found.request.model_validate(parts))


async def test_visitors_who_share_a_mailbox_since_an_upgrade_stay_and_one_of_them_keeps_it(
    conn: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_PAGE", 2)
    await _upgrade(conn, _before("0012"))
    plain = await _add(conn, "Zora@example.com")
    alone = await _add(conn, "RENE\u0301@b\u00fccher.de")
    first, second, third = [
        await _add(conn, email, days=days)
        for days, email in enumerate(("l\u00e9a@example.com", "le\u0301a@example.com", "LE\u0301A@\uff45xample.com"))
    ]
    partial = await _add(conn, "noe\u0301@example.com", kind="partial")
    full = await _add(conn, "no\u00e9@example.com", days=1)
    # Whoever has the mailbox already has it by an email that nothing changes about.
    ascii_partial = await _add(conn, "ava@xn--bcher-kva.de", kind="partial")
    ascii_full = await _add(conn, "ava@b\u00fccher.de", days=1)
    # Their keys change places: one has the old key of the other.
    sharp, plain_s = await _add(conn, "stra\u00dfe@example.com", days=1), await _add(conn, "x@stra\u00dfe.de")
    swapped = await _add(conn, "x@xn--strae-oqa.de", days=1)

    with capture_logs() as logged:
        await _upgrade(conn, "head")

    keys = await _keys(conn)
    assert len(keys) == 12
    assert {visitor: keys[visitor] for visitor in (plain, alone, first, full, ascii_full, sharp, plain_s)} == {
        plain: "zora@example.com", alone: "ren\u00e9@xn--bcher-kva.de", first: "l\u00e9a@example.com",
        full: "no\u00e9@example.com", ascii_full: "ava@xn--bcher-kva.de", sharp: "stra\u00dfe@example.com",
        plain_s: "x@xn--strae-oqa.de",
    }  # fmt: skip
    others = (second, third, partial, ascii_partial, swapped)
    assert [keys[visitor].partition(" ")[2] for visitor in others] == [str(visitor) for visitor in others]
    assert [(each["event"], each["visitors"]) for each in logged] == [("mailboxes_shared", 5)]

    read = await _ask(conn, "visitors.get", path={"visitorId": str(second)})
    assert (read.email, read.visitor_id) == ("le\u0301a@example.com", second)
    found = await _ask(conn, "visitors.list", query={"email": "LE\u0301A@example.com"})
    assert [row.visitor_id for row in found.items] == [first]
    everybody = await _ask(conn, "visitors.list", query={"query": "lea@", "queryBy": "email", "sort": "creationDate"})
    assert [row.visitor_id for row in everybody.items] == [first, second, third]
    center = data.center()
    await _ask(conn, "centers.create", body=center)
    with pytest.raises(Conflict) as taken:
        await _ask(conn, "visitors.create", body=data.visitor(center["pcCode"], email="noe\u0301@EXAMPLE.com"))
    assert taken.value.code == "email_taken"
    strasse = data.visitor(center["pcCode"], email="strasse@example.com")
    assert (await _ask(conn, "visitors.create", body=strasse)).visitor_id != sharp


PLATES = ["GO\u0308-XY 101", "\uff21\uff22 \u0661\u0662", "-", "AX-100"]


async def test_vehicles_and_names_from_before_are_found_by_the_new_rules(conn: AsyncConnection) -> None:
    await _upgrade(conn, _before("0012"))
    visitor = await _add(conn, "zora@example.com", name="O\u2019Brien")
    for plate in PLATES:
        old_key = "".join(character for character in plate.upper() if character.isalnum())
        await conn.execute(sa.text(_VEHICLE), {"visitor_id": visitor, "plate": plate, "plate_key": old_key})
    await conn.exec_driver_sql(
        "insert into external_ids (external_id, folded_id, visitor_id, external_type, creation_date, update_date,"
        f" revision) values ('A\u2011B', 'a\u2011b', '{visitor}', 'partner', now(), now(), 1)"
    )
    await _upgrade(conn, "head")

    path = {"visitorId": str(visitor)}
    listed = (await _ask(conn, "vehicles.list", path=path)).items
    assert [vehicle.license_plate for vehicle in listed] == [
        "GO\u0308-XY 101",
        "\uff21\uff22 \u0661\u0662",
        "-",
        "AX-100",
    ]
    for plate, of in (("g\u00f6xy101", [0]), ("AB12", [1]), ("ax100", [3]), ("-", []), ("???", []), ("", [])):
        found = await _ask(conn, "vehicles.list", path=path, query={"licensePlate": plate})
        assert [vehicle.vehicle_id for vehicle in found.items] == [listed[place].vehicle_id for place in of], plate
    for by, query in (
        ("lastName", "O'B"), ("firstName", "o\u2019brien"), ("licensePlate", "goxy"), ("externalId", "a-b"),
    ):  # fmt: skip
        people = await _ask(conn, "visitors.list", query={"queryBy": by, "query": query})
        assert [row.visitor_id for row in people.items] == [visitor], by
    center = data.center()
    await _ask(conn, "centers.create", body=center)
    with pytest.raises(NotFound):
        await _ask(conn, "visits.list", query={"licensePlate": "-", "pcCode": center["pcCode"]})
    visits = await _ask(conn, "visits.list", query={"licensePlate": "G\u00d6XY101", "pcCode": center["pcCode"]})
    assert visits.items == []
