"""Grafana's SDK reads the dashboards. `test_prometheus.py` runs their queries."""

import asyncio
from pathlib import Path

from interop import programs

PROGRAM = Path(__file__).parent / "grafana"
PROGRAMS = [PROGRAM]
DASHBOARDS = sorted((Path(__file__).parents[1] / "ops" / "grafana").glob("*.json"))


async def test_the_dashboards_have_exactly_the_fields_of_an_export(builds: programs.Builds, tmp_path: Path) -> None:
    await asyncio.to_thread(builds.wait, PROGRAM)
    program = PROGRAM / "target" / "grafana"
    assert len(DASHBOARDS) == 3
    assert programs.run(program, *DASHBOARDS, cwd=tmp_path) == ""
