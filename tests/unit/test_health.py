"""What a worker says of its own health, and probes that ask it."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from agents.engine.readiness import Readiness
from runtime import health
from runtime.dev import sample
from runtime.simulation import run as simulation
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


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def process_beside_a_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a healthy process on this machine, whose environment names a proxy that does not answer."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ThreadingHTTPServer((health.LOOPBACK, 0), _Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{health.LOOPBACK}:{server.server_port}"
        server.shutdown()


def test_a_probe_does_not_go_through_the_proxy_of_the_environment(process_beside_a_proxy: str) -> None:
    assert health.ask(process_beside_a_proxy, 5) == (True, "ready")


async def test_sample_data_does_not_go_through_the_proxy_of_the_environment(process_beside_a_proxy: str) -> None:
    async with sample._client(process_beside_a_proxy) as client:
        assert (await client.get("/")).text == "ready"


async def test_a_simulation_does_not_go_through_the_proxy_of_the_environment(process_beside_a_proxy: str) -> None:
    async with simulation.client_of(process_beside_a_proxy) as client:
        assert (await client.get("/")).text == "ready"
    async with simulation.client_of("http://edge.example.com") as client:
        assert client.trust_env
