"""The audit log: who accessed whose data."""

import asyncio
import json
import os
import pwd
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.support import data
from tests.support.edges import bearer, entry
from tests.support.stack import Stack, eventually
from topics import names

READER = entry("reader", "reader", scopes=("*:read", "visitors:erase"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded_client(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge with the keys `shop` and `reader`, which writes the same audit log as the worker."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(entry("shop", "shop", 'origin_type = "app"') + READER)
    edge, url = stack.edge(VISITOR_HTTP_KEYS=str(file), VISITOR_LOG_AUDIT=str(stack.audit_log))
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client
    edge.kill()


def _lines(log: Path, visitor_id: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if visitor_id in line["visitors"]]


async def _has_lines(log: Path, visitor_id: str, count: int) -> bool:
    return len(_lines(log, visitor_id)) >= count


async def test_every_access_has_a_line_that_says_who_did_what_to_whose_data(
    stack: Stack, client: httpx.AsyncClient, guarded_client: httpx.AsyncClient
) -> None:
    center = await data.create(client, "/centers", data.center())
    body = data.visitor(center["pcCode"])
    created = await guarded_client.post("/visitors", json=body, headers=bearer("shop"))
    visitor_id = created.json()["data"]["visitorId"]
    path = f"/visitors/{visitor_id}"
    analytics_id = await data.analytics_id(client, visitor_id)
    await guarded_client.get(f"/visitors?fields=email&acquisitionPcCode={center['pcCode']}", headers=bearer("reader"))
    await guarded_client.get(path, headers=bearer("nobody"))
    await guarded_client.patch(path, json={"addressCity": "Lyon"}, headers=bearer("reader"))
    await guarded_client.patch(path, json={"addressCity": ""}, headers=bearer("shop") | {"If-Match": '"99"'})
    visit = {"path": {"visitType": "entry"}, "body": {"visitorId": visitor_id, "pcCode": center["pcCode"]}}
    await stack.result("visits.create", await stack.send("visits.create", visit, request_id=str(uuid4())))
    await guarded_client.post("/visitors/erase", json=[{"analyticsId": analytics_id}], headers=bearer("reader"))
    await eventually("a line for each access", lambda: _has_lines(stack.audit_log, visitor_id, 8))
    lines = _lines(stack.audit_log, visitor_id)
    assert sorted((line["caller"] or "", line["operation"], line["status"]) for line in lines) == sorted([
        ("app/shop", "visitors.create", 201),
        ("api/local", "externalIds.get", 200),
        ("api/reader", "visitors.list", 200),
        ("", "visitors.get", 401),
        ("api/reader", "visitors.update", 403),
        ("app/shop", "visitors.update", 412),
        ("gateway/test", "visits.create", 201),
        ("api/reader", "visitors.eraseByAnalyticsId", 200),
    ])  # fmt: skip
    assert {line.keys() == {"time", "caller", "operation", "visitors", "status", "via"} for line in lines} == {True}
    assert [line["status"] for line in lines if line["via"] == "edge"] == [401, 403]
    assert body["email"] not in stack.audit_log.read_text()


async def test_a_repeated_write_and_its_stored_answer_are_accesses_to_the_visitors_data(
    stack: Stack, client: httpx.AsyncClient, guarded_client: httpx.AsyncClient
) -> None:
    center = await data.create(client, "/centers", data.center())
    body, headers = data.visitor(center["pcCode"]), bearer("shop") | {"Idempotency-Key": str(uuid4())}
    created = await guarded_client.post("/visitors", json=body, headers=headers)
    visitor_id = created.json()["data"]["visitorId"]
    repeated = await guarded_client.post("/visitors", json=body, headers=headers)
    assert repeated.json() == created.json()
    stored = await guarded_client.get(f"/requests/visitors/{headers['Idempotency-Key']}", headers=bearer("shop"))
    assert stored.json()["data"]["body"] == created.json()
    await eventually("a line for each access", lambda: _has_lines(stack.audit_log, visitor_id, 3))
    assert [(line["caller"], line["operation"], line["status"]) for line in _lines(stack.audit_log, visitor_id)] == [
        ("app/shop", "visitors.create", 201), ("app/shop", "visitors.create", 201), ("app/shop", "answers.get", 200),
    ]  # fmt: skip


async def test_a_refusal_of_the_registry_has_a_line(stack: Stack, guarded_client: httpx.AsyncClient) -> None:
    def refusals() -> list[dict[str, Any]]:
        lines = map(json.loads, stack.audit_log.read_text().splitlines())
        return [line for line in lines if line["operation"] == "registry"]

    assert refusals() == []
    assert (await guarded_client.get("/registry/subjects", auth=("nobody", "wrong"))).status_code == 401
    assert (await guarded_client.get("/registry/subjects", headers=bearer("reader"))).status_code == 200
    (line,) = refusals()
    assert (line["caller"], line["status"], line["visitors"], line["via"]) == (None, 401, [], "edge")


async def test_commands_have_a_line_with_the_user_who_ran_them(stack: Stack, client: httpx.AsyncClient) -> None:
    visitor_id = (await data.visitor_with_vehicle(client))["visitorId"]
    await stack.raw(names.requests("visits"), b"{", [("ce_source", b"gateway/audited")])
    letter = await stack.await_record(
        names.DEAD_LETTERS, lambda record: record.headers.get("ce_source") == "gateway/audited"
    )
    letter_id = f"{letter.partition}:{letter.offset}"
    log = stack.home / "commands.log"
    commands: dict[str, tuple[str, ...]] = {
        "export-visitor": ("export-visitor", visitor_id),
        "audit": ("audit", "--visitor", visitor_id),
        "export.centers": ("export", "centers"),
        f"consume.{names.DEAD_LETTERS}": ("consume", names.DEAD_LETTERS, "--to-end"),
        f"dead-letters.show.{letter_id}": ("dead-letters", "show", letter_id),
        "dead-letters.discard": ("dead-letters", "discard", letter_id),
        "republish": ("republish", "article"),
    }
    done = await asyncio.gather(
        *(stack.command(*command, seconds=180, VISITOR_LOG_AUDIT=str(log)) for command in commands.values())
    )
    assert [each.returncode for each in done] == [0] * len(commands), [each.stderr for each in done]
    lines = {line["operation"]: line for line in map(json.loads, log.read_text().splitlines())}
    assert lines.keys() == {f"command.{name}" for name in commands}
    user = pwd.getpwuid(os.getuid()).pw_name
    assert {line["caller"].partition("@")[0] for line in lines.values()} == {f"operator/{user}"}
    assert {line["via"] for line in lines.values()} == {"command"}
    named = {operation for operation, line in lines.items() if line["visitors"] == [visitor_id]}
    assert named == {"command.export-visitor", "command.audit"}


async def test_the_audit_log_of_a_command_is_not_among_its_data(stack: Stack) -> None:
    done = await stack.command("export-visitor", data.ABSENT_VISITOR_ID, VISITOR_LOG_AUDIT="stdout")
    assert (done.returncode, done.stdout) == (1, "")
    line = json.loads(next(line for line in done.stderr.splitlines() if line.startswith("{")))
    assert (line["operation"], line["visitors"], line["status"]) == (
        "command.export-visitor", [data.ABSENT_VISITOR_ID], 404,
    )  # fmt: skip


async def test_visitor_audit_lists_the_writes_that_the_inbox_knows(stack: Stack, client: httpx.AsyncClient) -> None:
    parker = await data.visitor_with_vehicle(client)
    command = ("audit", "--visitor", parker["visitorId"])
    printed = await stack.command(*command)
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [(line["caller"], line["operation"], line["status"]) for line in lines] == [
        ("api/local", "visitors.create", 201), ("api/local", "vehicles.create", 201),
    ]  # fmt: skip
    analytics_id = await data.analytics_id(client, parker["visitorId"])
    await client.post("/visitors/erase", json=[{"analyticsId": analytics_id}])
    assert (await stack.command(*command)).stdout == ""
