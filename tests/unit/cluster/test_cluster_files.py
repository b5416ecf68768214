"""The manifests of cluster/ against the schemas of Kubernetes, KubeRay and Ray's launcher, and the Dockerfile."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.unit.cluster.manifests import AWS, DOCKERFILE, DOCUMENTS, ROOT, SCHEMA, Document, of_kind, pods

KUBERNETES = ("1.30", "1.37")  # the oldest and the newest supported version
KUBERAY_KINDS = ("RayCluster", "RayJob", "RayService")
CORE = [document for document in DOCUMENTS if document["kind"] not in KUBERAY_KINDS]


def named(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("document", CORE, ids=named)
def test_kubernetes_accepts_its_own_kinds(document: Document, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", pods())
def test_every_pod_is_a_pod(name: str, version: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pods()[name]}
    kubernetes_validate.validate(pod, version, strict=True)
    pod["spec"] = pod["spec"] | {"tolleration": []}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("document", of_kind(*KUBERAY_KINDS), ids=named)
def test_kuberay_knows_every_field(document: Document) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_the_container_of_the_autoscaler_is_valid() -> None:
    options = of_kind("RayCluster")[0]["spec"]["autoscalerOptions"]
    container = {"name": "autoscaler", "resources": options["resources"], "securityContext": options["securityContext"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "head"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, KUBERNETES[0], strict=True)


def without(*path: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


BROKEN = {
    "a field that KubeRay does not know": ("RayCluster", put(1, "spec", "workers")),
    "a number among the flags of ray start": (
        "RayCluster",
        put(0, "spec", "headGroupSpec", "rayStartParams", "num-cpus"),
    ),
    "a head without a pod": ("RayCluster", without("spec", "headGroupSpec", "template")),
    "token authentication without a version": ("RayCluster", without("spec", "rayVersion")),
    "another kind of authentication": ("RayCluster", put("password", "spec", "authOptions", "mode")),
    "an older API version": ("RayCluster", put("ray.io/v1alpha1", "apiVersion")),
    "a job without a cluster": ("RayJob", without("spec", "clusterSelector")),
    "a mode that knows no clusterSelector": ("RayJob", put("SidecarMode", "spec", "submissionMode")),
    "a service without a cluster": ("RayService", without("spec", "rayClusterConfig")),
    "a service with settings that are not text": ("RayService", put({}, "spec", "serveConfigV2")),
    "a deadline of 0 seconds": ("RayJob", put(0, "spec", "activeDeadlineSeconds")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_schema_refuses(what: str) -> None:
    kind, change = BROKEN[what]
    document = copy.deepcopy(of_kind(kind)[0])
    change(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_rays_launcher_accepts_the_aws_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(copy.deepcopy(AWS))
    validate_config(filled)  # the schema, head_node_type among the types, workers within max_workers
    assert (
        filled["setup_commands"] == filled["worker_setup_commands"] == filled["head_setup_commands"] == []
    )  # nothing of Ray's defaults
    for change, error in (
        (put("hed", "head_node_type"), ValueError),
        (put(0, "max_workers"), ValueError),
        (put("no", "upscaling"), jsonschema.ValidationError),
        (without("available_node_types", "gpu", "node_config"), jsonschema.ValidationError),
    ):
        broken = copy.deepcopy(filled)
        change(broken)
        with pytest.raises(error):
            validate_config(broken)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, as (NAME, rest)."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


def test_the_dockerfile_copies_what_is_there() -> None:
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER"}
    assert {name for name, _ in instructions()} == known
    copied = [source for name, rest in instructions() if name == "COPY" for source in shlex.split(rest)[:-1]]
    assert {"constraints.txt", "pyproject.toml", "ufgvc", "jobs"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)


def test_the_dockerfile_builds_either_device_for_a_user_without_rights() -> None:
    found = instructions()
    stages = [re.fullmatch(r"(\S+)(?: AS (\S+))?", rest) for name, rest in found if name == "FROM"]
    assert [stage[2] for stage in stages if stage] == ["cpu", "cuda", None]
    assert ("ARG", "DEVICE=cuda") in found
    assert stages[-1] is not None
    assert stages[-1][1] == "${DEVICE}"
    bases = [stage[1] for stage in stages if stage and stage[1] not in ("cpu", "cuda", "${DEVICE}")]
    assert bases
    assert not any("/" in base and "." in base.split("/")[0] for base in bases)  # no registry's host name
    users = [rest for name, rest in found if name == "USER"]
    assert users[-1] == "1000:1000"
    after = found[found.index(("USER", users[-1])) :]
    assert not any(name in ("RUN", "COPY") for name, _ in after)


def test_the_dockerfile_installs_only_what_is_pinned() -> None:
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    commands = [
        shlex.split(part)
        for name, rest in instructions()
        if name == "RUN"
        for part in rest.split("&&")
        if "pip install" in part
    ]
    assert len(commands) == 2
    for command in commands:
        end = command.index("constraints.txt") + 1
        assert command[command.index("install") + 1 : end] == ["--no-cache-dir", "--constraint", "constraints.txt"]
        for requirement in command[end:]:
            assert requirement in (".", ".[serve]") or "==" in requirement or requirement.lower() in pinned, requirement


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile(
        r"\b(?:pypi|pythonhosted|download\.pytorch|conda|docker\.io|quay|ghcr|gcr|nvcr)\b\S*\.(?:org|io|com)\b|docker\.io"
    )
    for path in sorted((ROOT / "cluster").rglob("*")):
        if path.suffix in (".yaml", ".md", ".py") or path.name == "Dockerfile":
            assert not hosts.search(path.read_text()), path
