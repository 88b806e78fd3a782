"""The servers that the tests run on: those named in the environment, else containers, else the embedded ones."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.dev import servers as embedded
from tests.support import containers

KAFKA = "VISITOR_TEST_KAFKA"
DATABASE = "VISITOR_TEST_DATABASE"
DOWNLOADS = Path(__file__).parents[2] / ".visitor" / "downloads"


class Server(Protocol):
    """May be stopped or killed, and started again at the same address and with its data."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Kafka(Server, Protocol):
    @property
    def bootstrap(self) -> str: ...


class Postgres(Server, Protocol):
    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Servers:
    """`database` is the SQLAlchemy URL of an empty database, `kafka` the bootstrap address of a broker without our
    topics."""

    kafka: str
    database: str


@dataclass(frozen=True)
class Choice:
    """Whether servers run in containers, and why, in one line."""

    containers: bool
    why: str


def choose() -> Choice:
    """May pull images, which takes minutes."""
    try:
        containers.prepare()
    except containers.NoContainers as error:
        return Choice(False, f"embedded, since {error}")
    return Choice(True, f"containers of {' and '.join(containers.images())}")


@contextmanager
def own_servers(choice: Choice, home: Path) -> Iterator[tuple[Kafka, Postgres]]:
    """Servers of one's own, which may be killed and started again. They keep their files in `home` where they are
    embedded."""
    with _in_containers() if choice.containers else _as_processes(home) as found:
        yield found


@contextmanager
def any_servers(choice: Choice, home: Path) -> Iterator[Servers]:
    """Raises where there are none; a missing server fails the tests."""
    if KAFKA in os.environ or DATABASE in os.environ:
        yield Servers(os.environ[KAFKA], os.environ[DATABASE])
        return
    with own_servers(choice, home) as (kafka, postgres):
        yield Servers(kafka.bootstrap, postgres.url)


@contextmanager
def _in_containers() -> Iterator[tuple[Kafka, Postgres]]:
    kafka, postgres = containers.Kafka(), containers.Postgres()
    with ExitStack() as stack:
        for server in (postgres, kafka):
            stack.callback(server.remove)
            server.start()
        yield kafka, postgres


@contextmanager
def _as_processes(home: Path) -> Iterator[tuple[Kafka, Postgres]]:
    children = embedded.Processes(home)
    kafka = embedded.Kafka(home, DOWNLOADS, children)
    postgres = embedded.Postgres(home, children, durable=False)
    with ExitStack() as stack:
        for server in (postgres, kafka):
            stack.callback(server.stop)
            server.start()
        yield kafka, postgres
