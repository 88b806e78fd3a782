"""Ends the processes of an earlier test run whose pytest was killed.

They would take time from the tests, and a worker among them could reach the broker of a new installation by a port that
is used again, and join its consumer group.
"""

import os

import psutil

MARK = "STARTED_BY_PYTEST"
"""The environment variable that all processes of a run inherit. Its value is the pid of pytest and when that began."""


def end_leftovers() -> list[int]:
    """Kill the processes of runs that ended, and return their pids. Marks the processes of this run."""
    leftovers = [process for process in psutil.process_iter() if _is_left_over(process)]
    for process in leftovers:
        process.kill()
    psutil.wait_procs(leftovers, timeout=10)
    os.environ[MARK] = _mark(psutil.Process())
    return [process.pid for process in leftovers]


def _is_left_over(process: psutil.Process) -> bool:
    try:
        mark = process.environ().get(MARK)
    except psutil.Error:  # It has ended, or belongs to somebody else.
        return False
    return mark is not None and not _runs(mark)


def _runs(mark: str) -> bool:
    pid, _, created = mark.partition("@")
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) < 5  # NTP moves the time of the boot.
    except psutil.NoSuchProcess:
        return False


def _mark(pytest_process: psutil.Process) -> str:
    return f"{pytest_process.pid}@{pytest_process.create_time()}"
