"""The connection to PostgreSQL, and which of its errors pass by themselves."""

import asyncpg
import sqlalchemy as sa
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

STATEMENT_TIMEOUT = 15
"""Seconds for one statement; well under Kafka's rebalance timeout (60), during which begun batches must end."""

LOCK_TIMEOUT = 10
"""Seconds that a write waits for a lock; less than a statement may take. A write that waits for another's lock is
repeated for as long as that is held, however long (a migration may hold a table for minutes), and is not too slow."""

READ_TIMEOUT = 7
"""Seconds for one statement of a read; less than an edge waits for an answer, so that its caller is told."""

IDLE_IN_TRANSACTION_TIMEOUT = 45
"""Seconds; longer than the publisher's wait for the broker (topics.kafka.SEND_LIMIT), during which it keeps its
transaction, and short enough that a frozen process gives up its locks."""


class DatabaseSettings(BaseModel):
    url: SecretStr = Field(
        SecretStr("postgresql+asyncpg://visitor@localhost:5432/visitor"),
        description="SQLAlchemy URL with the asyncpg driver; TLS by ?ssl=require.",
    )
    connections: int = Field(2, ge=1, description="Connections of a worker for requests.")
    query_connections: int = Field(4, ge=1, description="Connections of a worker for reads.")


def connect(settings: DatabaseSettings, *, connections: int, read_only: bool = False) -> AsyncEngine:
    """A pool of connections; opens none yet."""
    limit, lock_limit = (READ_TIMEOUT, READ_TIMEOUT) if read_only else (STATEMENT_TIMEOUT, LOCK_TIMEOUT)
    server_settings = {
        "application_name": "visitor",
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": str(limit * 1000),
        "lock_timeout": str(lock_limit * 1000),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT * 1000),
        "default_transaction_read_only": "on" if read_only else "off",
    }
    engine = create_async_engine(
        make_url(settings.url.get_secret_value()),
        # What one read answers is of one moment, however many statements it takes.
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        pool_size=connections,
        max_overflow=0,
        pool_timeout=3600,
        hide_parameters=True,
        connect_args={
            "server_settings": server_settings,
            "timeout": 5,
            "command_timeout": limit + 5,
            "prepared_statement_cache_size": 500,
        },
    )
    sa.event.listen(engine.sync_engine, "handle_error", _leave_connection)
    return engine


_TOO_SLOW = "57014"
"""query_canceled, which is what statement_timeout raises."""
_READ_ONLY = "25006"
"""read_only_sql_transaction, which is what a write meets at a standby."""
_PASSING = (
    "08",  # connection exceptions
    "40",  # serialization failure, deadlock
    "53",  # insufficient resources
    "55P03",  # lock not available
    "57",  # operator intervention: shutdown, statement timeout
    "58",  # system errors
    "25P03",  # idle in transaction session timeout
    _READ_ONLY,
)
"""SQLSTATE classes and codes (PostgreSQL manual, appendix A) after which the same work can succeed."""
_OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""What prepared statements meet after a column's type was changed, and composite values after their type was. The first
has SQLSTATE 0A000, which else does not pass: what PostgreSQL cannot do, it cannot do the next time either."""


class Repeat(Exception):
    """The work met another transaction's and is to be done again from its start."""


def is_too_slow(error: BaseException) -> bool:
    """Whether a statement took longer than it may."""
    cause = _cause(error)
    return isinstance(cause, TimeoutError) or _sqlstate(cause) == _TOO_SLOW


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later with nothing changed: no database, a deadlock, a timeout."""
    if isinstance(error, (Repeat, OSError, TimeoutError, PoolTimeout, asyncpg.InterfaceError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = _cause(error)
    if isinstance(cause, asyncpg.PostgresError):
        return _sqlstate(cause).startswith(_PASSING)
    return isinstance(cause, (OSError, TimeoutError, asyncpg.InterfaceError))


def _leave_connection(context: sa.engine.ExceptionContext) -> None:
    """Where a connection is of no use any more, the next attempt makes a new one: after a failover it may lead to what
    is a standby now, and after a change of the schema it remembers what statements answered before."""
    cause = _cause(context.sqlalchemy_exception)
    if _sqlstate(cause) == _READ_ONLY or isinstance(cause, _OUTDATED):
        context.is_disconnect = True


def _cause(error: BaseException | None) -> BaseException | None:
    """The driver's own exception."""
    if not isinstance(error, DBAPIError):
        return error
    return error.orig.__cause__ if error.orig is not None else None


def _sqlstate(cause: BaseException | None) -> str:
    return str(getattr(cause, "sqlstate", None) or "")
