"""The queries of the alerts and dashboards in ops/."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

OPS = Path(__file__).parents[2] / "ops"
RULES, RULES_TEST = OPS / "prometheus" / "rules.yml", OPS / "prometheus" / "rules_test.yml"
_SELECTOR = re.compile(r"\b((?:visitor|process|python)_\w+|up\b)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\bby \(([^)]*)\)")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_OF_PROMETHEUS = {"job", "instance"}
"""The labels that Prometheus adds to each series."""


@dataclass(frozen=True)
class Query:
    """`location` is the alert, or the dashboard and its panel."""

    location: str
    text: str

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in _SELECTOR.findall(self.text)}

    @property
    def labels(self) -> set[str]:
        """The labels that matchers and groupings name."""
        in_matchers = {label for _, matchers in _SELECTOR.findall(self.text) for label in _MATCHER.findall(matchers)}
        groupings = _GROUPING.findall(self.text)
        return in_matchers | {label.strip() for grouping in groupings for label in grouping.split(",")}

    def unknown(self, exported: dict[str, set[str]]) -> set[str]:
        """The metrics that are not in `exported`, and the labels that none of the metrics has. `exported` has the names
        of samples with their labels."""
        exported_labels = _OF_PROMETHEUS.union(*(exported.get(name, set()) for name in self.metrics))
        return {name for name in self.metrics if name not in exported and name != "up"} | (
            self.labels - exported_labels
        )


def alerts() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    return rules


def dashboards() -> dict[str, dict[str, Any]]:
    """By file name."""
    return {file.name: json.loads(file.read_text()) for file in sorted((OPS / "grafana").glob("*.json"))}


def all_queries() -> Iterator[Query]:
    for alert in alerts():
        yield Query(alert["alert"], alert["expr"])
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield Query(f"{name}: {panel['title']}", target["expr"])
