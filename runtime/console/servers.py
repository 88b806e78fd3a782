"""Access to Kafka and PostgreSQL whose failures are faults with a message for the operator."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
from aiokafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.faults import Unavailable
from storage.connecting import ConnectionFailed, WrongPooling
from topics.connection_errors import ConnectionRefused
from topics.kafka import DeliveryError
from topics.supervision import Interrupted, interruptions_raised

SEARCH_SECONDS = 30.0
"""How long a search in Kafka may take. A partition without a leader has no end."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def reading(database: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction. Raises Unavailable."""
    with _database_explained():
        async with database.connect() as conn:
            yield conn


@asynccontextmanager
async def writing(database: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """The same, with a commit at the end."""
    with _database_explained():
        async with database.begin() as conn:
            yield conn


@contextmanager
def _database_explained() -> Iterator[None]:
    """Raises Unavailable for an error of PostgreSQL."""
    try:
        yield
    except (SQLAlchemyError, ConnectionFailed, WrongPooling, OSError, TimeoutError) as error:
        log.warning("console_database_failed", error=type(error).__name__)
        message = "PostgreSQL does not answer, or its schema does not fit. `visitor doctor` says why."
        raise Unavailable("database_unavailable", message) from error


@contextmanager
def _kafka_explained() -> Iterator[None]:
    """Raises Unavailable for an error of Kafka."""
    try:
        with interruptions_raised():
            yield
    except (KafkaError, ConnectionRefused, DeliveryError, Interrupted, OSError, TimeoutError) as error:
        log.warning("console_kafka_failed", error=type(error).__name__, reason=str(error)[:200])
        message = f"Kafka does not answer, or refuses this user ({type(error).__name__}). See VISITOR_KAFKA_BOOTSTRAP."
        raise Unavailable("kafka_unavailable", message) from error


@asynccontextmanager
async def searching_kafka() -> AsyncIterator[None]:
    """At most `SEARCH_SECONDS`. Raises Unavailable for an error of Kafka."""
    with _kafka_explained():
        async with asyncio.timeout(SEARCH_SECONDS):
            yield
