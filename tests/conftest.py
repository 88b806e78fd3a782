"""One installation for all tests that do not break it: servers, a worker and an edge, started once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.servers import Choice, Servers, any_servers, choose
from tests.support.stack import Stack, eventually, stack_on
from topics import patches

patches.apply()

OWN_SERVERS = ("tests/chaos/", "tests/contract/test_fuzz.py")


class SideBySide(LoadScopeScheduling):
    """The two processes of `make test`: one for the tests that share an installation, one for those with servers of
    their own, which mostly wait for what they killed."""

    # Not by marks: pytest-xdist 3.8 loses them under pytest 9.2.
    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/chaos/test_stall.py"):
            return "shared"  # so that both take about as long
        return "own" if nodeid.startswith(OWN_SERVERS) else "shared"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SideBySide:
    return SideBySide(config, log)


_CHOICE = pytest.StashKey[Choice]()
_SERVERS = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Decides on the servers where a test needs any: before the tests, since pulling images may take longer than a
    test is given."""
    if not any("choice" in getattr(item, "fixturenames", ()) for item in session.items):
        return
    config = session.config
    config.stash[_CHOICE] = found = choose()
    config.stash[_SERVERS] = found.why
    if hasattr(config, "workeroutput"):  # one of the two processes, which have no terminal
        config.workeroutput["servers"] = found.why


def pytest_testnodedown(node: Any) -> None:
    told = getattr(node, "workeroutput", {}).get("servers")
    if told:
        node.config.stash[_SERVERS] = told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _SERVERS in config.stash:
        terminalreporter.write_line(f"Servers of the tests: {config.stash[_SERVERS]}.")


@pytest.fixture(scope="session")
def choice(pytestconfig: pytest.Config) -> Choice:
    return pytestconfig.stash[_CHOICE]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def servers(choice: Choice, home: Path) -> Iterator[Servers]:
    with any_servers(choice, home) as found:
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
