"""The servers that the tests run on: those that the environment names, else containers, else embedded servers."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
from aiokafka import TopicPartition

from runtime.dev import servers as embedded
from tests.support import containers

KAFKA = "VISITOR_TEST_KAFKA"
DATABASE = "VISITOR_TEST_DATABASE"
DOWNLOADS = Path(__file__).parents[2] / ".visitor" / "downloads"


class Server(Protocol):
    """A server that can be stopped or killed. A new start keeps its address and its data."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class Kafka(Server, Protocol):
    @property
    def bootstrap(self) -> str: ...

    def suspend(self) -> None:
        """Stop the process where it is, as a host does that swaps."""

    def resume(self) -> None: ...

    def delete_log(self, partition: TopicPartition) -> None:
        """Delete the records of a partition from the disk. Kill the broker afterwards; its offsets then begin again."""


class Postgres(Server, Protocol):
    @property
    def url(self) -> str: ...


KafkaAndPostgres = tuple[Kafka, Postgres]


@dataclass(frozen=True)
class Servers:
    """`database` is the SQLAlchemy URL of an empty database, `kafka` the bootstrap address of a broker without the
    service's topics."""

    kafka: str
    database: str


@dataclass(frozen=True)
class Choice:
    """Whether the servers run in containers. `reason` is one line for the developer."""

    containers: bool
    reason: str


def are_named() -> bool:
    """True if the environment names the servers."""
    return KAFKA in os.environ or DATABASE in os.environ


def choose() -> Choice:
    """Choose containers if Docker has their images or can pull them. Pulling takes minutes."""
    try:
        containers.prepare()
    except containers.NoContainers as error:
        return Choice(False, f"embedded, since {error}")
    return Choice(True, f"containers of {' and '.join(containers.images())}")


@contextmanager
def own_servers(
    choice: Choice, home: Path, kafka_settings: Mapping[str, str] | None = None
) -> Iterator[KafkaAndPostgres]:
    """Start servers that one test module has for itself, so that it may kill them. Embedded servers keep their files in
    `home`. `kafka_settings` are settings of the broker."""
    postgres = containers.Postgres() if choice.containers else _embedded_postgres(home)
    with _started(postgres), own_kafka(choice, home, kafka_settings) as kafka:
        yield kafka, postgres


@contextmanager
def own_kafka(choice: Choice, home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Kafka]:
    """Like `own_servers`, with a broker only. `settings` are settings of the broker."""
    kafka = containers.Kafka(settings) if choice.containers else _embedded_kafka(home, settings)
    with _started(kafka):
        yield kafka


@contextmanager
def any_servers(choice: Choice, home: Path) -> Iterator[Servers]:
    """The servers that the environment names, or new ones. Raises if they do not start, so that the tests fail."""
    if are_named():
        yield Servers(os.environ[KAFKA], os.environ[DATABASE])
        return
    with own_servers(choice, home) as (kafka, postgres):
        yield Servers(kafka.bootstrap, postgres.url)


def _embedded_kafka(home: Path, settings: Mapping[str, str] | None) -> embedded.Kafka:
    return _EmbeddedKafka(home, DOWNLOADS, embedded.Processes(home), settings=settings)


class _EmbeddedKafka(embedded.Kafka):
    def suspend(self) -> None:
        psutil.Process(self._processes.pid("kafka")).suspend()

    def resume(self) -> None:
        psutil.Process(self._processes.pid("kafka")).resume()

    def delete_log(self, partition: TopicPartition) -> None:
        shutil.rmtree(self._home / "data" / f"{partition.topic}-{partition.partition}")


def _embedded_postgres(home: Path) -> embedded.Postgres:
    return embedded.Postgres(home, embedded.Processes(home), durable=False)


@contextmanager
def _started(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        if isinstance(server, containers.Container):
            server.remove()
        else:
            server.stop()
