"""The alerts lead to the runbook, and each is tested; the dashboards are complete."""

import re
from typing import Any

import pytest
import yaml

from tests.support import pages, queries
from tests.support.queries import Query

ALERTS = queries.alerts()
RULE_TESTS = yaml.safe_load(queries.RULES_TEST.read_text())["tests"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_leads_to_a_section_of_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    prefix, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert prefix == f"{{{{ $externalLabels.{queries.CONSOLE} }}}}/docs/runbook.md"
    assert anchor in pages.anchors(pages.ROOT / "docs" / "runbook.md")


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml", "kubernetes.yml"])
def test_a_configuration_of_prometheus_says_where_the_console_is(name: str) -> None:
    assert re.fullmatch(r"http://[^/]+/console", queries.config(name)["global"]["external_labels"][queries.CONSOLE])


def test_the_example_has_the_jobs_of_the_alerts() -> None:
    jobs = [job["job_name"] for job in queries.config("prometheus.yml")["scrape_configs"]]
    assert queries.unmatched_jobs(jobs) == set()


def test_each_alert_fires_in_a_test() -> None:
    """interop/test_prometheus.py runs these tests."""
    fired = {each["alertname"] for test in RULE_TESTS for each in test["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {alert["alert"] for alert in ALERTS}


def test_no_alert_fires_in_a_test_with_all_metrics_of_a_healthy_installation() -> None:
    (healthy,) = (test for test in RULE_TESTS if test["name"] == "a healthy installation")
    assert {each["alertname"] for each in healthy["alert_rule_test"]} == {alert["alert"] for alert in ALERTS}
    assert [each for each in healthy["alert_rule_test"] if each.get("exp_alerts")] == []
    series = {each["series"].partition("{")[0] for each in healthy["input_series"]}
    assert series == set.union(*(queries.Query(alert["alert"], alert["expr"]).metrics for alert in ALERTS))


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        (Query("", 'sum by (le, a) (rate(visitor_x_bucket{a=~"1"}[5m])) / visitor_y', "{{a}}"), set()),
        (Query("", 'visitor_x_bucket{b="1"} > visitor_z'), {"visitor_x_bucket: b", "visitor_z"}),
        (Query("", "max by (a) (visitor_x_bucket) > max by (a) (visitor_y)"), {"visitor_y: a"}),
        (Query("", "max by (a) (visitor_x_bucket)", "{{ $labels.le }} {{ $value | humanize }}"), {"shown: le"}),
        (Query("", "sum(visitor_x_bucket)", "{{a}}"), {"shown: a"}),
        (Query("", "visitor_y", "{{job}} {{a}}"), {"shown: a"}),
    ],
)
def test_a_query_with_an_unknown_metric_or_label_is_noticed(query: Query, unknown: set[str]) -> None:
    assert query.unknown({"visitor_x_bucket": {"a", "le"}, "visitor_y": set()}) == unknown


@pytest.mark.parametrize("name", queries.dashboards())
def test_each_panel_of_a_dashboard_has_an_id_a_place_a_unit_and_a_description(name: str) -> None:
    dashboard = queries.dashboards()[name]
    assert f"{dashboard['uid']}.json" == name
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    positions = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(positions) == len(panels)
    for panel in (panel for panel in panels if panel["type"] != "row"):
        assert panel["description"]
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]
