"""Connections to PostgreSQL, and which of its errors are transient."""

import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from storage import connecting
from storage.settings import DatabaseSettings
from telemetry.metrics import POOL_WAIT

STATEMENT_TIMEOUT = 15
"""Seconds for one statement. A running batch must end within Kafka's rebalance timeout of 60 seconds."""

LOCK_TIMEOUT = timedelta(seconds=1.2)
"""How long a write waits for a lock. It is longer than most transactions of the service hold one, and than PostgreSQL's
deadlock_timeout of a second. It is far below `STATEMENT_TIMEOUT`, so that a write that waits does not count as too
slow: it is retried until the lock is free. A migration may lock a table for minutes."""

BLOCKED_LOCK_TIMEOUT = timedelta(milliseconds=50)
"""How long a write waits for a lock while some requests of the worker wait for locks already. It delays the requests
that are applied in the same transaction."""

READ_TIMEOUT = 7
"""Seconds for one statement of a read. It is less than the time for which an edge waits for an answer, so that the
caller gets the error."""

IDLE_IN_TRANSACTION_TIMEOUT = 45
"""Seconds. It is longer than `topics.kafka.SEND_LIMIT`, the time for which the publisher keeps its transaction open
while it waits for the broker. It is short enough to release the locks of a frozen process soon."""


_PLANNED_ONCE = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_sort": "off"}
"""PostgreSQL plans each prepared statement once per connection. Otherwise it plans most writes each time, which takes
longer than the write. The plan stays in use while a table grows from nothing to millions of rows, so it has to read an
index, in its order, even if the statistics say that the table is nearly empty."""


class _MeasuredPool(AsyncAdaptedQueuePool):
    """Observes how long tasks wait for a connection. The name for logs is the label of the metric."""

    def connect(self) -> PoolProxiedConnection:
        started_at = time.perf_counter()
        connection = super().connect()
        POOL_WAIT.labels(self.logging_name).observe(time.perf_counter() - started_at)
        return connection


def connect(
    settings: DatabaseSettings, *, connections: int, read_only: bool = False, pool: str = "commands"
) -> AsyncEngine:
    """Make a pool of connections. It opens a connection when one is needed. The lists that `read_only` connections read
    have many combinations of filters, so that PostgreSQL plans them by their values. `pool` is its name in metrics."""
    limit = READ_TIMEOUT if read_only else STATEMENT_TIMEOUT
    lock_timeout = timedelta(seconds=READ_TIMEOUT) if read_only else LOCK_TIMEOUT
    parameters = {
        "jit": "off",
        "statement_timeout": str(limit * 1000),
        "lock_timeout": milliseconds(lock_timeout),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT * 1000),
    } | ({"default_transaction_read_only": "on"} if read_only else _PLANNED_ONCE)
    url, arguments = connecting.arguments(settings.url.get_secret_value())
    engine = create_async_engine(
        url,
        execution_options={_TRANSACTION_POOLING: settings.transaction_pooling},
        # All statements of a read see the same snapshot of the database.
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        poolclass=_MeasuredPool,
        pool_logging_name=pool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=3600,
        hide_parameters=True,
        connect_args={
            **arguments,
            **driver_options(settings, {} if settings.transaction_pooling else parameters),
            "timeout": 5,
            "command_timeout": limit + 5,
        },
    )
    if settings.transaction_pooling:
        sa.event.listen(engine.sync_engine, "begin", partial(_set_for_transaction, parameters))
    sa.event.listen(engine.sync_engine, "handle_error", _discard_unusable_connection)
    sa.event.listen(engine.sync_engine, "handle_error", _explain_pooling)
    return engine


_TRANSACTION_POOLING = "transaction_pooling"


def driver_options(settings: DatabaseSettings, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a connection of asyncpg, whose session has these parameters of PostgreSQL.

    A pooler in transaction mode gives each transaction another session. So a statement is prepared without a name and
    used at once, and parameters are set in each transaction, except those that PgBouncer sets in each session."""
    options: dict[str, Any] = {"server_settings": {"application_name": "visitor", "timezone": "UTC", **parameters}}
    if not settings.transaction_pooling:
        return options | {"prepared_statement_cache_size": 500}
    # `str` returns the empty name.
    return options | {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,
    }


def single_statements(engine: AsyncEngine) -> AsyncEngine:
    """An engine that executes each statement in a transaction of its own, without BEGIN and COMMIT. A pooler in
    transaction mode could execute it in another session than the one that has prepared it, so BEGIN stays there."""
    if engine.get_execution_options().get(_TRANSACTION_POOLING):
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _set_for_transaction(parameters: Mapping[str, str], conn: sa.Connection) -> None:
    values = {name.removeprefix("default_"): value for name, value in parameters.items()}
    conn.execute(sa.select(*(sa.func.set_config(name, value, True) for name, value in values.items())))


def milliseconds(duration: timedelta) -> str:
    """The duration as a value of one of PostgreSQL's timeouts."""
    return str(duration // timedelta(milliseconds=1))


_LOCK_NOT_AVAILABLE = "55P03"
"""The SQLSTATE of a statement that exceeded lock_timeout."""
_DEADLOCK = "40P01"
_QUERY_CANCELED = "57014"
"""The SQLSTATE of a statement that exceeded statement_timeout."""
_READ_ONLY_TRANSACTION = "25006"
"""The SQLSTATE of a write on a standby server."""
_TRANSIENT = (
    "08",  # connection exceptions
    "40",  # serialization failure, deadlock
    "53",  # insufficient resources
    _LOCK_NOT_AVAILABLE,
    "57",  # operator intervention: shutdown, statement timeout
    "58",  # system errors
    "25P03",  # idle in transaction session timeout
    _READ_ONLY_TRANSACTION,
)
"""SQLSTATE classes and codes (PostgreSQL manual, appendix A) after which a retry can succeed."""
_OUTDATED_CACHE = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""The errors of a connection whose cached statements and types are older than a change of the schema. They are not in
`_TRANSIENT`: the first has SQLSTATE 0A000 (feature not supported), which otherwise is permanent."""


_STATEMENTS_OF_OTHERS = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


def _explain_pooling(context: sa.engine.ExceptionContext) -> None:
    """Raises WrongPooling if a pooler refuses the parameters of a connection, or has mixed up prepared statements."""
    cause = _driver_error(context.sqlalchemy_exception or context.original_exception)
    refused = isinstance(cause, asyncpg.ProtocolViolationError) and "startup parameter" in str(cause)
    if refused or isinstance(cause, _STATEMENTS_OF_OTHERS):
        raise connecting.WrongPooling(
            f"{cause}. Set VISITOR_DATABASE_TRANSACTION_POOLING=true for PgBouncer."
        ) from cause


class Repeat(Exception):
    """The batch conflicts with another transaction and must be applied again from its start."""


class NoStandby(Exception):
    """Transactions of this process wait for a synchronous standby. There is no sense in a further one."""


def is_too_slow(error: BaseException) -> bool:
    """True if a statement exceeded its timeout."""
    cause = _driver_error(error)
    return isinstance(cause, TimeoutError) or _sqlstate(cause) == _QUERY_CANCELED


def exceeds_statement_timeout(error: BaseException) -> bool:
    """True if PostgreSQL ended a statement at its timeout."""
    return _sqlstate(_driver_error(error)) == _QUERY_CANCELED


def is_lock_conflict(error: BaseException) -> bool:
    """True if a statement could not get a lock: it waited too long, or the two transactions waited for each other."""
    return _sqlstate(_driver_error(error)) in (_LOCK_NOT_AVAILABLE, _DEADLOCK)


def is_transient(error: BaseException) -> bool:
    """True if a retry of the same work can succeed, for example after a lost connection, a deadlock or a timeout."""
    if isinstance(error, (Repeat, NoStandby, OSError, TimeoutError, PoolTimeout, asyncpg.InterfaceError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = _driver_error(error)
    if isinstance(cause, asyncpg.PostgresError):
        return _sqlstate(cause).startswith(_TRANSIENT)
    return isinstance(cause, (OSError, TimeoutError, asyncpg.InterfaceError))


def _discard_unusable_connection(context: sa.engine.ExceptionContext) -> None:
    """Mark a connection as closed, so that the next attempt opens a new one. After a failover, the connection may lead
    to a server that is now a standby. After a change of the schema, its cached statements are outdated."""
    cause = _driver_error(context.sqlalchemy_exception)
    if _sqlstate(cause) == _READ_ONLY_TRANSACTION or isinstance(cause, _OUTDATED_CACHE):
        context.is_disconnect = True


def _driver_error(error: BaseException | None) -> BaseException | None:
    """The exception of asyncpg that SQLAlchemy wrapped."""
    if not isinstance(error, DBAPIError):
        return error
    return error.orig.__cause__ if error.orig is not None else None


def _sqlstate(cause: BaseException | None) -> str:
    return str(getattr(cause, "sqlstate", None) or "")
