"""The declarations of the metrics: their names and their documentation; and the delay of the event loop."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info
from prometheus_client.metrics import MetricWrapperBase

from telemetry import event_loop, metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
DECLARED = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
TYPES = {Counter: "counter", Gauge: "gauge", Histogram: "histogram", Enum: "state set", Info: "info"}
ROW = re.compile(r"^\| `(visitor_\w+)` \| ([\w ]+) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)


def _name(metric: MetricWrapperBase) -> str:
    suffix = {Counter: "_total", Info: "_info"}.get(type(metric), "")
    return metric.describe()[0].name + suffix


def _labels(metric: MetricWrapperBase) -> str:
    return ", ".join(f"`{label}`" for label in metric._labelnames)


def test_the_documentation_lists_each_metric_with_its_type_labels_and_meaning() -> None:
    rows = [
        (_name(metric), TYPES[type(metric)], _labels(metric), metric.describe()[0].documentation.removesuffix("."))
        for metric in DECLARED
    ]
    assert sorted(ROW.findall(PAGE.read_text())) == sorted(rows)


@pytest.mark.parametrize("metric", DECLARED, ids=_name)
def test_names_follow_the_conventions_of_prometheus(metric: MetricWrapperBase) -> None:
    name = _name(metric)
    assert re.fullmatch(r"visitor_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") == isinstance(metric, Counter)
    units = ("_seconds", "_messages", "_rows", "_requests", "_bytes")
    assert name.endswith(units) == (isinstance(metric, Histogram | Gauge) and metric is not metrics.READY)


@pytest.mark.parametrize("registry", [metrics.WORKER, metrics.EDGE], ids=["worker", "edge"])
def test_no_series_of_creation_times_is_exported(registry: CollectorRegistry) -> None:
    assert [s.name for family in registry.collect() for s in family.samples if s.name.endswith("_created")] == []


async def test_a_blocked_event_loop_is_late() -> None:
    def late() -> float:
        name = "visitor_event_loop_delay_seconds"
        count, in_time = (
            metrics.WORKER.get_sample_value(f"{name}_count") or 0,
            metrics.WORKER.get_sample_value(f"{name}_bucket", {"le": "0.1"}) or 0,
        )
        return count - in_time

    before = late()
    measuring = asyncio.create_task(event_loop.measure_delay())
    await asyncio.sleep(0)
    time.sleep(event_loop.INTERVAL + 0.2)  # noqa: ASYNC251 - the test blocks the event loop
    await asyncio.sleep(0.01)
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    assert late() == before + 1
