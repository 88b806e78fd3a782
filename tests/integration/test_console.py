"""The console of an edge, on the shared installation."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest_asyncio
import sqlalchemy as sa

from runtime.console.app import STREAMS_OF_CALLER
from storage import inbox
from tests.support import data
from tests.support.answers import error_codes
from tests.support.edges import bearer, entry
from tests.support.plans import plan_of
from tests.support.stack import PERSONAL, Stack, eventually
from topics import names
from topics.envelope import JSON

SOURCE = "gateway/console"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def console(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the endpoints of a console."""
    audit_log = stack.home / "console-audit.log"
    edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_LOG_AUDIT=str(audit_log))
    await eventually("a ready edge with a console", edge.ready)
    async with httpx.AsyncClient(base_url=f"{url}/console/api/", timeout=60) as client:
        yield client


def _audited(stack: Stack) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stack.home / "console-audit.log").read_text().splitlines()]


async def _get(console: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    response = await console.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def _parker(client: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """A visitor with a vehicle, and the body of a visit."""
    parker = await data.visitor_with_vehicle(client)
    return parker, {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}


async def test_a_request_is_followed_from_its_message_to_its_change(
    stack: Stack, client: httpx.AsyncClient, console: httpx.AsyncClient
) -> None:
    parker, body = await _parker(client)
    request_id = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": body}, source=SOURCE)
    await stack.result("visits.create", request_id)

    async def whole_trace() -> Any:
        trace = await _get(console, "requests", id=request_id)
        return trace if len(trace["messages"]) == 3 else None

    trace = await eventually("the change", whole_trace)
    messages = {message["kind"]: message for message in trace["messages"]}
    # The change may be published before the broker has acknowledged the result.
    assert list(messages) in (["request", "result", "change"], ["request", "change", "result"])
    (answered,) = trace["answered"]
    assert (answered["operation"], answered["status"], answered["source"]) == ("visits.create", 201, SOURCE)
    assert answered["visitorIds"] == [parker["visitorId"]]
    assert messages["result"]["status"] == 201
    assert messages["change"]["name"] == "visit created"
    assert messages["change"]["visitorId"] == parker["visitorId"]
    assert trace["notes"] == []
    assert parker["licensePlate"] not in json.dumps(trace)
    lines = [line for line in _audited(stack) if line["visitors"] == [parker["visitorId"]]]
    assert {(line["caller"], line["operation"]) for line in lines} == {("api/local", "console.request")}


async def test_a_change_that_is_not_published_yet_is_named(
    stack: Stack, client: httpx.AsyncClient, console: httpx.AsyncClient
) -> None:
    _, body = await _parker(client)
    topic, key = names.changes("visits", "visit"), str(uuid4())

    # No worker publishes the changes of this topic as long as another session has its lock.
    async with stack.engine.connect() as conn, conn.begin():
        await conn.execute(sa.text("select pg_advisory_xact_lock(hashtextextended(:topic, 0))"), {"topic": topic})
        assert (await client.post("/visits/entry", json=body, headers={"Idempotency-Key": key})).status_code == 201
        (note,) = (await _get(console, "requests", id=key))["notes"]
    assert note.startswith(f"Its changes for {topic} (1) are in the outbox and not published yet.")

    async def published() -> bool:
        trace = await _get(console, "requests", id=key)
        return trace["notes"] == [] and "change" in [message["kind"] for message in trace["messages"]]

    await eventually("the change", published)


async def test_an_http_call_is_found_by_its_idempotency_key(
    client: httpx.AsyncClient, console: httpx.AsyncClient
) -> None:
    _, body = await _parker(client)
    key = str(uuid4())
    trace_id = uuid4().hex
    headers = {"Idempotency-Key": key, "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    created = await client.post("/visits/entry", json=body, headers=headers)
    assert created.status_code == 201
    trace = await _get(console, "requests", id=key)
    assert {"request", "reply", "result"} <= {message["kind"] for message in trace["messages"]}
    assert {message["traceId"] for message in trace["messages"]} == {trace_id}
    assert [answered["status"] for answered in trace["answered"]] == [201]


async def test_a_request_that_was_refused_or_has_no_id_is_found(stack: Stack, console: httpx.AsyncClient) -> None:
    refused = await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": {}}, content_type=JSON)
    await stack.result("visits.create", refused)
    trace = await _get(console, "requests", id=refused)
    assert trace["answered"] == []
    errors = [message["errors"] for message in trace["messages"] if message["kind"] == "result"]
    assert errors == [["required pcCode", "identification_required"]]

    headers = [("ce_specversion", b"1.0"), ("ce_type", b"visitor.visits.create"), ("content-type", JSON.encode())]
    value = json.dumps({"path": {"visitType": "entry"}, "body": {"barcode": str(uuid4()), "pcCode": "FR-SC-NONE"}})
    topic = names.requests("visits")
    await stack.raw(topic, value.encode(), headers, partition=0)
    record = [each for each in await stack.read(topic) if each.partition == 0][-1]
    result = await stack.await_record(
        names.results("visits"), lambda each: each.id.startswith(f"{topic}:0:{record.offset}@")
    )
    trace = await _get(console, "requests", id=result.id)
    assert [message["offset"] for message in trace["messages"] if message["kind"] == "request"] == [record.offset]
    assert [answered["status"] for answered in trace["answered"]] == [result.value["status"]]


async def test_an_unknown_request_says_what_was_searched(console: httpx.AsyncClient) -> None:
    trace = await _get(console, "requests", id=str(uuid4()), minutes="1")
    assert (trace["answered"], trace["messages"]) == ([], [])
    assert "Neither the inbox nor the searched messages have this id." in trace["notes"][0]


async def test_a_timeline_has_visits_consents_and_changes_and_no_personal_data(
    stack: Stack, client: httpx.AsyncClient, console: httpx.AsyncClient
) -> None:
    parker, body = await _parker(client)
    visitor_id = parker["visitorId"]
    await client.post("/visits/entry", json=body)
    optins = f"/visitors/{visitor_id}/optins"
    optin = {"optinType": "wallet", "optinChannel": "push", "isActive": True}
    assert (await client.post(optins, json=optin)).status_code == 201
    before = datetime.now(UTC).isoformat()
    deleted = await client.delete(optins, params={"optinType": "wallet", "optinChannel": "push"})
    assert deleted.status_code == 204

    async def with_changes() -> Any:
        timeline = await _get(console, f"visitors/{visitor_id}")
        changes = [event["name"] for event in timeline["events"] if event["kind"] == "change"]
        return timeline if {"visit created", "optin created", "optin updated"} <= set(changes) else None

    timeline = await eventually("the changes", with_changes)
    assert timeline["exists"]
    assert [event["subject"] for event in timeline["events"] if event["kind"] == "visit"] == [parker["pcCode"]]
    assert {event["name"] for event in timeline["events"] if event["kind"] == "request"} >= {"visits.create"}

    def wallet(page: Any) -> list[str]:
        return [consent["state"] for consent in page["consents"] if consent["optinType"] == "wallet"]

    assert wallet(timeline) == ["withdrawn"]
    assert wallet(await _get(console, f"visitors/{visitor_id}", at=before)) == ["given"]
    personal = (parker["licensePlate"], *PERSONAL)
    assert [text for text in personal if text in json.dumps(timeline)] == []
    lines = [line for line in _audited(stack) if line["operation"] == "console.visitor"]
    assert [line["visitors"] for line in lines][-1] == [visitor_id]


async def test_the_timeline_of_an_unknown_visitor_says_so(console: httpx.AsyncClient) -> None:
    timeline = await _get(console, f"visitors/{uuid4()}")
    assert (timeline["exists"], timeline["events"]) == (False, [])
    assert "There is no such visitor" in timeline["notes"][0]


async def test_dead_letters_are_filtered_shown_and_replayed_once(stack: Stack, console: httpx.AsyncClient) -> None:
    source = f"gateway/{uuid4()}"
    headers = [
        ("ce_specversion", b"1.0"), ("ce_id", b"a"), ("ce_type", b"visitor.visits.create"),
        ("ce_source", source.encode()), ("content-type", JSON.encode()), ("x-name", b"Zora"),
    ]  # fmt: skip
    await stack.raw(names.requests("visits"), b'["Zora"]', headers)

    async def listed() -> Any:
        page = await _get(console, "dead-letters", source=source, since="2020-01-01T00:00:00Z")
        return page if page["total"] else None

    page = await eventually("the dead letter", listed)
    assert page["counts"] == {"not_an_object": 1}
    (letter,) = page["deadLetters"]
    detail = await _get(console, f"dead-letters/{letter['id']}")
    assert (detail["hiddenHeaders"], detail["outline"], detail["headers"]["ce_id"]) == (["x-name"], ["text"], "a")
    assert "Zora" not in json.dumps(detail)
    assert (await _get(console, "dead-letters", source=source, reason="bug"))["total"] == 0

    selection = {"ids": [letter["id"]]}
    plan = (await console.post("dead-letters/plan", json=selection)).json()
    assert (plan["replayable"], plan["marked"], plan["stillFaulty"]) == (1, 0, 1)
    assert (await _get(console, "dead-letters", source=source))["total"] == 1
    replayed = await console.post("dead-letters/replay", json=selection)
    assert replayed.json() == {"replayed": [letter["id"]]}
    assert (await console.post("dead-letters/replay", json=selection)).json() == {"replayed": []}
    (line,) = [line for line in _audited(stack) if line["operation"] == "deadLetters.replay"]
    assert (line["caller"], line["via"]) == ("api/local", f"{names.DEAD_LETTERS}:{letter['id']}")

    async def both() -> Any:
        page = await _get(console, "dead-letters", source=source, all="true")
        return page["deadLetters"] if page["total"] == 2 else None

    again, first = await eventually("the dead letter of the replay", both)
    assert (first["id"], first["action"], again["action"]) == (letter["id"], "replayed", None)
    assert (await console.get("dead-letters/0:999999")).status_code == 404


async def test_without_kafka_the_console_shows_what_the_database_has(stack: Stack, client: httpx.AsyncClient) -> None:
    parker, body = await _parker(client)
    key = str(uuid4())
    await client.post("/visits/entry", json=body, headers={"Idempotency-Key": key})
    edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_KAFKA_BOOTSTRAP="127.0.0.1:1")
    async with httpx.AsyncClient(base_url=f"{url}/console/api/", timeout=60) as console:

        async def answers() -> bool:
            try:
                return (await console.get("session")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually("an edge without Kafka", answers)
        trace = await _get(console, "requests", id=key)
        assert [answered["status"] for answered in trace["answered"]] == [201]
        assert "Kafka does not answer" in trace["notes"][0]
        timeline = await _get(console, f"visitors/{parker['visitorId']}")
        assert [event["name"] for event in timeline["events"] if event["kind"] == "visit"] == ["entry"]
        assert (await console.get("dead-letters")).json()["errors"][0]["code"] == "kafka_unavailable"
        async with console.stream("GET", "events") as response:
            event = await anext(line async for line in response.aiter_lines() if line.startswith("data: "))
        state = json.loads(event.removeprefix("data: "))
        assert "unavailable" in state["kafka"]
        assert state["database"]["inboxRows"] >= 0
    edge.kill()


async def test_a_database_that_does_not_answer_is_named(stack: Stack) -> None:
    """Dead letters are in Kafka, and the marks of what was done with them in PostgreSQL."""
    await stack.raw(names.requests("visits"), b"{", [])
    letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.raw == b"{")
    selection = {"ids": [f"{letter.partition}:{letter.offset}"]}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = f"postgresql://visitor:secret@127.0.0.1:{silent.getsockname()[1]}/visitor"
        edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_DATABASE_URL=database)
        await eventually("a ready edge", edge.ready)
        async with httpx.AsyncClient(base_url=f"{url}/console/api/", timeout=60) as console:
            answers = [
                await console.get("dead-letters"),
                *[await console.post(f"dead-letters/{each}", json=selection) for each in ("plan", "replay")],
            ]
    assert [error_codes(answer) for answer in answers] == [[(None, "database_unavailable")]] * 3
    edge.kill()


async def test_the_live_state_has_rates_lags_and_workers(
    stack: Stack, client: httpx.AsyncClient, console: httpx.AsyncClient
) -> None:
    _, body = await _parker(client)
    states = []
    async with console.stream("GET", "events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            await client.post("/visits/entry", json=body)
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: ")))
                if states[-1]["points"][-1]["requests"]:
                    break
            assert len(states) < 10
    kafka, database = states[-1]["kafka"], states[-1]["database"]
    (visits,) = [family for family in kafka["families"] if family["name"] == "visits"]
    assert visits["requests"]["perSecond"] > 0
    assert visits["requests"]["lag"] >= 0
    assert [worker["partitions"][names.QUERIES] for worker in kafka["workers"]] == [[0, 1, 2, 3]]
    assert {group["state"] for group in kafka["groups"]} == {"Stable"}
    assert database["outboxRows"] >= 0


async def test_a_stream_ends_when_its_key_is_revoked_and_a_caller_has_a_share_of_the_streams(
    stack: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "keys.toml"
    entries = {name: entry(name, name, scopes=["operator"]) for name in ("leaked", "other")}
    file.write_text("".join(entries.values()))
    edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_HTTP_KEYS=str(file))
    await eventually("a ready edge with a console", edge.ready)
    async with httpx.AsyncClient(base_url=f"{url}/console/api/", timeout=60) as client, AsyncExitStack() as streams:

        def follow(name: str) -> AbstractAsyncContextManager[httpx.Response]:
            return client.stream("GET", "events", headers=bearer(name))

        leaked = [await streams.enter_async_context(follow("leaked")) for _ in range(STREAMS_OF_CALLER)]
        async with follow("leaked") as refused:
            await refused.aread()
        assert (refused.status_code, error_codes(refused)) == (429, [(None, "too_many_streams")])
        other = await streams.enter_async_context(follow("other"))
        assert {response.status_code for response in (*leaked, other)} == {200}
        file.write_text(entries["other"])
        async with asyncio.timeout(10):
            await asyncio.gather(*(response.aread() for response in leaked))
        await anext(other.aiter_lines())
    edge.kill()


async def test_topics_have_schemas(console: httpx.AsyncClient) -> None:
    topics = {topic["name"]: topic for topic in (await _get(console, "topics"))["topics"]}
    (schema,) = topics[names.changes("visits", "visit")]["schemas"]
    assert (await _get(console, f"schemas/{schema['id']}"))["name"] == schema["name"]
    assert topics[names.requests("visits")]["kept"] == "7 days"
    assert (await console.get("schemas/1")).status_code == 404


async def test_a_request_is_looked_up_by_the_index_however_many_the_inbox_has(stack: Stack) -> None:
    many = (
        "insert into inbox (topic, source, request_id, operation, fingerprint, status, received_at)"
        " select 'a topic', 'gateway/' || number % 40, 'id ' || number, 'visits.create', '', 201, now()"
        " from generate_series(1, 40000) number"
    )
    async with stack.engine.connect() as conn:
        await conn.execute(sa.text(many))
        await conn.execute(sa.text("analyze inbox"))
        nodes = await plan_of(conn, inbox._WITH_ID, {"request_id": "id 7"}, "auto")
        receipts = await inbox.with_id(conn, "id 7")
    assert [receipt.entry.source for receipt in receipts] == ["gateway/7"]
    assert {node["Node Type"] for node in nodes} & {"Seq Scan", "Sort", "Hash Join"} == set()
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes) < 4_000
