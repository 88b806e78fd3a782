"""The manifests in ops/kubernetes, and what Prometheus finds in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.queries import OPS

FOLDER = OPS / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
EGRESS = sorted(path.parent for path in FOLDER.glob("egress/*/kustomization.yaml"))
"""The folders of the components that an installation may add."""

Resource = dict[str, Any]


def resources(folder: Path = FOLDER) -> dict[str, Resource]:
    """The resources of a kustomization by kind and name, such as Deployment/worker."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    all_resources = [
        each for name in kustomization["resources"] for each in yaml.safe_load_all((folder / name).read_text())
    ]
    return {f"{resource['kind']}/{resource['metadata']['name']}": resource for resource in all_resources}


def pod_templates() -> dict[str, Resource]:
    """The pods of deployments and jobs, by kind and name."""
    return {
        name: each["spec"]["template"] for name, each in resources().items() if each["kind"] in ("Deployment", "Job")
    }


def discovered() -> Iterator[dict[str, str]]:
    """The labels with which Prometheus discovers each port of a pod."""
    for name, template in pod_templates().items():
        pod = {
            f"__meta_kubernetes_pod_label_{label.replace('.', '_').replace('/', '_')}": value
            for label, value in template["metadata"]["labels"].items()
        }
        pod |= {
            "__meta_kubernetes_namespace": KUSTOMIZATION["namespace"],
            "__meta_kubernetes_pod_name": f"{name.partition('/')[2]}-5d4f",
        }
        for port in template["spec"]["containers"][0].get("ports", []):
            yield {
                **pod,
                "__address__": f"10.0.0.1:{port['containerPort']}",
                "__meta_kubernetes_pod_container_port_name": port["name"],
            }
