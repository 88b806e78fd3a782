"""The installations of the tests: one for all tests that leave its processes alone, and one for each module that kills
processes or needs an empty installation."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.leftovers import end_leftovers
from tests.support.servers import Choice, KafkaAndPostgres, Servers, any_servers, are_named, choose, own_servers
from tests.support.stack import Stack, eventually, stack_on
from topics import patches

patches.apply()

# On a busy machine, one example may take longer than the 200 ms that Hypothesis allows. All else is as Hypothesis has
# chosen it, which loads its profile `ci` in CI.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

# A shell starts background commands with SIGINT ignored, and all their children inherit that. Some tests interrupt
# programs with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = "tests/integration/"
SECOND_HALF = f"{SHARED}test_every_operation.py"
"""This module and those after it take as long as those before it."""
LONG_MODULES = ("test_outages", "test_dev", "test_releases", "test_unavailable_topics", "test_kill", "test_processes")
LONGEST_FIRST = (
    SHARED, *(f"tests/chaos/{module}.py" for module in LONG_MODULES), "tests/chaos/", "tests/contract/", "tests/unit/",
)  # fmt: skip


class SideBySide(LoadScopeScheduling):
    """The processes of `make test` and `make faults`: two run the tests that share an installation, each one half of
    the modules on an installation of its own; the others run one module after the other. Modules that start their own
    servers mostly wait for restarts, so that there may be more processes than cores."""

    # Marks would be shorter, but pytest-xdist 3.8 loses them under pytest 9.2.
    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if not module.startswith(SHARED):
            return module
        return "shared" if are_named() or module < SECOND_HALF else "shared, second half"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # This is the main process.
        end_leftovers()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SideBySide:
    config.option.loadscopereorder = False  # It would begin with the modules that have the most tests.
    return SideBySide(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Short modules come last, so that all processes end at about the same time."""
    items.sort(key=lambda item: next(n for n, folder in enumerate((*LONGEST_FIRST, "")) if folder in item.nodeid))


_CHOICE = pytest.StashKey[Choice]()
_REASON = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Choose the servers if a test needs them. This happens before the tests, because pulling images may take longer
    than the time limit of a test."""
    if not any("choice" in getattr(item, "fixturenames", ()) for item in session.items):
        return
    config = session.config
    choice = choose()
    config.stash[_CHOICE] = choice
    config.stash[_REASON] = choice.reason
    if hasattr(config, "workeroutput"):  # This is one of the processes. The main process prints the reason.
        config.workeroutput["servers"] = choice.reason


def pytest_testnodedown(node: Any) -> None:
    reason = getattr(node, "workeroutput", {}).get("servers")
    if reason:
        node.config.stash[_REASON] = reason


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _REASON in config.stash:
        terminalreporter.write_line(f"Servers of the tests: {config.stash[_REASON]}.")


@pytest.fixture(scope="session")
def choice(pytestconfig: pytest.Config) -> Choice:
    return pytestconfig.stash[_CHOICE]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def servers(choice: Choice, home: Path) -> Iterator[Servers]:
    with any_servers(choice, home) as test_servers:
        yield test_servers


@pytest_asyncio.fixture(scope="session")
async def stack(servers: Servers, home: Path) -> AsyncIterator[Stack]:
    """An installation with a ready worker, which allows the reply topics crm.*.replies and writes an audit log, and
    a ready edge. Tests share it: each creates its own entities and leaves the processes alone."""
    async with stack_on(servers, home) as shared_stack:
        worker = shared_stack.worker(
            VISITOR_WORKER_REPLY_TOPICS="crm.*.replies", VISITOR_LOG_AUDIT=str(shared_stack.audit_log)
        )
        edge, shared_stack.url = shared_stack.edge()
        await eventually("a ready worker", worker.ready)
        await eventually("a ready edge", edge.ready)
        yield shared_stack


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


@pytest_asyncio.fixture(scope="session")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http_client:
        yield http_client
