"""The metrics that a process exports."""

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.stack import Process


@dataclass
class Scrape:
    """What one scrape returned."""

    families: Sequence[Metric]

    @property
    def samples(self) -> Sequence[Sample]:
        return [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels; 0 without one. Fails if the process does not export
        the metric."""
        assert any(name.startswith(family.name) for family in self.families), f"{name} is not exported"
        return sum(each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items())

    def increase(self, before: "Scrape", name: str, **labels: str) -> float:
        """How much larger the value is than in an earlier scrape."""
        return self.value(name, **labels) - before.value(name, **labels)


async def scrape(process: Process) -> Scrape:
    async with httpx.AsyncClient() as client:
        answer = await client.get(process.metrics_url, timeout=30)
    assert answer.status_code == 200
    return Scrape(list(text_string_to_metric_families(answer.text)))
