"""The faults of a chaos run: one declaration each."""

import asyncio
import math
import random
import resource
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from subprocess import TimeoutExpired
from typing import NamedTuple

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from chaos.cluster import (
    EDGES,
    EXTRA_WORKER,
    NEXT_RELEASE,
    OPERATOR,
    POSTGRES,
    STANDBY,
    WORKERS,
    Cluster,
)
from chaos.oracle import CLIENT, Violation
from chaos.traffic import Traffic
from tests.support.proxy import Proxy
from tests.support.stack import eventually

REQUEST_GROUP = "visitor-worker.requests"
MAX_PARTITIONS = 12
ADMIN_SECONDS = 240.0
"""How long the commands of an operator may take while the faults of a round go on."""
RESET_BY = 2_000
"""How many offsets a partition is reset by at most, so that the time of recovery does not grow with the run."""
GROWING = ("visitor.visits.requests", "visitor.optins.requests", "visitor.queries", "visitor.replies")
"""Topics that get more partitions. Those of the changes do not, see docs/consume-changes.md."""

WITH_OVERLOAD, WITH_REPUBLICATION = "overload, ten times the messages", "republication"
"""The kinds of the faults that add traffic."""


class Group(NamedTuple):
    """Faults of which at most `lanes` happen at the same time. `pause` is the mean number of seconds between two faults
    of a lane."""

    lanes: int
    pause: float


GROUPS = {
    "workers": Group(lanes=1, pause=4),
    "edges": Group(lanes=1, pause=2),
    "clocks": Group(lanes=1, pause=2),
    # Never two: acknowledged messages keep a replica.
    "brokers": Group(lanes=1, pause=4),
    "postgres": Group(lanes=1, pause=3),
    "network": Group(lanes=3, pause=1),
    "topics": Group(lanes=1, pause=15),
    "load": Group(lanes=1, pause=45),
}
SHORT_ROUND, LONG_ROUND = 15.0, 90.0
"""The seconds in which the faults of a round begin."""
LONG_ROUNDS = 0.2
"""The share of long rounds."""


class NoEffect(Exception):
    """A fault changed nothing, so it does not count: for example, there was no connection to cut."""


@dataclass
class Round:
    """`ends` is when the last faults of a round may begin, by time.monotonic. `overload_seconds` is how long an
    overload lasts at least."""

    ends: float
    overload_seconds: float

    def extend(self, seconds: float) -> None:
        """Let the round last at least this much longer."""
        self.ends = max(self.ends, time.monotonic() + seconds)


@dataclass(frozen=True)
class Run:
    """What a fault acts on. `rng` belongs to the lane, whose number in its group is `lane`."""

    cluster: Cluster
    traffic: Traffic
    rng: random.Random
    lane: int
    round: Round

    def broker(self) -> str:
        return self.rng.choice(list(self.cluster.brokers))

    def link(self) -> Proxy:
        """A proxy between two parts that no other lane uses."""
        links = sorted(self.cluster.links)
        return self.cluster.links[self.rng.choice(links[self.lane :: GROUPS["network"].lanes])]

    def long(self) -> float:
        """A number of seconds up to the end of the round, at least 5; short ones are more frequent."""
        longest = max(self.round.ends - time.monotonic(), 5.0)
        return math.exp(self.rng.uniform(0, math.log(longest)))


@dataclass(frozen=True)
class Fault:
    """`inject` returns when the fault has ended. It raises NoEffect if it changed nothing."""

    kind: str
    group: str
    weight: int
    inject: Callable[[Run], Awaitable[None]]


FAULTS: list[Fault] = []


def fault(kind: str, group: str, weight: int = 4) -> Callable[[Callable[[Run], Awaitable[None]]], None]:
    def declare(inject: Callable[[Run], Awaitable[None]]) -> None:
        FAULTS.append(Fault(kind, group, weight, inject))

    return declare


def deck(group: str, rng: random.Random) -> Iterator[Fault]:
    """The faults of a group without end, shuffled like cards, of which each fault has as many as its weight. So each
    kind appears soon."""
    cards = [item for item in FAULTS if item.group == group for _ in range(item.weight)]
    while True:
        rng.shuffle(cards)
        yield from cards


Decks = Mapping[tuple[str, int], Iterator[Fault]]
"""The faults of each lane, by its group and its number there."""


def decks(seed: int) -> Decks:
    return {
        (name, lane): deck(name, random.Random(f"{seed} {name} {lane}"))
        for name, group in GROUPS.items() for lane in range(group.lanes)
    }  # fmt: skip


async def inject_round(
    cluster: Cluster,
    traffic: Traffic,
    rng: random.Random,
    faults_by_lane: Decks,
    overload_seconds: float,
    log: Callable[[Fault, float], None],
) -> None:
    """Inject faults in all lanes, side by side, and return when they have ended. `log` gets each with its seconds.

    A seed draws the same faults for a lane each time; how many of them happen depends on the machine."""
    seconds = LONG_ROUND if rng.random() < LONG_ROUNDS else SHORT_ROUND
    this_round = Round(time.monotonic() + seconds, overload_seconds)
    async with asyncio.TaskGroup() as lanes:
        for (group, lane), faults in faults_by_lane.items():
            run = Run(cluster, traffic, random.Random(rng.getrandbits(64)), lane, this_round)
            lanes.create_task(_inject_in_lane(GROUPS[group].pause, faults, run, log))


async def _inject_in_lane(
    mean_pause: float, faults: Iterator[Fault], run: Run, log: Callable[[Fault, float], None]
) -> None:
    while True:
        pause = run.rng.expovariate(1 / mean_pause)
        if time.monotonic() + pause > run.round.ends:
            return
        await asyncio.sleep(pause)
        chosen = next(faults)
        started = time.monotonic()
        try:
            await chosen.inject(run)
        except NoEffect:
            continue
        log(chosen, time.monotonic() - started)


@fault("kill -9 of a worker", "workers")
async def kill_worker(run: Run) -> None:
    await _kill_and_start(run, run.rng.choice(WORKERS))


@fault("kill -9 of an edge", "edges")
async def kill_edge(run: Run) -> None:
    await _kill_and_start(run, run.rng.choice(EDGES))


@fault("SIGSTOP of a worker", "workers")
async def freeze_worker(run: Run) -> None:
    await _freeze(run, run.rng.choice(WORKERS))


@fault("SIGSTOP of an edge", "edges")
async def freeze_edge(run: Run) -> None:
    await _freeze(run, run.rng.choice(EDGES))


@fault("SIGSTOP of a broker", "brokers")
async def freeze_broker(run: Run) -> None:
    await _freeze(run, run.broker())


@fault("SIGSTOP of PostgreSQL", "postgres")
async def freeze_postgres(run: Run) -> None:
    await _freeze(run, POSTGRES)


@fault("restart of a broker", "brokers", weight=2)
async def restart_broker(run: Run) -> None:
    await run.cluster.restart_server(run.broker(), "stop", run.rng.uniform(0, 3))


@fault("kill -9 of a broker", "brokers", weight=2)
async def kill_broker(run: Run) -> None:
    await run.cluster.restart_server(run.broker(), "kill", run.rng.uniform(0, 3))


@fault("restart of PostgreSQL", "postgres")
async def restart_postgres(run: Run) -> None:
    await run.cluster.restart_server(POSTGRES, "stop", run.rng.uniform(0, 3))


@fault("kill -9 of PostgreSQL", "postgres")
async def kill_postgres(run: Run) -> None:
    await run.cluster.restart_server(POSTGRES, "kill", run.rng.uniform(0, 3))


@fault("failover of PostgreSQL", "postgres", weight=3)
async def fail_over(run: Run) -> None:
    await run.cluster.fail_over()


@fault("SIGSTOP of the standby", "postgres", weight=2)
async def freeze_standby(run: Run) -> None:
    await _freeze(run, STANDBY)


@fault("kill -9 of the standby", "postgres", weight=2)
async def kill_standby(run: Run) -> None:
    await run.cluster.restart_server(STANDBY, "kill", run.rng.uniform(0, 3))


@fault("connections cut", "network", weight=4)
async def cut_connections(run: Run) -> None:
    link = run.link()
    _require(link.connections)
    link.cut()


@fault("connections slowed", "network")
async def slow_connections(run: Run) -> None:
    link = run.link()
    link.delay = run.rng.uniform(0.01, 0.2)
    await asyncio.sleep(run.rng.uniform(1, 10))
    link.delay = 0.0
    _require(link.connections)


@fault("connections that transmit nothing", "network")
async def hold_connections(run: Run) -> None:
    link = run.link()
    link.hold()
    await asyncio.sleep(run.rng.uniform(1, 15))
    link.release()
    _require(link.connections)


@fault("disk of a broker full", "brokers", weight=2)
async def fill_disk_of_broker(run: Run) -> None:
    """Kafka stops when it cannot write its log."""
    name = run.broker()
    await _fill_disk(run, name)
    await run.cluster.restart_server(name, "kill", 0)


@fault("disk of PostgreSQL full", "postgres")
async def fill_disk_of_postgres(run: Run) -> None:
    await _fill_disk(run, POSTGRES)
    await run.cluster.start_if_ended(POSTGRES)


@fault("no file descriptors for a worker", "workers")
async def exhaust_files_of_worker(run: Run) -> None:
    await _exhaust_files(run, run.rng.choice(WORKERS))


@fault("no file descriptors for an edge", "edges")
async def exhaust_files_of_edge(run: Run) -> None:
    await _exhaust_files(run, run.rng.choice(EDGES))


@fault("no file descriptors for a broker", "brokers", weight=2)
async def exhaust_files_of_broker(run: Run) -> None:
    name = run.broker()
    await _exhaust_files(run, name)
    await run.cluster.start_if_ended(name)


@fault("clock of a worker or an edge steps", "clocks")
async def step_clock(run: Run) -> None:
    """By up to an hour, and back."""
    clock = run.cluster.clocks[run.rng.choice([*WORKERS, *EDGES])]
    clock.step(run.rng.uniform(-3600, 3600))
    await asyncio.sleep(run.rng.uniform(2, 10))
    clock.step(0)


@fault("rolling upgrade to the next release, or back", "workers", weight=1)
async def upgrade(run: Run) -> None:
    modules = run.cluster.worker_modules
    # The third worker keeps the release of this run.
    module = modules[EXTRA_WORKER] if modules[WORKERS[0]] == NEXT_RELEASE else NEXT_RELEASE
    for name in WORKERS:
        await run.cluster.stop(name)
        modules[name] = module
        run.cluster.start(name)
        await asyncio.sleep(run.rng.uniform(3, 6))


@fault("third worker comes and goes", "workers", weight=2)
async def rebalance(run: Run) -> None:
    run.cluster.start(EXTRA_WORKER)
    await asyncio.sleep(run.rng.uniform(3, 12))
    await run.cluster.stop(EXTRA_WORKER)
    del run.cluster.members[EXTRA_WORKER]


@fault("partitions added", "topics", weight=1)
async def add_partitions(run: Run) -> None:
    admin = AdminClient({"bootstrap.servers": run.cluster.bootstrap, **CLIENT})
    topics = run.rng.sample(GROWING, len(GROWING))

    def grow() -> bool:
        try:
            counts = {topic: len(admin.list_topics(topic, timeout=20).topics[topic].partitions) for topic in topics}
            topic = next((topic for topic in topics if counts[topic] < MAX_PARTITIONS), "")
            _require(topic)
            admin.create_partitions([NewPartitions(topic, counts[topic] + 1)], operation_timeout=20)[topic].result(20)
        except (KafkaException, TimeoutError):
            return False
        return True

    await eventually("a new partition", lambda: asyncio.to_thread(grow), ADMIN_SECONDS)


@fault("offsets reset", "workers", weight=1)
async def reset_offsets(run: Run) -> None:
    """Stop the workers, commit offsets of up to RESET_BY messages ago, and start the workers."""
    for name in WORKERS:
        with run.cluster.ending(name) as member:
            await asyncio.to_thread(member.process.kill)
    try:
        await _reset_offsets(run.cluster.bootstrap)
    finally:
        for name in WORKERS:
            run.cluster.start(name)


@fault(WITH_OVERLOAD, "load")
async def overload(run: Run) -> None:
    """The other faults continue during an overload."""
    seconds = run.round.overload_seconds * run.rng.uniform(1, 1.5)
    run.round.extend(seconds)
    await run.traffic.overload(seconds)


@fault(WITH_REPUBLICATION, "topics", weight=2)
async def republish(run: Run) -> None:
    resource = run.rng.choice(["visitor", "optin", "vehicle"])
    try:
        done = await run.cluster.stack.command(
            "republish", resource, seconds=ADMIN_SECONDS, VISITOR_DATABASE_URL=run.cluster.database_url(OPERATOR)
        )
    except TimeoutExpired:
        raise Violation("visitor republish survives outages", f"{resource}: no end after {ADMIN_SECONDS} s") from None
    if done.returncode:
        raise Violation("visitor republish survives outages", done.stdout + done.stderr)


def _require(effect: object) -> None:
    """Raises NoEffect if `effect` is zero or empty."""
    if not effect:
        raise NoEffect


async def _kill_and_start(run: Run, name: str) -> None:
    with run.cluster.ending(name) as member:
        await asyncio.to_thread(member.process.kill)
        await asyncio.sleep(run.rng.uniform(0, 3))
    run.cluster.start(name)


async def _freeze(run: Run, name: str) -> None:
    _require(run.cluster.suspend(name))
    try:
        await asyncio.sleep(run.long())
    finally:
        run.cluster.resume(name)


async def _fill_disk(run: Run, name: str) -> None:
    disk = run.cluster.disks[name]
    disk.fill()
    await asyncio.sleep(run.rng.uniform(2, 12))
    disk.free()


async def _exhaust_files(run: Run, name: str) -> None:
    """Let a process open no file, and cut its connections: half of those that it has open are too many."""
    try:
        process = psutil.Process(run.cluster.pid(name))
        soft, hard = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() // 2, hard))
    except psutil.NoSuchProcess:
        raise NoEffect from None
    if name in run.cluster.members:
        run.cluster.members[name].lacked_files = True
    for ends, link in run.cluster.links.items():
        if name in ends:
            link.cut()
    await asyncio.sleep(run.rng.uniform(2, 12))
    with suppress(psutil.NoSuchProcess):  # it may have ended because of the fault
        process.rlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _reset_offsets(bootstrap: str) -> None:
    async def reset() -> bool:
        """False while the group has members: brokers notice a killed one after its session timeout."""
        return await asyncio.to_thread(_try_reset, bootstrap)

    await eventually("reset offsets", reset, ADMIN_SECONDS)


def _try_reset(bootstrap: str) -> bool:
    """With a consumer of the group that never joins it. `AdminClient.list_consumer_group_offsets` ends this process
    with a segmentation fault if the group's coordinator moves (github.com/confluentinc/librdkafka/pull/5318)."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": REQUEST_GROUP, "enable.auto.commit": False, **CLIENT}
    )
    try:
        committed = consumer.committed(_request_partitions(consumer), timeout=20)
        earlier = [
            TopicPartition(item.topic, item.partition, max(0, item.offset - RESET_BY))
            for item in committed if item.offset > 0
        ]  # fmt: skip
        _require(earlier)
        consumer.commit(offsets=earlier, asynchronous=False)
    except KafkaException:
        return False
    finally:
        consumer.close()
    return True


def _request_partitions(consumer: Consumer) -> list[TopicPartition]:
    topics = consumer.list_topics(timeout=20).topics
    return [
        TopicPartition(name, number)
        for name, topic in topics.items() if name.endswith(".requests")
        for number in topic.partitions
    ]  # fmt: skip
