"""Prometheus with the alerts and queries of ops/."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from interop import programs
from runtime.dev.servers.processes import free_port
from tests.support import data, kubernetes, queries
from tests.support.stack import Stack, eventually

CONFIG = queries.OPS / "prometheus" / "prometheus.yml"


def _addresses(stack: Stack) -> tuple[str, str]:
    """Host and port of the metrics of the shared worker and edge."""
    worker, edge = (httpx.URL(process.metrics_url).netloc.decode() for process in stack.processes[:2])
    return worker, edge


@contextmanager
def _running(config: str, folder: Path) -> Iterator[str]:
    """The URL of a Prometheus with this configuration and the alerts. It scrapes each second."""
    file = folder / "config.yml"
    file.write_text(re.sub(r"_interval: \w+", "_interval: 1s", config))
    shutil.copy(queries.RULES, folder)
    assert "SUCCESS" in programs.run("promtool", "check", "config", file, cwd=folder)
    url = f"http://127.0.0.1:{free_port()}"
    arguments = (
        f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
    try:
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes the shared worker and edge as the example does."""
    worker, edge = _addresses(stack)
    config = CONFIG.read_text().replace("127.0.0.1:8081", worker).replace("127.0.0.1:8082", edge)
    with _running(config, tmp_path) as url:
        yield url


@pytest.fixture
def prometheus_of_pods(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """A Prometheus with the configuration for Kubernetes. It gets the pods of the manifests, with the addresses of the
    shared worker and edge, from a file: Debian's Prometheus has no discovery of pods."""
    worker, edge = _addresses(stack)
    by_port = {"10.0.0.1:8081": worker, "10.0.0.1:8080": edge, "10.0.0.1:8082": edge}
    ports = list(kubernetes.discovered())
    targets = [{"targets": [by_port[labels.pop("__address__")]], "labels": labels} for labels in ports]
    (tmp_path / "pods.json").write_text(json.dumps(targets))
    config = queries.config("kubernetes.yml")
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs")
    job["file_sd_configs"] = [{"files": ["pods.json"]}]
    with _running(yaml.safe_dump(config), tmp_path) as url:
        yield url


async def test_prometheus_scrapes_worker_and_edge_and_answers_the_queries_of_alerts_and_dashboards(
    stack: Stack, client: httpx.AsyncClient, prometheus: str
) -> None:
    async with httpx.AsyncClient(base_url=prometheus, timeout=30) as api:
        query = partial(_query, api)

        async def calls() -> float:
            result = await query('sum(visitor_http_calls_total{operation="centers.create", status="201"})')
            return float(result[0]["value"][1]) if result else 0

        async def answered_requests() -> float:
            result = await query('sum(visitor_requests_total{operation="centers.create", status="201"})')
            return float(result[0]["value"][1]) if result else 0

        async def both_are_up() -> bool:
            return len(await query('up{job=~"visitor-(worker|edge)"} == 1')) == 2

        await eventually("a ready Prometheus", partial(_is_ready, api))
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


async def test_prometheus_on_kubernetes_has_the_labels_that_alerts_and_autoscaler_need(prometheus_of_pods: str) -> None:
    async with httpx.AsyncClient(base_url=prometheus_of_pods, timeout=30) as api:

        async def jobs() -> set[str]:
            return {result["metric"]["job"] for result in await _query(api, "up == 1")}

        async def all_are_up() -> bool:
            return await jobs() == {"visitor-worker", "visitor-edge", "visitor-console"}

        async def lag() -> list[Any]:
            return await _query(api, 'max(visitor_lag_seconds{namespace="visitor", topic!=""})')

        await eventually("a ready Prometheus", partial(_is_ready, api))
        await eventually("a scrape of each process", all_are_up)
        assert queries.unmatched_jobs(await jobs()) == set()
        for result in await _query(api, "up"):
            job, namespace, pod = (result["metric"][label] for label in ("job", "namespace", "pod"))
            assert (namespace, pod.partition("-")[0]) == ("visitor", job.removeprefix("visitor-"))

        async def sees_a_worker() -> bool:
            return not await _query(api, 'ALERTS{alertname="VisitorNoWorker"}')

        await eventually("the lag that the autoscaler asks for", lag)
        # The rules may have been evaluated before the first scrape; then the alert is pending until the next time.
        await eventually("a worker for the alert", sees_a_worker)


async def _is_ready(api: httpx.AsyncClient) -> bool:
    try:
        return (await api.get("/-/ready")).is_success
    except httpx.ConnectError:
        return False


async def _query(api: httpx.AsyncClient, text: str) -> list[Any]:
    answer = await api.get("/api/v1/query", params={"query": text})
    assert answer.status_code == 200, f"{text}: {answer.text}"
    result: list[Any] = answer.json()["data"]["result"]
    return result


@pytest.mark.parametrize(
    "arguments", [("check", "config", CONFIG), ("test", "rules", queries.RULES_TEST)], ids=["config", "rules"]
)
def test_promtool_finds_no_error(arguments: tuple[str, str, Path], tmp_path: Path) -> None:
    assert "SUCCESS" in programs.run("promtool", *arguments, cwd=tmp_path)
