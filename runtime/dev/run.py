"""`visitor dev`: the whole service on this machine, with the embedded servers, until Ctrl-C."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from fasteners import InterProcessLock
from pydantic import SecretStr
from rich.console import Console
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from agents.catalogue import CATALOGUE
from runtime import logs, ports
from runtime.dev import sample
from runtime.dev.servers import Kafka, Postgres, Processes, ServerFailed, fetch_kafka
from runtime.health import LOOPBACK
from runtime.settings import Settings, WrongSetting
from storage import migrate
from topics import admin, names, patches
from topics.kafka import DeliveryError, KafkaSettings, Producer, close_consumer
from topics.supervision import Interrupted, TaskEnded, interruptions_raised, run_together

READY_SECONDS = 60.0
COUNT_SECONDS = 2.0
CHILDREN_SECONDS = 1.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OURS = ("postgres", "kafka", "processes.json", "worker.log", "edge.log", "sample.json")
"""All that lies in the home, but for the downloads; the last one is of earlier versions. The home may be a folder with
other files, which are not ours to remove."""
_PORTS = {"kafka": "VISITOR_DEV_KAFKA_PORT", "edge": "VISITOR_HTTP_PORT", "worker": "VISITOR_WORKER_HEALTH_PORT"}


def run(settings: Settings, *, reset: bool, simulation: bool) -> int:
    """The exit status. Everything started here has ended when it returns, however it returns."""
    if settings.http.keys is not None:
        raise WrongSetting("VISITOR_HTTP_KEYS is not for `visitor dev`, which serves loopback only; unset it.")
    if settings.worker.health_port == 0:
        raise WrongSetting("VISITOR_WORKER_HEALTH_PORT is needed by `visitor dev`; choose a port.")
    patches.apply()
    console = Console(stderr=False, highlight=False)
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    lock = InterProcessLock(home / "lock")
    if not lock.acquire(blocking=False):
        console.print(
            f"visitor: another `visitor dev` runs in {home}; stop it, or choose another place with VISITOR_HOME"
        )
        return 2
    dev = _Dev(settings, home, console)
    try:
        _interruptible()
        dev.prepare(reset=reset)
        asyncio.run(dev.serve(simulation=simulation))
    except KeyboardInterrupt:
        return 0
    except (ServerFailed, TaskEnded) as error:
        console.print(f"visitor: {error}", markup=False)
        return 1
    finally:
        # Only now: a thread that was starting a server has ended with asyncio.run.
        dev.stop()
        lock.release()
    return 1


def _interruptible() -> None:
    """SIGTERM and a closed terminal end it as Ctrl-C does, which a shell's background job would ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _ENDING[1:]:
        signal.signal(number, _interrupt)


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
        """What may take long and starts nothing. Raises PortTaken, ServerFailed."""
        left = self._processes.end_leftovers()
        if left:
            self._console.print(f"Ended what an earlier run left behind: {', '.join(left)}")
        if reset:
            self._delete_data()
        self._check_ports()
        fetch_kafka(self._home / "downloads")

    async def serve(self, *, simulation: bool) -> None:
        """Until it is cancelled. Raises ServerFailed."""
        port = self._settings.dev.kafka_port
        self._postgres = Postgres(self._home, self._processes)
        self._kafka = Kafka(self._home, self._home / "downloads", self._processes, port=port)
        await self._start(self._postgres, self._kafka, simulation)

    def stop(self) -> None:
        """End everything, in order; neither a further Ctrl-C nor a closed terminal interrupts this."""
        if self._kafka is None:
            return
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        self._console.print("\nStopping …")
        self._processes.close()
        for name in ("edge", "worker"):
            self._processes.stop(name, signal.SIGTERM)
        for server in (self._kafka, self._postgres):
            if server is not None:
                server.stop()

    def _delete_data(self) -> None:
        for name in _OURS:
            entry = self._home / name
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

    def _check_ports(self) -> None:
        ports.ensure_free(LOOPBACK, self._settings.http.port, _PORTS["edge"])
        ports.ensure_free(LOOPBACK, self._settings.dev.kafka_port, _PORTS["kafka"])
        ports.ensure_free(LOOPBACK, self._settings.worker.health_port, _PORTS["worker"])

    async def _start(self, postgres: Postgres, kafka: Kafka, simulation: bool) -> None:
        began = time.monotonic()
        self._warn_of_half(postgres, kafka)
        self._console.print("Starting PostgreSQL and Kafka …")
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(kafka.start))
        environment = _environment(postgres, kafka)
        reached = self._settings.model_copy(
            update={
                "kafka": KafkaSettings(
                    bootstrap=kafka.bootstrap, partitions=self._settings.kafka.partitions, replication=1, min_insync=1
                ),
                "database": self._settings.database.model_copy(update={"url": SecretStr(postgres.url)}),
            }
        )
        for name in ("worker", "edge"):
            argv = [sys.executable, "-m", "runtime.cli", name]
            self._processes.spawn(name, argv, log=self._home / f"{name}.log", env=environment)
        wanted = names.specs(CATALOGUE.families, reached.kafka)
        await asyncio.gather(migrate.upgrade(reached.database), admin.ensure(reached.kafka, wanted, alter=True))
        await self._until_well()
        people = await self._sample()
        self._greet(kafka, people, time.monotonic() - began)
        await self._live(reached.kafka, people if simulation else [])

    def _warn_of_half(self, postgres: Postgres, kafka: Kafka) -> None:
        if postgres.has_data == kafka.has_data:
            return
        kept, lost = ("PostgreSQL", "Kafka") if postgres.has_data else ("Kafka", "PostgreSQL")
        self._console.print(
            f"{kept} has the data of earlier runs and {lost} has none: the change topics do not tell what is in the"
            " tables. To forget the rest as well, start with --reset."
        )

    async def _sample(self) -> list[sample.SamplePerson]:
        """Whom the gateways know. Raises ServerFailed."""
        try:
            await self._complete_sample()
            return await sample.find(self._url)
        except httpx.HTTPError as error:
            raise ServerFailed(f"The sample data could not be created: {error!r}; look into {self._home}.") from error

    async def _complete_sample(self) -> None:
        try:
            await sample.ensure(self._url)
        except httpx.HTTPStatusError as error:
            self._console.print(
                f"A part of the sample data was refused: {error.request.url.path} {error.response.text[:500]}\n"
                "It stays incomplete; to have all of it, start with --reset, which forgets all data.",
                markup=False,
            )

    async def _until_well(self) -> None:
        """Raises ServerFailed where worker and edge are not ready in time."""
        urls = [f"{self._url}/health", f"http://{LOOPBACK}:{self._settings.worker.health_port}/health/ready"]
        async with httpx.AsyncClient(timeout=2) as client:
            retrying = AsyncRetrying(
                retry=retry_if_result(lambda well: not well),
                wait=wait_fixed(0.1),
                stop=stop_after_delay(READY_SECONDS),
                retry_error_callback=lambda _: False,
            )
            for url in urls:
                if not await retrying(self._well, client, url):
                    raise ServerFailed(f"{url} is not ready after {READY_SECONDS:.0f} s; look into {self._home}/*.log")

    async def _well(self, client: httpx.AsyncClient, url: str) -> bool:
        self._check_children()
        try:
            return (await client.get(url)).status_code == 200
        except httpx.HTTPError:
            return False

    def _check_children(self) -> None:
        """Raises ServerFailed where one of them ended."""
        for name in ("postgres", "kafka", "worker", "edge"):
            if not self._processes.alive(name):
                raise ServerFailed(f"The {name} ended; look into {self._home} for its log.")

    def _greet(self, kafka: Kafka, people: Sequence[sample.SamplePerson], seconds: float) -> None:
        call = f"curl -s {self._url}/centers"
        if people:
            visit = json.dumps({"barcode": people[0].barcode, "pcCode": people[0].pc_code})
            call = f"curl -s {self._url}/visits/entry -H 'content-type: application/json' -d '{visit}'"
        self._console.print(
            f"\nReady after {seconds:.0f} s.\n"
            f"  HTTP     {self._url}/docs\n"
            f"  Kafka    {kafka.bootstrap}\n"
            f"  Try      {call}\n"
            f"  Watch    VISITOR_KAFKA_BOOTSTRAP={kafka.bootstrap} {Path(sys.argv[0]).parent / 'visitor'}"
            " consume visitor.visits.changes\n"
            f"  Logs     {self._home}/*.log\n"
            "  Stop     Ctrl-C\n",
            markup=False,
            soft_wrap=True,
        )

    async def _live(self, kafka: KafkaSettings, people: list[sample.SamplePerson]) -> None:
        """Until it is cancelled. Raises ServerFailed, TaskEnded."""
        producer = Producer(kafka)
        work = {
            "children": self._watch_children(),
            "counts": self._count(kafka, producer),
            "changes": self._count_changes(kafka),
        }
        if people:
            work["simulation"] = sample.simulate(producer, people, self._settings.dev.visits_per_second)
        try:
            await run_together(work)
        finally:
            await producer.stop()

    async def _watch_children(self) -> None:
        """Raises ServerFailed."""
        while True:
            self._check_children()
            await asyncio.sleep(CHILDREN_SECONDS)

    async def _count(self, kafka: KafkaSettings, producer: Producer) -> None:
        """Says how many messages there are, on one line of a terminal, else on a new line every 30 s."""
        topics = {
            "requests": names.requests("visits"),
            "results": names.results("visits"),
            "dead letters": names.DEAD_LETTERS,
        }
        consumer = AIOKafkaConsumer(**kafka.client(), enable_auto_commit=False)
        try:
            await consumer.start()
            while True:
                try:
                    with interruptions_raised():
                        counts = [
                            f"{what} {await _messages(producer, consumer, topic)}" for what, topic in topics.items()
                        ]
                    counts.insert(2, f"changes {self._changes}")
                except (KafkaError, DeliveryError, Interrupted):
                    counts = ["Kafka does not answer"]
                line = "visits: " + "   ".join(counts)
                self._console.print(line, end="\r" if self._console.is_terminal else "\n")
                await asyncio.sleep(COUNT_SECONDS if self._console.is_terminal else 30)
        finally:
            await close_consumer(consumer)

    async def _count_changes(self, kafka: KafkaSettings) -> None:
        """By reading them: the marker of each transaction has an offset as well."""
        consumer = AIOKafkaConsumer(
            names.changes("visits"), **kafka.client(), enable_auto_commit=False, auto_offset_reset="earliest",
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


async def _messages(producer: Producer, consumer: AIOKafkaConsumer, topic: str) -> int:
    places = [TopicPartition(topic, number) for number in range(await producer.partitions(topic))]
    return sum((await consumer.end_offsets(places)).values())


def _environment(postgres: Postgres, kafka: Kafka) -> Mapping[str, str]:
    return {
        "VISITOR_DATABASE_URL": postgres.url,
        "VISITOR_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "VISITOR_LOG_FORMAT": "json",
        # After a kill -9 the next start need not wait long until the dead worker counts as gone.
        "VISITOR_WORKER_SESSION_SECONDS": "3",
        "VISITOR_WORKER_EVENT_TOKEN_SECRET": secrets.token_urlsafe(32),
        "PYTHONUNBUFFERED": "1",
        **{name: value for name, value in os.environ.items() if name.startswith("VISITOR_LOG_")},
    }
