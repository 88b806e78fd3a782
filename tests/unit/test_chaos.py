"""`make chaos`: its oracle notices each kind of violation, a run that did too little fails, and a seed draws the same
faults each time."""

import asyncio
import io
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import fastavro
import httpx
import pytest
import pytest_asyncio

from chaos import faults
from chaos.__main__ import _check_memory
from chaos.cluster import CALLERS, EDGES, Cluster, Member
from chaos.http import Http
from chaos.oracle import (
    CALLS,
    DEAD_LETTERS,
    EFFECTS,
    ERASURE,
    LOST,
    MESSAGE_FAMILIES,
    REPUBLISHED,
    REQUIRED,
    RESULT_SECONDS,
    ROWS,
    SOURCE,
    WITHOUT_KEY,
    Comparison,
    Oracle,
    Request,
    Violation,
)
from chaos.report import Report
from chaos.traffic import Center, Overload, Traffic, Unanswered, Visitor
from tests.support.proxy import Proxy
from tests.support.stack import eventually

SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Change",
        "fields": [
            *({"name": name, "type": "string"} for name in ("resource", "action", "causedBy", "visitorId")),
            {"name": "revision", "type": "int"},
            {"name": "after", "type": ["null", {"type": "map", "values": "string"}]},
        ],
    }
)
PARTITIONS = 2


class FakeMessage:
    """What the oracle uses of a message of confluent-kafka."""

    def __init__(self, topic: str, offset: int, key: str, value: bytes | None, **headers: str) -> None:
        self._topic, self._offset, self._key, self._value = topic, offset, key.encode(), value
        self._headers = [(name, text.encode()) for name, text in headers.items()]

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


def change(
    revision: int,
    action: str = "updated",
    city: str = "Paris",
    cause: str = "r1",
    resource: str = "visitor",
    **after: str,
) -> bytes:
    out = io.BytesIO(b"\0" + (7).to_bytes(4, "big"))
    out.seek(0, io.SEEK_END)
    fields = {
        "resource": resource, "action": action, "causedBy": cause, "revision": revision, "visitorId": "v1",
        "after": None if action == "deleted" else {"addressCity": city, **after},
    }  # fmt: skip
    fastavro.schemaless_writer(out, SCHEMA, fields)
    return out.getvalue()


@pytest.fixture
def oracle() -> Oracle:
    return Oracle("", list, _schemas={7: SCHEMA})


async def observe(oracle: Oracle, *values: bytes | None, resource: str = "visitor", key: str = "v1") -> None:
    topic = f"visitor.some.changes.{resource}"
    for offset, value in enumerate(values, oracle._positions.get((topic, 0), 0)):
        await oracle.observe(FakeMessage(topic, offset, key, value))  # type: ignore[arg-type]


async def answer(oracle: Oracle, *statuses: int, visitor_id: str = "v1") -> None:
    oracle.requests["r1"] = Request("r1", "visitors.update", visitor_id, acknowledged=True)
    for offset, status in enumerate(statuses):
        value = json.dumps({"status": status}).encode()
        message: Any = FakeMessage("visitor.visitors.results", offset, "v1", value, ce_id="r1", ce_requestsource=SOURCE)
        await oracle.observe(message)


def answer_call(oracle: Oracle, status: int, operation: str = "visitors.update") -> None:
    oracle.requests["r1"] = Request("r1", operation, "v1", over_http=True, acknowledged=True, status=status)


def lose_call(oracle: Oracle, operation: str, marker: str = "", visitor_id: str = "v1") -> None:
    oracle.lost.append(Request("unknown", operation, visitor_id, marker=marker, over_http=True, has_own_key=False))


def test_an_overdue_result_is_a_violation(oracle: Oracle) -> None:
    overdue = Request("r1", "visits.create", "v1", acknowledged=True, position="visitor.visits.requests-3 at 7")
    oracle.requests = {"r1": overdue, "r2": Request("r2", "visits.create", "v1")}
    overdue.acknowledged_at = time.monotonic() - RESULT_SECONDS / 2
    oracle.verify_progress()
    overdue.acknowledged_at -= RESULT_SECONDS
    with pytest.raises(Violation, match="requests-3 at 7"):
        oracle.verify_progress()


async def test_repeated_changes_and_tombstones_are_accepted(oracle: Oracle) -> None:
    deletion = change(3, "deleted")
    first, second = change(1, "created"), change(2)
    await observe(oracle, first, second, first, second, change(2, "republished"), deletion, None, deletion, None, None)
    assert oracle.compared[REPUBLISHED] == 1


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([change(1), change(3)], "1..n in order"),
        ([change(2)], "1..n in order"),
        ([change(1), change(1, city="Rome")], "repeated exactly"),
        ([change(1), change(2), change(1, "republished")], "the newest one"),
        ([change(1), change(1, "republished", city="Rome")], "equals the last change"),
        ([change(1), change(2, "deleted"), change(1)], "follows a deletion"),
        ([change(1), None], "follows a deletion"),
    ],
    ids=["gap", "no beginning", "other content", "old state", "other state", "change after deletion", "tombstone only"],
)
async def test_wrong_changes_are_violations(oracle: Oracle, values: list[bytes | None], rule: str) -> None:
    with pytest.raises(Violation, match=rule):
        await observe(oracle, *values)


async def test_a_republished_state_may_have_newer_dates_of_events(oracle: Oracle) -> None:
    await observe(oracle, change(1, lastVisitDate="monday"), change(1, "republished", lastVisitDate="tuesday"))
    assert oracle.compared[REPUBLISHED] == 1


async def test_two_results_with_different_content_are_a_violation(oracle: Oracle) -> None:
    await answer(oracle, 204, 204)
    with pytest.raises(Violation, match="one result content"):
        await answer(oracle, 204, 204, 409)


@pytest.mark.parametrize("status", [404, 409, 500, 503])
async def test_a_message_that_is_refused_is_a_violation(oracle: Oracle, status: int) -> None:
    with pytest.raises(Violation, match="valid messages are accepted"):
        await answer(oracle, status)


async def test_results_of_erased_visitors_may_differ(oracle: Oracle) -> None:
    oracle.erased.add("v1")
    await answer(oracle, 204, 404)
    assert oracle.results == 2


async def test_a_dead_letter_is_a_violation(oracle: Oracle) -> None:
    with pytest.raises(Violation, match="dead letter"):
        await oracle.observe(FakeMessage(DEAD_LETTERS, 0, "v1", b"{}"))  # type: ignore[arg-type]


async def test_a_message_without_result_is_a_violation(oracle: Oracle) -> None:
    await answer(oracle)
    with pytest.raises(Violation, match="has a result"):
        oracle.verify_requests()


async def test_a_request_that_was_never_acknowledged_is_a_violation(oracle: Oracle) -> None:
    oracle.requests["r2"] = Request("r2", "visits.create", "v1")
    with pytest.raises(Violation, match="is acknowledged"):
        oracle.verify_requests()


@pytest.mark.parametrize("operation", EFFECTS)
async def test_a_call_that_succeeded_has_one_effect(oracle: Oracle, operation: str) -> None:
    resource, action = EFFECTS[operation]
    answer_call(oracle, 201, operation)
    if operation == ERASURE:
        oracle.erased.add("v1")
    with pytest.raises(Violation, match="one effect"):
        oracle.verify_requests()
    await observe(oracle, change(1, action, cause="local/r1", resource=resource), resource=resource)
    oracle.verify_requests()
    assert oracle.compared == {Comparison(CALLS, operation): 1}
    await observe(oracle, change(1, action, cause="local/r1", resource=resource), resource=resource, key="twice")
    with pytest.raises(Violation, match="one effect"):
        oracle.verify_requests()


@pytest.mark.parametrize("resource", ["visitor", "optin"])
async def test_a_call_that_was_refused_has_no_change(oracle: Oracle, resource: str) -> None:
    answer_call(oracle, 412)
    await observe(oracle, change(1, cause="local/r1", resource=resource), resource=resource)
    with pytest.raises(Violation, match="any other none"):
        oracle.verify_requests()


async def test_one_effect_for_each_message_is_accepted(oracle: Oracle) -> None:
    await answer(oracle, 204, 204)
    await observe(oracle, change(1), change(1))
    oracle.verify_requests()
    assert oracle.unanswered() == []


async def test_a_change_that_nobody_requested_is_a_violation(oracle: Oracle) -> None:
    await observe(oracle, change(1, "created", cause="local/k1"))
    with pytest.raises(Violation, match="made by one request"):
        oracle.verify_requests()


@pytest.mark.parametrize(
    ("operation", "marker", "visitor_id"),
    [
        ("visitors.create", "a@example.com", ""),
        ("vehicles.create", "AB-1", "v1"),
        ("visits.create", "", "v1"),
        ("visitorChallenges.create", "", "v1"),
    ],
)
async def test_a_call_without_answer_may_have_one_effect(
    oracle: Oracle, operation: str, marker: str, visitor_id: str
) -> None:
    resource, action = EFFECTS[operation]
    effect = change(1, action, cause="local/k1", resource=resource, text=marker)
    await observe(oracle, effect, resource=resource)
    lose_call(oracle, operation, marker, visitor_id)
    oracle.verify_requests()
    assert oracle.compared == {Comparison(CALLS, operation): 1, WITHOUT_KEY: 1, LOST: 1}
    # The same call once more, under another key of the edge.
    repetition = change(1, action, cause="local/k2", resource=resource, text=marker)
    await observe(oracle, repetition, resource=resource, key="twice")
    with pytest.raises(Violation, match="made by one request"):
        oracle.verify_requests()


@pytest.mark.parametrize(
    ("operation", "marker", "visitor_id"),
    [("visitors.create", "b@example.com", ""), ("vehicles.create", "", "v1"), ("visitors.create", "", "v2")],
    ids=["other email", "other resource", "other visitor"],
)
async def test_a_call_without_answer_explains_no_other_change(
    oracle: Oracle, operation: str, marker: str, visitor_id: str
) -> None:
    await observe(oracle, change(1, "created", cause="local/k1", email="a@example.com"))
    lose_call(oracle, operation, marker, visitor_id)
    with pytest.raises(Violation, match="made by one request"):
        oracle.verify_requests()


def test_a_call_without_answer_may_have_no_effect(oracle: Oracle) -> None:
    lose_call(oracle, "visitors.create", "a@example.com", "")
    oracle.verify_requests()


@pytest.mark.parametrize("missing", REQUIRED, ids=str)
def test_an_oracle_that_compared_nothing_of_a_kind_is_a_violation(oracle: Oracle, missing: Comparison) -> None:
    oracle.compared.update(REQUIRED)
    oracle.verify_comparisons()
    del oracle.compared[missing]
    with pytest.raises(Violation, match=re.escape(str(missing))):
        oracle.verify_comparisons()


# Rows


class FakeConnection:
    """A table `visitors` with one row, and none in other tables."""

    def __init__(self, **row: Any) -> None:
        self._row = {"visitor_id": "v1", "revision": 2, "address_city": "Rome", "checkin_count": 9, **row}

    async def fetch(self, statement: str) -> list[dict[str, Any]]:
        return [self._row] if statement == "select * from visitors" else []


async def verify_row(oracle: Oracle, **row: Any) -> None:
    await oracle._verify_rows(FakeConnection(**row), "visitor")  # type: ignore[arg-type]


async def test_a_row_that_equals_the_last_change_is_accepted(oracle: Oracle) -> None:
    await observe(oracle, change(1, "created"), change(2, city="Rome", checkinCount="3"))
    await verify_row(oracle)
    assert oracle.compared[Comparison(ROWS, "visitors")] == 1


@pytest.mark.parametrize(
    ("last", "row"),
    [
        (change(2, city="Rome"), {"address_city": "Oslo"}),
        (change(2, city="Rome"), {"revision": 3}),
        (change(2, city="Rome"), {"visitor_id": "v2"}),
        (change(2, city="Rome", lostField="x"), {}),
        (change(2, "deleted"), {}),
    ],
    ids=["value", "revision", "key", "no column", "row of a deleted visitor"],
)
async def test_a_row_that_differs_from_the_last_change_is_a_violation(oracle: Oracle, last: bytes, row: Any) -> None:
    await observe(oracle, change(1, "created"), last)
    with pytest.raises(Violation, match="row"):
        await verify_row(oracle, **row)


async def test_a_resource_whose_rows_are_not_compared_is_a_violation(oracle: Oracle) -> None:
    await observe(oracle, change(1, "created", resource="reward"), resource="reward")
    with pytest.raises(Violation, match="reward"):
        oracle._verify_resources()


async def test_rows_without_requests_are_a_violation(oracle: Oracle) -> None:
    with pytest.raises(Violation, match="as many vehicles"):
        oracle._compare("vehicles", Counter(v1=1), {"v1": 2})


# What was read


@pytest.mark.parametrize(
    ("ends", "read_ends", "unread"),
    [
        ({("t", 0): 7}, {("t", 0): 7}, ""),
        ({("t", 0): 7}, {("t", 0): 6}, "t-0 is read up to 6 of 7"),
        ({("t", 0): 0}, {}, "t-0 is read up to None of 0"),
        ({}, {}, "no partition is followed"),
    ],
    ids=["all read", "a record is left", "never read", "nothing to read"],
)
async def test_a_partition_is_read_when_its_end_was_reached(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, ends: Any, read_ends: Any, unread: str
) -> None:
    monkeypatch.setattr("chaos.oracle.FETCH_SECONDS", 0)
    monkeypatch.setattr(oracle, "_ends", lambda: ends)
    oracle._read_ends = read_ends
    assert await oracle.unread() == unread


# Probes


class FakeProducer:
    """A service: it acknowledges each message, and answers it and publishes its change unless an outage forbids it."""

    def __init__(self, oracle: Oracle, has_outage: Callable[[str, str], bool]) -> None:
        self._oracle, self._has_outage = oracle, has_outage

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=range(PARTITIONS))})

    def produce(self, topic: str, *_: Any, headers: list[tuple[str, bytes]]) -> None:
        family, request_id = topic.split(".")[1], dict(headers)["ce_id"].decode()
        if not self._has_outage("result", family):
            self._oracle._result_values[request_id] = b""
        if not self._has_outage("change", family):
            self._oracle._changes_by_cause[request_id].add(("", "", "", 1))


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        (lambda part, family: family == "optins", {"result of optins", "change of optins"}),
        (lambda part, family: family == "visits", {"result of visits", "change of visits"}),
        (lambda part, family: (part, family) == ("change", "parking"), {"change of parking"}),
        (lambda part, _: part == "change", {f"change of {family}" for family in MESSAGE_FAMILIES.values()}),
    ],
    ids=["a family", "another family", "the publisher of a topic", "all publishers"],
)
async def test_a_probe_waits_for_each_family_and_each_publisher(
    oracle: Oracle, lost: Callable[[str, str], bool], missing: set[str]
) -> None:
    """And for each partition of them."""
    load = Traffic(oracle, answering(200), seed=1, center=Center("FR-A", [1], 1))
    load.visitors = [Visitor(f"v{number}", "barcode", "email", "plate", 1) for number in range(20)]
    load._producer = FakeProducer(oracle, lost)  # type: ignore[assignment]
    expected = {f"{part} {number}" for part in missing for number in range(PARTITIONS)}
    recovered: dict[str, float] = {}
    probing = asyncio.create_task(load.probe(random.Random(1), recovered))

    async def others_recovered() -> bool:
        return {name for name, seconds in recovered.items() if seconds == math.inf} == expected

    try:
        await eventually("the other probes", others_recovered)
        assert len(recovered) == 1 + 2 * PARTITIONS * len(MESSAGE_FAMILIES)
        assert not probing.done()
    finally:
        probing.cancel()
        with suppress(asyncio.CancelledError):
            await probing


# HTTP calls


def answering(status: int, headers: Mapping[str, str] = MappingProxyType({})) -> Http:
    """An edge that answers each call with this status."""
    return served_by(lambda request: httpx.Response(status, headers=headers, json={"data": {}}))


def served_by(handler: Callable[[httpx.Request], httpx.Response]) -> Http:
    http = Http(lambda: ["http://edge"])
    http._client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return http


def post_without_key(oracle: Oracle, http: Http) -> Coroutine[Any, Any, httpx.Response]:
    request = Request("unknown", "visits.create", "v1")
    return Traffic(oracle, http, seed=1)._write_without_key(request, "POST", "/visits/entry", {})


async def test_a_call_without_key_is_known_by_the_key_of_the_edge(oracle: Oracle) -> None:
    await post_without_key(oracle, answering(201, {"Idempotency-Key": "k1"}))
    assert oracle.requests["k1"].cause == "local/k1"
    assert oracle.requests["k1"].succeeded
    assert not oracle.lost


async def test_a_call_without_key_is_repeated_with_the_key_of_its_first_answer(oracle: Oracle) -> None:
    keys = []

    def handle(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("Idempotency-Key"))
        return httpx.Response(201 if len(keys) == 3 else 504, headers={"Idempotency-Key": "k1"})

    await post_without_key(oracle, served_by(handle))
    assert keys == [None, "k1", "k1"]
    assert oracle.requests["k1"].succeeded


@pytest.mark.parametrize("status", [201, 404])
async def test_an_answer_without_key_is_a_violation(oracle: Oracle, status: int) -> None:
    with pytest.raises(Violation, match="the key that it made"):
        await post_without_key(oracle, answering(status))


async def test_an_answer_500_is_a_violation(oracle: Oracle) -> None:
    with pytest.raises(Violation, match="as a bug"):
        await answering(500).call("GET", "/visitors/v1")


def test_callers_reach_an_edge_through_a_proxy_that_follows_its_restarts() -> None:
    proxies = {edge: Proxy("127.0.0.1", 0) for edge in EDGES}
    urls = iter(["http://127.0.0.1:4711", "http://127.0.0.1:4712"])
    cluster: Any = SimpleNamespace(
        brokers={}, links={(CALLERS, edge): proxy for edge, proxy in proxies.items()}, members={},
        clocks={edge: SimpleNamespace(environment={}) for edge in EDGES},
        stack=SimpleNamespace(edge=lambda **_: (None, next(urls))),
    )  # fmt: skip
    for port in (4711, 4712):
        Cluster.start(cluster, "edge-0")
        assert proxies["edge-0"].target == ("127.0.0.1", port)
    proxies["edge-0"].port, proxies["edge-1"].port = 1, 2
    assert Cluster.callers_urls(cluster) == ["http://127.0.0.1:1", "http://127.0.0.1:2"]


@pytest_asyncio.fixture
async def silent_edge() -> AsyncIterator[Proxy]:
    """A proxy to a server that reads calls and answers none."""
    open_connections = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.append((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1")
    async with server, Proxy("127.0.0.1", server.sockets[0].getsockname()[1]).listening() as proxy:
        yield proxy
        for _, writer in open_connections:
            writer.close()


async def test_a_call_whose_connection_is_cut_is_not_repeated_without_key(oracle: Oracle, silent_edge: Proxy) -> None:
    http = Http(lambda: [f"http://127.0.0.1:{silent_edge.port}"])
    calling = asyncio.ensure_future(post_without_key(oracle, http))

    async def is_connected() -> bool:
        return silent_edge.connections == 1

    await eventually("a connection", is_connected)
    silent_edge.cut()
    with pytest.raises(Unanswered):
        await calling
    await http.close()
    assert [call.operation for call in oracle.lost] == ["visits.create"]
    assert http.attempts == 1


# Runs


def finished_run(minutes: float) -> tuple[Report, Traffic]:
    """A run that did just enough."""
    report = Report(1, minutes)
    for item in islice(iter(faults.FAULTS * 100), int(1_000 * minutes / 60)):
        report.faults[item.kind] += 1
    report.recoveries.append(1.0)
    load = Traffic(Oracle("", list), Http(list), seed=1)
    load.oracle.compared[REPUBLISHED] = 1
    load.sent, load.http.calls = int(120 * minutes), int(10 * minutes)
    load.overloads = [Overload(report.overload_seconds, 40.0)] * report.faults[faults.WITH_OVERLOAD]
    return report, load


@pytest.mark.parametrize(("minutes", "seconds"), [(3, 18), (10, 60), (60, 60)])
def test_a_run_that_did_enough_is_accepted(minutes: float, seconds: float) -> None:
    report, load = finished_run(minutes)
    assert report.overload_seconds == seconds
    report.verify(load)


@pytest.mark.parametrize("minutes", [3, 60])
def test_a_run_with_too_few_faults_fails(minutes: float) -> None:
    report, load = finished_run(minutes)
    report.faults["connections cut"] -= 1
    with pytest.raises(Violation, match=f"at least {minutes * 1_000 // 60} expected"):
        report.verify(load)


@pytest.mark.parametrize(("minutes", "may_be_missing"), [(60, 0), (30, 0), (15, len(faults.FAULTS) // 2)])
def test_a_run_without_some_kinds_of_faults_fails(minutes: float, may_be_missing: int) -> None:
    report, load = finished_run(minutes)
    kinds = [item.kind for item in faults.FAULTS if item.kind not in (faults.WITH_OVERLOAD, "connections slowed")]
    for kind in kinds[:may_be_missing]:
        report.faults["connections slowed"] += report.faults.pop(kind)
    report.verify(load)
    missing = kinds[may_be_missing]
    report.faults["connections slowed"] += report.faults.pop(missing)
    with pytest.raises(Violation, match=re.escape(missing)):
        report.verify(load)


@pytest.mark.parametrize(
    ("overload", "rule"),
    [
        (Overload(59.0, 40.0), "for 60 s"),
        (Overload(61.0, 30.0), "36 messages per second"),
        (None, "an overload sends messages"),
    ],
    ids=["too short", "too slow", "not measured"],
)
def test_an_overload_that_is_none_fails(overload: Overload | None, rule: str) -> None:
    report, load = finished_run(60)
    load.overloads[-1:] = [] if overload is None else [overload]
    with pytest.raises(Violation, match=rule):
        report.verify(load)


@pytest.mark.parametrize(("messages", "calls"), [(0, 600), (7_199, 600), (7_200, 599)])
def test_a_run_with_too_little_traffic_fails(messages: int, calls: int) -> None:
    report, load = finished_run(60)
    load.sent, load.http.calls = messages, calls
    with pytest.raises(Violation, match="enough traffic"):
        report.verify(load)


def test_a_run_without_a_measured_recovery_fails() -> None:
    report, load = finished_run(60)
    report.recoveries.clear()
    with pytest.raises(Violation, match="no round ended"):
        report.verify(load)


def test_republications_without_republished_states_fail() -> None:
    report, load = finished_run(60)
    load.oracle.compared.clear()
    with pytest.raises(Violation, match="republications published nothing"):
        report.verify(load)


def test_the_memory_of_each_process_is_measured() -> None:
    peaks = dict.fromkeys(("worker-0", "worker-1", "edge-0", "edge-1"), 2**20)
    _check_memory(SimpleNamespace(peak_memory=peaks))  # type: ignore[arg-type]
    del peaks["edge-1"]
    with pytest.raises(Violation, match="edge-1"):
        _check_memory(SimpleNamespace(peak_memory=peaks))  # type: ignore[arg-type]


@pytest.mark.parametrize("lacked_files", [False, True])
def test_a_process_may_end_by_itself_only_without_file_descriptors(lacked_files: bool, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("a traceback")
    process: Any = SimpleNamespace(log=tmp_path / "worker.log")
    exits: Counter[str] = Counter()
    expected = nullcontext() if lacked_files else pytest.raises(Violation, match="a traceback")
    with expected:
        Cluster._note_own_exit(
            SimpleNamespace(own_exits=exits),  # type: ignore[arg-type]
            Member("worker-0", process, "", lacked_files=lacked_files), 1,
        )  # fmt: skip
    assert exits == {"worker, status 1": 1}


# Faults


@pytest.mark.parametrize("group", faults.GROUPS)
def test_a_seed_draws_the_same_faults_of_a_group_and_each_kind_soon(group: str) -> None:
    size = sum(item.weight for item in faults.FAULTS if item.group == group)
    first, second = (list(islice(faults.deck(group, random.Random(1)), 3 * size)) for _ in range(2))
    assert first == second
    assert set(first[:size]) == {item for item in faults.FAULTS if item.group == group}


def test_each_fault_belongs_to_a_group() -> None:
    assert {item.group for item in faults.FAULTS} == faults.GROUPS.keys()


async def test_a_fault_that_changes_nothing_is_not_counted(silent_edge: Proxy) -> None:
    """Here it cuts the connections of a proxy that has none."""
    logged: list[str] = []
    cut = next(item for item in faults.FAULTS if item.kind == "connections cut")

    async def inject() -> None:
        cluster: Any = SimpleNamespace(links={("callers", "edge-0"): silent_edge})
        run = faults.Run(cluster, load, random.Random(1), 0, faults.Round(time.monotonic() + 60, 1))
        with suppress(RuntimeError):  # the deck is empty
            await faults._inject_in_lane(0.001, iter([cut]), run, lambda fault, _: logged.append(fault.kind))

    load = Traffic(Oracle("", list), Http(list), seed=1)
    await inject()
    assert logged == []
    _, writer = await asyncio.open_connection("127.0.0.1", silent_edge.port)

    async def is_connected() -> bool:
        return silent_edge.connections == 1

    await eventually("a connection", is_connected)
    await inject()
    assert logged == ["connections cut"]
    writer.close()


def test_an_overload_lengthens_its_round() -> None:
    this_round = faults.Round(time.monotonic() + 10, 60)
    ends = this_round.ends
    this_round.extend(5)
    assert this_round.ends == ends
    this_round.extend(60)
    assert this_round.ends >= ends + 50
