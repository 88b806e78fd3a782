"""`visitor dev` starts everything, and its end stops everything."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from runtime.dev import sample
from runtime.dev.servers import Processes
from runtime.dev.servers.processes import free_port
from tests.support import terminal
from tests.support.pages import ROOT
from tests.support.servers import DOWNLOADS
from tests.support.stack import eventually
from tests.support.terminal import Terminal

READY_SECONDS = 120
"""The longest start: servers with new data, and sample data."""


class _Dev:
    """`visitor dev` with its own home directory and ports. It shares the downloaded files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        DOWNLOADS.mkdir(parents=True, exist_ok=True)  # tests that run in containers download nothing
        (home / "downloads").symlink_to(DOWNLOADS)
        self.ports = {
            name: free_port() for name in ("VISITOR_HTTP_PORT", "VISITOR_DEV_KAFKA_PORT", "VISITOR_WORKER_HEALTH_PORT")
        }
        self.url = f"http://127.0.0.1:{self.ports['VISITOR_HTTP_PORT']}"
        self.output = home / "output"
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        settings = {name: str(port) for name, port in self.ports.items()}
        return {**os.environ, **settings, "VISITOR_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}

    def start(self, *options: str) -> None:
        with self.output.open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "runtime.cli", "dev", *options], stdout=output, stderr=output,
                env=self.environment, start_new_session=True,
                # A shell also ignores SIGINT in a process that it starts in the background.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
            )  # fmt: skip

    def end(self, signal_number: int) -> int:
        """Send a signal, and return the exit status."""
        assert self.child is not None
        self.child.send_signal(signal_number)
        return self.child.wait(60)

    def children(self) -> list[psutil.Process]:
        """The processes that `visitor dev` has started."""
        recorded = json.loads((self.home / "processes.json").read_text())
        return [psutil.Process(pid) for pid, _ in recorded.values() if psutil.pid_exists(pid)]

    async def await_ready(self) -> None:
        async def ready() -> bool:
            assert self.child is not None
            assert self.child.poll() is None, self.output.read_text()
            return "Ready after" in self.output.read_text()

        await eventually("visitor dev is ready", ready, READY_SECONDS)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Dev]:
    command = _Dev(tmp_path_factory.mktemp("dev"))
    yield command
    if command.child is not None and command.child.poll() is None:
        command.end(signal.SIGKILL)
    Processes(command.home).end_leftovers()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the gateway in Python. It seems to be built: its packages are those of this environment."""
    example = tmp_path / "examples" / "python"
    python = example / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for file in ("Makefile", "python/gateway.py", "python/requirements.txt"):
        (tmp_path / "examples" / file).symlink_to(ROOT / "examples" / file)
    (example / ".venv" / "built").touch()
    return tmp_path


async def test_dev_starts_everything_with_simulated_visits_and_ctrl_c_ends_all_processes(
    dev: _Dev, repository: Path
) -> None:
    dev.start()
    await dev.await_ready()
    output = dev.output.read_text()
    assert f"{dev.url}/docs" in output
    assert str(dev.ports["VISITOR_DEV_KAFKA_PORT"]) in output
    async with httpx.AsyncClient(base_url=dev.url) as client:
        assert (await client.get("/health")).status_code == 200
        assert len((await client.get("/centers")).json()["data"]) > 3
        people = await sample.find(dev.url)
        assert len(people) == len(sample.PEOPLE)

        async def has_visits() -> bool:
            queries = [{"barcode": person.barcode, "pcCode": person.pc_code} for person in people]
            return any([(await client.get("/visits", params=query)).json() for query in queries])

        await eventually("a simulated visit", has_visits)
    _, _, suggestions = output.partition("Try next, in another terminal:")
    settings, visit, consume, doctor, gateway = (line.strip() for line in suggestions.strip().splitlines()[:5])
    assert '"visitType":"entry"' in await _in_bash(f"{settings}\n{visit}")
    first_change = consume.replace("   #", " | head -1   #")  # the command itself would wait for more
    assert '"resource":"visit"' in await _in_bash(f"{settings}\n{first_change}")
    assert "kafka" in await _in_bash(f"{settings}\n{doctor}")
    await _in_bash(f"{settings}\n{gateway}", repository)

    async def has_result_of_the_gateway() -> bool:
        results = await _in_bash(f"{settings}\nvisitor consume visitor.visits.results --to-end")
        return '"ce_requestsource":"gateway/paris-nord-1"' in results

    await eventually("the result of the gateway's visit", has_result_of_the_gateway)
    assert f"{dev.url}/registry\n" in await _in_bash(f'{settings}\necho "$REGISTRY_URL"')
    assert (dev.home / "environment").stat().st_mode & 0o077 == 0
    children = dev.children()
    assert len(children) == 4
    assert dev.end(signal.SIGINT) == 0
    assert [child for child in children if child.is_running()] == []


async def _in_bash(script: str, folder: Path = ROOT) -> str:
    """The output of a script that succeeds in a folder. The commands of the installation are those of this
    environment."""
    visitor = f"{sys.executable} -m runtime.cli"
    script = re.sub(r"^(\S*/)?visitor ", f"{visitor} ", script, flags=re.MULTILINE)
    done = await asyncio.to_thread(
        # It also ends the programs that the script has started.
        subprocess.run, ["timeout", "180", "bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


async def test_the_next_start_ends_the_processes_of_a_killed_dev_and_shows_the_status_on_its_terminal(
    dev: _Dev,
) -> None:
    dev.start("--no-simulation")
    await dev.await_ready()
    orphans = dev.children()
    dev.end(signal.SIGKILL)
    assert len([child for child in orphans if child.is_running()]) == 4

    async with terminal.running(["dev", "--no-simulation"], dev.environment, width=120, height=45) as shown:
        position = await shown.await_text("Ended processes of an earlier run")
        position = await shown.await_text("Ready after", position, READY_SECONDS)
        assert [child for child in orphans if child.is_running()] == []
        async with httpx.AsyncClient(base_url=dev.url) as client:
            assert len((await client.get("/centers")).json()["data"]) > 3
        await shown.await_text("none waits", await shown.await_text("visitor status", position))
        shown.resize(60, 20)
        for _ in range(2):
            await shown.await_text("visitor status", len(shown.output))
        await _ctrl_c_ends(shown)


async def _ctrl_c_ends(shown: Terminal) -> None:
    position = len(shown.output)
    shown.interrupt()
    assert await shown.wait() == 0
    assert "Stopping …" in shown.output[position:]
    assert "Traceback" not in shown.output
    assert shown.is_clean


async def test_a_deleted_database_is_created_again_with_the_sample_data_and_a_narrow_terminal_shows_counts(
    dev: _Dev,
) -> None:
    shutil.rmtree(dev.home / "postgres")
    async with terminal.running(["dev", "--no-simulation"], dev.environment, width=60, height=20) as shown:
        await shown.await_text("Ready after", await shown.await_text("PostgreSQL has none"), READY_SECONDS)
        person = (await sample.find(dev.url))[0]
        position = await shown.await_text("visits: requests ")
        end = await shown.await_text(" ", position)
        requests = int(shown.output[position:end])
        async with httpx.AsyncClient(base_url=dev.url) as client:
            visit = {"licensePlate": person.plate, "pcCode": person.pc_code}
            assert (await client.post("/visits/entry", json=visit)).status_code == 201
        # Two lines, which the next counts overwrite: the cursor goes up.
        await shown.await_text(f"requests {requests + 1} ", await shown.await_text("\x1b[1A", position))
        await _ctrl_c_ends(shown)


def test_a_reset_deletes_the_data_and_no_other_files(dev: _Dev) -> None:
    """A port that is in use ends the start right after the reset."""
    (dev.home / "other.txt").write_text("a file of the user")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", dev.ports["VISITOR_HTTP_PORT"]))
        listener.listen()
        dev.start("--reset")
        assert dev.child is not None
        assert dev.child.wait(60) == 2
    assert {entry.name for entry in dev.home.iterdir()} == {"downloads", "lock", "output", "other.txt"}


async def test_if_one_process_ends_dev_ends_all_and_exits_with_status_1(dev: _Dev) -> None:
    dev.start("--no-simulation")
    await dev.await_ready()
    children = dev.children()
    worker = next(child for child in children if "worker" in child.cmdline())
    worker.kill()
    assert dev.child is not None
    assert dev.child.wait(60) == 1
    assert "The worker ended" in dev.output.read_text()
    assert [child for child in children if child.is_running()] == []


@pytest.mark.parametrize(
    ("setting", "value"), [("VISITOR_HTTP_KEYS", "keys.toml"), ("VISITOR_WORKER_HEALTH_PORT", "0")]
)
def test_dev_names_a_setting_that_it_does_not_accept(dev: _Dev, setting: str, value: str) -> None:
    command = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "dev"], env={**os.environ, setting: value, "VISITOR_HOME": str(dev.home)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert command.returncode == 2
    assert setting in command.stderr


@pytest.mark.parametrize("setting", ["VISITOR_HTTP_PORT", "VISITOR_DEV_KAFKA_PORT", "VISITOR_WORKER_HEALTH_PORT"])
def test_if_a_port_is_in_use_dev_names_its_setting(dev: _Dev, setting: str) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", dev.ports[setting]))
        listener.listen()
        dev.start()
        assert dev.child is not None
        assert dev.child.wait(60) == 2
    assert setting in dev.output.read_text()
