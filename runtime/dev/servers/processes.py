"""The child processes of one home. A file records them, so that the next start ends those of a killed parent."""

import fcntl
import json
import os
import secrets
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import psutil
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

STOP_SECONDS = 20.0


class ServerFailed(Exception):
    """A server did not start. The text says what to do, or has the end of the server's log."""


class Processes:
    """Starts, stops and records child processes. Each has its own session, so that Ctrl-C reaches only the parent."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._record = home / "processes.json"
        self._writing = threading.Lock()
        self._spawning = threading.Lock()
        self._closed = False
        self._children: dict[str, psutil.Popen] = {}

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Raises ServerFailed after `close`."""
        with self._spawning, log.open("ab") as output:
            if self._closed:
                raise ServerFailed(f"{name} was not started, because all processes are stopping.")
            child = psutil.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd,
                env=None if env is None else {**os.environ, **env}, start_new_session=True, user=user, group=user,
            )  # fmt: skip
            self._children[name] = child
        self._record_child(name, child)

    def close(self) -> None:
        """Refuse to start processes: a thread that starts a server goes on when the main thread is interrupted."""
        with self._spawning:
            self._closed = True

    def alive(self, name: str) -> bool:
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def pid(self, name: str) -> int:
        return int(self._children[name].pid)

    def stop(self, name: str, signal_number: int, seconds: float = STOP_SECONDS) -> None:
        """Send a child this signal. If the child does not end within `seconds`, kill it and its children."""
        child = self._children.pop(name, None)
        if child is None:
            return
        if child.poll() is None:
            child.send_signal(signal_number)
            try:
                child.wait(seconds)
            except psutil.TimeoutExpired:
                _kill_tree(child)
                child.wait(STOP_SECONDS)
        self._unrecord(name)

    def kill(self, name: str) -> None:
        """Send a child and its children SIGKILL."""
        child = self._children.pop(name)
        _kill_tree(child)
        child.wait(STOP_SECONDS)
        self._unrecord(name)

    def end_leftovers(self) -> list[str]:
        """Kill the processes that an earlier parent left running, and return their names. A process that has the pid of
        such a process, but started at another time, is left alone."""
        ended = []
        for name, (pid, created) in self._recorded().items():
            if name in self._children:
                continue
            try:
                process = psutil.Process(pid)
                if abs(process.create_time() - created) < 1:
                    _kill_tree(process)
                    process.wait(STOP_SECONDS)
                    ended.append(name)
            except psutil.NoSuchProcess:
                pass
            self._unrecord(name)
        return ended

    def _recorded(self) -> dict[str, tuple[int, float]]:
        try:
            return {name: (pid, created) for name, (pid, created) in json.loads(self._record.read_text()).items()}
        except (OSError, ValueError):
            return {}

    def _record_child(self, name: str, child: psutil.Popen) -> None:
        with self._writing:
            self._write(self._recorded() | {name: (child.pid, child.create_time())})

    def _unrecord(self, name: str) -> None:
        with self._writing:
            self._write({key: value for key, value in self._recorded().items() if key != name})

    def _write(self, processes: dict[str, tuple[int, float]]) -> None:
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(processes))
        new.replace(self._record)


def _kill_tree(process: psutil.Process) -> None:
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs([member for member in family if member is not process], timeout=STOP_SECONDS)


_PORTS = range(15_000, 30_000)
"""Below the ports that systems give to outgoing connections: a server that is down for a moment would lose its port to
one of them."""
_chosen_ports: set[int] = set()
_choosing = threading.Lock()


def free_port() -> int:
    """A port that nothing uses. No other call returns it while this process lives, in any process of this user."""
    with _choosing:
        while True:
            port = secrets.choice(_PORTS)
            if port not in _chosen_ports and _reserve(port) and _is_free(port):
                _chosen_ports.add(port)
                return port


def _reserve(port: int) -> bool:
    """Lock the byte of a file that stands for the port. The system unlocks it when this process ends."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    return True


@cache
def _reservations() -> IO[bytes]:
    """The file stays open: closing it would unlock all ports of this process."""
    return (Path(tempfile.gettempdir()) / f"visitor-ports-{os.getuid()}").open("ab")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def kept_port(file: Path) -> int:
    """The port in `file`, or a free port, which is written to the file for the next start."""
    with suppress(OSError, ValueError):  # a crash may have left the file empty
        return int(file.read_text())
    port = free_port()
    file.write_text(str(port))
    return port


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_it_answers(name: str, processes: Processes, port: int, seconds: float, log: Path) -> None:
    """Raises ServerFailed if the process ends or does not answer in time."""

    @retry(
        retry=retry_if_result(lambda done: not done), wait=wait_fixed(0.1), stop=stop_after_delay(seconds),
        retry_error_callback=lambda _: False,
    )  # fmt: skip
    def answered() -> bool:
        if not processes.alive(name):
            raise ServerFailed(f"{name} ended right after its start. The end of {log}:\n{tail_of(log)}")
        return answers(port)

    if not answered():
        raise ServerFailed(f"{name} does not answer after {seconds:.0f} s. The end of {log}:\n{tail_of(log)}")


def tail_of(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
