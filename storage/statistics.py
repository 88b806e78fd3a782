"""What PostgreSQL knows about its tables and sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_ROWS = sa.text(
    """
    select coalesce(greatest(stat.n_live_tup, class.reltuples), 0)::bigint
    from pg_class as class left join pg_stat_all_tables as stat on stat.relid = class.oid
    where class.oid = to_regclass(:table)
    """
)
"""n_live_tup follows each transaction, but is empty after a crash of the server; reltuples is from the last vacuum."""

_LOCK_WAITS = sa.text(
    """
    select waiting.pid, blocking.pid as blocked_by,
        coalesce(extract(epoch from clock_timestamp() - lock.waitstart), 0)::float8 as seconds,
        coalesce(blocking.application_name, '') as application, coalesce(blocking.state, '') as state,
        coalesce(waiting.application_name, '') as waiting_application
    from pg_stat_activity as waiting
        cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocker(pid)
        join pg_stat_activity as blocking on blocking.pid = blocker.pid
        left join lateral (
            select min(waitstart) as waitstart from pg_locks where pid = waiting.pid and not granted
        ) as lock on true
    where waiting.datname = current_database() and waiting.wait_event_type = 'Lock'
    order by seconds desc
    limit 20
    """
)

_LOCK_HOLDERS = sa.text(
    """
    select holder.pid, extract(epoch from statement_timestamp() - holder.xact_start)::float8 as seconds,
        coalesce(holder.application_name, '') as application, coalesce(holder.state, '') as state,
        array_agg(distinct class.relname::text order by class.relname::text) as tables
    from pg_stat_activity as holder
        join pg_locks as lock on lock.pid = holder.pid and lock.granted and lock.locktype = 'relation'
        join pg_class as class on class.oid = lock.relation and class.relkind in ('r', 'p')
    where holder.datname = current_database() and holder.backend_type = 'client backend'
        and holder.xact_start < clock_timestamp() - make_interval(secs => :seconds)
        and lock.mode not in ('AccessShareLock', 'ShareUpdateExclusiveLock')
        and class.relnamespace <> 'pg_catalog'::regnamespace
        and not (class.relname in ('outbox', 'publishers') and lock.mode = 'RowExclusiveLock')
    group by 1, 2, 3, 4
    order by seconds desc
    limit 20
    """
)
"""The two modes are those of reads and of maintenance: no write waits for them. Rows that a transaction has locked are
not in pg_locks, but the lock of their table is. Publishers keep theirs while they wait for Kafka, and no write but an
erasure waits for these."""

_SERVER = sa.text(
    "select current_setting('server_version_num')::int, pg_is_in_recovery(), clock_timestamp(),"
    " current_setting('max_connections')::int,"
    " (select count(*) from pg_stat_activity where backend_type = 'client backend')"
)
_FORBIDDEN = sa.text(
    """
    select name || ': ' || string_agg(privilege, ', ' order by privilege)
    from unnest(cast(:tables as text[])) as name,
        unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as privilege
    where to_regclass(name) is not null and not has_table_privilege(to_regclass(name), privilege)
    group by name
    order by name
    """
)


@dataclass(frozen=True)
class Server:
    """`version` is PostgreSQL's number, for example 180004. `clock` is the time of the server. `connections` are those
    of all databases and users."""

    version: int
    is_standby: bool
    clock: datetime
    connection_limit: int
    connections: int


@dataclass(frozen=True)
class LockWait:
    """A session that waits for a lock. `application` and `state` are those of the session that holds it, or that waits
    in front of it. Texts are empty without the rights of pg_read_all_stats if it is a session of another user."""

    pid: int
    blocked_by: int
    seconds: float
    application: str
    state: str
    """Of pg_stat_activity, for example active, or idle in transaction."""
    waiting_application: str


@dataclass(frozen=True)
class LockHolder:
    """A session whose transaction has been open for `seconds`, and may block writes of rows of `tables`, or all of
    them. `application` and `state` are as in `LockWait`. Without the rights of pg_read_all_stats, sessions of other
    users are not seen."""

    pid: int
    seconds: float
    application: str
    state: str
    tables: list[str]


async def server(conn: AsyncConnection) -> Server:
    return Server(*(await conn.execute(_SERVER)).one())


async def forbidden(conn: AsyncConnection, tables: Sequence[str]) -> list[str]:
    """The rights that the user lacks, by table, for example `visits: DELETE, UPDATE`."""
    return list((await conn.scalars(_FORBIDDEN, {"tables": list(tables)})).all())


async def rows(conn: AsyncConnection, table: str) -> int:
    """How many rows a table has: an estimate that costs nothing."""
    return int(await conn.scalar(_ROWS, {"table": table}) or 0)


async def lock_waits(conn: AsyncConnection) -> list[LockWait]:
    """Who waits for whom in this database, the longest wait first, at most 20."""
    return [LockWait(*row) for row in await conn.execute(_LOCK_WAITS)]


async def lock_holders(conn: AsyncConnection, seconds: float) -> list[LockHolder]:
    """Who has held locks in this database for longer than `seconds`, the longest first, at most 20.

    A worker waits for a lock for milliseconds only, again and again, so `lock_waits` seldom sees it."""
    return [LockHolder(*row) for row in await conn.execute(_LOCK_HOLDERS, {"seconds": seconds})]
