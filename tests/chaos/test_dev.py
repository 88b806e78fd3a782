"""`visitor dev`: everything with one command, and nothing left behind."""

import json
import os
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
from tests.support.servers import DOWNLOADS
from tests.support.stack import eventually


class _Dev:
    """A home of its own, with ports of its own, that shares the downloads."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "downloads").symlink_to(DOWNLOADS)
        self.ports = {
            name: free_port() for name in ("VISITOR_HTTP_PORT", "VISITOR_DEV_KAFKA_PORT", "VISITOR_WORKER_HEALTH_PORT")
        }
        self.url = f"http://127.0.0.1:{self.ports['VISITOR_HTTP_PORT']}"
        self.output = home / "output"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        settings = {name: str(port) for name, port in self.ports.items()}
        environment = {**os.environ, **settings, "VISITOR_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        with self.output.open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "runtime.cli", "dev", *options], stdout=output, stderr=output, env=environment,
                start_new_session=True,
                # As a shell starts what is to run in its background.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
            )  # fmt: skip

    def end(self, number: int) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(60)

    def children(self) -> list[psutil.Process]:
        recorded = json.loads((self.home / "processes.json").read_text())
        return [psutil.Process(pid) for pid, _ in recorded.values() if psutil.pid_exists(pid)]

    async def greeted(self) -> None:
        async def ready() -> bool:
            assert self.child is not None
            assert self.child.poll() is None, self.output.read_text()
            return "Ready after" in self.output.read_text()

        await eventually("visitor dev is ready", ready, 120)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Dev]:
    found = _Dev(tmp_path_factory.mktemp("dev"))
    yield found
    if found.child is not None and found.child.poll() is None:
        found.end(signal.SIGKILL)
    Processes(found.home).end_leftovers()


async def test_one_command_shows_gateway_traffic_and_ctrl_c_ends_all_of_it(dev: _Dev) -> None:
    dev.start()
    await dev.greeted()
    said = dev.output.read_text()
    assert f"{dev.url}/docs" in said
    assert str(dev.ports["VISITOR_DEV_KAFKA_PORT"]) in said
    async with httpx.AsyncClient(base_url=dev.url) as client:
        assert (await client.get("/health")).status_code == 200
        assert len((await client.get("/centers")).json()["data"]) > 3
        known = await sample.find(dev.url)
        assert len(known) == len(sample.PEOPLE)

        async def visited() -> bool:
            queries = [{"barcode": person.barcode, "pcCode": person.pc_code} for person in known]
            return any([(await client.get("/visits", params=query)).json() for query in queries])

        await eventually("a simulated visit", visited)
    children = dev.children()
    assert len(children) == 4
    assert dev.end(signal.SIGINT) == 0
    assert [child for child in children if child.is_running()] == []


async def test_the_next_start_ends_what_a_killed_parent_left(dev: _Dev) -> None:
    dev.start("--no-simulation")
    await dev.greeted()
    orphans = dev.children()
    dev.end(signal.SIGKILL)
    assert len([child for child in orphans if child.is_running()]) == 4

    dev.start("--no-simulation")
    await dev.greeted()
    assert "Ended processes of an earlier run" in dev.output.read_text()
    assert [child for child in orphans if child.is_running()] == []
    async with httpx.AsyncClient(base_url=dev.url) as client:
        assert len((await client.get("/centers")).json()["data"]) > 3
    assert dev.end(signal.SIGTERM) == 0


async def test_a_database_that_was_removed_by_hand_is_made_anew_with_the_sample_data(dev: _Dev) -> None:
    shutil.rmtree(dev.home / "postgres")
    dev.start("--no-simulation")
    await dev.greeted()
    assert "PostgreSQL has none" in dev.output.read_text()
    person = (await sample.find(dev.url))[0]
    async with httpx.AsyncClient(base_url=dev.url) as client:
        visit = {"licensePlate": person.plate, "pcCode": person.pc_code}
        assert (await client.post("/visits/entry", json=visit)).status_code == 201
    assert dev.end(signal.SIGTERM) == 0


def test_a_reset_removes_the_data_and_nothing_of_others(dev: _Dev) -> None:
    """A taken port ends the start right after the reset."""
    kept = dev.home / "kept.txt"
    kept.write_text("kept")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", dev.ports["VISITOR_HTTP_PORT"]))
        taken.listen()
        dev.start("--reset")
        assert dev.child is not None
        assert dev.child.wait(60) == 2
    assert {entry.name for entry in dev.home.iterdir()} == {"downloads", "lock", "output", "kept.txt"}


async def test_the_end_of_a_child_ends_all_of_it_with_status_1(dev: _Dev) -> None:
    dev.start("--no-simulation")
    await dev.greeted()
    children = dev.children()
    worker = next(child for child in children if "worker" in child.cmdline())
    worker.kill()
    assert dev.child is not None
    assert dev.child.wait(30) == 1
    assert "The worker ended" in dev.output.read_text()
    assert [child for child in children if child.is_running()] == []


@pytest.mark.parametrize(
    ("setting", "value"), [("VISITOR_HTTP_KEYS", "keys.toml"), ("VISITOR_WORKER_HEALTH_PORT", "0")]
)
def test_a_setting_that_dev_cannot_have_is_named(dev: _Dev, setting: str, value: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "runtime.cli", "dev"], env={**os.environ, setting: value, "VISITOR_HOME": str(dev.home)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (found.returncode, setting in found.stderr) == (2, True)


@pytest.mark.parametrize("setting", ["VISITOR_HTTP_PORT", "VISITOR_DEV_KAFKA_PORT", "VISITOR_WORKER_HEALTH_PORT"])
def test_a_taken_port_is_a_clear_error_that_names_the_setting(dev: _Dev, setting: str) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", dev.ports[setting]))
        taken.listen()
        dev.start()
        assert dev.child is not None
        assert dev.child.wait(60) == 2
    assert setting in dev.output.read_text()
