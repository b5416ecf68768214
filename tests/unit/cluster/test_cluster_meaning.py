"""The manifests of cluster/ against each other and the program: names exist, flags parse, resources fit."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from tests.unit.cluster.manifests import (
    AWS,
    DOCKERFILE,
    DOCUMENTS,
    GROUPS,
    RAY_CLUSTER,
    RAY_JOB,
    ROOT,
    Document,
    containers,
    number,
    of_kind,
    pods,
    request,
    strings,
)
from ufgvc import __version__
from ufgvc.cli import parse
from ufgvc.commands import COMMANDS
from ufgvc.core.errors import UserError
from ufgvc.core.places import check_absolute
from ufgvc.experiments.resources import size_trials
from ufgvc.experiments.settings import TrialSettings
from ufgvc.training.preflight import check_batch, check_cpus, check_places, choose_training_device
from ufgvc.training.settings import TrainSettings

SPOT = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "ufgvc/spot"}
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
IMAGE = "/opt/ufgvc"
# The secrets that the user makes before the manifests are applied, with their keys.
SECRETS = {
    "ufgvc-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "ufgvc-postgres": {"password"},
    "ufgvc-ray-auth": {"auth_token"},
    "ufgvc-serve": {"auth_token"},
}


def job(command: list[str]) -> Any:
    """The settings of `python -m jobs.X ...` or `python -m ufgvc X ...`. The image's project folder is this one."""
    assert command[:2] == ["python", "-m"]
    module, *flags = command[2:]
    if module == "ufgvc":
        name, *flags = flags
    else:
        name = module.removeprefix("jobs.")
        assert f'start("{name}")' in (ROOT / "jobs" / f"{name}.py").read_text()
    return parse(COMMANDS.get(name), [flag.replace(IMAGE, str(ROOT)) for flag in flags])


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(ROOT)
    return job(shlex.split(RAY_JOB["entrypoint"]))


def test_the_rayjob_parses(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    check_absolute(training)
    check_places({"--data": training.data, "--runs": training.runs}, nodes=3)
    assert f"WORKDIR {IMAGE}" in DOCKERFILE
    assert "COPY jobs ./jobs" in DOCKERFILE
    with pytest.raises(UserError, match=r"did you mean --train\.workers"):
        job([*shlex.split(RAY_JOB["entrypoint"]), "--train.wokers", "2"])


def test_the_job_fits_the_cluster_once_its_gpus_are_there(training: Any) -> None:
    train: TrainSettings = training.train
    gpu = containers()["gpu"]
    cpus = GROUPS["cpu"]["minReplicas"] * request(containers()["cpu"], "cpu") + train.workers * request(gpu, "cpu")
    gpus = train.workers * request(gpu, "nvidia.com/gpu")
    check_cpus(train, cpus)
    assert choose_training_device(train, gpus) == "cuda"
    assert train.workers <= GROUPS["gpu"]["maxReplicas"]
    check_batch(train.batch_size or 16, train.workers, leaves=240)
    here = request(gpu, "nvidia.com/gpu") * train.cpus_per_worker
    assert here <= request(gpu, "cpu") - 1  # a slot of each node is left to decode
    with pytest.raises(UserError):
        choose_training_device(train, 0)  # so the job waits for them: device gpu


def test_trials_fit_one_gpu_node() -> None:
    gpu = containers()["gpu"]
    node = {"CPU": request(gpu, "cpu"), "GPU": request(gpu, "nvidia.com/gpu")}
    assert size_trials(TrialSettings(), [node], int(node["CPU"])).max_concurrent == 4


def test_gpus_come_from_zero_and_the_head_takes_no_work() -> None:
    assert RAY_CLUSTER["enableInTreeAutoscaling"] is True
    assert GROUPS["gpu"]["minReplicas"] == GROUPS["gpu"]["replicas"] == 0 < GROUPS["gpu"]["maxReplicas"]
    assert GROUPS["cpu"]["minReplicas"] >= 1
    assert RAY_CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in {
        **containers()["head"]["resources"]["limits"],
        **containers()["cpu"]["resources"]["limits"],
    }
    types = AWS["available_node_types"]
    assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"]
    assert types["head"]["resources"]["CPU"] == types["head"]["max_workers"] == 0
    assert any("--head" in command and "--num-cpus=0" in command for command in AWS["head_start_ray_commands"])


def test_workers_run_on_spot_machines_and_the_head_does_not() -> None:
    tolerated = {name: {taint["key"] for taint in pod.get("tolerations", [])} for name, pod in pods().items()}
    assert tolerated["cpu"] == SPOT
    assert tolerated["gpu"] == SPOT | {"nvidia.com/gpu"}
    assert not any(keys for name, keys in tolerated.items() if name not in GROUPS)
    for name, kind in AWS["available_node_types"].items():
        assert ("InstanceMarketOptions" in kind["node_config"]) == (name != "head")


def references(value: Any) -> set[tuple[str, str, str | None]]:
    """(kind, name, key) of every secret and config map that a document refers to."""
    found: set[tuple[str, str, str | None]] = set()
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("secretRef", "secretKeyRef"):
                found.add(("secret", inner["name"], inner.get("key")))
            elif name in ("configMapRef", "configMapKeyRef"):
                found.add(("configmap", inner["name"], inner.get("key")))
            elif name == "secretName":
                found.add(("secret", inner, "auth_token"))  # the key that KubeRay looks for
            else:
                found |= references(inner)
    elif isinstance(value, list):
        for inner in value:
            found |= references(inner)
    return found


def test_every_secret_and_config_map_exists() -> None:
    secrets = SECRETS
    maps = {document["metadata"]["name"]: set(document["data"]) for document in of_kind("ConfigMap")}
    used = set().union(*(references(document) for document in DOCUMENTS))
    assert {kind for kind, _, _ in used} == {"secret", "configmap"}
    for kind, name, key in used:
        known = (secrets if kind == "secret" else maps)[name]
        assert key is None or key in known, (name, key)
    assert {name for kind, name, _ in used if kind == "secret"} == set(secrets)
    assert {name for kind, name, _ in used if kind == "configmap"} == set(maps)
    assert not of_kind("Secret")


def services() -> dict[str, set[int]]:
    return {
        document["metadata"]["name"]: {port["port"] for port in document["spec"]["ports"]}
        for document in of_kind("Service")
    }


def test_addresses_name_services_and_services_select_pods() -> None:
    texts = [text for document in DOCUMENTS for text in strings(document)]
    addresses = {found for text in texts for found in re.findall(r"(ufgvc-[a-z]+):(\d+)(?![\w.])", text)}
    assert {name for name, _ in addresses} == {"ufgvc-mlflow", "ufgvc-postgres"}
    assert all(int(port) in services()[name] for name, port in addresses)
    workloads = of_kind("Deployment", "StatefulSet")
    labels = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"] for document in workloads
    }
    for document in [*of_kind("Service"), *workloads]:
        selector = document["spec"]["selector"]
        assert labels[document["metadata"]["name"]] == selector.get("matchLabels", selector)
    for policy in of_kind("NetworkPolicy"):
        peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"] if "podSelector" in peer]
        for chosen in (policy["spec"]["podSelector"], *(peer["podSelector"] for peer in peers)):
            assert not chosen or chosen["matchLabels"] in labels.values()
    assert RAY_JOB["clusterSelector"] == {"ray.io/cluster": of_kind("RayCluster")[0]["metadata"]["name"]}


def test_all_is_in_one_namespace() -> None:
    (namespace,) = [document["metadata"]["name"] for document in of_kind("Namespace")]
    assert {document["metadata"]["namespace"] for document in DOCUMENTS if document["kind"] != "Namespace"} == {
        namespace
    }


def test_mlflow_finds_its_database_and_jobs_find_it() -> None:
    from sqlalchemy.engine import make_url

    server = containers()["ufgvc-mlflow"]
    flags = dict(flag.split("=", 1) for flag in server["args"])
    (address,) = [
        document["data"]["MLFLOW_TRACKING_URI"]
        for document in of_kind("ConfigMap")
        if "MLFLOW_TRACKING_URI" in document["data"]
    ]
    service = address.removeprefix("http://").partition(":")[0]
    (namespace,) = [document["metadata"]["name"] for document in of_kind("Namespace")]
    assert server["name"] == "mlflow"
    assert any(document["metadata"]["name"] == service for document in of_kind("Service"))
    within = [
        service,
        f"{service}.{namespace}",
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}.svc.cluster.local",
    ]
    wanted = [
        form for name in (*within, "localhost", "127.0.0.1") for form in (name, f"{name}:*")
    ]  # the last two: kubectl port-forward
    assert flags["--allowed-hosts"].split(",") == wanted
    (uri,) = [variable["value"] for variable in server["env"] if variable["name"] == "MLFLOW_BACKEND_STORE_URI"]
    assert make_url(uri.replace("$(POSTGRES_PASSWORD)", "0")).get_dialect().driver == "psycopg2"
    assert "psycopg2-binary" in DOCKERFILE
    names = [variable["name"] for variable in server["env"]]
    assert names.index("POSTGRES_PASSWORD") < names.index(
        "MLFLOW_BACKEND_STORE_URI"
    )  # Kubernetes fills in what stands before


def test_another_namespace_reaches_mlflow_where_it_is_labelled() -> None:
    (policy,) = [document for document in of_kind("NetworkPolicy") if document["metadata"]["name"] == "ufgvc-mlflow"]
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"][0]["namespaceSelector"]["matchLabels"] == {"ufgvc/may-use-mlflow": "true"}
    (port,) = containers()["ufgvc-mlflow"]["ports"]
    assert rule["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]


def test_images_and_versions_agree() -> None:
    assert RAY_CLUSTER["rayVersion"] == PINNED["ray"]
    images = {name: container["image"] for name, container in containers().items()}
    aws = [AWS["docker"]["image"], AWS["available_node_types"]["gpu"]["docker"]["worker_image"]]
    ours = {image for image in [*images.values(), *aws] if image.startswith("ufgvc:")}
    built = set(re.findall(r"--build-arg DEVICE=(\w+).* -t (\S+) \.", DOCKERFILE))
    assert built == {(device, f"ufgvc:{__version__}-{device}") for device in ("cpu", "cuda")}
    assert ours == {image for _, image in built}
    assert set(images.values()) - ours == {"postgres:17-alpine"}
    assert images["gpu"] == aws[1] == f"ufgvc:{__version__}-cuda"
    assert [images[name] for name in ("head", "cpu", "submitter", "ufgvc-mlflow")] == [f"ufgvc:{__version__}-cpu"] * 4


def test_no_container_runs_as_root_or_gains_rights() -> None:
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, (
            name
        )
        assert (
            name == "head" or pod["automountServiceAccountToken"] is False
        )  # the autoscaler on the head asks Kubernetes for nodes


def test_probes_use_paths_that_need_no_token() -> None:
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    assert RAY_CLUSTER["authOptions"]["mode"] == "token"
    for name in ("head", *GROUPS):
        for probe in ("readinessProbe", "livenessProbe"):
            action = containers()[name][probe]["httpGet"]
            assert action["path"] in PUBLIC_EXACT_PATHS
            assert action["port"] == DEFAULT_DASHBOARD_AGENT_LISTEN_PORT


def test_requests_are_limits_and_the_object_store_fits() -> None:
    for name in ("head", *GROUPS):
        container = containers()[name]
        assert container["resources"]["requests"] == container["resources"]["limits"], name
        group: Document = RAY_CLUSTER["headGroupSpec"] if name == "head" else GROUPS[name]
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < number(container["resources"]["limits"]["memory"]) / 2


def test_the_token_reaches_every_node_of_the_launcher() -> None:
    assert "--env=RAY_AUTH_MODE=token" in AWS["docker"]["run_options"]
    assert AWS["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "/home/ufgvc/.ray" in DOCKERFILE  # docker would make the folder for root alone
    assert AWS["auth"]["ssh_user"] == "ubuntu"
    assert "--uid 1000" in DOCKERFILE
    assert "rsync" in DOCKERFILE
