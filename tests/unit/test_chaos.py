"""`make chaos`: its oracle notices each kind of violation, and a seed draws the same faults each time."""

import io
import json
import random
import time
from typing import Any

import fastavro
import pytest

from chaos import faults
from chaos.oracle import RESULT_SECONDS, SOURCE, Oracle, Request, Violation

TOPIC = "visitor.visitors.changes.visitor"
SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Change",
        "fields": [
            *({"name": name, "type": "string"} for name in ("resource", "action", "causedBy")),
            {"name": "revision", "type": "int"},
            {"name": "city", "type": "string"},
        ],
    }
)


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


def change(revision: int, action: str = "updated", city: str = "Paris", cause: str = "r1") -> bytes:
    out = io.BytesIO(b"\0" + (7).to_bytes(4, "big"))
    out.seek(0, io.SEEK_END)
    fields = {"resource": "visitor", "action": action, "causedBy": cause, "revision": revision, "city": city}
    fastavro.schemaless_writer(out, SCHEMA, fields)
    return out.getvalue()


@pytest.fixture
def oracle() -> Oracle:
    return Oracle("", list, _schemas={7: SCHEMA})


async def observe(oracle: Oracle, *values: bytes | None) -> None:
    for offset, value in enumerate(values):
        await oracle.observe(FakeMessage(TOPIC, offset, "v1", value))  # type: ignore[arg-type]


async def answer(oracle: Oracle, *statuses: int, visitor_id: str = "v1") -> None:
    oracle.requests["r1"] = Request("r1", "visitors.update", visitor_id, acknowledged=True)
    for offset, status in enumerate(statuses):
        value = json.dumps({"status": status}).encode()
        message: Any = FakeMessage("visitor.visitors.results", offset, "v1", value, ce_id="r1", ce_requestsource=SOURCE)
        await oracle.observe(message)


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


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([change(1), change(3)], "1..n in order"),
        ([change(2)], "1..n in order"),
        ([change(1), change(1, city="Rome")], "repeated exactly"),
        ([change(1), change(2), change(1, "republished")], "the newest one"),
        ([change(1), change(2, "deleted"), change(1)], "follows a deletion"),
        ([change(1), None], "follows a deletion"),
    ],
    ids=["gap", "no beginning", "other content", "old state", "change after deletion", "tombstone only"],
)
async def test_wrong_changes_are_violations(oracle: Oracle, values: list[bytes | None], rule: str) -> None:
    with pytest.raises(Violation, match=rule):
        await observe(oracle, *values)


async def test_two_results_with_different_content_are_a_violation(oracle: Oracle) -> None:
    await answer(oracle, 204, 204)
    with pytest.raises(Violation, match="one result content"):
        await answer(oracle, 204, 204, 409)


async def test_results_of_erased_visitors_may_differ(oracle: Oracle) -> None:
    oracle.erased.add("v1")
    await answer(oracle, 204, 404)
    assert oracle.results == 2


async def test_a_message_without_result_is_a_violation(oracle: Oracle) -> None:
    await answer(oracle)
    with pytest.raises(Violation, match="has a result"):
        oracle.verify_requests()


@pytest.mark.parametrize(
    ("status", "values"),
    [(204, []), (204, [change(1), change(2)]), (409, [change(1)])],
    ids=["lost", "applied twice", "refused and applied"],
)
async def test_a_wrong_number_of_effects_is_a_violation(oracle: Oracle, status: int, values: list[bytes]) -> None:
    await answer(oracle, status)
    await observe(oracle, *values)
    with pytest.raises(Violation, match="one effect"):
        oracle.verify_requests()


async def test_one_effect_for_each_request_is_accepted(oracle: Oracle) -> None:
    await answer(oracle, 204, 204)
    await observe(oracle, change(1), change(1))
    oracle.verify_requests()
    assert oracle.unanswered() == []


@pytest.mark.parametrize("group", faults.GROUPS)
def test_a_seed_draws_the_same_faults_of_a_group(group: str) -> None:
    first, second = random.Random(1), random.Random(1)
    drawn = [faults.draw(group, first) for _ in range(300)]
    assert drawn == [faults.draw(group, second) for _ in range(300)]
    assert {item.kind for item in drawn} == {item.kind for item in faults.FAULTS if item.group == group}


def test_each_fault_belongs_to_a_group() -> None:
    assert {item.group for item in faults.FAULTS} == faults.GROUPS.keys()
