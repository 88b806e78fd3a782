"""The embedded servers: checks of downloads, processes left over from a killed parent, and ports."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from runtime.dev.servers import downloads
from runtime.dev.servers.downloads import check
from runtime.dev.servers.processes import Processes, ServerFailed, free_port, kept_port
from tests.support.leftovers import MARK, end_leftovers

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def _sums(**files: bytes) -> dict[str, str]:
    return {f"{name}.jar": hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _folder(parent: Path, **files: bytes) -> Path:
    folder = parent / "kafka"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.jar").write_bytes(content)
    return folder


def test_threads_that_start_brokers_download_the_jars_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar, starts = "org.example:jar:1", []

    def download(folder: Path, sums: Mapping[str, str]) -> Iterator[Path]:
        starts.append(folder)
        time.sleep(0.1)  # The other threads get here in the meantime, unless they wait.
        (folder / "jar-1.jar").write_bytes(b"1")
        yield folder / "jar-1.jar"

    monkeypatch.setattr(downloads, "_download_jars", download)
    monkeypatch.setattr(downloads, "_read_sums", lambda _: {jar: hashlib.sha256(b"1").hexdigest()})
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(downloads.fetch_kafka, [tmp_path] * 3))
    assert len(starts) == 1
    assert [file.name for folder in folders for file in folder.iterdir()] == ["jar-1.jar"]


def test_a_download_with_the_expected_files_is_accepted(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a=b"1", b=b"2")
    check(folder, _sums(a=b"1", b=b"2"))
    assert folder.exists()


@pytest.mark.parametrize("files", [{"a": b"1"}, {"a": b"1", "b": b"other"}, {"a": b"1", "b": b"2", "c": b"3"}])
def test_a_download_that_differs_is_refused_and_removed(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = _folder(tmp_path, **files)
    with pytest.raises(ServerFailed, match="start again"):
        check(folder, _sums(a=b"1", b=b"2"))
    assert not folder.exists()


_PARENT = """
import os, sys
from pathlib import Path
from runtime.dev.servers.processes import Processes
home = Path(sys.argv[1])
Processes(home).spawn("worker", [sys.executable, "-c", "import time; time.sleep(600)"], log=home / "log")
os.kill(os.getpid(), 9)
"""


def test_processes_of_a_killed_parent_are_ended_at_the_next_start(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _PARENT, str(tmp_path)], check=False)
    pid = json.loads((tmp_path / "processes.json").read_text())["worker"][0]
    assert psutil.pid_exists(pid)
    assert Processes(tmp_path).end_leftovers() == ["worker"]
    assert not psutil.pid_exists(pid)


_PYTEST = """
import os, subprocess, sys
from tests.support.leftovers import end_leftovers
end_leftovers()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
if sys.argv[1] == "is killed":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""


@pytest.mark.parametrize("run", ["is killed", "goes on"])
def test_a_test_run_ends_the_processes_of_a_killed_run_only(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, os.environ[MARK])  # restores it afterwards
    with subprocess.Popen(
        [sys.executable, "-c", _PYTEST, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other_run:
        assert other_run.stdout is not None
        pid = int(other_run.stdout.readline())
        if run == "is killed":
            other_run.wait(10)
        try:
            assert (pid in end_leftovers()) == (run == "is killed")
            assert psutil.pid_exists(pid) == (run == "goes on")
        finally:
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()


def test_a_process_that_reuses_a_recorded_pid_is_not_ended(tmp_path: Path) -> None:
    other = Processes(tmp_path / "other")
    other.spawn("other", SLEEP, log=tmp_path / "log")
    try:
        (tmp_path / "processes.json").write_text(json.dumps({"worker": [other.pid("other"), 1.0]}))
        assert Processes(tmp_path).end_leftovers() == []
        assert other.alive("other")
    finally:
        other.kill("other")


@pytest.mark.parametrize("content", ["", "no port"])
def test_an_unreadable_port_file_is_replaced_by_a_new_port(tmp_path: Path, content: str) -> None:
    file = tmp_path / "port"
    file.write_text(content)
    port = kept_port(file)
    assert kept_port(file) == port > 0


def test_free_ports_differ_and_are_not_those_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(500)}
    assert len(ports) == 500
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < lowest_outgoing


_CHOOSER = """
import sys
from runtime.dev.servers import processes
processes._PORTS = processes._PORTS[:20]
print(*(processes.free_port() for _ in range(5)), flush=True)
sys.stdin.read()
"""


def test_processes_that_run_side_by_side_choose_different_ports() -> None:
    arguments = [sys.executable, "-c", _CHOOSER]
    with ExitStack() as stack:
        choosers = [
            stack.enter_context(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(3)
        ]
        ports = [port for chooser in choosers if chooser.stdout for port in chooser.stdout.readline().split()]
    assert len(ports) == 15
    assert len(set(ports)) == 15


def test_no_process_starts_during_the_shutdown(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.close()
    with pytest.raises(ServerFailed, match="all processes are stopping"):
        processes.spawn("worker", SLEEP, log=tmp_path / "log")
    assert not (tmp_path / "processes.json").exists()
