"""One installation for all tests that do not break it: servers, a worker and an edge, started once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.support.servers import Servers, any_servers
from tests.support.stack import Stack, eventually, stack_on

CHAOS = Path(__file__).parent / "chaos"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The two groups that `make test` runs side by side, in a process each: tests with servers of their own, which
    mostly wait for what was killed, and those that share one installation, which mostly compute."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("chaos" if CHAOS in item.path.parents else "shared"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def servers(home: Path) -> Iterator[Servers]:
    with any_servers(home) as found:
        yield found


@pytest_asyncio.fixture(scope="session")
async def stack(servers: Servers, home: Path) -> AsyncIterator[Stack]:
    """A ready worker and a ready edge; shared, so a test uses entities of its own and leaves the processes alone."""
    async with stack_on(servers, home) as found:
        worker = found.worker()
        edge, found.url = found.edge()
        await eventually("a ready worker", worker.ready)
        await eventually("a ready edge", edge.ready)
        yield found


@pytest_asyncio.fixture(scope="session")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as found:
        yield found
