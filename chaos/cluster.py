"""Brokers, PostgreSQL, workers and edges for a chaos run, with a TCP proxy between any two of them."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Literal
from uuid import uuid4

import httpx
import psutil
from sqlalchemy.engine import make_url

from chaos.clocks import Clock, remove_leftovers
from chaos.disks import Disk
from chaos.oracle import Violation
from chaos.replication import ReplicatedPostgres
from runtime.dev.servers import Kafka, Processes
from runtime.dev.servers.processes import free_port
from tests.support.proxy import Proxy
from tests.support.servers import DOWNLOADS, Servers
from tests.support.stack import Process, Stack, bare_stack_on, eventually

WORKERS = ("worker-0", "worker-1")
EXTRA_WORKER = "worker-2"
"""Runs only while a fault makes the groups rebalance."""
EDGES = ("edge-0", "edge-1")
CALLERS = "callers"
"""The HTTP callers as clients of the edges."""
OPERATOR = "operator"
"""The commands of an operator."""
CLIENTS = (*WORKERS, EXTRA_WORKER, *EDGES, OPERATOR)
POSTGRES = "postgres"
STANDBY = "standby"
REPLICATION = "replication"
"""The brokers as clients of each other. Their links are by the broker that is connected to."""
CONTROLLER = "controller"
"""The same for the controllers, which elect one of them."""
START_SECONDS = 90.0
STOP_SECONDS = 60.0
"""How long a process has to end after SIGTERM until it is killed, as a service manager does."""
NEXT_RELEASE = "tests.support.next_release"

log = logging.getLogger(__name__)


@dataclass
class Member:
    """A worker or an edge. `process` changes with each restart."""

    name: str
    process: Process
    url: str
    expected_to_end: bool = False
    """True while a fault ends the process."""
    lacked_files: bool = False
    """True if a fault took the file descriptors of the process. One that starts may end then."""


@dataclass
class Cluster:
    """A running installation. `brokers`, `postgres` (the primary) and `standby` are the servers, `links` the
    proxies by client and server."""

    stack: Stack
    brokers: dict[str, Kafka]
    postgres: ReplicatedPostgres
    standby: ReplicatedPostgres
    server_processes: dict[str, Processes]
    links: dict[tuple[str, str], Proxy]
    disks: dict[str, Disk]
    """By server."""
    clocks: dict[str, Clock]
    """By worker and edge."""
    worker_modules: dict[str, str]
    """By worker, the program with which it starts next time."""
    members: dict[str, Member] = field(default_factory=dict)
    standbys: int = 0
    own_exits: Counter[str] = field(default_factory=Counter)
    """How often processes ended although no fault ended them, by kind and exit status."""
    peak_memory: Counter[str] = field(default_factory=Counter)
    """The highest resident set size of each worker and edge, in bytes."""

    @property
    def logs(self) -> Path:
        return self.stack.home

    @property
    def bootstrap(self) -> str:
        """Addresses of the brokers without proxies, for the clients of the run itself."""
        return self.stack.servers.kafka

    @property
    def topic_settings(self) -> dict[str, Any]:
        replicas = len(self.brokers)
        return {
            "VISITOR_KAFKA_REPLICATION": str(replicas), "VISITOR_KAFKA_MIN_INSYNC": str(min(replicas, 2)),
        }  # fmt: skip

    def database_url(self, client: str) -> str:
        """The URL of the primary through the client's proxy."""
        url = make_url(self.stack.servers.database).set(port=self.links[client, POSTGRES].port)
        return url.render_as_string(hide_password=False)

    async def succeeds(self, command: str) -> bool:
        """True if a `visitor` command ends with status 0; `visitor topics` does once all brokers are registered."""
        return (await self.stack.command(command, **self.topic_settings)).returncode == 0

    async def diagnosis(self) -> str:
        """What the health checks of all workers and edges and `visitor doctor` say."""
        lines = []
        async with httpx.AsyncClient(timeout=10) as client:
            for name, member in self.members.items():
                try:
                    health = (await client.get(member.process.health_url)).text
                except httpx.HTTPError as error:
                    health = repr(error)
                lines.append(f"{name} ({member.process.log.name}): {health}")
        doctor = await self.stack.command(
            "doctor", VISITOR_DATABASE_URL=self.database_url(OPERATOR), **self.topic_settings
        )
        return "\n".join([*lines, doctor.stdout])

    def edge_urls(self) -> list[str]:
        """The URLs of the edges without proxies, for the run itself."""
        return [self.members[name].url for name in EDGES]

    def callers_urls(self) -> list[str]:
        """The URLs of the edges for HTTP callers."""
        return [f"http://127.0.0.1:{self.links[CALLERS, name].port}" for name in EDGES]

    def start(self, name: str) -> Member:
        """Start a worker or an edge. It may not be ready yet."""
        bootstrap = ",".join(f"127.0.0.1:{self.links[name, broker].port}" for broker in self.brokers)
        remove_leftovers()
        settings = {"VISITOR_KAFKA_BOOTSTRAP": bootstrap, **self.clocks[name].environment}
        if name in EDGES:
            process, url = self.stack.edge(**settings)
            self.links[CALLERS, name].target = ("127.0.0.1", httpx.URL(url).port or 0)
        else:
            process = self.stack.worker(
                self.worker_modules[name], VISITOR_DATABASE_URL=self.database_url(name), **settings
            )
            url = process.health_url
        self.members[name] = Member(name, process, url)
        return self.members[name]

    @contextmanager
    def ending(self, name: str) -> Iterator[Member]:
        """Let a process end without counting this as an exit of its own."""
        member = self.members[name]
        member.expected_to_end = True
        yield member

    async def stop(self, name: str) -> None:
        """Send a worker or an edge SIGTERM, and wait until it has ended."""
        with self.ending(name) as member:
            if member.process.child.poll() is not None:
                return
            try:
                await asyncio.to_thread(member.process.terminate, STOP_SECONDS)
            except TimeoutExpired:
                self.own_exits[f"{name.partition('-')[0]}, killed {STOP_SECONDS:.0f} s after SIGTERM"] += 1
                await asyncio.to_thread(member.process.kill)

    def pid(self, name: str) -> int:
        """The process id of a worker, an edge or a server."""
        if name in self.members:
            return self.members[name].process.child.pid
        return self.server_processes[name].pid("kafka" if name in self.brokers else "postgres")

    def suspend(self, name: str) -> int:
        """Send SIGSTOP to a process and its children, and return how many got it: PostgreSQL has one for each
        connection."""
        count = 0
        for process in self._family(name):
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                count += 1
        return count

    def resume(self, name: str) -> None:
        for process in self._family(name):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _family(self, name: str) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid(name))
            return [process, *process.children(recursive=True)]
        return []

    async def keep_servers_running(self) -> None:
        """Start the servers that end after the faults of a round. Not for use while faults stop servers."""
        while True:
            for name in (*self.brokers, POSTGRES, STANDBY):
                await self.start_if_ended(name)
            await asyncio.sleep(1)

    async def start_if_ended(self, name: str) -> None:
        """Start a broker or PostgreSQL again if a fault made it end."""
        kind = "kafka" if name in self.brokers else "postgres"
        if not self.server_processes[name].alive(kind):
            await asyncio.to_thread(self._server(name).start)

    def _server(self, name: str) -> Kafka | ReplicatedPostgres:
        return self.standby if name == STANDBY else self.brokers.get(name, self.postgres)

    async def restart_server(self, name: str, ending: Literal["stop", "kill"], seconds_down: float) -> None:
        """Stop or kill a broker or PostgreSQL, and start it again with its data."""
        server = self._server(name)
        await asyncio.to_thread(server.stop if ending == "stop" else server.kill)
        await asyncio.sleep(seconds_down)
        await asyncio.to_thread(server.start)

    async def fail_over(self) -> None:
        """Kill the primary, promote the standby, lead the proxies to it, and give it a new standby."""
        await asyncio.to_thread(self.postgres.kill)
        await self.standby.promote()
        for client in (*CLIENTS, STANDBY):
            self.links[client, POSTGRES].target = ("127.0.0.1", self.standby.port)
        self.disks[POSTGRES].unmount()
        self.postgres = self.standby
        self.server_processes[POSTGRES] = self.server_processes.pop(STANDBY)
        self.disks[POSTGRES] = self.disks.pop(STANDBY)
        await self.add_standby()

    async def add_standby(self) -> None:
        """Give the primary a standby, which each commit waits for."""
        self.standbys += 1
        home = self.logs / f"{STANDBY}-{self.standbys}"
        self.disks[STANDBY] = _mount_postgres_disk(home)
        self.server_processes[STANDBY] = Processes(home)
        self.standby = ReplicatedPostgres(home, self.server_processes[STANDBY], durable=False)
        await asyncio.to_thread(self.standby.copy, self.postgres, self.links[STANDBY, POSTGRES].port)
        await asyncio.to_thread(self.standby.start)
        await self.postgres.replicate_synchronously()

    async def supervise(self) -> None:
        """Restart the processes that end by themselves, as a service manager does, and watch the memory. Raises
        Violation."""
        while True:
            for member in list(self.members.values()):
                if member.expected_to_end:
                    continue
                status = member.process.child.poll()
                if status is not None:
                    self._note_own_exit(member, status)
                    self.start(member.name)
                    continue
                with suppress(psutil.NoSuchProcess):
                    memory = psutil.Process(member.process.child.pid).memory_info().rss
                    self.peak_memory[member.name] = max(self.peak_memory[member.name], memory)
            await asyncio.sleep(0.5)

    def _note_own_exit(self, member: Member, status: int) -> None:
        """Raises Violation unless a fault took its file descriptors from the process."""
        self.own_exits[f"{member.name.partition('-')[0]}, status {status}"] += 1
        log.warning("%s ended with status %d: %s", member.name, status, member.process.log)
        if not member.lacked_files:
            text = member.process.log.read_text()[-3000:]
            raise Violation("no process ends by itself that may open files", f"{member.name}, {status}\n{text}")

    async def ready(self, name: str) -> bool:
        """True if the process answers its health check with 200. False if it has ended."""
        member = self.members[name]
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient() as client:
                return (await client.get(member.process.health_url, timeout=5)).status_code == 200
        return False


@asynccontextmanager
async def running(home: Path, brokers: int, worker_module: str) -> AsyncIterator[Cluster]:
    """Start everything, and stop it at the end. The logs of all processes are in `home`. `worker_module` is the program
    of the workers."""
    async with AsyncExitStack() as exits:
        exits.callback(remove_leftovers)
        disks: dict[str, Disk] = {}
        exits.callback(_unmount, disks)
        server_processes = {name: Processes(home / name) for name in (*_names(brokers), POSTGRES)}
        disks[POSTGRES] = _mount_postgres_disk(home / POSTGRES)
        for name in _names(brokers):
            disks[name] = Disk(home / name / "kafka" / "data")
            disks[name].mount()
        postgres = ReplicatedPostgres(home / POSTGRES, server_processes[POSTGRES], durable=False)
        links, kafkas = await _linked_brokers(home, brokers, server_processes, exits)
        for client in (*CLIENTS, STANDBY):
            links[client, POSTGRES] = await exits.enter_async_context(Proxy("127.0.0.1", postgres.port).listening())
        for edge in EDGES:
            # `start` sets the port of the edge.
            links[CALLERS, edge] = await exits.enter_async_context(Proxy("127.0.0.1", 0).listening())
        exits.callback(_kill_servers, server_processes)
        started: list[Kafka | ReplicatedPostgres] = [postgres, *kafkas.values()]
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in started))

        servers = Servers(",".join(kafka.bootstrap for kafka in kafkas.values()), postgres.url)
        stack = await exits.enter_async_context(bare_stack_on(servers, home))
        modules = dict.fromkeys((*WORKERS, EXTRA_WORKER), worker_module)
        clocks = {name: Clock(home / "clocks" / name) for name in (*WORKERS, EXTRA_WORKER, *EDGES)}
        cluster = Cluster(stack, kafkas, postgres, postgres, server_processes, links, disks, clocks, modules)
        for command in ("migrate", "topics"):
            await eventually(f"visitor {command}", lambda command=command: cluster.succeeds(command), START_SECONDS)  # type: ignore[misc]
        await cluster.add_standby()
        for name in (*WORKERS, *EDGES):
            cluster.start(name)
        for name in (*WORKERS, *EDGES):
            await eventually(f"{name} ready", lambda name=name: cluster.ready(name), START_SECONDS)  # type: ignore[misc]
        yield cluster


def _mount_postgres_disk(home: Path) -> Disk:
    """A disk for the data of PostgreSQL. Its log stays outside, for those who read it after the run."""
    folder = home / "postgres"
    disk = Disk(folder)
    disk.mount()
    (folder / "postgres.log").symlink_to(home / "postgres.log")
    return disk


def _unmount(disks: Mapping[str, Disk]) -> None:
    for disk in disks.values():
        disk.unmount()


def _names(brokers: int) -> list[str]:
    return [f"kafka-{number}" for number in range(1, brokers + 1)]


async def _linked_brokers(
    home: Path, count: int, server_processes: dict[str, Processes], exits: AsyncExitStack
) -> tuple[dict[tuple[str, str], Proxy], dict[str, Kafka]]:
    """Brokers that have one listener for each client, which they advertise with the address of the client's proxy."""
    links: dict[tuple[str, str], Proxy] = {}
    kafkas = {}
    cluster_id = uuid4().hex[:22]
    clients = (CONTROLLER, REPLICATION, *CLIENTS)
    ports = {(client, name): free_port() for client in clients for name in _names(count)}
    for link, port in ports.items():
        links[link] = await exits.enter_async_context(Proxy("127.0.0.1", port).listening())
    voters = ",".join(
        f"{number}@127.0.0.1:{links[CONTROLLER, name].port}" for number, name in enumerate(_names(count), 1)
    )
    for number, name in enumerate(_names(count), 1):
        port = free_port()
        own = [f"PLAINTEXT://127.0.0.1:{port}"]
        listeners = [*own, *(f"{_listener(client)}://127.0.0.1:{ports[client, name]}" for client in clients)]
        advertised = [*own, *(f"{_listener(client)}://127.0.0.1:{links[client, name].port}" for client in clients)]
        protocols = ["PLAINTEXT", *map(_listener, clients)]
        settings = {
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(f"{protocol}:PLAINTEXT" for protocol in protocols),
            "inter.broker.listener.name": _listener(REPLICATION),
            "offsets.topic.replication.factor": str(count),
            "transaction.state.log.replication.factor": str(count),
            "transaction.state.log.min.isr": str(min(count, 2)),
        }
        kafkas[name] = Kafka(
            home / name, DOWNLOADS, server_processes[name], port=port, settings=settings, cluster_id=cluster_id
        )
    return links, kafkas


def _listener(client: str) -> str:
    return client.replace("-", "").upper()


def _kill_servers(server_processes: Mapping[str, Processes]) -> None:
    """Also those that a thread is about to start."""
    for processes in server_processes.values():
        processes.close()
        for name in ("kafka", "postgres"):
            if processes.alive(name):
                processes.kill(name)
