"""kubectl builds ops/kubernetes. tests/contract/test_kubernetes.py has what needs no kubectl."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from interop import programs
from tests.support.kubernetes import EGRESS, FOLDER, KUSTOMIZATION


async def test_kubectl_builds_the_kustomization_and_each_resource_is_valid(tmp_path: Path) -> None:
    resources = _built(FOLDER, tmp_path)
    assert Counter(resource["kind"] for resource in resources) == {
        "Namespace": 1, "ConfigMap": 1, "Service": 1, "Deployment": 3, "PodDisruptionBudget": 2,
        "HorizontalPodAutoscaler": 2, "Job": 2, "NetworkPolicy": 6,
    }  # fmt: skip
    images = {
        container["image"]
        for resource in resources
        if resource["kind"] in ("Deployment", "Job")
        for container in resource["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"visitor-service:0.1.0"}


def test_an_overlay_adds_the_policies_for_servers_that_not_every_installation_has(tmp_path: Path) -> None:
    base, *components = (os.path.relpath(folder, tmp_path) for folder in (FOLDER, *EGRESS))
    overlay = {"resources": [base], "components": components}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    added = {each["metadata"]["name"]: each for each in _built(tmp_path, tmp_path)}.keys() - {
        each["metadata"]["name"] for each in _built(FOLDER, tmp_path)
    }
    assert added == {"collector", "schema-registry", "token-issuer"}


def _built(kustomization: Path, folder: Path) -> list[dict[str, Any]]:
    """The resources that kubectl makes of a kustomization. Each is valid, and in the namespace."""
    resources = list(yaml.safe_load_all(programs.run("kubectl", "kustomize", kustomization, cwd=folder)))
    for resource in resources:
        kubernetes_validate.validate(resource, "1.31", strict=True)
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    return resources
