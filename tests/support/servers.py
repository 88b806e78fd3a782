"""The servers that the tests run on: those named in the environment, else containers, else the embedded ones."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.dev.servers import Kafka, Postgres, Processes

KAFKA = "VISITOR_TEST_KAFKA"
DATABASE = "VISITOR_TEST_DATABASE"
DOWNLOADS = Path(__file__).parents[2] / ".visitor" / "downloads"


@dataclass(frozen=True)
class Servers:
    """`database` is the SQLAlchemy URL of an empty database, `kafka` the bootstrap address of a broker without our
    topics."""

    kafka: str
    database: str


@contextmanager
def any_servers(home: Path) -> Iterator[Servers]:
    """Raises where there are none; a missing server fails the tests."""
    if KAFKA in os.environ or DATABASE in os.environ:
        yield Servers(os.environ[KAFKA], os.environ[DATABASE])
    elif _docker_answers():
        with _containers() as found:
            yield found
    else:
        with embedded(home) as (kafka, postgres):
            yield Servers(kafka.bootstrap, postgres.url)


@contextmanager
def embedded(home: Path) -> Iterator[tuple[Kafka, Postgres]]:
    """Servers of one's own, which may be killed and started again."""
    processes = Processes(home)
    kafka = Kafka(home, DOWNLOADS, processes)
    postgres = Postgres(home, processes, durable=False)
    try:
        postgres.start()
        kafka.start()
        yield kafka, postgres
    finally:
        kafka.stop()
        postgres.stop()


def _docker_answers() -> bool:
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        # Where nobody answers, the client leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            docker.from_env().close()
        except DockerException:
            return False
        finally:
            gc.collect()
    return True


@contextmanager
def _containers() -> Iterator[Servers]:
    from testcontainers.kafka import KafkaContainer
    from testcontainers.postgres import PostgresContainer

    with (
        KafkaContainer("confluentinc/cp-kafka:8.0.0").with_kraft() as kafka,
        PostgresContainer("postgres:18", driver="asyncpg", dbname="visitor") as postgres,
    ):
        yield Servers(kafka.get_bootstrap_server(), postgres.get_connection_url())
