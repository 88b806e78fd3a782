"""docker-compose.yml from the view of its users: up, calls, killed containers restart, down.

Needs Docker with Compose. `make compose-test` runs these tests. `make test` does not, because they build an image."""

import asyncio
import json
import os
import secrets
import shlex
import ssl
import subprocess
import time
from collections import Counter
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
UPGRADED = ("worker-1", "worker-2", "edge-1", "edge-2", "console")
LONG_RUNNING = (*UPGRADED, "postgres", "kafka", "proxy")
REGISTRY_URL = "http://registry:8080/apis/ccompat/v7"
RECOVERY_SECONDS = 120
"""The time limit for a killed container to be healthy again."""

pytestmark = pytest.mark.timeout(900)  # the first test builds the service's image and pulls those of the servers


@dataclass
class Compose:
    """A Compose project with its own name and free ports, so that it does not touch a running installation."""

    home: Path
    port: int = field(default_factory=free_port)
    console_port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(24))

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a `docker compose` command. Fails if the command fails."""
        command = ["docker", "compose", "--project-name", PROJECT, *arguments]
        environment = {
            **os.environ,
            "POSTGRES_PASSWORD": self.password,
            "HTTPS_PORT": str(self.port),
            "CONSOLE_PORT": str(self.console_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "KEYS_DIR": str(self.keys.parent),
        }
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, f"{' '.join(command)}:\n{process.stderr[-5000:]}"
        return process

    @property
    def keys(self) -> Path:
        return self.home / "keys" / "keys.toml"

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def container(self, service: str) -> dict[str, Any]:
        """The output of `docker inspect` for the container of a service."""
        (name,) = self("ps", "--all", "--quiet", service).stdout.split()
        return _inspect(name)

    def kill(self, container: dict[str, Any]) -> None:
        """Send SIGKILL to the process of a container, like a crash. Docker does not restart a container after `docker
        kill`."""
        pid = str(container["State"]["Pid"])
        _docker("run", "--rm", "--pid=host", "--user=root", "--entrypoint=kill", IMAGE, "-KILL", pid)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def _inspect(container: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(_docker("inspect", container))[0]
    return description


def _healthy(container: dict[str, Any]) -> bool:
    return bool(container["State"]["Health"]["Status"] == "healthy")


@pytest.fixture(scope="module")
def compose(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    project = Compose(tmp_path_factory.mktemp("compose"))
    project.keys.parent.mkdir()
    project.keys.parent.chmod(0o755)  # the user of the containers reads it
    project("down", "--volumes", "--remove-orphans")
    yield project
    if request.session.testsfailed:
        print(project("logs", "--no-color", "--tail", "40").stdout)  # noqa: T201
    project("--profile", "*", "down", "--volumes", "--remove-orphans")


def _new_key(compose: Compose, name: str) -> tuple[str, str]:
    """An API key, and its entry for the file, by the command at the top of docker-compose.yml. It only needs Docker."""
    process = compose("run", "--rm", "--no-deps", "topics", "key", name, "--scope", "*:read", "--scope", "*:write")
    line: str = next(line for line in process.stderr.splitlines() if line.startswith("key ("))
    return line.split()[-1], process.stdout


@pytest.fixture(scope="module")
def key(compose: Compose) -> str:
    secret, entry = _new_key(compose, "my-app")
    compose.keys.write_text(entry)
    compose.keys.chmod(0o644)
    return secret


@pytest.fixture(scope="module")
def running(compose: Compose, key: str) -> Compose:
    start = time.monotonic()
    compose("up", "--build", "--wait")
    print(f"docker compose up --build --wait: {time.monotonic() - start:.0f} s")  # noqa: T201
    return compose


@pytest_asyncio.fixture(loop_scope="session")
async def client(running: Compose, key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {key}"}
    authority = running.home / "ca.crt"
    running("cp", "proxy:/data/caddy/pki/authorities/local/root.crt", str(authority))
    context = ssl.create_default_context(cafile=str(authority))
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=30, verify=context) as http_client:
        yield http_client


async def _create_visitor(client: httpx.AsyncClient, pc_code: str) -> str:
    """Create a visitor like the documentation tells callers: repeat the call with the same key until it is answered."""
    body, key = visitor(pc_code), str(uuid4())

    async def attempt() -> httpx.Response | None:
        try:
            answer = await client.post("/visitors", json=body, headers={"idempotency-key": key})
        except httpx.HTTPError:
            return None
        return None if answer.status_code in (502, 503, 504) else answer

    answer = await eventually("an answer", attempt, RECOVERY_SECONDS)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["visitorId"])


def test_after_up_the_servers_and_processes_are_healthy_and_the_one_shot_services_have_succeeded(
    running: Compose,
) -> None:
    for service in LONG_RUNNING:
        assert _healthy(running.container(service)), service
    for service in ("migrate", "topics"):
        assert running.container(service)["State"]["ExitCode"] == 0


async def test_a_caller_with_the_key_creates_and_reads_a_visitor(client: httpx.AsyncClient) -> None:
    pc_code = (await create(client, "/centers", center()))["pcCode"]
    visitor_id = await _create_visitor(client, pc_code)
    answer = await client.get(f"/visitors/{visitor_id}")
    assert (answer.status_code, answer.json()["data"]["acquisitionPcCode"]) == (200, pc_code)


async def test_a_call_without_a_key_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/centers", headers={"authorization": ""})).status_code == 401


async def test_a_key_is_revoked_by_a_file_that_replaces_the_old_one(
    running: Compose, client: httpx.AsyncClient
) -> None:
    """As `mv`, `sed -i` and most editors do."""
    leaked, entry = _new_key(running, "leaked")
    remaining = running.keys.read_text()

    def replace(content: str) -> None:
        file = running.keys.with_suffix(".new")
        file.write_text(content)
        file.chmod(0o644)
        file.replace(running.keys)

    async def all_answers_are(status: int) -> bool:
        """Several calls, so that both edges answer."""
        headers = {"authorization": f"Bearer {leaked}"}
        return {(await client.get("/centers", headers=headers)).status_code for _ in range(20)} == {status}

    replace(f"{remaining}\n{entry}")
    await eventually("the new key is valid", lambda: all_answers_are(200))
    replace(remaining)
    await eventually("the leaked key is revoked", lambda: all_answers_are(401))
    assert (await client.get("/centers")).status_code == 200


def test_workers_register_their_schemas_in_the_registry_of_the_profile(
    running: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEMA_REGISTRY_URL", REGISTRY_URL)
    running("--profile", "registry", "up", "--wait")
    fetch = f"import urllib.request; print(urllib.request.urlopen('{REGISTRY_URL}/subjects').read().decode())"
    subjects = json.loads(running("exec", "worker-1", "python", "-c", fetch).stdout)
    assert "visitor.visits.changes.visit-visitor.VisitEventChange" in subjects
    monkeypatch.delenv("SCHEMA_REGISTRY_URL")
    running("up", "--wait")
    running("--profile", "registry", "rm", "--stop", "--force", "registry")


async def test_prometheus_of_the_profile_has_the_metrics_of_all_processes_and_the_alerts(running: Compose) -> None:
    running("--profile", "monitoring", "up", "--detach", "--wait", "prometheus")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.prometheus_port}/api/v1") as prometheus:

        async def healthy_targets() -> Counter[str]:
            targets = (await prometheus.get("/targets")).json()["data"]["activeTargets"]
            return Counter(target["labels"]["job"] for target in targets if target["health"] == "up")

        async def all_scraped() -> bool:
            return await healthy_targets() == {"visitor-worker": 2, "visitor-edge": 2, "visitor-console": 1}

        await eventually("a scrape of each process", all_scraped, RECOVERY_SECONDS)
        rules = [rule for group in (await prometheus.get("/rules")).json()["data"]["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert {"VisitorNoWorker", "VisitorLag"} <= {rule["name"] for rule in rules}


@pytest.mark.parametrize("service", LONG_RUNNING)
async def test_a_killed_container_restarts_and_every_call_is_answered(
    running: Compose, client: httpx.AsyncClient, service: str
) -> None:
    pc_code = (await create(client, "/centers", center()))["pcCode"]
    killed = running.container(service)
    start = time.monotonic()
    running.kill(killed)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(_create_visitor(client, pc_code)) for _ in range(20)]
    print(f"{service}: all calls answered {time.monotonic() - start:.0f} s after the kill")  # noqa: T201

    async def all_healthy() -> bool:
        return all(_healthy(running.container(name)) for name in LONG_RUNNING)

    async def restarted() -> bool:
        return bool(_inspect(killed["Id"])["State"]["StartedAt"] > killed["State"]["StartedAt"])

    await eventually("a restart", restarted, RECOVERY_SECONDS)
    await eventually("every container healthy", all_healthy, RECOVERY_SECONDS)
    visitor_ids = {call.result() for call in calls}
    assert len(visitor_ids) == len(calls)
    for visitor_id in visitor_ids:
        assert (await client.get(f"/visitors/{visitor_id}")).status_code == 200


def test_an_operator_runs_commands_in_the_container_of_the_console(running: Compose) -> None:
    checks = json.loads(running("exec", "console", "visitor", "doctor", "--json").stdout)["checks"]
    states = {check["check"]: check["state"] for check in checks}
    assert {"kafka", "database", "keys"} <= states.keys()
    assert "failed" not in states.values(), checks


async def test_the_console_shows_the_section_of_the_runbook_that_an_alert_names(running: Compose) -> None:
    async with httpx.AsyncClient(base_url=f"http://localhost:{running.console_port}") as browser:
        page = await browser.get("/console/docs/runbook.md")
    assert 'id="a-process-is-down"' in page.text


async def test_an_upgrade_under_load_fails_no_call(running: Compose, client: httpx.AsyncClient) -> None:
    """The commands of docs/deploy.md replace all processes by those of another image."""
    pc_code = (await create(client, "/centers", center()))["pcCode"]
    answers: Counter[int] = Counter()
    ended = asyncio.Event()
    old = {running.container(service)["Id"] for service in UPGRADED}

    async def call_until_the_end() -> None:
        while not ended.is_set():
            answers[(await client.post("/visitors", json=visitor(pc_code))).status_code] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(call_until_the_end())
        for command in _upgrade_commands():
            await asyncio.to_thread(running, *command)
            print(f"{shlex.join(command)}: {dict(answers)}")  # noqa: T201
            if command == ["build"]:
                await asyncio.to_thread(_change_image)
        ended.set()
    assert answers.keys() == {201}
    count = await client.get("/visitors/count", params={"acquisitionPcCode": pc_code})
    assert count.json()["data"] == {"count": answers[201]}
    new = [running.container(service) for service in UPGRADED]
    assert {container["Id"] for container in new} & old == set()
    assert all(_healthy(container) for container in new)


def _upgrade_commands() -> list[list[str]]:
    """The arguments of `docker compose` in the upgrade of docs/deploy.md."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    _, _, section = page.partition("**With Docker Compose**")
    block = section.partition("```console\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True)[2:] for line in block.splitlines()]


def _change_image() -> None:
    """Give the image another id, as a new release does."""
    dockerfile = f"FROM {IMAGE}\nLABEL release=next\n"
    subprocess.run(
        ["docker", "build", "--tag", IMAGE, "-"], input=dockerfile, text=True, capture_output=True, check=True
    )


def test_down_leaves_nothing_behind(running: Compose) -> None:
    running("--profile", "*", "down", "--volumes")
    of_project = ("--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")
    for command in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert _docker(*command, *of_project) == ""
