"""The connection to PostgreSQL, and which of its errors pass by themselves."""

import asyncpg
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

STATEMENT_TIMEOUT = 15
"""Seconds for one statement; well under Kafka's rebalance timeout (60), during which begun batches must end."""

IDLE_IN_TRANSACTION_TIMEOUT = 45
"""Seconds; longer than the publisher's wait for the broker (topics.kafka.SEND_LIMIT), during which it keeps its
transaction, and short enough that a frozen process gives up its locks."""


class DatabaseSettings(BaseModel):
    url: SecretStr = Field(
        SecretStr("postgresql+asyncpg://visitor@localhost:5432/visitor"),
        description="SQLAlchemy URL with the asyncpg driver; TLS by ?ssl=require.",
    )
    connections: int = Field(2, ge=1, description="Connections of a worker that apply requests.")
    query_connections: int = Field(2, ge=1, description="Connections of a worker that answer reads.")


def connect(settings: DatabaseSettings, *, connections: int, read_only: bool = False) -> AsyncEngine:
    """A pool of connections; opens none yet."""
    server_settings = {
        "application_name": "visitor",
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": str(STATEMENT_TIMEOUT * 1000),
        "lock_timeout": str(STATEMENT_TIMEOUT * 1000),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT * 1000),
        "default_transaction_read_only": "on" if read_only else "off",
    }
    return create_async_engine(
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
            "command_timeout": STATEMENT_TIMEOUT + 5,
            "prepared_statement_cache_size": 500,
        },
    )


_PASSING = (
    "08",  # connection exceptions
    "40",  # serialization failure, deadlock
    "53",  # insufficient resources
    "55P03",  # lock not available
    "57",  # operator intervention: shutdown, statement timeout
    "58",  # system errors
    "25P03",  # idle in transaction session timeout
)
"""SQLSTATE classes and codes (PostgreSQL manual, appendix A) after which the same work can succeed."""


_TOO_SLOW = "57014"
"""query_canceled, which is what statement_timeout raises."""


class Repeat(Exception):
    """The work met another transaction's and is to be done again from its start."""


def is_too_slow(error: BaseException) -> bool:
    """Whether a statement took longer than it may."""
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error
    return isinstance(cause, TimeoutError) or getattr(cause, "sqlstate", None) == _TOO_SLOW


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later with nothing changed: no database, a deadlock, a timeout."""
    if isinstance(error, (Repeat, OSError, TimeoutError, PoolTimeout, asyncpg.InterfaceError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = error.orig.__cause__ if error.orig is not None else None
    if isinstance(cause, asyncpg.PostgresError):
        return str(cause.sqlstate).startswith(_PASSING)
    return isinstance(cause, (OSError, TimeoutError, asyncpg.InterfaceError))
