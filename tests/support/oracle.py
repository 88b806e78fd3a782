"""Compares what was sent with what is in the tables, the inbox and the topics. Says nothing where all agrees."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.table import TABLES, Table
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
    # Counted first: to read all that there is, again and again, slows the worker that is waited for.
    if sum([await stack.count(names.results(family)) for family in families]) < len(sent.operations):
        return False
    return sent.operations.keys() <= (await results(stack, families)).keys()


async def outbox_empty(stack: Stack) -> bool:
    return (await stack.rows("select count(*) from outbox"))[0][0] == 0


async def verify(stack: Stack, sent: Sent, families: Sequence[str]) -> None:
    """Nothing lost, nothing doubled, and changes in the order of their revisions."""
    await _one_answer_each(stack, sent, families)
    changes = {family: await stack.read(names.changes(family)) for family in families}
    for records in changes.values():
        _changes_in_order(records)
    for table in TABLES:
        if table.family in names.EVENT_FAMILIES & changes.keys():
            await _one_event_each(stack, sent, table, changes[table.family])
        elif table.family in changes:
            await _last_changes_are_the_rows(stack, table, changes[table.family])
    await _counted_right(stack)
    await _points_add_up(stack, sent)


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


def _changes_in_order(records: Sequence[Record]) -> None:
    """A revision may be delivered again, with the same content; a new one is higher than all before."""
    highest: dict[str, int] = {}
    content: dict[tuple[str, int], bytes] = {}
    for record in records:
        if record.value is None:
            continue
        key, revision = str(record.key), record.value["revision"]
        if (key, revision) in content:
            assert content[key, revision] == record.raw, f"{key}:{revision} was told twice and differently"
            continue
        assert revision == highest.get(key, 0) + 1, f"{key} goes from revision {highest.get(key, 0)} to {revision}"
        highest[key], content[key, revision] = revision, record.raw or b""


async def _one_event_each(stack: Stack, sent: Sent, table: Table[Any], records: Sequence[Record]) -> None:
    """Each request made one event: one row, one change."""
    created = f"{table.name}.create"
    wanted = {request_id for request_id, operation in sent.operations.items() if operation == created}
    changes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        changes[record.value["causedBy"]].add(record.value["id"])
    assert wanted - changes.keys() == set(), f"{table.name} without a change"
    assert [ids for ids in changes.values() if len(ids) != 1] == [], f"requests that made two {table.name}"
    rows = {str(row[0]) for row in await stack.rows(f"select {table.key} from {table.name}")}
    assert rows == {event for ids in changes.values() for event in ids}, f"{table.name} in table and changes differ"


MOVED_BY_VISITS = {"lastVisitDate", "lastParkingSession"}


async def _last_changes_are_the_rows(stack: Stack, table: Table[Any], records: Sequence[Record]) -> None:
    last = {str(record.key): record.value for record in records}
    for row in await stack.rows(f"select * from {table.name}"):
        key = f"{table.resource}:{getattr(row, table.key)}"
        assert key in last, f"{key} was never told"
        assert last[key]["revision"] == row.revision, key
        for name, info in table.row.model_fields.items():
            wire = str(info.serialization_alias)
            if wire not in MOVED_BY_VISITS and not isinstance(getattr(row, name), list):
                assert plain(last[key]["after"][wire]) == plain(getattr(row, name)), f"{key}: {wire}"


async def _counted_right(stack: Stack) -> None:
    """What is counted beside the rows is what the rows say."""
    assert await stack.rows(
        "select service_id from services where checkin_count <>"
        " (select count(*) from checkins where checkins.service_id = services.service_id)"
    ) == []  # fmt: skip
    assert await stack.rows(
        "with digits as (select challenge_id, level, points >> (6 * level) as bucket, count(*) as participants"
        " from visitor_challenges, generate_series(0, 10) as level group by 1, 2, 3)"
        " select * from (select * from digits where bucket & 63 <> 0) as wanted"
        " full join ranking_counts using (challenge_id, level, bucket)"
        " where wanted.participants is distinct from ranking_counts.participants"
    ) == []  # fmt: skip
    assert await stack.rows(
        "select visitor_id from optins where is_active"
        " group by visitor_id, optin_type, optin_channel, context_id having count(*) > 1"
    ) == []  # fmt: skip


async def _points_add_up(stack: Stack, sent: Sent) -> None:
    """Each addPoints counted once, and each history follows from the one before."""
    steps = await stack.rows(
        "select points, total_points, lag(total_points, 1, 0::bigint) over"
        " (partition by visitor_challenge_id order by visitor_challenge_history_id) as before from challenge_histories"
    )
    assert [step for step in steps if step.before + step.points != step.total_points] == []
    accepted = await stack.rows("select 1 from inbox where operation = 'visitorChallenges.addPoints' and status = 204")
    known = [1 for operation in sent.operations.values() if operation == "visitorChallenges.addPoints"]
    assert len(steps) == len(accepted) == len(known)
