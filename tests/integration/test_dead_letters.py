"""`visitor dead-letters`, with messages of a stock client."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka import Producer

import runtime.dead_letters
from runtime.dead_letters import DeadLetters, Filter
from runtime.settings import Settings
from storage import dead_letter_marks
from tests.support import data
from tests.support.stack import PARTITIONS, WAIT_SECONDS, Record, Stack, eventually
from topics import dead_letters, names
from topics.dead_letters import Position

TOPIC = names.requests("visits")
PARTITION = 1


async def _send(stack: Stack, value: bytes, headers: Sequence[tuple[str, bytes]], topic: str = TOPIC) -> None:
    producer = Producer({"bootstrap.servers": stack.servers.kafka})
    producer.produce(topic, value, b"the-key", PARTITION, headers=list(headers))
    assert await asyncio.to_thread(producer.flush, 20) == 0


def _headers(source: str, request_id: str | None, operation: str = "visits.create") -> list[tuple[str, bytes]]:
    sender_id = [] if request_id is None else [("ce_id", request_id.encode())]
    return [
        ("ce_specversion", b"1.0"),
        *sender_id,
        ("ce_type", f"visitor.{operation}".encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/json"),
        ("x-raw", b"\xff\x00"),
        ("x-raw", b"twice"),
    ]


def _new_source() -> str:
    return f"gateway/{uuid4()}"


async def _run(stack: Stack, *arguments: str) -> str:
    """The output of a command that succeeds."""
    done = await stack.command("dead-letters", *arguments, seconds=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _list(stack: Stack, *options: str) -> Any:
    return json.loads(await _run(stack, "list", "--json", *options))


async def _answer(stack: Stack, answer: str, *arguments: str) -> tuple[int, str]:
    """The status and the output of a command on a terminal. When it asks, somebody types the answer."""
    terminal, end_of_command = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime.cli", "dead-letters", *arguments,
        stdin=end_of_command, stdout=end_of_command, stderr=end_of_command, env=stack.environment(),
    )  # fmt: skip
    os.close(end_of_command)
    output = b""
    with suppress(OSError):  # The terminal of a process that has ended gives EIO.
        while chunk := await asyncio.wait_for(asyncio.to_thread(os.read, terminal, 4096), WAIT_SECONDS):
            output += chunk
            if answer and b"[y/N]" in output:
                os.write(terminal, f"{answer}\n".encode())
                answer = ""
    os.close(terminal)
    return await process.wait(), output.decode()


async def _positions(stack: Stack, source: str) -> dict[str, tuple[int, int]]:
    """The positions of the dead letters of a source, by the ids of their requests, empty for a request without one."""
    letters = [each for each in await stack.read(names.DEAD_LETTERS) if each.headers.get("ce_source") == source]
    return {letter.headers.get("ce_id", ""): letter.position for letter in letters}


async def _actions(stack: Stack, source: str) -> dict[str, str]:
    """What was done with the dead letters of a source, by the ids of their requests."""
    rows = await stack.rows('select partition, "offset", action from dead_letter_marks')
    actions = {(partition, offset): action for partition, offset, action in rows}
    positions = await _positions(stack, source)
    return {request_id: actions[position] for request_id, position in positions.items() if position in actions}


async def _unmark(stack: Stack, source: str) -> None:
    """Forget what was done with the dead letters of a source."""
    keys = [{"partition": each[0], "offset": each[1]} for each in (await _positions(stack, source)).values()]
    async with stack.engine.begin() as conn:
        await conn.execute(
            sa.text('delete from dead_letter_marks where partition = :partition and "offset" = :offset'), keys
        )


async def _await_arrival(stack: Stack, source: str, number: int) -> None:
    async def have_arrived() -> bool:
        return len(await _positions(stack, source)) >= number

    await eventually(f"{number} dead letters of {source}", have_arrived)


async def _await_letters(stack: Stack, source: str, number: int) -> list[dict[str, Any]]:
    # Each call of the command takes seconds.
    await _await_arrival(stack, source, number)

    async def all_letters() -> list[dict[str, Any]] | None:
        letters: list[dict[str, Any]] = (await _list(stack, "--source", source))["deadLetters"]
        return letters if len(letters) == number else None

    letters: list[dict[str, Any]] = await eventually(f"{number} dead letters of {source}", all_letters)
    return letters


async def _sent(stack: Stack, source: str) -> list[Record]:
    """The requests of a source, in order."""
    return [record for record in await stack.read(TOPIC) if record.headers.get("ce_source") == source]


@asynccontextmanager
async def _failing_visits(stack: Stack, pc_code: str) -> AsyncIterator[None]:
    """Make the visits of a center fail with an error that the service does not expect."""
    name = f"fail_{uuid4().hex}"
    async with stack.engine.begin() as conn:
        await conn.execute(
            sa.text(
                f"create function {name}() returns trigger language plpgsql as"
                f" $$ begin if new.pc_code = '{pc_code}' then raise 'a bug'; end if; return new; end $$"
            )
        )
        await conn.execute(
            sa.text(f"create trigger {name} before insert on visits for each row execute function {name}()")
        )
    try:
        yield
    finally:
        async with stack.engine.begin() as conn:
            await conn.execute(sa.text(f"drop function {name} cascade"))


async def _visits(stack: Stack, parker: dict[str, Any]) -> int:
    return len(await stack.rows("select 1 from visits where pc_code = :pc_code", pc_code=parker["pcCode"]))


def _visit(parker: dict[str, Any]) -> bytes:
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    return json.dumps({"path": {"visitType": "entry"}, "body": body}).encode()


async def test_a_request_that_met_a_bug_is_replayed_once_with_the_same_bytes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, source, request_id = await data.visitor_with_vehicle(client), _new_source(), str(uuid4())
    async with _failing_visits(stack, parker["pcCode"]):
        await _send(stack, _visit(parker), _headers(source, request_id))
        assert (await stack.result("visits.create", request_id)).value["status"] == 500
    listed = await _list(stack, "--source", source)
    assert listed["counts"] == {"bug": 1}
    assert (listed["deadLetters"][0]["operation"], listed["deadLetters"][0]["topic"]) == ("visits.create", TOPIC)

    assert "1 would be replayed." in await _run(stack, "replay", "--source", source, "--dry-run")
    assert len(await _sent(stack, source)) == 1
    assert "1 replayed." in await _run(stack, "replay", "--source", source)
    assert (await stack.result("visits.create", request_id, nth=2)).value["status"] == 201

    assert "Nothing to replay." in await _run(stack, "replay", "--source", source)
    first, second = await _sent(stack, source)
    assert (first.partition, first.key, first.raw) == (second.partition, second.key, second.raw)
    assert first.raw_headers == second.raw_headers
    assert await _visits(stack, parker) == 1
    assert (await _list(stack, "--source", source))["deadLetters"] == []
    (letter,) = (await _list(stack, "--source", source, "--all"))["deadLetters"]
    assert letter["action"] == "replayed"


@pytest.mark.parametrize("request_id", [None, "an id"])
async def test_a_replay_that_was_killed_before_it_marked_is_repeated_and_applies_nothing_twice(
    stack: Stack, client: httpx.AsyncClient, request_id: str | None
) -> None:
    parker, source = await data.visitor_with_vehicle(client), _new_source()
    async with _failing_visits(stack, parker["pcCode"]):
        await _send(stack, _visit(parker), _headers(source, request_id))
        (letter,) = await _await_letters(stack, source, 1)
    for replays in (1, 2):
        assert "1 replayed." in await _run(stack, "replay", letter["id"])
        result_id = (await _sent(stack, source))[-1].id
        await stack.result("visits.create", result_id, nth=replays + (request_id is not None))
        await _unmark(stack, source)
    assert len(await _sent(stack, source)) == 3
    assert await _visits(stack, parker) == 1


async def test_dead_letters_are_selected_and_counted(stack: Stack) -> None:
    source = _new_source()
    await _send(stack, b"{", _headers(source, "a"))
    await _send(stack, b"{", _headers(source, "b"))
    await _send(stack, b"{}", _headers(source, "c", "visits.destroy"))
    letters = await _await_letters(stack, source, 3)
    assert (await _list(stack, "--source", source))["counts"] == {"not_json": 2, "unknown_operation": 1}

    async def ids(*options: str) -> list[str]:
        return [letter["requestId"] for letter in (await _list(stack, "--source", source, *options))["deadLetters"]]

    first, last = letters[0]["writtenAt"].removesuffix("Z"), letters[-1]["writtenAt"].removesuffix("Z")
    assert await ids("--reason", "not_json") == ["a", "b"]
    assert await ids("--operation", "visits.destroy") == ["c"]
    assert await ids("--topic", TOPIC) == ["a", "b", "c"]
    assert await ids("--topic", names.QUERIES) == []
    assert await ids("--since", last) != []
    assert await ids("--since", "9999-01-01T00:00:00Z") == []
    assert await ids("--until", first) == []
    table = await _run(stack, "list", "--source", source)
    assert "visits.destroy" in table
    assert "unknown_operation  1" in table
    planned = await _run(stack, "replay", "--source", source, "--dry-run")
    assert "3 would be replayed." in planned
    assert "2 (not_json) will be dead letters again" in planned


async def test_a_discarded_dead_letter_is_shown_and_is_not_replayed(stack: Stack) -> None:
    source = _new_source()
    await _send(stack, b"{", _headers(source, "a"))
    (letter,) = await _await_letters(stack, source, 1)
    assert "1 discarded." in await _run(stack, "discard", letter["id"])
    shown = json.loads(await _run(stack, "show", letter["id"]))
    assert (shown["action"], shown["reason"], shown["record"]["headers"]["ce_id"]) == ("discarded", "not_json", "a")
    assert shown["record"]["value"]["text"] == "{"
    replayed = await _run(stack, "replay", letter["id"])
    assert "1 were replayed or discarded before" in replayed
    assert "Nothing to replay." in replayed
    assert "0 discarded." in await _run(stack, "discard", letter["id"])
    assert len(await _sent(stack, source)) == 1


async def test_a_filter_discards_what_matches_it_and_nothing_else(stack: Stack) -> None:
    source, other_source = _new_source(), _new_source()
    await _send(stack, b"{", _headers(source, "early"))
    await _send(stack, b"{", _headers(other_source, "other"))
    await _await_arrival(stack, source, 1)
    await _await_next_second()
    await _send(stack, b"\xff", _headers(source, "reason"))
    await _send(stack, b"{", _headers(source, "operation", "visits.destroy"))
    await _send(stack, b"{", _headers(source, "topic", "centers.create"), names.requests("centers"))
    await _await_arrival(stack, source, 4)
    await _await_next_second()
    await _send(stack, b"{", _headers(source, "late"))
    written_at = {each["requestId"]: each["writtenAt"] for each in await _await_letters(stack, source, 5)}
    middle = min(written_at[name] for name in ("reason", "operation", "topic")).removesuffix("Z")
    filters = {
        "reason": "not_utf8", "operation": "visits.destroy", "topic": names.requests("centers"),
        "until": middle, "since": written_at["late"].removesuffix("Z"),
    }  # fmt: skip
    discards = (_run(stack, "discard", "--source", source, f"--{name}", value) for name, value in filters.items())
    for output in await asyncio.gather(*discards):
        assert "\n1 discarded." in output
    assert await _actions(stack, source) == dict.fromkeys(written_at, "discarded")
    assert await _actions(stack, other_source) == {}


async def _await_next_second() -> None:
    """Filters by time have whole seconds."""
    second = int(time.time())

    async def has_passed() -> bool:
        return int(time.time()) > second

    await eventually("the next second", has_passed)


async def test_more_than_100_dead_letters_are_replayed_and_discarded_after_a_yes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    parker, source = await data.visitor_with_vehicle(client), _new_source()
    selection = ("--source", source)
    request_ids = [str(uuid4()) for _ in range(101)]

    async def answered(times: int, status: int) -> None:
        for request_id in request_ids:
            assert (await stack.result("visits.create", request_id, nth=times)).value["status"] == status

    async with _failing_visits(stack, parker["pcCode"]):
        for number, request_id in enumerate(request_ids):
            await stack.raw(TOPIC, _visit(parker), _headers(source, request_id), partition=number % PARTITIONS)
        await answered(1, 500)

    commands = ("replay", "discard")
    without_terminal = (stack.command("dead-letters", command, *selection) for command in commands)
    on_terminal = (_answer(stack, "n", command, *selection) for command in commands)
    (*refused, (replay, asked_to_replay), (discard, asked_to_discard)) = await asyncio.gather(
        *without_terminal, *on_terminal
    )
    assert [(done.returncode, "Aborted" in done.stderr) for done in refused] == [(1, True)] * 2
    assert (replay, "Replay 101 dead letters? [y/N]" in asked_to_replay) == (1, True)
    assert (discard, "Discard 101 dead letters? [y/N]" in asked_to_discard) == (1, True)
    assert (len(await _sent(stack, source)), await _actions(stack, source)) == (101, {})

    status, output = await _answer(stack, "y", "replay", *selection)
    assert (status, "101 replayed." in output) == (0, True)
    await answered(2, 201)
    assert "Nothing to replay." in await _run(stack, "replay", *selection)
    assert (len(await _sent(stack, source)), await _visits(stack, parker)) == (202, 101)
    assert await _actions(stack, source) == dict.fromkeys(request_ids, "replayed")

    await _unmark(stack, source)
    assert "101 replayed." in await _run(stack, "replay", *selection, "--yes")
    await answered(3, 201)
    assert (len(await _sent(stack, source)), await _visits(stack, parker)) == (303, 101)

    await _unmark(stack, source)
    assert "101 discarded." in await _run(stack, "discard", *selection, "--yes")
    assert await _actions(stack, source) == dict.fromkeys(request_ids, "discarded")


async def test_replaying_all_dead_letters_asks(stack: Stack) -> None:
    source = _new_source()
    await _send(stack, b"{", _headers(source, "a"))
    await _await_letters(stack, source, 1)
    done = await stack.command("dead-letters", "replay")
    assert done.returncode == 1
    assert "Aborted" in done.stderr
    assert len(await _sent(stack, source)) == 1


async def test_a_dead_letter_that_does_not_exist_is_an_error(stack: Stack) -> None:
    done = await stack.command("dead-letters", "show", "0:999999")
    assert (done.returncode, done.stderr.startswith("visitor: There is no dead letter at 0:999999.")) == (1, True)


FLOOD = 1_500
"""Dead letters in each of two partitions."""


class _Flood:
    """Thousands of dead letters in a topic of their own."""

    def __init__(self, stack: Stack, topic: str) -> None:
        self._topic = topic
        self.letters = DeadLetters(Settings(kafka=stack.kafka), stack.engine.begin)
        self.read = 0
        """How many records consumers have got."""

    def count_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        get_many = AIOKafkaConsumer.getmany

        async def counted(consumer: Any, *partitions: TopicPartition, **options: Any) -> Any:
            batches = await get_many(consumer, *partitions, **options)
            self.read += sum(len(batch) for partition, batch in batches.items() if partition.topic == self._topic)
            return batches

        monkeypatch.setattr(AIOKafkaConsumer, "getmany", counted)


@pytest_asyncio.fixture
async def flood(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Flood]:
    topic = f"test.dead-letters.{uuid4()}"
    monkeypatch.setattr(names, "DEAD_LETTERS", topic)
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.servers.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 2, 1)])
        sent = []
        for number in range(2 * FLOOD):
            record = SimpleNamespace(
                topic=TOPIC, partition=0, offset=number, timestamp=0.0, key=None, value=b"{",
                headers=_headers(_new_source(), str(number)),
            )  # fmt: skip
            letter = dead_letters.from_record(cast(Any, record), "unknown_operation", "The reason.")
            headers = list(letter.headers)
            sent.append(await stack.producer.send(topic, letter.value, letter.key, number % 2, headers=headers))
        await asyncio.gather(*sent)
        counted = _Flood(stack, topic)
        counted.count_reads(monkeypatch)
        yield counted
    finally:
        await admin.delete_topics([topic])
        await admin.close()


async def test_chosen_dead_letters_are_found_without_reading_all(flood: _Flood) -> None:
    async def planned(*positions: Position) -> tuple[int, int]:
        """How many dead letters would be replayed, and how many records were read."""
        flood.read = 0
        plan = await flood.letters.plan_replay(Filter(positions=frozenset(positions)))
        return plan.count, flood.read

    newest, middle = Position(0, FLOOD - 1), Position(1, FLOOD // 2)
    assert await planned(newest) == (1, 1)
    assert await planned(newest, Position(0, FLOOD - 10)) == (2, 10)
    count, read = await planned(newest, middle, Position(1, FLOOD), Position(2, 0), Position(0, 10**15))
    assert count == 2
    assert read < 0.6 * FLOOD
    assert await planned(Position(1, FLOOD), Position(2, 0), Position(0, -1)) == (0, 0)
    assert await planned() == (2 * FLOOD, 2 * FLOOD)


class _Ahead(datetime):
    """The clock of a computer that is 90 days ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=90)


async def test_the_clock_of_the_operator_does_not_matter(
    stack: Stack, flood: _Flood, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runtime.dead_letters, dead_letter_marks):
        monkeypatch.setattr(module, "datetime", _Ahead)
    marked, other = (Filter(positions=frozenset({Position(0, offset)})) for offset in (0, 1))
    for selection in (marked, other):
        await flood.letters.discard(await flood.letters.plan_discard(selection), lambda _: None)
    ((first, mark),), _ = await flood.letters.newest(marked, 1, include_marked=True)
    assert mark is not None
    assert abs(mark.marked_at - first.written_at) < timedelta(days=1)
    plan = await flood.letters.plan_replay(Filter(positions=frozenset({Position(0, 2)})))
    assert (plan.count, plan.older_than_inbox) == (1, 0)
