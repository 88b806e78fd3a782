"""Prometheus with the alerts and queries of ops/."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from interop import programs
from runtime.dev.servers.processes import free_port
from tests.support import data, queries
from tests.support.stack import Stack, eventually

CONFIG = queries.OPS / "prometheus" / "prometheus.yml"


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the shared worker and edge each second, otherwise as the example does."""
    worker, edge = (httpx.URL(process.metrics_url).netloc.decode() for process in stack.processes[:2])
    config = CONFIG.read_text().replace("127.0.0.1:8081", worker).replace("127.0.0.1:8082", edge)
    (tmp_path / CONFIG.name).write_text(re.sub(r"_interval: \w+", "_interval: 1s", config))
    shutil.copy(queries.RULES, tmp_path)
    url = f"http://127.0.0.1:{free_port()}"
    arguments = (
        f"--config.file={tmp_path / CONFIG.name}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    )  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
    try:
        yield url
    finally:
        process.kill()
        process.wait()


async def test_prometheus_scrapes_worker_and_edge_and_answers_the_queries_of_alerts_and_dashboards(
    stack: Stack, client: httpx.AsyncClient, prometheus: str
) -> None:
    async with httpx.AsyncClient(base_url=prometheus, timeout=30) as api:

        async def is_ready() -> bool:
            try:
                return (await api.get("/-/ready")).is_success
            except httpx.ConnectError:
                return False

        async def query(text: str) -> list[Any]:
            answer = await api.get("/api/v1/query", params={"query": text})
            assert answer.status_code == 200, f"{text}: {answer.text}"
            result: list[Any] = answer.json()["data"]["result"]
            return result

        async def calls() -> float:
            result = await query('sum(visitor_http_calls_total{operation="centers.create", status="201"})')
            return float(result[0]["value"][1]) if result else 0

        async def answered_requests() -> float:
            result = await query('sum(visitor_requests_total{operation="centers.create", status="201"})')
            return float(result[0]["value"][1]) if result else 0

        async def both_are_up() -> bool:
            return len(await query('up{job=~"visitor-(worker|edge)"} == 1')) == 2

        await eventually("a ready Prometheus", is_ready)
        await eventually("a scrape of worker and edge", both_are_up)
        calls_before, requests_before = await calls(), await answered_requests()
        for _ in range(3):
            assert (await client.post("/centers", json=data.center())).status_code == 201

        async def are_counted() -> bool:
            return await calls() >= calls_before + 3 and await answered_requests() >= requests_before + 3

        await eventually("the calls in both processes' metrics", are_counted)
        for each in queries.all_queries():
            await query(each.text.replace("$__rate_interval", "1m"))
        rules = (await api.get("/api/v1/rules")).json()["data"]["groups"][0]["rules"]
        assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
        assert len(rules) == len(queries.alerts())
        firing = await query('ALERTS{alertstate="firing"}')
        assert firing == []


@pytest.mark.parametrize(
    "arguments", [("check", "config", CONFIG), ("test", "rules", queries.RULES_TEST)], ids=["config", "rules"]
)
def test_promtool_finds_no_error(arguments: tuple[str, str, Path], tmp_path: Path) -> None:
    assert "SUCCESS" in programs.run("promtool", *arguments, cwd=tmp_path)
