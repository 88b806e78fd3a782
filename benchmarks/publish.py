"""Writes figures into docs/performance.md: `python -m benchmarks.publish one.json another.json`, with files that `make
bench ARGS='--json …'` has written. Rows that no file has stay as they are; the last file with a row counts."""

import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.results import short, spread

PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"
_FIGURES = re.compile(r"^\| `(?P<name>[a-z0-9.-]+)` \|.* \| (hit|missed|not measured) \|$", re.MULTILINE)


def with_figures(page: str, reports: Iterable[Any]) -> str:
    """The page with the figures of the reports in its table."""
    lines = {result["name"]: _line(result, report["machine"]) for report in reports for result in report["results"]}
    return _FIGURES.sub(lambda line: lines.get(line["name"], line[0]), page)


def _line(result: Any, machine: Any) -> str:
    values, unit = result["values"], result["unit"]
    cells = (
        f"`{result['name']}`", _amount(result["workValues"], unit), _amount(result["peerValues"], unit),
        short(result["median"]), spread(values), machine["commit"], result["target"],
        "hit" if result["hit"] else "missed",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _amount(values: list[float], unit: str) -> str:
    return f"{short(statistics.median(values))} {unit}" if values else ""


if __name__ == "__main__":
    reports = [json.loads(Path(file).read_text()) for file in sys.argv[1:]]
    PERFORMANCE.write_text(with_figures(PERFORMANCE.read_text(), reports))
