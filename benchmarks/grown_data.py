"""Fills the tables of visitors, vehicles and visits by SQL."""

import random
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from benchmarks.population import Person, Population

VISITS_PER_VISITOR = 5
_PEOPLE = 10_000
_PC_CODE = "FR-SC-BENCH"
_BYTES_PER_VISITOR = 2_200
"""With a vehicle, 5 visits, and all indexes."""
_VISITOR_CHUNK, _VISIT_CHUNK = 1_000_000, 5_000_000

Connection: TypeAlias = "asyncpg.Connection[Any]"

_VISITOR_ID = "(lpad(to_hex((n - 1) * 4294967296 / $1::bigint), 8, '0') || right(md5(n::text), 24))::uuid"
"""The id of the visitor n of $1. The ids ascend with n, so that indexes grow at their ends, and they are spread as
evenly as random ones."""
_INSERT_CENTER = """
    insert into centers (
        pc_code, label, country, is_westfield, has_worker, has_multi_step, is_active, has_email_validation,
        has_basic_loyalty, has_registration, creation_date, update_date, revision
    ) values ($1, 'Bench', 'FR', true, false, false, true, false, false, false, now(), now(), 1)
    on conflict do nothing
"""
_INSERT_VISITORS = f"""
    insert into visitors (
        visitor_id, barcode, email, email_key, first_name, first_name_key, last_name, last_name_key, gender,
        country_code, acquisition_pc_code, account_type, origin_type, origin, creation_date, update_date,
        registration_date, revision
    )
    select {_VISITOR_ID}, {_VISITOR_ID}::text, email, email, 'First ' || n % 5003, 'first ' || n % 5003,
        'Last ' || n % 70001, 'last ' || n % 70001, 'u', 'FR', $2, 'full', 'api', 'bench', moment, moment, moment, 1
    from generate_series($3::bigint, $4::bigint) as n,
        lateral (select 'grown.' || lpad(n::text, 9, '0') || '@example.com' as email) as emails,
        lateral (select timestamptz '2020-01-01' + n * 7919 % $1::bigint * interval '1 second' as moment) as moments
"""
_INSERT_VEHICLES = f"""
    insert into vehicles (
        vehicle_id, visitor_id, license_plate, plate_key, maker, creation_date, update_date, revision
    )
    select n, {_VISITOR_ID}, 'G-' || n, 'G' || n, 'Renault', moment, moment, 1
    from generate_series($2::bigint, $3::bigint) as n,
        lateral (select timestamptz '2020-01-01' + n * 7919 % $1::bigint * interval '1 second' as moment) as moments
"""
_INSERT_VISITS = f"""
    insert into visits (visit_id, visitor_id, pc_code, visit_date, visit_type, license_plate, vehicle_id, revision)
    select number, {_VISITOR_ID}, $2, timestamptz '2025-01-01' + number * (interval '365 days' / $5::bigint),
        case when number % 2 = 0 then 'entry' else 'exit' end, 'G-' || n, n, 1
    from generate_series($3::bigint, $4::bigint) as number,
        lateral (select 1 + number * 7919 % $1::bigint as n) as visitor_numbers
"""
"""Neighbouring visits are of different visitors, as they are in reality."""
_DROP_INDEXES = """
    create table bench_indexes as
        select indexdef from pg_indexes
        where tablename in ('visitors', 'vehicles', 'visits')
        and indexname not in (select conname from pg_constraint);
    do $$ declare name text; begin
        for name in select indexname from pg_indexes join bench_indexes using (indexdef) loop
            execute format('drop index %I', name);
        end loop;
    end $$;
"""
_SAMPLE = """
    select visitor_id, barcode, license_plate from vehicles join visitors using (visitor_id)
    where vehicle_id = any ($1::bigint[])
"""


def require_space(home: Path, visitors: int) -> None:
    """Raises OSError if the disk of `home` has too little free space for the data."""
    needed, free = visitors * _BYTES_PER_VISITOR, shutil.disk_usage(home).free
    if needed > free:
        raise OSError(
            f"{visitors:,} visitors need {needed / 1e9:.0f} GB in {home}, which has {free / 1e9:.0f} GB free."
        )


async def grow(connection: Connection, visitors: int) -> None:
    """Create visitors with one vehicle and 5 visits each, as far as they are missing. An interrupted run is
    continued."""
    if await connection.fetchval("select max(visit_id) from visits") is None:
        await connection.execute("create table if not exists bench_unfinished ()")
    if await connection.fetchval("select to_regclass('bench_unfinished')") is None:
        return
    if await connection.fetchval("select to_regclass('bench_indexes')") is None:
        async with connection.transaction():
            await connection.execute(_DROP_INDEXES)
    await connection.execute("alter system set max_wal_size = '8GB'")
    await connection.execute("select pg_reload_conf()")
    # Without triggers, foreign keys are not checked.
    await connection.execute(
        "set session_replication_role = replica; set synchronous_commit = off; set maintenance_work_mem = '1GB'"
    )
    await connection.execute(_INSERT_CENTER, _PC_CODE)
    await _insert_people(connection, visitors)
    await _insert_visits(connection, visitors)
    await _create_indexes(connection)
    await connection.execute("drop table bench_unfinished")
    await connection.execute("reset all")


async def _insert_people(connection: Connection, visitors: int) -> None:
    start = await connection.fetchval("select coalesce(max(vehicle_id), 0) from vehicles")
    for last in range(start, visitors, _VISITOR_CHUNK):
        first, end = last + 1, min(last + _VISITOR_CHUNK, visitors)
        async with connection.transaction():
            await connection.execute(_INSERT_VISITORS, visitors, _PC_CODE, first, end)
            await connection.execute(_INSERT_VEHICLES, visitors, first, end)
    await connection.execute(
        "select setval(pg_get_serial_sequence('vehicles', 'vehicle_id'), max(vehicle_id)) from vehicles"
    )


async def _insert_visits(connection: Connection, visitors: int) -> None:
    visits = visitors * VISITS_PER_VISITOR
    start = await connection.fetchval("select coalesce(max(visit_id), 0) from visits")
    for last in range(start, visits, _VISIT_CHUNK):
        await connection.execute(_INSERT_VISITS, visitors, _PC_CODE, last + 1, min(last + _VISIT_CHUNK, visits), visits)
    await connection.execute("select setval(pg_get_serial_sequence('visits', 'visit_id'), max(visit_id)) from visits")


async def _create_indexes(connection: Connection) -> None:
    for row in await connection.fetch("select indexdef from bench_indexes"):
        async with connection.transaction():
            await connection.execute(row["indexdef"])
            await connection.execute("delete from bench_indexes where indexdef = $1", row["indexdef"])
    await connection.execute("drop table bench_indexes")
    await connection.execute("vacuum (analyze) visitors, vehicles, visits")


async def sample(connection: Connection, visitors: int) -> Population:
    """At most 10,000 random visitors of the data."""
    numbers = random.sample(range(1, visitors + 1), min(visitors, _PEOPLE))
    rows = await connection.fetch(_SAMPLE, numbers)
    people = [
        Person(number, str(row["visitor_id"]), row["barcode"], row["license_plate"], 0)
        for number, row in enumerate(rows)
    ]
    return Population(_PC_CODE, 0, people)
