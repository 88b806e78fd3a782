"""Kafka and PostgreSQL in containers, of the images that docker-compose.yml names."""

import contextlib
import gc
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.wait_strategies import ExecWaitStrategy

from runtime.dev.servers.kafka import IMPATIENT, ONE_BROKER
from runtime.dev.servers.processes import free_port

_COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
_START_SECONDS = 90
_STOP_SECONDS = 20
_USER = "visitor"


def images() -> tuple[str, str]:
    """The images of Kafka and PostgreSQL."""
    services = yaml.safe_load(_COMPOSE.read_text())["services"]
    return services["kafka"]["image"], services["postgres"]["image"]


class NoContainers(Exception):
    """Docker does not answer, or cannot have an image; says which, and what to do, in one line."""


def prepare() -> None:
    """Pull the images that are missing; may take minutes. Raises NoContainers."""
    with _client() as client:
        for image in images():
            _pull(client, image)
        if not testcontainers_config.ryuk_disabled:
            try:
                _pull(client, testcontainers_config.ryuk_image)
            except NoContainers:
                # It removes the containers of a test run that was killed; the tests themselves do not need it.
                testcontainers_config.ryuk_disabled = True


def _pull(client: DockerClient, image: str) -> None:
    name = testcontainers_config.hub_image_name_prefix + image
    try:
        try:
            client.client.images.get(name)
        except ImageNotFound:
            sys.stderr.write(f"Docker pulls {name}, which may take minutes, once.\n")
            client.client.images.pull(name)
    except (DockerException, RequestException) as error:
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())[:200]
        raise NoContainers(f"Docker cannot pull {name}; `docker pull {name}` tells more ({reason})") from error


@contextmanager
def _client() -> Iterator[DockerClient]:
    with warnings.catch_warnings():
        # Where nobody answers, the client leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        client = _connected()
        gc.collect()
    if client is None:
        raise NoContainers("no Docker engine answers")
    with contextlib.closing(client.client):
        yield client


def _connected() -> DockerClient | None:
    try:
        return DockerClient()
    except DockerException:
        return None


class Container:
    """A server that may be killed and started again, at the same address and with its data."""

    def __init__(self, container: DockerContainer, ready: list[str]) -> None:
        self._ready = ExecWaitStrategy(ready).with_startup_timeout(_START_SECONDS).with_poll_interval(0.2)
        self._container = container.waiting_for(self._ready)
        self._created = False

    def start(self) -> None:
        """Returns once it answers."""
        if self._created:
            self._container.get_wrapped_container().start()
            self._ready.wait_until_ready(self._container)
        else:
            self._created = True
            self._container.start()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=_STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL at once, as a crash would."""
        self._container.get_wrapped_container().kill()
        self._container.wait()

    def remove(self) -> None:
        self._container.stop()


class Kafka(Container):
    """`settings` are the broker's, beside those that the embedded one has."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        # One port inside and outside, so that the address which the broker tells its clients is right in both.
        port = free_port()
        container = DockerContainer(images()[0])
        self.bootstrap = f"{container.get_docker_client().host()}:{port}"
        all_settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": "1@localhost:9093",
            "listeners": f"PLAINTEXT://:{port},CONTROLLER://:9093",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            **ONE_BROKER,
            **IMPATIENT,
            **(settings or {}),
        }
        container.with_bind_ports(port, port).with_env("KAFKA_HEAP_OPTS", "-Xmx512m")
        for name, value in all_settings.items():
            container.with_env(f"KAFKA_{name.upper().replace('.', '_')}", value)
        tool = "/opt/kafka/bin/kafka-broker-api-versions.sh"
        super().__init__(container, [tool, "--bootstrap-server", f"localhost:{port}"])


class Postgres(Container):
    """As embedded for tests: without fsync."""

    def __init__(self) -> None:
        self._server = PostgresContainer(
            images()[1], username=_USER, password=secrets.token_hex(16), dbname=_USER, driver="asyncpg"
        )
        self._server.with_bind_ports(self._server.port, free_port()).with_env("LANG", "C.UTF-8")
        self._server.with_command(["postgres", "-c", "fsync=off"])
        # Not on localhost, where the image's start script has a server of its own for a moment.
        super().__init__(self._server, ["sh", "-c", f'pg_isready --host "$HOSTNAME" --username {_USER}'])

    @property
    def url(self) -> str:
        return self._server.get_connection_url()
