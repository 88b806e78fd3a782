"""The simulated app users: call the HTTP API when the plan says so."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx

from runtime.simulation.clock import Clock
from runtime.simulation.plan import Call
from runtime.simulation.report import Report

AT_ONCE = 32
"""Calls in flight at most. Further calls wait, as in a client's connection pool."""


async def call_all(client: httpx.AsyncClient, plan: Iterator[Call], clock: Clock, run_id: str, report: Report) -> None:
    limit = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as tasks:
        for call in plan:
            await clock.sleep_until(call.at)
            await limit.acquire()
            task = tasks.create_task(_call(client, call, run_id, report))
            task.add_done_callback(lambda _: limit.release())


async def _call(client: httpx.AsyncClient, call: Call, run_id: str, report: Report) -> None:
    method, path, content = _request(call)
    if method != "GET":
        content["headers"] = {"Idempotency-Key": f"{run_id}-call-{call.number}"}
    started_at = time.perf_counter()
    try:
        status = str((await client.request(method, path, **content)).status_code)
    except httpx.HTTPError as error:
        status = type(error).__name__
    report.note_call(status, time.perf_counter() - started_at)


def _request(call: Call) -> tuple[str, str, dict[str, Any]]:
    """The method, the path and the other arguments of httpx."""
    path = f"/visitors/{call.person.visitor_id}"
    match call.action:
        case "profile":
            return "GET", path, {}
        case "rewards":
            return "GET", f"{path}/rewards", {}
        case "visits":
            return "GET", "/visits", {"params": {"barcode": call.person.barcode, "pcCode": call.person.pc_code}}
        case "consent":
            optin = {"optinType": "loyalty", "optinChannel": "push", "isActive": call.number % 3 > 0}
            return "POST", f"{path}/optins", {"json": optin}
        case "address":
            return "PATCH", path, {"json": {"addressCity": ("Paris", "London", "Amsterdam")[call.number % 3]}}
