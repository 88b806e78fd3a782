"""`visitor dev`: runs the whole service on this machine, with embedded servers, until Ctrl-C."""

import asyncio
import json
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from fasteners import InterProcessLock
from pydantic import SecretStr
from rich.console import Console
from rich.live import Live
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from agents.catalogue import CATALOGUE
from runtime import logs, overview, ports, status
from runtime.dev import sample
from runtime.dev.servers import Kafka, Postgres, Processes, ServerFailed, fetch_kafka
from runtime.health import LOOPBACK
from runtime.settings import Settings, WrongSetting
from runtime.simulation import run as simulator
from runtime.simulation.report import Report
from storage import migrate
from topics import admin, names, patches
from topics.kafka import DeliveryError, Producer, close_consumer
from topics.settings import KafkaSettings
from topics.supervision import Interrupted, TaskEnded, interruptions_raised, run_together

READY_SECONDS = 60.0
"""Limit for the start of worker and edge."""
COUNT_SECONDS = 2.0
"""Interval of the message counts on a terminal."""
COUNT_SECONDS_IN_FILES = 30.0
"""Interval of the message counts in other outputs, where each count is a new line."""
SIMULATION_SPEED = 300.0
"""Simulated seconds per second: a day takes five minutes."""
SIMULATION_RETRY_SECONDS = 5.0
CHILD_CHECK_SECONDS = 1.0
"""Interval of the checks that all child processes run."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXAMPLES = "examples.json"
_VARIABLES = "environment"
"""The file with the settings of the installation, for the shell."""
_DATA = ("postgres", "kafka", "processes.json", "worker.log", "edge.log", "sample.json", _EXAMPLES, _VARIABLES)
"""The entries of the home that `--reset` deletes: all that `visitor dev` creates, except the downloads. sample.json is
from earlier versions. Other files in the home belong to the user and stay."""
_PORTS = {"kafka": "VISITOR_DEV_KAFKA_PORT", "edge": "VISITOR_HTTP_PORT", "worker": "VISITOR_WORKER_HEALTH_PORT"}


def run(settings: Settings, *, reset: bool, simulation: bool) -> int:
    """Returns the exit status. All processes that it started have ended when it returns or raises."""
    if settings.http.keys is not None:
        raise WrongSetting("Unset VISITOR_HTTP_KEYS: `visitor dev` serves loopback only and needs no keys.")
    if settings.worker.health_port == 0:
        raise WrongSetting("Set VISITOR_WORKER_HEALTH_PORT to a port other than 0: `visitor dev` needs it.")
    patches.apply()
    console = Console(stderr=False, highlight=False)
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    lock = InterProcessLock(home / "lock")
    if not lock.acquire(blocking=False):
        console.print(
            f"visitor: another `visitor dev` runs in {home}; stop it, or choose another directory with VISITOR_HOME"
        )
        return 2
    dev = _Dev(settings, home, console)
    try:
        _handle_stop_signals()
        dev.prepare(reset=reset)
        asyncio.run(dev.serve(simulation=simulation))
    except KeyboardInterrupt:
        return 0
    except (ServerFailed, TaskEnded) as error:
        console.print(f"visitor: {error}", markup=False)
        return 1
    finally:
        # After asyncio.run, because it waits for the threads that start servers.
        dev.stop()
        lock.release()
    return 1


def _handle_stop_signals() -> None:
    """Handle SIGTERM and SIGHUP (a closed terminal) like Ctrl-C. SIGINT needs a handler too, because a shell starts its
    background jobs with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, _interrupt)


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


class _Dev:
    def __init__(self, settings: Settings, home: Path, console: Console) -> None:
        self._settings = settings
        self._home = home
        self._console = console
        self._processes = Processes(home)
        self._postgres: Postgres | None = None
        self._kafka: Kafka | None = None
        self._url = f"http://{LOOPBACK}:{settings.http.port}"
        self._changes = 0

    def prepare(self, *, reset: bool) -> None:
        """Do all that must precede the start of servers, such as the download. Raises PortTaken, ServerFailed."""
        leftovers = self._processes.end_leftovers()
        if leftovers:
            self._console.print(f"Ended processes of an earlier run: {', '.join(leftovers)}")
        if reset:
            self._delete_data()
        self._check_ports()
        fetch_kafka(self._home / "downloads")

    async def serve(self, *, simulation: bool) -> None:
        """Start everything, and run until cancelled. Raises ServerFailed, TaskEnded."""
        port = self._settings.dev.kafka_port
        self._postgres = Postgres(self._home, self._processes)
        self._kafka = Kafka(self._home, self._home / "downloads", self._processes, port=port)
        await self._start(self._postgres, self._kafka, simulation)

    def stop(self) -> None:
        """Stop all processes: the edge first, PostgreSQL last. Further signals are ignored meanwhile."""
        if self._kafka is None:
            return
        for signal_number in _STOP_SIGNALS:
            signal.signal(signal_number, signal.SIG_IGN)
        self._console.print("\nStopping …")
        self._processes.close()
        for name in ("edge", "worker"):
            self._processes.stop(name, signal.SIGTERM)
        for server in (self._kafka, self._postgres):
            if server is not None:
                server.stop()

    def _delete_data(self) -> None:
        for name in _DATA:
            entry = self._home / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _check_ports(self) -> None:
        ports.ensure_free(LOOPBACK, self._settings.http.port, _PORTS["edge"])
        ports.ensure_free(LOOPBACK, self._settings.dev.kafka_port, _PORTS["kafka"])
        ports.ensure_free(LOOPBACK, self._settings.worker.health_port, _PORTS["worker"])

    async def _start(self, postgres: Postgres, kafka: Kafka, simulation: bool) -> None:
        started_at = time.monotonic()
        self._warn_of_missing_data(postgres, kafka)
        self._console.print("Starting PostgreSQL and Kafka …")
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(kafka.start))
        environment = _environment(postgres, kafka, self._home / _EXAMPLES)
        kafka_settings = KafkaSettings(
            bootstrap=kafka.bootstrap, partitions=self._settings.kafka.partitions, replication=1, min_insync=1
        )
        database_settings = self._settings.database.model_copy(update={"url": SecretStr(postgres.url)})
        for name in ("worker", "edge"):
            argv = [sys.executable, "-m", "runtime.cli", name]
            self._processes.spawn(name, argv, log=self._home / f"{name}.log", env=environment)
        specs = CATALOGUE.topics(kafka_settings)
        await asyncio.gather(migrate.upgrade(database_settings), admin.ensure(kafka_settings, specs, alter=True))
        await self._wait_until_ready()
        people = await self._create_and_find_sample()
        installation = self._settings.model_copy(update={"kafka": kafka_settings, "database": database_settings})
        self._write_variables(installation)
        self._greet(kafka, people, time.monotonic() - started_at)
        await self._run_tasks(installation, people if simulation else [])

    def _warn_of_missing_data(self, postgres: Postgres, kafka: Kafka) -> None:
        if postgres.has_data == kafka.has_data:
            return
        full, empty = ("PostgreSQL", "Kafka") if postgres.has_data else ("Kafka", "PostgreSQL")
        self._console.print(
            f"{full} has the data of earlier runs and {empty} has none, so the change topics do not match the tables."
            " To delete the remaining data too, start with --reset."
        )

    async def _create_and_find_sample(self) -> list[sample.SamplePerson]:
        """Raises ServerFailed."""
        try:
            await self._create_sample()
            (self._home / _EXAMPLES).write_text(json.dumps(await sample.examples(self._url)))
            return await sample.find(self._url)
        except httpx.HTTPError as error:
            raise ServerFailed(
                f"The sample data could not be created: {error!r}. Read the logs in {self._home}."
            ) from error

    async def _create_sample(self) -> None:
        """Print a message if the service refuses a part of the sample data. Raises httpx.HTTPError."""
        try:
            await sample.ensure(self._url)
        except httpx.HTTPStatusError as error:
            self._console.print(
                f"A part of the sample data was refused: {error.request.url.path} {error.response.text[:500]}\n"
                "The sample data stays incomplete. To create all of it, start with --reset, which deletes all data.",
                markup=False,
            )

    async def _wait_until_ready(self) -> None:
        """Raises ServerFailed if the worker or the edge is not ready in time."""
        urls = [f"{self._url}/health", f"http://{LOOPBACK}:{self._settings.worker.health_port}/health/ready"]
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            retrying = AsyncRetrying(
                retry=retry_if_result(lambda ready: not ready),
                wait=wait_fixed(0.1),
                stop=stop_after_delay(READY_SECONDS),
                retry_error_callback=lambda _: False,
            )
            for url in urls:
                if not await retrying(self._is_ready, client, url):
                    raise ServerFailed(f"{url} is not ready after {READY_SECONDS:.0f} s. Read {self._home}/*.log.")

    async def _is_ready(self, client: httpx.AsyncClient, url: str) -> bool:
        self._check_children()
        try:
            return (await client.get(url)).status_code == 200
        except httpx.HTTPError:
            return False

    def _check_children(self) -> None:
        """Raises ServerFailed if a child process has ended."""
        for name in ("postgres", "kafka", "worker", "edge"):
            if not self._processes.alive(name):
                raise ServerFailed(f"The {name} ended. Read its log in {self._home}.")

    def _greet(self, kafka: Kafka, people: Sequence[sample.SamplePerson], seconds: float) -> None:
        visitor = Path(sys.argv[0]).parent / "visitor"
        visit = f"curl -s {self._url}/centers"
        if people:
            body = json.dumps({"barcode": people[0].barcode, "pcCode": people[0].pc_code})
            visit = f"curl -s {self._url}/visits/entry -H 'content-type: application/json' -d '{body}'"
        self._console.print(
            f"\nReady after {seconds:.0f} s.\n"
            f"  HTTP     {self._url}/docs\n"
            f"  Console  {self._url}/console\n"
            f"  Kafka    {kafka.bootstrap}, its topics are described at {self._url}/asyncapi\n"
            f"  Logs     {self._home}/*.log\n"
            "  Stop     Ctrl-C\n\n"
            "Try next, in another terminal:\n"
            f"  . {self._home / _VARIABLES}   # the settings of this installation\n"
            f"  {visit}\n"
            f"  {visitor} consume visitor.visits.changes.visit --from-beginning   # the change of each visit\n"
            f"  {visitor} doctor   # examine the installation\n"
            "  echo 'entry AX-100-FR' | make -C examples python-gateway   # a visit over Kafka\n",
            markup=False,
            soft_wrap=True,
        )

    def _write_variables(self, installation: Settings) -> None:
        """Only the user may read the file: it has the password of the database."""
        kafka = installation.kafka
        variables = {
            "VISITOR_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "VISITOR_KAFKA_PARTITIONS": kafka.partitions,
            "VISITOR_KAFKA_REPLICATION": kafka.replication,
            "VISITOR_KAFKA_MIN_INSYNC": kafka.min_insync,
            # psql reads the URL too, without the name of the driver.
            "VISITOR_DATABASE_URL": installation.database.url.get_secret_value().replace("+asyncpg", ""),
            "VISITOR_HTTP_PORT": installation.http.port,
            "VISITOR_WORKER_HEALTH_PORT": installation.worker.health_port,
            # The programs in examples/ read these.
            "KAFKA_BOOTSTRAP": kafka.bootstrap,
            "REGISTRY_URL": f"{self._url}/registry",
        }
        file = self._home / _VARIABLES
        file.touch(mode=0o600)
        file.write_text("".join(f"export {name}='{value}'\n" for name, value in variables.items()))

    async def _run_tasks(self, installation: Settings, people: list[sample.SamplePerson]) -> None:
        """Watch the processes, show what happens and simulate gateways until cancelled. Raises ServerFailed,
        TaskEnded."""
        kafka = installation.kafka
        producer = Producer(kafka)
        tasks = {"children": self._watch_children()}
        if status.fits(self._console):
            tasks["status"] = self._show_status(installation)
        else:
            tasks |= {"counts": self._print_counts(kafka, producer), "changes": self._count_changes(kafka)}
        if people:
            tasks["simulation"] = self._simulate(kafka, people)
        try:
            await run_together(tasks)
        finally:
            await producer.stop()

    async def _watch_children(self) -> None:
        """Raises ServerFailed when a child process has ended."""
        while True:
            self._check_children()
            await asyncio.sleep(CHILD_CHECK_SECONDS)

    async def _simulate(self, kafka: KafkaSettings, people: Sequence[sample.SamplePerson]) -> NoReturn:
        """Simulate until cancelled. Begins again if the simulation cannot reach the service."""
        rate = self._settings.dev.visits_per_second
        async with simulator.client_of(self._url) as client:
            while True:
                options = simulator.Options(random.randrange(10**6), SIMULATION_SPEED, rate)
                with suppress(httpx.HTTPError, DeliveryError, KafkaError):
                    await simulator.run(kafka, client, options, Report(), people)
                await asyncio.sleep(SIMULATION_RETRY_SECONDS)

    async def _show_status(self, installation: Settings) -> None:
        async with overview.source(installation) as source:
            with Live(console=self._console, auto_refresh=False) as live:
                await status.follow(source, live)

    async def _print_counts(self, kafka: KafkaSettings, producer: Producer) -> None:
        """Print the number of messages. On a terminal of any width, each count overwrites the one before."""
        is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        consumer = AIOKafkaConsumer(**kafka.client(), enable_auto_commit=False)
        try:
            await consumer.start()
            with Live(console=self._console, auto_refresh=False) if is_live else nullcontext() as live:
                while True:
                    text = f"visits: {await self._counts(producer, consumer)}"
                    if live is None:
                        self._console.print(text)
                    else:
                        live.update(text, refresh=True)
                    await asyncio.sleep(COUNT_SECONDS if is_live else COUNT_SECONDS_IN_FILES)
        finally:
            await close_consumer(consumer)

    async def _counts(self, producer: Producer, consumer: AIOKafkaConsumer) -> str:
        try:
            with interruptions_raised():
                requests = await _count_messages(producer, consumer, names.requests("visits"))
                results = await _count_messages(producer, consumer, names.results("visits"))
                dead_letters = await _count_messages(producer, consumer, names.DEAD_LETTERS)
        except (KafkaError, DeliveryError, Interrupted):
            return "Kafka does not answer"
        return f"requests {requests}   results {results}   changes {self._changes}   dead letters {dead_letters}"

    async def _count_changes(self, kafka: KafkaSettings) -> None:
        """Count the changes by reading them. Offsets do not tell their number, because transaction markers have offsets
        too."""
        consumer = AIOKafkaConsumer(
            names.changes("visits", "visit"), **kafka.client(), enable_auto_commit=False, auto_offset_reset="earliest",
            isolation_level="read_committed",
        )  # fmt: skip
        try:
            await consumer.start()
            while True:
                with suppress(KafkaError, Interrupted), interruptions_raised():
                    records = await consumer.getmany(timeout_ms=1_000)
                    self._changes += sum(map(len, records.values()))
        finally:
            await close_consumer(consumer)


async def _count_messages(producer: Producer, consumer: AIOKafkaConsumer, topic: str) -> int:
    """The sum of the end offsets of a topic without transactions."""
    topic_partitions = [TopicPartition(topic, number) for number in range(await producer.partitions(topic))]
    return sum((await consumer.end_offsets(topic_partitions)).values())


def _environment(postgres: Postgres, kafka: Kafka, examples: Path) -> Mapping[str, str]:
    return {
        "VISITOR_HTTP_EXAMPLES": str(examples),
        "VISITOR_HTTP_METRICS_PORT": "0",
        "VISITOR_HTTP_CONSOLE": "true",
        # No proxy has to notice that the edge stops.
        "VISITOR_HTTP_DRAIN_SECONDS": "0",
        "VISITOR_DATABASE_URL": postgres.url,
        "VISITOR_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "VISITOR_LOG_FORMAT": "json",
        # After a kill -9, the next worker gets the partitions when the session of the killed one has expired.
        "VISITOR_WORKER_SESSION_SECONDS": "3",
        "VISITOR_WORKER_EVENT_TOKEN_SECRET": secrets.token_urlsafe(32),
        "PYTHONUNBUFFERED": "1",
        **{name: value for name, value in os.environ.items() if name.startswith("VISITOR_LOG_")},
    }
