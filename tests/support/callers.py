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
"""The edge's time limit for a reply. It is short, so that a caller gets a 504 and repeats its call soon."""
FINAL_ANSWER_SECONDS = 120.0
"""The time limit for a final answer. It includes the time in which a test has killed servers or workers."""
PAUSE_SECONDS = 0.05
REPEAT_SHARE = 0.3
"""The share of writes that are sent a second time after their answer."""


def request_id(key: str) -> str:
    """The id that a write over HTTP with this Idempotency-Key has in the inbox and in the results topics."""
    return f"local/{key}"


@dataclass
class Caller:
    """The app of a visitor. It creates the visitor, then creates visits and updates the address, and reads them."""

    client: httpx.AsyncClient
    sent: Sent
    pc_code: str
    visitor_id: str = ""
    visits: int = 0
    updates: int = 0
    repeats: int = 0
    """The number of calls without a final answer: a 5xx, a timeout, or a lost connection."""

    async def call_until(self, ended: asyncio.Event) -> None:
        answer = await self._write("visitors.create", "POST", "/visitors", data.visitor(self.pc_code))
        self.visitor_id = answer.json()["data"]["visitorId"]
        while not ended.is_set():
            await self._create_visit()
            await self._update_city()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _create_visit(self) -> None:
        body = {"visitorId": self.visitor_id, "pcCode": self.pc_code}
        visit = (await self._write("visits.create", "POST", "/visits/entry", body)).json()
        self.visits += 1
        visits = await self._final_answer("GET", "/visits", params={**body, "visitDateSince": visit["visitDate"]})
        assert visit in visits.json(), "a caller does not find its own visit"

    async def _update_city(self) -> None:
        city = f"City {uuid4().hex[:8]}"
        path = f"/visitors/{self.visitor_id}"
        await self._write("visitors.update", "PATCH", path, {"addressCity": city})
        self.updates += 1
        visitor = await self._final_answer("GET", path)
        assert visitor.json()["data"]["addressCity"] == city, "a caller does not read its own write"

    async def _write(self, operation: str, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        """Send a write. Some writes are sent twice, and must get the same answer twice."""
        key = str(uuid4())
        self.sent.note(request_id(key), operation)
        arguments = {"json": body, "headers": {"Idempotency-Key": key}}
        answer = await self._final_answer(method, path, **arguments)
        if random.random() < REPEAT_SHARE:
            repeated = await self._final_answer(method, path, **arguments)
            assert (repeated.status_code, repeated.content) == (answer.status_code, answer.content), "another answer"
        return answer

    async def _final_answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Call until there is a final answer. Fails if it is not a success, or if it takes too long."""

        async def attempt() -> httpx.Response | None:
            try:
                answer = await self.client.request(method, path, **arguments)
            except httpx.TransportError:
                self.repeats += 1
                return None
            if answer.status_code >= 500:
                self.repeats += 1
                return None
            assert answer.is_success, answer.text
            return answer

        answer: httpx.Response = await eventually(f"a final answer to {method} {path}", attempt, FINAL_ANSWER_SECONDS)
        return answer


@dataclass
class Callers:
    """All callers of one edge."""

    edge: Process
    all: list[Caller]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    async def finish(self) -> None:
        """Stop the callers. Each must get its pending answer, from an edge that was not restarted."""
        self.ended.set()
        await asyncio.gather(*self.tasks)
        await eventually("a ready edge", self.edge.ready)

    async def started(self) -> bool:
        """True if each caller has created a visit. Fails if a caller has failed."""
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
        """Assert that each call was applied exactly once. (`oracle.verify` asserts that each has one answer in the
        inbox, because the calls are in `Sent`.)"""
        for caller in self.all:
            rows = await stack.rows(
                "select revision, (select count(*) from visits where visits.visitor_id = visitors.visitor_id) as visits"
                " from visitors where visitor_id = :id",
                id=caller.visitor_id,
            )
            assert [tuple(row) for row in rows] == [(1 + caller.updates, caller.visits)]


@asynccontextmanager
async def calling(
    stack: Stack, sent: Sent, pc_code: str, edge: tuple[Process, str] | None = None
) -> AsyncIterator[Callers]:
    """Callers of an edge, by default of a new one. They call until `finish`, and each has created a visit when this
    function returns. A worker must run."""
    process, url = edge or stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS=TIMEOUT_SECONDS)
    await eventually("a ready edge", process.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        callers = Callers(process, [Caller(client, sent, pc_code) for _ in range(CALLERS)])
        callers.tasks = [asyncio.create_task(caller.call_until(callers.ended)) for caller in callers.all]
        try:
            await eventually("a visit by each caller", callers.started)
            yield callers
        finally:
            for task in callers.tasks:
                task.cancel()
            await asyncio.gather(*callers.tasks, return_exceptions=True)
            if edge is None:
                process.kill()
