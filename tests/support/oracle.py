"""Compare the requests that were sent with the tables, the inbox and the topics. A difference fails the test."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.table import TABLES, Table
from tests.support.stack import Record, Stack, plain
from topics import names


@dataclass
class Sent:
    """The sent requests: the operation of each request id. A request may have been sent more than once."""

    operations: dict[str, str] = field(default_factory=dict)

    def note(self, request_id: str, operation: str) -> None:
        self.operations[request_id] = operation


async def results(stack: Stack, families: Sequence[str]) -> dict[str, list[Record]]:
    """The results of these families, by request id."""
    records_by_id: dict[str, list[Record]] = defaultdict(list)
    for family in families:
        for record in await stack.read(names.results(family)):
            records_by_id[record.id].append(record)
    return records_by_id


async def all_answered(stack: Stack, sent: Sent, families: Sequence[str]) -> bool:
    """True if every sent request has a result."""
    # Count first: tests poll this function, and reading all results each time would slow the worker down.
    if sum([await stack.count(names.results(family)) for family in families]) < len(sent.operations):
        return False
    return sent.operations.keys() <= (await results(stack, families)).keys()


async def outbox_empty(stack: Stack) -> bool:
    return (await stack.rows("select count(*) from outbox"))[0][0] == 0


async def verify(stack: Stack, sent: Sent, families: Sequence[str]) -> None:
    """Assert that no request was lost or applied twice, and that changes are in the order of their revisions."""
    await _verify_results(stack, sent, families)
    for table in (table for table in TABLES if table.family in families):
        changes = await stack.read(names.changes(table.family, table.resource))
        _verify_revisions(changes)
        if table.are_events:
            await _verify_events(stack, sent, table, changes)
        else:
            await _verify_last_changes(stack, table, changes)
    await _verify_counters(stack)
    await _verify_points(stack, sent)


async def _verify_results(stack: Stack, sent: Sent, families: Sequence[str]) -> None:
    """Every request has one answer in the inbox, and all its results have the same content."""
    results_by_id = await results(stack, families)
    assert sent.operations.keys() - results_by_id.keys() == set(), "requests without a result"
    contents = {
        request_id: {bytes(record.raw or b"") for record in records} for request_id, records in results_by_id.items()
    }
    different = {request_id for request_id, values in contents.items() if len(values) != 1}
    assert different == set(), "requests whose results differ"
    inbox = {row.request_id: row for row in await stack.rows("select request_id, operation, status from inbox")}
    assert sent.operations.keys() - inbox.keys() == set(), "requests that are missing in the inbox"
    for request_id, operation in sent.operations.items():
        assert inbox[request_id].operation == operation
        assert inbox[request_id].status == results_by_id[request_id][0].value["status"]


def _verify_revisions(records: Sequence[Record]) -> None:
    """The revisions of each key increase by one. A repeated revision has the same content."""
    last_revisions: dict[str, int] = {}
    contents: dict[tuple[str, int], bytes] = {}
    for record in records:
        if record.value is None:
            continue
        key, revision = str(record.key), record.value["revision"]
        if (key, revision) in contents:
            assert contents[key, revision] == record.raw, f"{key}: two changes with revision {revision} differ"
            continue
        last_revision = last_revisions.get(key, 0)
        assert revision == last_revision + 1, f"{key}: revision {revision} follows {last_revision}"
        last_revisions[key] = revision
        contents[key, revision] = record.raw or b""


async def _verify_events(stack: Stack, sent: Sent, table: Table[Any], records: Sequence[Record]) -> None:
    """Each request to create an event has created one row and one change."""
    create = f"{table.name}.create"
    request_ids = {request_id for request_id, operation in sent.operations.items() if operation == create}
    events_by_request: dict[str, set[str]] = defaultdict(set)
    for record in records:
        events_by_request[record.value["causedBy"]].add(record.value["id"])
    assert request_ids - events_by_request.keys() == set(), f"{table.name} without a change"
    assert [ids for ids in events_by_request.values() if len(ids) != 1] == [], f"requests that created two {table.name}"
    stored_ids = {str(row[0]) for row in await stack.rows(f"select {table.key} from {table.name}")}
    published_ids = {event_id for ids in events_by_request.values() for event_id in ids}
    assert stored_ids == published_ids, f"the rows and the changes of {table.name} differ"


WITHOUT_CHANGE = {"lastVisitDate", "lastParkingSession"}
"""Fields that an entry updates without a change of the visitor or vehicle."""


async def _verify_last_changes(stack: Stack, table: Table[Any], records: Sequence[Record]) -> None:
    """Each row equals the last change of its entity."""
    last_changes = {str(record.key): record.value for record in records}
    for row in await stack.rows(f"select * from {table.name}"):
        key = str(getattr(row, table.key))
        entity = f"{table.resource} {key}"
        assert key in last_changes, f"{entity} has no change"
        assert last_changes[key]["revision"] == row.revision, entity
        for name, info in table.row.model_fields.items():
            alias = str(info.serialization_alias)
            if alias not in WITHOUT_CHANGE and not isinstance(getattr(row, name), list):
                assert plain(last_changes[key]["after"][alias]) == plain(getattr(row, name)), f"{entity}: {alias}"


async def _verify_counters(stack: Stack) -> None:
    """Stored counts equal the number of rows that they count, and no two active optins have the same key."""
    assert await stack.rows(
        "select service_id from services where checkin_count <>"
        " (select count(*) from checkins where checkins.service_id = services.service_id)"
    ) == []  # fmt: skip
    assert await stack.rows(
        "with digits as (select challenge_id, level, points >> (6 * level) as bucket, count(*) as participants"
        " from visitor_challenges, generate_series(0, 10) as level group by 1, 2, 3)"
        " select * from (select * from digits where bucket & 63 <> 0) as expected"
        " full join ranking_counts using (challenge_id, level, bucket)"
        " where expected.participants is distinct from ranking_counts.participants"
    ) == []  # fmt: skip
    assert await stack.rows(
        "select visitor_id from optins where is_active"
        " group by visitor_id, optin_type, optin_channel, context_id having count(*) > 1"
    ) == []  # fmt: skip


async def _verify_points(stack: Stack, sent: Sent) -> None:
    """Each addPoints has added one history row, and the total of each row is the previous total plus its points."""
    histories = await stack.rows(
        "select points, total_points, lag(total_points, 1, 0::bigint) over"
        " (partition by visitor_challenge_id order by visitor_challenge_history_id) as before from challenge_histories"
    )
    assert [row for row in histories if row.before + row.points != row.total_points] == []
    answers = await stack.rows("select 1 from inbox where operation = 'visitorChallenges.addPoints' and status = 204")
    requests = [operation for operation in sent.operations.values() if operation == "visitorChallenges.addPoints"]
    assert len(histories) == len(answers) == len(requests)
