"""The queries of the alerts and dashboards in ops/."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

OPS = Path(__file__).parents[2] / "ops"
RULES, RULES_TEST = OPS / "prometheus" / "rules.yml", OPS / "prometheus" / "rules_test.yml"
CONSOLE = "visitor_console"
"""The external label of Prometheus with the URL of the console."""
_SELECTOR = re.compile(r"\b((?:visitor|process|python)_\w+|up\b)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\bby \(([^)]*)\) \(")
_AGGREGATION = re.compile(r"\b(?:sum|max|min|avg|count|absent)\(")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_JOB = re.compile(r'\bjob=~?"([^"]+)"')
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?([a-z_]\w*)\s*\}\}")
_OF_PROMETHEUS = {"job", "instance"}
"""The labels that Prometheus adds to each series."""

Exported = Mapping[str, set[str]]
"""The labels of each sample name."""


@dataclass(frozen=True)
class Query:
    """`location` is the alert, or the dashboard and its panel. `shown` shows labels of the result: the legend of a
    panel, or the annotations of an alert."""

    location: str
    text: str
    shown: str = ""

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in _SELECTOR.findall(self.text)}

    def unknown(self, exported: Exported) -> set[str]:
        """The metrics that are not exported, and the labels that a matcher, a grouping or `shown` names although the
        metric or the result does not have them."""
        missing = {name for name in self.metrics if name not in exported and name != "up"}
        in_matchers = {
            f"{name}: {label}"
            for name, matchers in _SELECTOR.findall(self.text)
            for label in set(_MATCHER.findall(matchers)) - _labels(name, exported)
        }
        in_groupings = {
            f"{name}: {label}"
            for labels, grouped in self._groupings()
            for name, _ in _SELECTOR.findall(grouped)
            for label in labels - _labels(name, exported)
        }
        in_shown = set(_SHOWN.findall(self.shown)) - self._result_labels(exported)
        return missing | in_matchers | in_groupings | {f"shown: {label}" for label in in_shown}

    def _groupings(self) -> Iterator[tuple[set[str], str]]:
        """The labels of each `by (…)`, and the expression in the parentheses that follow."""
        for grouping in _GROUPING.finditer(self.text):
            depth, end = 1, grouping.end()
            while depth:
                depth += {"(": 1, ")": -1}.get(self.text[end], 0)
                end += 1
            labels = {label.strip() for label in grouping[1].split(",")}
            yield labels, self.text[grouping.end() : end - 1]

    def _result_labels(self, exported: Exported) -> set[str]:
        groupings = [labels for labels, _ in self._groupings()]
        if groupings:
            return set.intersection(*groupings) - {"le"}
        if _AGGREGATION.search(self.text):
            return set()
        return set.intersection(*(_labels(name, exported) for name in self.metrics))


def _labels(name: str, exported: Exported) -> set[str]:
    return _OF_PROMETHEUS | exported.get(name, set())


def config(name: str) -> dict[str, Any]:
    """A configuration of Prometheus in ops/prometheus."""
    content: dict[str, Any] = yaml.safe_load((OPS / "prometheus" / name).read_text())
    return content


def unmatched_jobs(jobs: Iterable[str]) -> set[str]:
    """The jobs in alerts and dashboards that are none of `jobs`, and those of `jobs` that no alert is about."""
    of_alerts = {job for alert in alerts() for job in _JOB.findall(alert["expr"])}
    named = of_alerts | {job for query in all_queries() for job in _JOB.findall(query.text)}
    missing = {pattern for pattern in named if not any(re.fullmatch(pattern, job) for job in jobs)}
    return missing | {job for job in jobs if not any(re.fullmatch(pattern, job) for pattern in of_alerts)}


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
        yield Query(alert["alert"], alert["expr"], " ".join(alert["annotations"].values()))
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield Query(f"{name}: {panel['title']}", target["expr"], target["legendFormat"])
