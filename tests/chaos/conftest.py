"""Installations that a test module has for itself, so that it may kill servers and workers."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.servers import Choice, Kafka, Postgres, Servers, own_servers
from tests.support.stack import Stack, stack_on

KafkaAndPostgres = tuple[Kafka, Postgres]


@pytest.fixture(scope="module")
def kafka_and_postgres(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAndPostgres]:
    """The module's own servers. Tests may kill them and start them again."""
    with own_servers(choice, tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack(
    kafka_and_postgres: KafkaAndPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """The module's own installation, with migrations and topics and without processes."""
    kafka, postgres = kafka_and_postgres
    async with stack_on(Servers(kafka.bootstrap, postgres.url), tmp_path_factory.mktemp("stack")) as stack:
        yield stack
