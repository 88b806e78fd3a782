"""The manifests in ops/kubernetes are valid, and agree with the program that they start."""

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from markdown_it import MarkdownIt

from runtime import settings
from telemetry.metrics import LAG_SECONDS
from tests.support import commands, kubernetes, pages, queries
from tests.support.kubernetes import EGRESS, FOLDER, KUSTOMIZATION
from tests.support.queries import Query

KUBERNETES_VERSIONS = ("1.31", "1.37")
SETTINGS = dict(literal.split("=", 1) for literal in KUSTOMIZATION["configMapGenerator"][0]["literals"])
RESOURCES = kubernetes.resources()
OPTIONAL = {name: each for folder in EGRESS for name, each in kubernetes.resources(folder).items()}
TEMPLATES = kubernetes.pod_templates()
PODS = {name: template["spec"] for name, template in TEMPLATES.items()}
SERVERS = {name: pod for name, pod in PODS.items() if name.startswith("Deployment/")}
COMPONENT = "app.kubernetes.io/component"
EDGES = ("Deployment/edge", "Deployment/console")
STOPPING_SECONDS = 4
"""What an edge needs beside the calls: the last answers get 2 seconds more, and so does the export of traces."""
COMMANDS = {
    "Deployment/worker": ["worker"],
    "Deployment/edge": ["edge"],
    "Deployment/console": ["edge"],
    "Job/migrate": ["migrate"],
    "Job/topics": ["topics"],
}
SECRETS = {
    "worker": {"visitor-database", "visitor-kafka-worker"},
    "edge": {"visitor-kafka-edge"},
    "console": {"visitor-database", "visitor-kafka-operator"},
    "migrate": {"visitor-database"},
    "topics": {"visitor-kafka-operator"},
}
"""By the component of the pods."""


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", [*RESOURCES, *OPTIONAL])
def test_a_manifest_is_valid(name: str, version: str) -> None:
    kubernetes_validate.validate((RESOURCES | OPTIONAL)[name], version, strict=True)


def test_every_pod_runs_its_command() -> None:
    assert {name: pod["containers"][0]["args"] for name, pod in PODS.items()} == COMMANDS
    assert [word for command in COMMANDS.values() for word in commands.unknown(command)] == []


def test_every_pod_has_the_secrets_of_its_role_and_reaches_the_servers_that_they_are_for() -> None:
    secrets = {
        template["metadata"]["labels"][COMPONENT]: {
            each["secretRef"]["name"] for each in template["spec"]["containers"][0]["envFrom"] if "secretRef" in each
        }
        for template in TEMPLATES.values()
    }
    assert secrets == SECRETS
    for policy, secret in (("kafka", "visitor-kafka-"), ("postgresql", "visitor-database")):
        (expression,) = RESOURCES[f"NetworkPolicy/{policy}"]["spec"]["podSelector"]["matchExpressions"]
        assert expression["key"] == COMPONENT
        owners = {component for component, names in SECRETS.items() if any(name.startswith(secret) for name in names)}
        assert set(expression["values"]) == owners


def test_only_the_console_serves_the_console() -> None:
    settings_of = {name: pod["containers"][0].get("env", []) for name, pod in SERVERS.items()}
    console = {"name": "VISITOR_HTTP_CONSOLE", "value": "true"}
    assert [name for name, variables in settings_of.items() if console in variables] == ["Deployment/console"]


def test_an_edge_has_the_time_that_it_needs_to_stop() -> None:
    http = settings.load().http
    for name in ("Deployment/edge", "Deployment/console"):
        seconds = PODS[name]["terminationGracePeriodSeconds"]
        assert seconds > http.drain_seconds + http.timeout_seconds + STOPPING_SECONDS


def test_every_file_belongs_to_the_kustomization() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}


def test_every_variable_is_a_setting_with_a_valid_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SETTINGS.items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    assert f"{settings.PREFIX}KAFKA_BOOTSTRAP" in SETTINGS
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
        **{edge: {"http": loaded.http.port, "metrics": loaded.http.metrics_port} for edge in EDGES},
    }
    assert ports == expected_ports[name]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} <= ports.keys()
    ready_path = "/health" if name in EDGES else "/health/ready"
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/health/live", "readiness": ready_path, "liveness": "/health/live",
    }  # fmt: skip


def test_prometheus_scrapes_the_ports_of_the_processes_by_the_jobs_of_the_alerts() -> None:
    (config,) = queries.config("kubernetes.yml")["scrape_configs"]
    namespace = KUSTOMIZATION["namespace"]
    assert config["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": [namespace]}}]
    relabelled = [_relabelled(labels, config["relabel_configs"]) for labels in kubernetes.discovered()]
    targets = [labels for labels in relabelled if labels is not None]
    ports = {labels["job"]: labels["__address__"].partition(":")[2] for labels in targets}
    assert ports == {"visitor-worker": "8081", "visitor-edge": "8082", "visitor-console": "8082"}
    assert len(targets) == len(ports)
    assert all(labels["namespace"] == namespace and labels["pod"] for labels in targets)
    assert queries.unmatched_jobs(ports) == set()
    (rule,) = RESOURCES["NetworkPolicy/metrics"]["spec"]["ingress"]
    assert {str(port["port"]) for port in rule["ports"]} == set(ports.values())


def _relabelled(labels: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, str] | None:
    """What Prometheus makes of the labels, or None if it drops the target. It knows the actions keep and replace;
    interop/test_prometheus.py asks Prometheus itself."""
    for rule in rules:
        value = ";".join(labels.get(name, "") for name in rule["source_labels"])
        match = re.fullmatch(rule.get("regex", "(.*)"), value)
        if rule.get("action") == "keep":
            if match is None:
                return None
        elif match is not None:
            replacement = re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1"))
            labels = {**labels, rule["target_label"]: match.expand(replacement)}
    return labels


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
    for name, resource in (RESOURCES | OPTIONAL).items():
        if resource["kind"] != kind:
            continue
        selector = resource["spec"].get("selector") or resource["spec"]["podSelector"]
        match_labels = selector.get("matchLabels", {})
        assert any(match_labels.items() <= pod.items() for pod in labels), name
        for expression in selector.get("matchExpressions", []):
            values = {pod[expression["key"]] for pod in labels}
            assert set(expression["values"]) <= values, name
