"""Compares what was sent with what is in the tables, the inbox and the topics. Says nothing where all agrees."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.stack import Record, Stack, plain
from topics import names


@dataclass
class Sent:
    """The producer's log: what each request id asked for. A request may have been sent more than once."""

    operations: dict[str, str] = field(default_factory=dict)

    def note(self, request_id: str, operation: str) -> None:
        self.operations[request_id] = operation


async def results(stack: Stack, families: Sequence[str]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for family in families:
        for record in await stack.read(names.results(family)):
            found[record.id].append(record)
    return found


async def all_answered(stack: Stack, sent: Sent, families: Sequence[str]) -> bool:
    return sent.operations.keys() <= (await results(stack, families)).keys()


async def outbox_empty(stack: Stack) -> bool:
    return (await stack.rows("select count(*) from outbox"))[0][0] == 0


async def verify(stack: Stack, sent: Sent, families: Sequence[str]) -> None:
    """Nothing lost, nothing doubled, and changes in the order of their revisions."""
    await _one_answer_each(stack, sent, families)
    for family in families:
        await _changes_in_order(await stack.read(names.changes(family)))
    await _one_visit_each(stack, sent)
    await _last_changes_are_the_rows(stack, families)


async def _one_answer_each(stack: Stack, sent: Sent, families: Sequence[str]) -> None:
    answered = await results(stack, families)
    assert sent.operations.keys() - answered.keys() == set(), "requests without a result"
    contents = {
        request_id: {bytes(record.raw or b"") for record in records} for request_id, records in answered.items()
    }
    assert {request_id for request_id, found in contents.items() if len(found) != 1} == set(), "results that differ"
    inbox = {row.request_id: row for row in await stack.rows("select request_id, operation, status from inbox")}
    assert sent.operations.keys() - inbox.keys() == set(), "requests that the inbox does not know"
    for request_id, operation in sent.operations.items():
        assert inbox[request_id].operation == operation
        assert inbox[request_id].status == answered[request_id][0].value["status"]


async def _changes_in_order(records: Sequence[Record]) -> None:
    """A revision may be delivered again, with the same content; a new one is higher than all before."""
    highest: dict[str, int] = {}
    content: dict[tuple[str, int], bytes] = {}
    for record in records:
        key, revision = str(record.key), record.value["revision"]
        if (key, revision) in content:
            assert content[key, revision] == record.raw, f"{key}:{revision} was told twice and differently"
            continue
        assert revision == highest.get(key, 0) + 1, f"{key} goes from revision {highest.get(key, 0)} to {revision}"
        highest[key], content[key, revision] = revision, record.raw or b""


async def _one_visit_each(stack: Stack, sent: Sent) -> None:
    wanted = {request_id for request_id, operation in sent.operations.items() if operation == "visits.create"}
    changes = {}
    for record in await stack.read(names.changes("visits")):
        changes.setdefault(record.value["causedBy"], set()).add(record.value["id"])
    assert Counter(changes.keys() & wanted) == Counter(wanted), "visits without a change"
    assert [ids for ids in changes.values() if len(ids) != 1] == [], "requests that made two visits"
    rows = {str(row.visit_id) for row in await stack.rows("select visit_id from visits")}
    told = {visit for ids in changes.values() for visit in ids}
    assert rows == told, "visits in the table and in the changes differ"


TABLES = {
    "visitor": ("visitors", "visitor_id"),
    "center": ("centers", "pc_code"),
    "vehicle": ("vehicles", "vehicle_id"),
}
MOVED_BY_VISITS = {"lastVisitDate", "lastParkingSession"}


async def _last_changes_are_the_rows(stack: Stack, families: Sequence[str]) -> None:
    last: dict[str, Any] = {}
    for family in families:
        for record in await stack.read(names.changes(family)):
            last[str(record.key)] = record.value
    for resource, (table, key) in TABLES.items():
        for row in await stack.rows(f"select *, {key} as the_key from {table}"):
            change = last.get(f"{resource}:{row.the_key}")
            if change is None:
                continue
            assert change["revision"] == row.revision, f"{resource}:{row.the_key}"
            _same(change["after"], row._mapping)


def _same(after: dict[str, Any], row: Any) -> None:
    snake = {name.replace("_", "").lower(): value for name, value in row.items()}
    for name, value in after.items():
        if name not in MOVED_BY_VISITS:
            assert plain(value) == plain(snake[name.lower()]), name
