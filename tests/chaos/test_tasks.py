"""Background tasks that end though nobody asked them to: either the work goes on, or the process ends with status 1."""

import json
import signal

import httpx

from tests.support import data
from tests.support.stack import Process, Stack, eventually

SABOTAGE = "tests.support.sabotage"
NEEDED = {
    "publisher visitor.visits.changes.visit": "publisher visitor.visits.changes.visit",
    "watch": "'watch'",
    "heartbeat": "'heartbeat'",
    "health server": "'health server'",
    "requests consumer": "'requests consumer'",
    "batches 1": "'batches 1'",
    "parked": "'parked'",
    # Faust's
    "Consumer._commit_handler": "Consumer._commit_handler",
    "_Fetcher._fetcher": "_Fetcher._fetcher",
    # aiokafka's
    "Fetcher._fetch_requests_routine": "fetcher",
    "GroupCoordinator._coordination_routine": "coordination",
    "GroupCoordinator._heartbeat_routine": "heartbeat",
    "AIOKafkaClient._md_synchronizer": "metadata",
}
"""Tasks that a worker needs, with what its last words say of their end."""
REPLACED = [
    "replies",
    "replies watch",
    "Fetcher._fetch_requests_routine",
    "NoGroupCoordinator._reset_committed_routine",
    "AIOKafkaClient._md_synchronizer",
    "Sender._sender_routine",
]
"""Tasks that an edge replaces."""


async def test_a_worker_that_loses_a_task_that_it_needs_ends_with_status_1_and_names_it(own_stack: Stack) -> None:
    workers = []
    # One after the other: together, they take more than a minute on a slow machine.
    for number, task in enumerate(NEEDED):
        worker = own_stack.worker(SABOTAGE, [task], VISITOR_WORKER_GROUP=f"sabotage-{number}")
        await eventually(f"a ready worker for {task}", worker.ready)
        workers.append((task, worker))
    for _, worker in workers:
        worker.child.send_signal(signal.SIGUSR1)
    for task, worker in workers:
        await eventually(f"the end of the worker without {task}", worker.ended, 30)
        assert (task, worker.child.returncode) == (task, 1)
        reasons = [line["reason"] for line in _lines(worker) if line["event"] == "worker_failed"]
        assert NEEDED[task] in reasons[0]


async def test_an_edge_replaces_the_tasks_that_it_loses_and_ends_with_status_1_where_it_cannot(
    own_stack: Stack,
) -> None:
    worker = own_stack.worker()
    edge, url = own_stack.edge(SABOTAGE, [*REPLACED, "reply listener"], VISITOR_HTTP_TIMEOUT_SECONDS="1")
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def answered() -> bool:
            return (await client.post("/centers", json=data.center())).status_code == 201

        await eventually("an answer", answered)
        for task in REPLACED:
            before = len(_troubles(edge))
            edge.child.send_signal(signal.SIGUSR1)

            async def noticed(before: int = before) -> bool:
                await answered()  # a sender is missed only when there is something to send
                return len(_troubles(edge)) > before

            await eventually(f"the end of {task} is noticed", noticed, 15)
            await eventually(f"an answer after the end of {task}", answered, 15)

    edge.child.send_signal(signal.SIGUSR1)
    await eventually("the edge's end", edge.ended, 15)
    assert edge.child.returncode == 1
    assert [line["task"] for line in _lines(edge) if line["event"] == "edge_failed"] == ["reply listener"]
    assert worker.terminate() == 0


def _troubles(edge: Process) -> list[str]:
    return [line["event"] for line in _lines(edge) if line["event"] in ("replies_unreachable", "request_not_sent")]


def _lines(process: Process) -> list[dict[str, str]]:
    return [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
