"""The manifests in ops/kubernetes are valid, and agree with the program that they start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from markdown_it import MarkdownIt

from runtime import settings
from telemetry.metrics import LAG_SECONDS
from tests.support import pages
from tests.support.queries import Query

FOLDER = Path(__file__).parents[2] / "ops" / "kubernetes"
KUBERNETES_VERSIONS = ("1.31", "1.37")
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
SETTINGS = dict(literal.split("=", 1) for literal in KUSTOMIZATION["configMapGenerator"][0]["literals"])


def _resources() -> Iterator[dict[str, Any]]:
    for name in KUSTOMIZATION["resources"]:
        yield from yaml.safe_load_all((FOLDER / name).read_text())


RESOURCES = {f"{resource['kind']}/{resource['metadata']['name']}": resource for resource in _resources()}
TEMPLATES = {
    name: resource["spec"]["template"]
    for name, resource in RESOURCES.items()
    if resource["kind"] in ("Deployment", "Job")
}
PODS = {name: template["spec"] for name, template in TEMPLATES.items()}
SERVERS = {name: pod for name, pod in PODS.items() if name.startswith("Deployment/")}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", RESOURCES)
def test_a_manifest_is_valid(name: str, version: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], version, strict=True)


def test_every_file_belongs_to_the_kustomization() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}


def test_every_variable_is_a_setting_with_a_valid_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SETTINGS.items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    assert {f"{settings.PREFIX}KAFKA_BOOTSTRAP", f"{settings.PREFIX}HTTP_KEYS"} <= SETTINGS.keys()
    assert loaded.kafka.bootstrap == SETTINGS["VISITOR_KAFKA_BOOTSTRAP"]
    assert loaded.log.audit == "stdout"


@pytest.mark.parametrize("name", PODS)
def test_containers_are_confined(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["resources"]["limits"].keys() == {"memory"}
    assert container["image"] == "visitor-service"


@pytest.mark.parametrize("name", SERVERS)
def test_probes_ask_the_ports_that_the_settings_choose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SETTINGS.items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    (container,) = SERVERS[name]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expected_ports = {
        "Deployment/worker": {"health": loaded.worker.health_port},
        "Deployment/edge": {"http": loaded.http.port, "metrics": loaded.http.metrics_port},
    }
    assert ports == expected_ports[name]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} <= ports.keys()
    ready_path = {"Deployment/worker": "/health/ready", "Deployment/edge": "/health"}[name]
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/health/live", "readiness": ready_path, "liveness": "/health/live",
    }  # fmt: skip


def test_prometheus_scrapes_the_ports_of_the_metrics() -> None:
    ports = {
        name: TEMPLATES[f"Deployment/{name}"]["metadata"]["annotations"]["prometheus.io/port"]
        for name in ("worker", "edge")
    }
    assert ports == {"worker": "8081", "edge": "8082"}
    (rule,) = RESOURCES["NetworkPolicy/metrics"]["spec"]["ingress"]
    assert {str(port["port"]) for port in rule["ports"]} == set(ports.values())


@pytest.mark.parametrize("name", [name for name in RESOURCES if name.startswith("HorizontalPodAutoscaler/")])
def test_an_autoscaler_scales_a_deployment_that_leaves_it_the_number_of_pods(name: str) -> None:
    target = RESOURCES[name]["spec"]["scaleTargetRef"]
    assert "replicas" not in RESOURCES[f"{target['kind']}/{target['name']}"]["spec"]


def test_workers_are_scaled_by_a_metric_that_they_export_up_to_the_number_of_partitions() -> None:
    spec = RESOURCES["HorizontalPodAutoscaler/worker"]["spec"]
    (metric,) = spec["metrics"]
    (rule,) = yaml.safe_load(_adapter_rules())["rules"]["external"]
    assert metric["external"]["metric"] == {"name": rule["name"]["as"]}
    exported = {LAG_SECONDS.describe()[0].name: {*LAG_SECONDS._labelnames, *rule["resources"]["overrides"]}}
    for text in (rule["seriesQuery"], rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="visitor"')):
        query = Query("", text)
        assert query.metrics == exported.keys()
        assert query.unknown(exported) == set()
    assert spec["maxReplicas"] <= settings.load().kafka.partitions


def _adapter_rules() -> str:
    """The rules of the Prometheus Adapter in docs/deploy.md."""
    blocks = MarkdownIt().parse((pages.ROOT / "docs" / "deploy.md").read_text())
    (rules,) = (block.content for block in blocks if block.info == "yaml" and "seriesQuery" in block.content)
    return rules


def test_edges_are_scaled_by_the_share_of_the_cpu_time_that_they_request() -> None:
    (metric,) = RESOURCES["HorizontalPodAutoscaler/edge"]["spec"]["metrics"]
    (container,) = SERVERS["Deployment/edge"]["containers"]
    assert metric["resource"]["target"]["type"] == "Utilization"
    assert metric["resource"]["name"] in container["resources"]["requests"]


@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "NetworkPolicy"])
def test_every_selector_selects_pods(kind: str) -> None:
    """A selector without pods would protect nothing, and nobody would notice."""
    labels = [template["metadata"]["labels"] for template in TEMPLATES.values()]
    for name, resource in RESOURCES.items():
        if resource["kind"] != kind:
            continue
        selector = resource["spec"].get("selector") or resource["spec"]["podSelector"]
        match_labels = selector.get("matchLabels", {})
        assert any(match_labels.items() <= pod.items() for pod in labels), name
        for expression in selector.get("matchExpressions", []):
            values = {pod[expression["key"]] for pod in labels}
            assert set(expression["values"]) <= values, name
