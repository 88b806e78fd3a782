"""What the metrics of worker and edge say after calls and messages."""

import asyncio
import re
import time
from importlib.metadata import version
from typing import get_args

import httpx

from agents.engine import measurements
from storage import database
from telemetry.metrics import WORKER
from tests.support import data, queries
from tests.support.metrics import Scrape, scrape
from tests.support.oracle import outbox_empty
from tests.support.outbox import waiting_changes
from tests.support.pages import ROOT
from tests.support.stack import PARTITIONS, PERSONAL, Process, Stack, assert_impersonal, eventually
from topics import names
from topics.envelope import JSON, Reason, RequestHeaders

REQUESTS, CHANGES = names.requests("centers"), names.changes("centers", "center")
STATE = "visitor_publisher_state"


def _processes(stack: Stack) -> tuple[Process, Process]:
    """The worker and the edge that all tests share."""
    return stack.processes[0], stack.processes[1]


async def _scrape_of_idle(stack: Stack, worker: Process) -> Scrape:
    """A scrape of the worker when all that earlier tests have sent is counted."""
    scrapes = [await scrape(worker)]

    async def is_idle() -> bool:
        scrapes.append(await scrape(worker))
        counters = ("visitor_requests_total", "visitor_changes_published_total", "visitor_dead_letters_total")
        increases = [scrapes[-1].increase(scrapes[-2], name) for name in counters]
        return not any(increases) and await outbox_empty(stack)

    await eventually("an idle worker", is_idle)
    return scrapes[-1]


async def test_a_call_is_counted_and_measured_until_its_result_and_its_change(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    worker, edge = _processes(stack)
    worker_before, edge_before = await _scrape_of_idle(stack, worker), await scrape(edge)
    started_at = time.monotonic()
    answer = await client.post("/centers", json=data.center())
    seconds = time.monotonic() - started_at
    assert answer.status_code == 201

    counts: dict[str, dict[str, str]] = {
        "visitor_requests_total": {"operation": "centers.create", "status": "201"},
        "visitor_result_latency_seconds_count": {"topic": REQUESTS},
        "visitor_batch_requests_sum": {},
        "visitor_batch_seconds_count": {"topic": REQUESTS},
        "visitor_changes_published_total": {"topic": CHANGES},
        "visitor_change_latency_seconds_count": {"topic": CHANGES},
    }

    async def all_counted() -> Scrape | None:
        scraped = await scrape(worker)
        is_counted = [scraped.increase(worker_before, name, **labels) >= 1 for name, labels in counts.items()]
        return scraped if all(is_counted) else None

    # The change may be published before the broker has acknowledged the result.
    after = await eventually("a result and a change that are measured", all_counted)
    assert {name: after.increase(worker_before, name, **labels) for name, labels in counts.items()} == dict.fromkeys(
        counts, 1
    )
    assert after.increase(worker_before, "visitor_pool_wait_seconds_count", pool="writes") >= 1
    result, change, batch = (
        after.increase(worker_before, f"visitor_{name}_seconds_sum", topic=topic)
        for name, topic in (("result_latency", REQUESTS), ("change_latency", CHANGES), ("batch", REQUESTS))
    )
    assert batch > 0
    assert 0 < result < 60
    assert 0 < change < 60
    edge_after = await scrape(edge)
    call = {"operation": "centers.create"}
    assert edge_after.increase(edge_before, "visitor_http_calls_total", **call, status="201") == 1
    assert edge_after.increase(edge_before, "visitor_http_seconds_count", **call) == 1
    # A batch may end after the call: it waits until the broker has acknowledged the result.
    assert 0 < edge_after.increase(edge_before, "visitor_http_seconds_sum", **call) < seconds


async def test_worker_and_edge_say_that_they_are_ready_and_how_they_run(stack: Stack) -> None:
    for process in _processes(stack):
        scraped = await scrape(process)
        assert scraped.value("visitor_ready") == 1
        assert scraped.value("visitor_build_info", version=version("visitor-service")) == 1
        assert scraped.value("visitor_event_loop_delay_seconds_count") > 0
        assert scraped.value("process_resident_memory_bytes") > 10 * 2**20


async def test_a_worker_exports_no_metrics_of_the_edge_and_the_reverse(stack: Stack) -> None:
    worker, edge = [{family.name for family in (await scrape(process)).families} for process in _processes(stack)]
    assert "visitor_http_calls" in edge - worker
    assert "visitor_requests" in worker - edge


async def test_lag_is_given_in_messages_and_seconds_for_each_partition(stack: Stack, client: httpx.AsyncClient) -> None:
    """Attempts to apply a request that waits for a lock are batches without requests."""
    worker, _ = _processes(stack)
    center = data.center()
    assert (await client.post("/centers", json=center)).status_code == 201
    request_id = f"lag-{center['pcCode']}"
    parts = {"path": {"pcCode": center["pcCode"]}, "body": {"label": "Lag"}}
    before = await _scrape_of_idle(stack, worker)
    async with stack.engine.begin() as conn:
        await conn.exec_driver_sql(f"select 1 from centers where pc_code = '{center['pcCode']}' for update")
        await stack.send("centers.update", parts, request_id=request_id, partition=2, key=center["pcCode"])

        async def lags() -> bool:
            scraped = await scrape(worker)
            return scraped.value("visitor_lag_seconds", topic=REQUESTS, partition="2") > 1

        await eventually("lag of the partition", lags)
        waiting = await scrape(worker)
        assert waiting.value("visitor_lag_messages", topic=REQUESTS, partition="2") == 1
        assert waiting.increase(before, "visitor_batch_requests_count") == 0
        assert waiting.increase(before, "visitor_result_latency_seconds_count", topic=REQUESTS) == 0
    assert (await stack.result("centers.update", request_id)).value["status"] == 204

    async def no_lag() -> bool:
        scraped = await scrape(worker)
        return scraped.value("visitor_lag_seconds") == scraped.value("visitor_lag_messages") == 0

    await eventually("no lag", no_lag)
    done = await scrape(worker)
    assert done.increase(before, "visitor_batch_requests_count") == 1
    assert done.increase(before, "visitor_result_latency_seconds_sum", topic=REQUESTS) > 1
    partitions = [
        s.labels["partition"]
        for s in (await scrape(worker)).samples
        if s.name == "visitor_lag_messages" and s.labels["topic"] == REQUESTS
    ]
    assert sorted(partitions) == [str(number) for number in range(PARTITIONS)]


async def test_a_dead_letter_is_counted_by_its_reason(stack: Stack) -> None:
    worker, _ = _processes(stack)
    before = await _scrape_of_idle(stack, worker)
    broken = {"not_json": (b"{", "centers.create"), "unknown_operation": (b"{}", "centers.unknown")}
    for value, operation in broken.values():
        await stack.raw(REQUESTS, value, RequestHeaders("broken", operation, "test", JSON).encode())

    async def counted() -> bool:
        return (await scrape(worker)).increase(before, "visitor_dead_letters_total") >= len(broken)

    await eventually("dead letters that are counted", counted)
    after = await scrape(worker)
    increases = {
        reason: after.increase(before, "visitor_dead_letters_total", reason=reason) for reason in get_args(Reason)
    }
    assert {reason: count for reason, count in increases.items() if count} == dict.fromkeys(broken, 1)


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


async def test_all_changes_in_the_outbox_are_estimated_if_they_are_too_many_to_be_counted(stack: Stack) -> None:
    name = "visitor_outbox_estimated_rows"
    async with waiting_changes(stack, CHANGES):
        await measurements._measure(stack.engine, [CHANGES])
    assert WORKER.get_sample_value(name) == 3
    async with waiting_changes(stack, CHANGES, count=1_500):

        async def are_estimated() -> bool:
            await measurements._measure(stack.engine, [CHANGES])
            return (WORKER.get_sample_value(name) or 0) >= 1_500

        await eventually("an estimate of all changes", are_estimated)
        assert WORKER.get_sample_value("visitor_outbox_rows", {"topic": CHANGES}) == 1_000


async def test_the_state_of_a_publisher_says_whether_another_session_has_its_topic(stack: Stack) -> None:
    worker, _ = _processes(stack)

    async def states() -> dict[str, float]:
        samples = [each for each in (await scrape(worker)).samples if each.labels.get("topic") == CHANGES]
        return {each.labels[STATE]: each.value for each in samples if each.name == STATE}

    async def is_in(state: str) -> bool:
        return await states() == {**dict.fromkeys(("idle", "publishing", "standby", "failing"), 0), state: 1}

    async with waiting_changes(stack, CHANGES):
        await eventually("a publisher that stands by", lambda: is_in("standby"))
    await eventually("a publisher without changes", lambda: is_in("idle"))


async def test_the_wait_for_a_connection_is_measured(stack: Stack) -> None:
    """In the process of the test: a worker has enough connections."""
    engine = database.connect(stack.database, connections=1, pool="test")
    async with engine.connect():
        waiting = asyncio.create_task(engine.connect().start())
        await asyncio.sleep(0.3)
        assert WORKER.get_sample_value("visitor_pool_wait_seconds_count", {"pool": "test"}) == 1
    await (await waiting).close()
    await engine.dispose()
    assert WORKER.get_sample_value("visitor_pool_wait_seconds_count", {"pool": "test"}) == 2
    assert (WORKER.get_sample_value("visitor_pool_wait_seconds_sum", {"pool": "test"}) or 0) > 0.25


async def test_the_page_names_the_pools_of_a_worker(stack: Stack, client: httpx.AsyncClient) -> None:
    worker, _ = _processes(stack)
    row = re.search(r"^\| `pool` \| (.*) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert row is not None
    await data.create(client, "/centers", data.center())
    assert (await client.get("/centers")).status_code == 200

    async def are_exported() -> bool:
        samples = (await scrape(worker)).samples
        pools = {each.labels["pool"] for each in samples if each.name == "visitor_pool_wait_seconds_count"}
        return pools == set(re.findall("`(.*?)`", row[1]))

    await eventually("each of the pools", are_exported)


async def test_no_metric_has_personal_data(stack: Stack, client: httpx.AsyncClient) -> None:
    """Wherever a caller puts it: into paths, queries, bodies and headers. The metrics of all other tests are looked at
    when their processes end."""
    worker, edge = _processes(stack)
    before = await scrape(worker)
    owner = await data.visitor_with_vehicle(client)
    visitor = (await client.get(f"/visitors/{owner['visitorId']}")).json()["data"]
    email, name = visitor["email"], visitor["lastName"]
    assert {text for text in PERSONAL if text in f"{email} {visitor['firstName']} {name}"} == set(PERSONAL)
    for path in (f"/{email}", f"/visitors/{email}", f"/visitors?email={email}", f"/visitors?{name}={name}"):
        await client.get(path, headers={"User-Agent": email, "Idempotency-Key": email})
    person = "mona.lisa@example.org"  # The log has ids, sources and types.
    for operation in ("visitors.create", f"visitors.{person}"):
        headers = RequestHeaders(person, operation, person, JSON).encode()
        await stack.raw(names.requests("visitors"), f'{{"body": {{"email": "{email}"}}}}'.encode(), headers)

    async def are_counted() -> bool:
        now = await scrape(worker)
        dead_letters = now.increase(before, "visitor_dead_letters_total", reason="unknown_operation")
        refusals = now.increase(before, "visitor_requests_total", operation="visitors.create", status="400")
        return dead_letters >= 1 and refusals >= 1

    await eventually("the messages in the metrics", are_counted)
    for process in (worker, edge):
        exported = await process.exported()
        assert "visitor_ready" in exported
        assert_impersonal(exported, f"the metrics of {process.name}")
        assert person not in exported


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
