"""What a worker says of its own health."""

from types import SimpleNamespace
from typing import Any

import httpx

from agents.engine.readiness import Readiness
from runtime.worker_process import _server


async def test_a_worker_that_cannot_go_on_is_not_live_any_more() -> None:
    service: Any = SimpleNamespace(failure=None, readiness=Readiness())
    app: Any = _server(service, "127.0.0.1", 1).config.app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        before = await client.get("/health/live")
        service.failure = RuntimeError("broken")
        after = await client.get("/health/live")
    assert (before.status_code, after.status_code, after.json()) == (
        200, 503, {"status": "failed", "reason": "RuntimeError"},
    )  # fmt: skip
