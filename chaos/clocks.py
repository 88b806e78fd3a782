"""Clocks of processes that a fault can step, by libfaketime. The clock of the machine does not change."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

_LIBRARIES = "usr/lib/*/faketime/libfaketime.so.1"


class NoLibfaketime(Exception):
    """libfaketime is not installed, or has no effect."""


def preloaded_library() -> Path:
    """Raises NoLibfaketime."""
    for path in Path("/").glob(_LIBRARIES):
        return path
    raise NoLibfaketime(f"No /{_LIBRARIES}. Install Debian's package faketime.")


def require_effect(folder: Path) -> None:
    """Check that a stepped clock is what a process reads. `folder` is for the clock's file. Raises NoLibfaketime."""
    clock, hour = Clock(folder / "check"), 3600
    clock.step(hour)
    environment = {**os.environ, **clock.environment}
    command = [sys.executable, "-c", "import time; print(time.time())"]
    read = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    if abs(float(read) - time.time() - hour) > hour / 2:
        raise NoLibfaketime(f"{preloaded_library()} does not step the clock of a process.")


class Clock:
    """The wall clock of the processes that were started with `environment`. Monotonic clocks are not faked."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.step(0)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(preloaded_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        """Set the clock this much ahead of the machine's, within a second."""
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(f"{seconds:+.0f}\n")
        unfinished.replace(self._file)


def remove_leftovers() -> None:
    """Remove the shared memory of killed processes: libfaketime refuses to start another process with the same pid."""
    for kind in ("faketime_shm_", "sem.faketime_sem_"):
        for path in Path("/dev/shm").glob(f"{kind}*"):
            if not psutil.pid_exists(int(path.name.removeprefix(kind))):
                path.unlink(missing_ok=True)
