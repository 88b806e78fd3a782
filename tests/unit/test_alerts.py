"""The alerts lead to the runbook, and each is tested; the dashboards are complete."""

from typing import Any

import pytest
import yaml

from tests.support import pages, queries

ALERTS = queries.alerts()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_leads_to_a_section_of_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in pages.anchors(pages.ROOT / page)


def test_each_alert_fires_in_a_test() -> None:
    tests = yaml.safe_load(queries.RULES_TEST.read_text())["tests"]
    fired = {each["alertname"] for test in tests for each in test["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("name", queries.dashboards())
def test_each_panel_of_a_dashboard_has_an_id_a_place_and_a_description(name: str) -> None:
    dashboard = queries.dashboards()[name]
    assert f"{dashboard['uid']}.json" == name
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    positions = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(positions) == len(panels)
    assert all(panel["description"] and panel["targets"] for panel in panels if panel["type"] != "row")
