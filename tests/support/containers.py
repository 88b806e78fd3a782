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
from aiokafka import TopicPartition
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
_KAFKA_DATA = "/tmp/kafka-data"


def images() -> tuple[str, str]:
    """The images of Kafka and PostgreSQL."""
    services = yaml.safe_load(_COMPOSE.read_text())["services"]
    return services["kafka"]["image"], services["postgres"]["image"]


class NoContainers(Exception):
    """Docker does not answer or cannot pull an image. The message has one line that says what to do."""


def prepare() -> None:
    """Pull the missing images, which may take minutes. Raises NoContainers."""
    with _client() as client:
        for image in images():
            _pull(client, image)
        if not testcontainers_config.ryuk_disabled:
            try:
                _pull(client, testcontainers_config.ryuk_image)
            except NoContainers:
                # Ryuk removes the containers of a killed test run. The tests also work without it.
                testcontainers_config.ryuk_disabled = True


def _pull(client: DockerClient, image: str) -> None:
    name = testcontainers_config.hub_image_name_prefix + image
    try:
        try:
            client.client.images.get(name)
        except ImageNotFound:
            sys.stderr.write(f"Docker pulls {name}. This happens once and may take minutes.\n")
            client.client.images.pull(name)
    except (DockerException, RequestException) as error:
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())[:200]
        raise NoContainers(f"Docker cannot pull {name}; run `docker pull {name}` for details ({reason})") from error


@contextmanager
def _client() -> Iterator[DockerClient]:
    with warnings.catch_warnings():
        # If Docker does not answer, the client never closes its socket, and the garbage collector warns about it.
        warnings.simplefilter("ignore", ResourceWarning)
        client = _connect()
        gc.collect()
    if client is None:
        raise NoContainers("no Docker engine answers")
    with contextlib.closing(client.client):
        yield client


def _connect() -> DockerClient | None:
    try:
        return DockerClient()
    except DockerException:
        return None


class Container:
    """A server in a container; see `tests.support.servers.Server`. `ready_command` exits with 0 when it is ready."""

    def __init__(self, container: DockerContainer, ready_command: list[str]) -> None:
        self._ready = ExecWaitStrategy(ready_command).with_startup_timeout(_START_SECONDS).with_poll_interval(0.2)
        self._container = container.waiting_for(self._ready)
        self._created = False

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        if self._created:
            self._container.get_wrapped_container().start()
            self._ready.wait_until_ready(self._container)
        else:
            self._created = True
            self._container.start()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=_STOP_SECONDS)

    def kill(self) -> None:
        """Send SIGKILL, which has the effect of a crash."""
        self._container.get_wrapped_container().kill()
        self._container.wait()

    def remove(self) -> None:
        self._container.stop()


class Kafka(Container):
    """A broker with the settings of the embedded broker, and `settings`."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        # The container's port and the host's are the same, so that the advertised address works inside and outside.
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
            "log.dirs": _KAFKA_DATA,
            **ONE_BROKER,
            **IMPATIENT,
            **(settings or {}),
        }
        container.with_bind_ports(port, port).with_env("KAFKA_HEAP_OPTS", "-Xmx512m")
        for name, value in all_settings.items():
            container.with_env(f"KAFKA_{name.upper().replace('.', '_')}", value)
        script = "/opt/kafka/bin/kafka-broker-api-versions.sh"
        super().__init__(container, [script, "--bootstrap-server", f"localhost:{port}"])

    def suspend(self) -> None:
        self._container.get_wrapped_container().kill("SIGSTOP")

    def resume(self) -> None:
        self._container.get_wrapped_container().kill("SIGCONT")

    def delete_log(self, partition: TopicPartition) -> None:
        code, output = self._container.exec(["rm", "-r", f"{_KAFKA_DATA}/{partition.topic}-{partition.partition}"])
        assert code == 0, output


class Postgres(Container):
    """PostgreSQL without fsync, like the embedded one for tests."""

    def __init__(self) -> None:
        self._server = PostgresContainer(
            images()[1], username=_USER, password=secrets.token_hex(16), dbname=_USER, driver="asyncpg"
        )
        self._server.with_bind_ports(self._server.port, free_port()).with_env("LANG", "C.UTF-8")
        self._server.with_command(["postgres", "-c", "fsync=off"])
        # Not localhost: the image's entry point first runs a temporary server, which listens there only.
        super().__init__(self._server, ["sh", "-c", f'pg_isready --host "$HOSTNAME" --username {_USER}'])

    @property
    def url(self) -> str:
        return self._server.get_connection_url()
