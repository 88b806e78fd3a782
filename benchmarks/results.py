"""Rows of the result table: what is measured, against what, and whether the target was hit."""

import os
import platform
import statistics
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Target:
    """The bound of a median. `at_most` tells its direction."""

    bound: float
    at_most: bool

    def is_hit(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


def at_least(bound: float) -> Target:
    return Target(bound, at_most=False)


def at_most(bound: float) -> Target:
    return Target(bound, at_most=True)


@dataclass(frozen=True)
class Row:
    """What `work` achieves in comparison with `peer`, both in `unit`. The target is one of their ratio. Without a peer,
    it is one of the measured value itself."""

    name: str
    work: str
    peer: str | None
    unit: str
    target: Target


@dataclass(frozen=True)
class Result:
    """The measured values of a row, one for each round."""

    row: Row
    work: Sequence[float]
    peer: Sequence[float] = ()

    @property
    def values(self) -> Sequence[float]:
        """What the target is compared with: the ratio of each round, or the value if there is no peer."""
        if self.row.peer is None:
            return self.work
        return [work / peer for work, peer in zip(self.work, self.peer, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_hit(self) -> bool:
        return self.row.target.is_hit(self.median)

    def as_json(self) -> dict[str, Any]:
        row = self.row
        return {
            "name": row.name, "work": row.work, "peer": row.peer, "unit": row.unit, "target": str(row.target),
            "workValues": list(self.work), "peerValues": list(self.peer), "values": list(self.values),
            "median": self.median, "hit": self.is_hit,
        }  # fmt: skip


async def alternate(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Run the measures one after the other, in each round in the opposite order, because the speed of a machine drifts.
    Returns the values of each measure by round."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in reversed([*measures]) if number % 2 else measures:
            values[name].append(await measures[name]())
    return values


def table(results: Sequence[Result]) -> Table:
    grid = Table("name", "work", "compared with", "work", "peer", "measured", "spread", "target", "", box=None)
    for result in results:
        row = result.row
        peer = _amount(result.peer, row.unit) if result.peer else ""
        grid.add_row(
            row.name, row.work, row.peer or "", _amount(result.work, row.unit), peer, short(result.median),
            spread(result.values), str(row.target), "hit" if result.is_hit else "missed",
        )  # fmt: skip
    return grid


def _amount(values: Sequence[float], unit: str) -> str:
    return f"{short(statistics.median(values))} {unit}"


def short(value: float) -> str:
    """The value with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The lowest and the highest value of several rounds."""
    return "1 round" if len(values) == 1 else f"{short(min(values))} to {short(max(values))}"


def machine() -> dict[str, Any]:
    """The machine and the versions of a run."""
    libraries = ("faust-streaming", "aiokafka", "sqlalchemy", "asyncpg", "fastapi", "faststream")
    return {
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memoryGiB": round(psutil.virtual_memory().total / 2**30),
        "architecture": platform.machine(),
        "loadAverage": os.getloadavg()[0],
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in libraries},
    }


def _commit() -> str:
    """The short hash of the commit, with `+` if files were changed since."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
