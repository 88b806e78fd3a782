"""The faults of a chaos run: one declaration each."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from subprocess import TimeoutExpired

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from chaos.cluster import EDGES, EXTRA_WORKER, OPERATOR, POSTGRES, STANDBY, START_SECONDS, WORKERS, Cluster
from chaos.oracle import CLIENT, Violation
from chaos.traffic import OVERLOAD, Traffic
from tests.support.proxy import Proxy
from tests.support.stack import eventually

REQUEST_GROUP = "visitor-worker.requests"
MAX_PARTITIONS = 12
RESET_BY = 2_000
"""How many offsets a partition is reset by at most, so that the time of recovery does not grow with the run."""
GROWING = ("visitor.visits.requests", "visitor.optins.requests", "visitor.queries", "visitor.replies")
"""Topics that get more partitions. Those of the changes do not, see docs/consume-changes.md."""


@dataclass(frozen=True)
class Run:
    """What a fault acts on. `rng` is its own."""

    cluster: Cluster
    traffic: Traffic
    rng: random.Random

    def broker(self) -> str:
        return self.rng.choice(list(self.cluster.brokers))

    def link(self) -> Proxy:
        """A proxy between a process and a server that it uses."""
        client = self.rng.choice([*WORKERS, *EDGES])
        servers = [*self.cluster.brokers, *([POSTGRES] if client in WORKERS else [])]
        return self.cluster.links[client, self.rng.choice(servers)]


@dataclass(frozen=True)
class Fault:
    """`inject` returns when the fault has ended. Faults of one group never happen at the same time."""

    kind: str
    group: str
    weight: int
    inject: Callable[[Run], Awaitable[None]]


FAULTS: list[Fault] = []


def fault(kind: str, group: str, weight: int = 4) -> Callable[[Callable[[Run], Awaitable[None]]], None]:
    def declare(inject: Callable[[Run], Awaitable[None]]) -> None:
        FAULTS.append(Fault(kind, group, weight, inject))

    return declare


def draw(rng: random.Random) -> list[Fault]:
    """One to three faults of different groups."""
    drawn: dict[str, Fault] = {}
    for _ in range(rng.randint(1, 3)):
        chosen = rng.choices(FAULTS, [item.weight for item in FAULTS])[0]
        drawn.setdefault(chosen.group, chosen)
    return list(drawn.values())


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


@fault("connections cut", "connections", weight=6)
async def cut_connections(run: Run) -> None:
    run.link().cut()


@fault("connections slowed", "connections", weight=6)
async def slow_connections(run: Run) -> None:
    link = run.link()
    link.delay = run.rng.uniform(0.01, 0.2)
    await asyncio.sleep(run.rng.uniform(1, 10))
    link.delay = 0.0


@fault("network partition", "connections", weight=6)
async def hold_connections(run: Run) -> None:
    link = run.link()
    link.hold()
    await asyncio.sleep(run.rng.uniform(1, 15))
    link.release()


@fault("third worker comes and goes", "workers", weight=2)
async def rebalance(run: Run) -> None:
    member = run.cluster.start(EXTRA_WORKER)
    with run.cluster.ending(EXTRA_WORKER):
        await asyncio.sleep(run.rng.uniform(3, 12))
        if member.process.child.poll() is None:
            await asyncio.to_thread(member.process.terminate, 60)
    del run.cluster.members[EXTRA_WORKER]


@fault("partitions added", "topics", weight=1)
async def add_partitions(run: Run) -> None:
    admin = AdminClient({"bootstrap.servers": run.cluster.bootstrap, **CLIENT})
    topic = run.rng.choice(GROWING)

    def grow() -> None:
        count = len(admin.list_topics(topic, timeout=60).topics[topic].partitions)
        if count < MAX_PARTITIONS:
            admin.create_partitions([NewPartitions(topic, count + 1)], operation_timeout=60)[topic].result(60)

    await asyncio.to_thread(grow)


@fault("offsets reset", "workers", weight=1)
async def reset_offsets(run: Run) -> None:
    """Stop the workers, commit offsets of up to RESET_BY messages ago, and start the workers."""
    for name in WORKERS:
        with run.cluster.ending(name) as member:
            await asyncio.to_thread(member.process.kill)
    await _reset_offsets(run.cluster.bootstrap)
    for name in WORKERS:
        run.cluster.start(name)


@fault("overload, ten times the messages", "traffic", weight=3)
async def overload(run: Run) -> None:
    run.traffic.rate_factor = OVERLOAD
    await asyncio.sleep(run.rng.uniform(5, 20))
    run.traffic.rate_factor = 1


@fault("republication", "topics", weight=2)
async def republish(run: Run) -> None:
    resource = run.rng.choice(["visitor", "optin", "vehicle"])
    try:
        done = await run.cluster.stack.command(
            "republish", resource, VISITOR_DATABASE_URL=run.cluster.database_url(OPERATOR)
        )
    except TimeoutExpired:
        raise Violation("visitor republish survives outages", f"{resource}: no end after a minute") from None
    if done.returncode:
        raise Violation("visitor republish survives outages", done.stdout + done.stderr)


async def _kill_and_start(run: Run, name: str) -> None:
    with run.cluster.ending(name) as member:
        await asyncio.to_thread(member.process.kill)
        await asyncio.sleep(run.rng.uniform(0, 3))
    run.cluster.start(name)


async def _freeze(run: Run, name: str) -> None:
    run.cluster.suspend(name)
    try:
        await asyncio.sleep(min(30.0, run.rng.expovariate(1 / 8) + 1))
    finally:
        run.cluster.resume(name)


async def _reset_offsets(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, **CLIENT})

    async def reset() -> bool:
        """False while the group has members: brokers notice a killed one after its session timeout."""
        return await asyncio.to_thread(_try_reset, admin)

    await eventually("reset offsets", reset, START_SECONDS)


def _try_reset(admin: AdminClient) -> bool:
    group = ConsumerGroupTopicPartitions(REQUEST_GROUP)
    try:
        committed = admin.list_consumer_group_offsets([group])[REQUEST_GROUP].result(20).topic_partitions
        earlier = [
            TopicPartition(item.topic, item.partition, max(0, item.offset - RESET_BY))
            for item in committed if item.offset > 0
        ]  # fmt: skip
        if earlier:
            reset = ConsumerGroupTopicPartitions(REQUEST_GROUP, earlier)
            admin.alter_consumer_group_offsets([reset])[REQUEST_GROUP].result(20)
    except KafkaException:
        return False
    return True
