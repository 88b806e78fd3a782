"""The checks of PostgreSQL."""

import asyncio
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from runtime.doctor.findings import Finding, failed, listed, ok, warning
from runtime.doctor.installation import Installation
from runtime.overview import DELAYED_SECONDS, LATE_SECONDS, LOCK_SECONDS
from storage import inbox, migrate, outbox, schema_store, statistics
from storage.statistics import LockWait
from storage.table import METADATA
from topics.avro import schema_id

OLDEST_VERSION = 15
CLOCK_LIMIT = timedelta(seconds=1)
"""How far clocks may differ. Answers and changes have the time of the database."""
CONNECTION_SHARE = 0.9
"""The share of max_connections above which new workers may get none."""
PRUNING_DELAY = timedelta(hours=6)
"""How late workers may delete expired answers."""
WATCH_SECONDS, PAUSE_SECONDS = 2.0, 0.02
"""How long and how often `locks` looks for sessions that wait. A worker retries twice per second."""


async def reachable(installation: Installation) -> Finding:
    async with installation.database.connect() as conn:
        server = await statistics.server(conn)
    version = f"PostgreSQL {server.version // 10_000}.{server.version % 10_000}"
    if server.version < OLDEST_VERSION * 10_000:
        return failed(f"{version} is too old", f"upgrade to PostgreSQL {OLDEST_VERSION} or newer")
    if server.is_standby:
        return failed(f"{version} is a standby, which accepts no writes", "let VISITOR_DATABASE_URL name the primary")
    if server.connections > CONNECTION_SHARE * server.connection_limit:
        return warning(
            f"{server.connections} of at most {server.connection_limit} connections are in use",
            "raise max_connections, or put PgBouncer in front of it",
        )
    return ok(f"{version}, {server.connections} of {server.connection_limit} connections in use")


async def migrations(installation: Installation) -> Finding:
    schema = await migrate.current(installation.database)
    if reason := migrate.mismatch(schema):
        return failed(f"the schema is not that of this release ({migrate.newest()})", reason)
    later = "" if schema.revision == migrate.newest() else " of a later release, which this one can use"
    return ok(f"revision {schema.revision}{later}")


async def rights(installation: Installation) -> Finding:
    async with installation.database.connect() as conn:
        forbidden = await statistics.forbidden(conn, sorted(METADATA.tables))
    if forbidden:
        return failed(
            f"this user lacks rights on tables: {listed(forbidden)}",
            "connect as the owner of the tables, or let the owner grant select, insert, update and delete",
        )
    return ok("this user may read and write all tables")


async def clock(installation: Installation) -> Finding:
    async with installation.database.connect() as conn:
        await statistics.server(conn)  # The first statement of a connection takes longer.
        before = now()
        server = await statistics.server(conn)
        after = now()
    offset = (server.clock - before - (after - before) / 2).total_seconds()
    if abs(offset) > CLOCK_LIMIT.total_seconds():
        return warning(f"the clock of PostgreSQL differs by {offset:+.1f} s", "synchronise the clocks, by NTP")
    return ok(f"the clock of PostgreSQL differs by {round(offset * 1000):+d} ms")


async def changes(installation: Installation) -> Finding:
    async with installation.database.connect() as conn:
        topics = await outbox.waiting(conn, [topic.name for topic in CATALOGUE.change_topics])
        outdated = await outbox.outdated(conn)
    if outdated:
        return failed(
            f"the table `publishers` is from another server, so that changes are not found, for {listed(outdated)}",
            "start a worker, or start it again: it corrects this within a second",
        )
    late = [topic.topic for topic in topics if (topic.oldest_seconds or 0) >= DELAYED_SECONDS]
    oldest = max((topic.oldest_seconds or 0 for topic in topics), default=0.0)
    if not late:
        return ok(f"{sum(topic.changes for topic in topics)} changes wait, the oldest for {oldest:.1f} s")
    state = failed if oldest >= LATE_SECONDS else warning
    return state(
        f"changes wait for up to {oldest:.0f} s, for {listed(late)}",
        "read the section about changes that do not arrive in docs/runbook.md",
    )


async def locks(installation: Installation) -> Finding:
    async with installation.database.connect() as conn:
        holders = await statistics.lock_holders(conn, LOCK_SECONDS)
    waits = await _lock_waits(installation, {holder.pid for holder in holders})
    blockers = {wait.blocked_by for wait in waits} | {holder.pid for holder in holders}
    if not blockers:
        return ok(f"no session has held locks for more than {LOCK_SECONDS:.0f} s")
    held = [
        f"{_session(each.pid, each.application, each.state)} for {each.seconds:.0f} s on {listed(each.tables)}"
        for each in holders
    ]
    waiting = [
        f"session {wait.pid} ({wait.waiting_application or 'unnamed'}) waits for"
        f" {_session(wait.blocked_by, wait.application, wait.state)}"
        for wait in waits
    ]
    texts = [f"writes may wait for locks of {'; '.join(held)}"] if held else []
    if waiting:
        texts.append(listed(waiting))
    # A session that waits itself goes on when the others have ended.
    first = min(blockers - {wait.pid for wait in waits} or blockers)
    return warning(
        "; ".join(texts),
        f"let its owner end the transaction; `select pg_terminate_backend({first})` ends the session",
    )


def _session(pid: int, application: str, state: str) -> str:
    return f"session {pid} ({application or 'unnamed'}, {state or 'unknown state'})"


async def _lock_waits(installation: Installation, holders: Collection[int]) -> Sequence[LockWait]:
    """Who waits for one of the holders, or has waited for long. Workers wait for milliseconds, twice per second, so
    this looks until somebody waits, for two seconds at most."""
    ends_at = time.monotonic() + WATCH_SECONDS if holders else 0.0
    while True:
        # A transaction would see the same sessions again.
        async with installation.database.connect() as conn:
            waits = [
                wait
                for wait in await statistics.lock_waits(conn)
                if wait.blocked_by in holders or wait.seconds >= LOCK_SECONDS
            ]
        if waits or time.monotonic() >= ends_at:
            return waits
        await asyncio.sleep(PAUSE_SECONDS)


async def answers(installation: Installation) -> Finding:
    async with installation.database.connect() as conn:
        seconds = await inbox.oldest_seconds(conn) or 0.0
    age, kept = timedelta(seconds=seconds), timedelta(days=installation.settings.worker.inbox_days)
    days = age / timedelta(days=1)
    if age > kept + PRUNING_DELAY:
        return warning(
            f"the inbox has answers that are {days:.1f} days old; workers keep them for {kept.days} days",
            "look for the reason `prune` of `visitor health worker`",
        )
    return ok(f"the oldest answer of the inbox is {days:.1f} days old")


async def schemas(installation: Installation) -> Finding:
    ids = {schema_id(schema) for _, schema in Wire(CATALOGUE).topics_and_schemas()}
    async with installation.database.connect() as conn:
        stored = await schema_store.find(conn, ids)
    if missing := ids - stored.keys():
        return warning(
            f"{len(missing)} schemas of this release are not in the database; other releases cannot read its messages",
            "start a worker of this release, which stores them",
        )
    return ok("the database has all schemas of this release")


def now() -> datetime:
    return datetime.now(UTC)
