"""HTTP callers for the chaos tests. Each repeats a write under its Idempotency-Key until it has a final answer."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.support import data
from tests.support.oracle import Sent
from tests.support.stack import Process, Stack, eventually

CALLERS = 4
TIMEOUT_SECONDS = "3"
"""After which an edge of these tests answers 504, so that a caller repeats its call soon."""
PATIENCE = 120.0
"""Seconds until a call must have been answered, whatever is broken on purpose meanwhile."""
PAUSE_SECONDS = 0.05
REPEATED = 0.3
"""The share of writes that are sent once more after their answer."""


def request_id(key: str) -> str:
    """The id under which the inbox and the results topics know a write over HTTP."""
    return f"local/{key}"


@dataclass
class Caller:
    """A visitor's app: registers, reports visits, changes the address, and looks at what it wrote."""

    client: httpx.AsyncClient
    sent: Sent
    pc_code: str
    visitor_id: str = ""
    visits: int = 0
    updates: int = 0
    repeats: int = 0
    """Attempts that got no final answer: a 5xx, a timeout, a lost connection."""

    async def call_until(self, ended: asyncio.Event) -> None:
        made = await self._write("visitors.create", "POST", "/visitors", data.visitor(self.pc_code))
        self.visitor_id = made.json()["data"]["visitorId"]
        while not ended.is_set():
            await self._visit()
            await self._move()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _visit(self) -> None:
        who = {"visitorId": self.visitor_id, "pcCode": self.pc_code}
        visit = (await self._write("visits.create", "POST", "/visits/entry", who)).json()
        self.visits += 1
        found = await self._answered("GET", "/visits", params={**who, "visitDateSince": visit["visitDate"]})
        assert visit in found.json(), "a caller does not find its own visit"

    async def _move(self) -> None:
        city = f"City {uuid4().hex[:8]}"
        path = f"/visitors/{self.visitor_id}"
        await self._write("visitors.update", "PATCH", path, {"addressCity": city})
        self.updates += 1
        found = await self._answered("GET", path)
        assert found.json()["data"]["addressCity"] == city, "a caller does not read its own write"

    async def _write(self, operation: str, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        key = str(uuid4())
        self.sent.note(request_id(key), operation)
        call = {"json": body, "headers": {"Idempotency-Key": key}}
        answer = await self._answered(method, path, **call)
        if random.random() < REPEATED:
            again = await self._answered(method, path, **call)
            assert (again.status_code, again.content) == (answer.status_code, answer.content), "another answer"
        return answer

    async def _answered(self, method: str, path: str, **call: Any) -> httpx.Response:
        """The final answer. Fails where it is a refusal, or does not come in time."""

        async def attempt() -> httpx.Response | None:
            try:
                answer = await self.client.request(method, path, **call)
            except httpx.TransportError:
                answer = None
            if answer is None or answer.status_code >= 500:
                self.repeats += 1
                return None
            assert answer.is_success, answer.text
            return answer

        found: httpx.Response = await eventually(f"a final answer to {method} {path}", attempt, PATIENCE)
        return found


@dataclass
class Callers:
    """All callers of one edge."""

    edge: Process
    all: list[Caller]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    async def finish(self) -> None:
        """Each caller gets the answers that it waits for, from the edge that was there from the beginning."""
        self.ended.set()
        await asyncio.gather(*self.tasks)
        await eventually("a ready edge", self.edge.ready)

    async def begun(self) -> bool:
        for task in self.tasks:
            if task.done():
                task.result()
        return all(caller.visits for caller in self.all)

    @property
    def visits(self) -> int:
        return sum(caller.visits for caller in self.all)

    @property
    def repeats(self) -> int:
        return sum(caller.repeats for caller in self.all)

    async def verify(self, stack: Stack) -> None:
        """Each call took effect exactly once. (That each has one answer in the inbox, `oracle.verify` says, since the
        calls are in `Sent`.)"""
        for caller in self.all:
            found = await stack.rows(
                "select revision, (select count(*) from visits where visits.visitor_id = visitors.visitor_id) as visits"
                " from visitors where visitor_id = :id",
                id=caller.visitor_id,
            )
            assert [tuple(row) for row in found] == [(1 + caller.updates, caller.visits)]


@asynccontextmanager
async def calling(
    stack: Stack, sent: Sent, pc_code: str, edge: tuple[Process, str] | None = None
) -> AsyncIterator[Callers]:
    """Callers of an edge, by default of one of their own, until `finish`. Each has begun; a worker has to run."""
    process, url = edge or stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS=TIMEOUT_SECONDS)
    await eventually("a ready edge", process.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        callers = Callers(process, [Caller(client, sent, pc_code) for _ in range(CALLERS)])
        callers.tasks = [asyncio.create_task(caller.call_until(callers.ended)) for caller in callers.all]
        try:
            await eventually("each caller has begun", callers.begun)
            yield callers
        finally:
            for task in callers.tasks:
                task.cancel()
            await asyncio.gather(*callers.tasks, return_exceptions=True)
            if edge is None:
                process.kill()
