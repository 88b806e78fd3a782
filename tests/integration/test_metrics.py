"""What the metrics of worker and edge say after calls and messages."""

import httpx

from agents.engine import measurements
from telemetry.metrics import WORKER
from tests.support import data, queries
from tests.support.metrics import Scrape, scrape
from tests.support.outbox import waiting_changes
from tests.support.stack import PARTITIONS, Process, Stack, eventually
from topics import names
from topics.envelope import JSON, RequestHeaders

REQUESTS, CHANGES = names.requests("centers"), names.changes("centers", "center")


def _processes(stack: Stack) -> tuple[Process, Process]:
    """The worker and the edge that all tests share."""
    return stack.processes[0], stack.processes[1]


async def test_a_call_is_counted_and_measured_until_its_result_and_its_change(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    worker, edge = _processes(stack)
    worker_before, edge_before = await scrape(worker), await scrape(edge)
    answer = await client.post("/centers", json=data.center())
    assert answer.status_code == 201

    def increase(after: Scrape, before: Scrape, name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    async def changed() -> bool:
        name = "visitor_change_latency_seconds_count"
        return increase(await scrape(worker), worker_before, name, topic=CHANGES) >= 1

    await eventually("a change that is measured", changed)
    after = await scrape(worker)
    assert increase(after, worker_before, "visitor_requests_total", operation="centers.create", status="201") >= 1
    latency = increase(after, worker_before, "visitor_result_latency_seconds_sum", topic=REQUESTS)
    assert increase(after, worker_before, "visitor_result_latency_seconds_count", topic=REQUESTS) >= 1
    assert 0 < latency < 60
    assert increase(after, worker_before, "visitor_batch_requests_sum") >= 1
    assert increase(after, worker_before, "visitor_pool_wait_seconds_count", pool="writes") >= 1
    assert increase(after, worker_before, "visitor_changes_published_total", topic=CHANGES) >= 1
    edge_after = await scrape(edge)
    assert increase(edge_after, edge_before, "visitor_http_calls_total", operation="centers.create", status="201") >= 1
    assert increase(edge_after, edge_before, "visitor_http_seconds_count", operation="centers.create") >= 1


async def test_worker_and_edge_say_that_they_are_ready_and_how_they_run(stack: Stack) -> None:
    for process in _processes(stack):
        scraped = await scrape(process)
        assert scraped.value("visitor_ready") == 1
        assert scraped.value("visitor_build_info") == 1
        assert scraped.value("visitor_event_loop_delay_seconds_count") > 0
        assert scraped.value("process_resident_memory_bytes") > 10 * 2**20


async def test_a_worker_exports_no_metrics_of_the_edge_and_the_reverse(stack: Stack) -> None:
    worker, edge = [{family.name for family in (await scrape(process)).families} for process in _processes(stack)]
    assert "visitor_http_calls" in edge - worker
    assert "visitor_requests" in worker - edge


async def test_lag_is_given_in_messages_and_seconds_for_each_partition(stack: Stack, client: httpx.AsyncClient) -> None:
    worker, _ = _processes(stack)
    center = data.center()
    assert (await client.post("/centers", json=center)).status_code == 201
    request_id = f"lag-{center['pcCode']}"
    parts = {"path": {"pcCode": center["pcCode"]}, "body": {"label": "Lag"}}
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"select 1 from centers where pc_code = '{center['pcCode']}' for update")
        await stack.send("centers.update", parts, request_id=request_id, partition=2, key=center["pcCode"])

        async def lags() -> bool:
            scraped = await scrape(worker)
            return scraped.value("visitor_lag_seconds", topic=REQUESTS, partition="2") > 1

        await eventually("lag of the partition", lags)
        scraped = await scrape(worker)
        assert scraped.value("visitor_lag_messages", topic=REQUESTS, partition="2") >= 1
    assert (await stack.result("centers.update", request_id)).value["status"] == 204

    async def no_lag() -> bool:
        scraped = await scrape(worker)
        return scraped.value("visitor_lag_seconds") == scraped.value("visitor_lag_messages") == 0

    await eventually("no lag", no_lag)
    partitions = [
        s.labels["partition"]
        for s in (await scrape(worker)).samples
        if s.name == "visitor_lag_messages" and s.labels["topic"] == REQUESTS
    ]
    assert sorted(partitions) == [str(number) for number in range(PARTITIONS)]


async def test_a_dead_letter_is_counted_by_its_reason(stack: Stack) -> None:
    worker, _ = _processes(stack)
    before = (await scrape(worker)).value("visitor_dead_letters_total", reason="not_json")
    await stack.raw(REQUESTS, b"{", RequestHeaders("broken", "centers.create", "test", JSON).encode())

    async def counted() -> bool:
        return (await scrape(worker)).value("visitor_dead_letters_total", reason="not_json") > before

    await eventually("a dead letter that is counted", counted)


async def test_the_size_of_the_inbox_is_measured(stack: Stack, client: httpx.AsyncClient) -> None:
    worker, _ = _processes(stack)
    assert (await client.post("/centers", json=data.center())).status_code == 201

    async def measured() -> bool:
        scraped = await scrape(worker)
        return scraped.value("visitor_inbox_oldest_seconds") > 0 and scraped.value("visitor_inbox_rows") > 0

    await eventually("a measurement", measured)


async def test_changes_that_wait_in_the_outbox_are_measured(stack: Stack) -> None:
    """By a function of the worker, in the process of the test: the worker itself measures every 15 seconds."""
    async with waiting_changes(stack, CHANGES):
        await measurements._measure(stack.engine, [CHANGES])
    assert WORKER.get_sample_value("visitor_outbox_rows", {"topic": CHANGES}) == 3
    assert 60 < (WORKER.get_sample_value("visitor_outbox_oldest_seconds", {"topic": CHANGES}) or 0) < 120


async def test_alerts_and_dashboards_use_only_metrics_and_labels_that_are_exported(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    assert (await client.post("/centers", json=data.center())).status_code == 201
    worker, edge = _processes(stack)

    async def changed_and_measured() -> bool:
        scraped = await scrape(worker)
        names = ("visitor_change_latency_seconds_count", "visitor_lag_seconds", "visitor_inbox_oldest_seconds")
        return all(any(sample.name == name for sample in scraped.samples) for name in names)

    await eventually("a change, and measurements", changed_and_measured)
    exported: dict[str, set[str]] = {}
    for sample in [*(await scrape(worker)).samples, *(await scrape(edge)).samples]:
        exported.setdefault(sample.name, set()).update(sample.labels)
    assert {query.location: each for query in queries.all_queries() if (each := query.unknown(exported))} == {}
