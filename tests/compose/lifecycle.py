"""docker-compose.yml as its users run it: up, calls, what is killed comes back, down.

Needs Docker with Compose. `make compose-test` runs it; `make test` does not, since it builds an image."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from runtime.dev.servers.processes import free_port
from tests.support.data import center, create, visitor
from tests.support.stack import eventually

ROOT = Path(__file__).parents[2]
PROJECT = "visitor-test"
IMAGE = "visitor-service:0.1.0"
LONG_RUNNING = {"worker": 2, "edge": 1, "postgres": 1, "kafka": 1}
PATIENCE = 120
"""Seconds until what was killed has to be well again."""

pytestmark = pytest.mark.timeout(900)  # the image is built, and those of the servers are pulled, within a test


@dataclass
class Compose:
    """A project of its own, on a free port, so that one that runs already is left alone."""

    home: Path
    port: int = field(default_factory=free_port)

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Fails where the command does."""
        command = ["docker", "compose", "--project-name", PROJECT, *arguments]
        settings = {"VISITOR_HTTP_PORT": str(self.port), "VISITOR_KEYS": str(self.keys)}
        done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr[-5000:]}"
        return done

    @property
    def keys(self) -> Path:
        return self.home / "keys.toml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What Docker knows about the containers of a service."""
        return [_inspect(name) for name in self("ps", "--all", "--quiet", service).stdout.split()]

    def kill(self, container: dict[str, Any]) -> None:
        """SIGKILL to its process, as a crash would: after `docker kill` Docker starts nothing again."""
        process = str(container["State"]["Pid"])
        _docker("run", "--rm", "--pid=host", "--user=root", "--entrypoint=kill", IMAGE, "-KILL", process)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def _inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_docker("inspect", container))[0]
    return found


def _healthy(container: dict[str, Any]) -> bool:
    return bool(container["State"]["Health"]["Status"] == "healthy")


@pytest.fixture(scope="module")
def compose(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    found = Compose(tmp_path_factory.mktemp("compose"))
    found.keys.touch()  # Compose wants to see it whatever it does.
    found("down", "--volumes", "--remove-orphans")
    yield found
    if request.session.testsfailed:
        print(found("logs", "--no-color", "--tail", "40").stdout)  # noqa: T201
    found("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def key(compose: Compose) -> str:
    """A key as the head of docker-compose.yml says, which needs nothing but Docker."""
    made = compose("run", "--rm", "--no-deps", "topics", "key", "my-app", "--scope", "*:read", "--scope", "*:write")
    compose.keys.write_text(made.stdout)
    told: str = next(line for line in made.stderr.splitlines() if line.startswith("key ("))
    return told.split()[-1]


@pytest.fixture(scope="module")
def running(compose: Compose, key: str) -> Compose:
    began = time.monotonic()
    compose("up", "--build", "--wait")
    print(f"docker compose up --build --wait: {time.monotonic() - began:.0f} s")  # noqa: T201
    return compose


@pytest_asyncio.fixture(loop_scope="session")
async def client(running: Compose, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {key}"}, timeout=30) as made:
        yield made


async def _insist(client: httpx.AsyncClient, pc_code: str) -> str:
    """Create a visitor as callers are told to: repeat with the same key until there is an answer."""
    body, key = visitor(pc_code), str(uuid4())

    async def answered() -> httpx.Response | None:
        try:
            answer = await client.post("/visitors", json=body, headers={"idempotency-key": key})
        except httpx.HTTPError:
            return None
        return None if answer.status_code in (503, 504) else answer

    answer = await eventually("an answer", answered, PATIENCE)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["visitorId"])


def test_up_ends_with_every_service_healthy_and_the_one_shot_ones_done(running: Compose) -> None:
    for service, count in LONG_RUNNING.items():
        assert [_healthy(container) for container in running.containers(service)] == [True] * count, service
    for service in ("migrate", "topics"):
        assert [container["State"]["ExitCode"] for container in running.containers(service)] == [0]


async def test_a_call_with_the_key_creates_a_center_and_a_visitor_and_finds_them(client: httpx.AsyncClient) -> None:
    made = await create(client, "/centers", center())
    visitor_id = await _insist(client, made["pcCode"])
    answer = await client.get(f"/visitors/{visitor_id}")
    assert (answer.status_code, answer.json()["data"]["acquisitionPcCode"]) == (200, made["pcCode"])


async def test_a_call_without_a_key_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/centers", headers={"authorization": ""})).status_code == 401


@pytest.mark.parametrize("service", LONG_RUNNING)
async def test_what_is_killed_comes_back_and_every_call_is_answered(
    running: Compose, client: httpx.AsyncClient, service: str
) -> None:
    pc_code = (await create(client, "/centers", center()))["pcCode"]
    killed = running.containers(service)[0]
    began = time.monotonic()
    running.kill(killed)
    async with asyncio.TaskGroup() as calls:
        made = [calls.create_task(_insist(client, pc_code)) for _ in range(20)]
    print(f"{service}: all calls answered {time.monotonic() - began:.0f} s after the kill")  # noqa: T201

    async def all_healthy() -> bool:
        return all(_healthy(container) for name in LONG_RUNNING for container in running.containers(name))

    async def restarted() -> bool:
        return bool(_inspect(killed["Id"])["State"]["StartedAt"] > killed["State"]["StartedAt"])

    await eventually("a restart", restarted, PATIENCE)
    await eventually("every container healthy", all_healthy, PATIENCE)
    visitors = {call.result() for call in made}
    assert len(visitors) == len(made)
    for visitor_id in visitors:
        assert (await client.get(f"/visitors/{visitor_id}")).status_code == 200


def test_down_leaves_nothing_behind(running: Compose) -> None:
    running("down", "--volumes")
    owned = ("--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert _docker(*kind, *owned) == ""
