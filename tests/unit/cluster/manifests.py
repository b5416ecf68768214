"""The manifests of cluster/, parsed: documents, pods, containers, and quantities as numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
SCHEMA = json.loads(Path(__file__).with_name("kuberay-v1.json").read_text())
Document = dict[str, Any]

DOCUMENTS: list[Document] = [
    document for path in sorted(KUBERAY.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
]
AWS: Document = yaml.safe_load((CLUSTER / "aws.yaml").read_text())


def of_kind(*kinds: str) -> list[Document]:
    return [document for document in DOCUMENTS if document["kind"] in kinds]


RAY_CLUSTER = of_kind("RayCluster")[0]["spec"]
RAY_JOB = of_kind("RayJob")[0]["spec"]
RAY_SERVICE = of_kind("RayService")[0]["spec"]
GROUPS: dict[str, Document] = {group["groupName"]: group for group in RAY_CLUSTER["workerGroupSpecs"]}


def pods() -> dict[str, Document]:
    """The specification of every pod, by the name of its group or workload."""
    groups = {"head": RAY_CLUSTER["headGroupSpec"], **GROUPS}
    found = {name: group["template"]["spec"] for name, group in groups.items()}
    service = RAY_SERVICE["rayClusterConfig"]
    found["service-head"] = service["headGroupSpec"]["template"]["spec"]
    (worker,) = service["workerGroupSpecs"]
    found["service-worker"] = worker["template"]["spec"]
    found["submitter"] = RAY_JOB["submitterPodTemplate"]["spec"]
    return found | {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in of_kind("Deployment", "StatefulSet")
    }


def containers() -> dict[str, Document]:
    """The one container of each pod."""
    found = {}
    for name, pod in pods().items():
        (found[name],) = pod["containers"]
    return found


def number(quantity: str | int) -> float:
    """A Kubernetes quantity in CPUs or bytes."""
    match = re.fullmatch(r"([0-9.]+)(m|[KMGT]i?)?", str(quantity))
    assert match, quantity
    unit = match[2] or ""
    powers = {"": 1.0, "m": 1e-3} | {letter: 1000.0**power for power, letter in enumerate("KMGT", 1)}
    powers |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", 1)}
    return float(match[1]) * powers[unit]


def request(container: Document, resource: str) -> float:
    return number(container["resources"]["requests"].get(resource, 0))


def strings(value: Any) -> list[str]:
    """Every text in a document."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []
