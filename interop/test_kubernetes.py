"""kubectl builds ops/kubernetes. tests/contract/test_kubernetes.py has what needs no kubectl."""

from collections import Counter
from pathlib import Path

import kubernetes_validate
import yaml

from interop import programs

FOLDER = Path(__file__).parents[1] / "ops" / "kubernetes"


async def test_kubectl_builds_the_kustomization_and_each_resource_is_valid(tmp_path: Path) -> None:
    resources = list(yaml.safe_load_all(programs.run("kubectl", "kustomize", FOLDER, cwd=tmp_path)))
    for resource in resources:
        kubernetes_validate.validate(resource, "1.31", strict=True)
    assert Counter(resource["kind"] for resource in resources) == {
        "Namespace": 1, "ConfigMap": 1, "Service": 1, "Deployment": 2, "PodDisruptionBudget": 2,
        "HorizontalPodAutoscaler": 2, "Job": 2, "NetworkPolicy": 6,
    }  # fmt: skip
    images = {
        container["image"]
        for resource in resources
        if resource["kind"] in ("Deployment", "Job")
        for container in resource["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"visitor-service:0.1.0"}
