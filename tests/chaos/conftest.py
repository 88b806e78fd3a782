"""Installations of their own, whose servers and workers a test may kill."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.servers import Choice, Kafka, Postgres, Servers, own_servers
from tests.support.stack import Stack, stack_on

Killable = tuple[Kafka, Postgres]


@pytest.fixture(scope="module")
def killable(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    """Kafka and PostgreSQL that may be killed and started again."""
    with own_servers(choice, tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lonely(killable: Killable, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A prepared installation without any process of ours."""
    kafka, postgres = killable
    async with stack_on(Servers(kafka.bootstrap, postgres.url), tmp_path_factory.mktemp("stack")) as found:
        yield found
