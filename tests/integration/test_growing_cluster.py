"""A cluster as cluster/kuberay describes it, on this machine: no GPU until a job asks, a token for everything but the health probes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
LATE = 240  # seconds that a node may take to start on a busy machine
TRIES = 3  # a raylet gives its own agents 15 s, which cannot be set, and ends when a busy machine needs more
HEAD = "f" * 51 + "00000"
# Ray's own provider of make-believe machines: each "node" is a raylet on this machine, and its GPU is a number.
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
NODES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
}
GROWING = {
    "cluster_name": "growing",
    "max_workers": 1,
    "idle_timeout_minutes": 5,
    "auth": {"ssh_user": "nobody"},
    "head_node_type": "ray.head.default",
    "available_node_types": NODES,
    **{f"{what}_commands": [] for what in ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")},
}


@dataclass(frozen=True)
class Head:
    address: str
    agent: int
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def head(free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("growing")
    temporary = Path(f"/tmp/grow-{os.getpid()}")  # the paths of Ray's sockets must be short
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-the-test",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # the one of KubeRay
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_raylet_start_wait_time_s": "60",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(temporary),
    }
    for _ in range(TRIES):
        temporary.mkdir(exist_ok=True)
        with started(free_port, folder, env) as found:
            if found is not None:
                yield found
        shutil.rmtree(temporary, ignore_errors=True)
        if found is not None:
            return
    raise AssertionError((folder / "head.log").read_text())


@contextlib.contextmanager
def started(free_port: Callable[[], int], folder: Path, env: Mapping[str, str]) -> Iterator[Head | None]:
    """A head with its autoscaler; None if it did not come up."""
    config = folder / "growing.yaml"
    ports = {name: free_port() for name in ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")}
    address = f"127.0.0.1:{ports['port']}"
    provider = {"type": "external", "module": PROVIDER, "gcs_address": address, "launch_multiple": True, "head_node_id": HEAD}
    config.write_text(yaml.safe_dump(GROWING | {"provider": provider}))
    own = ["--node-ip-address=127.0.0.1", "--num-cpus=0", "--object-store-memory=100000000", "--include-dashboard=false"]
    flags = [f"--{name}={port}" for name, port in ports.items()]
    names = {"RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    log = folder / "head.log"
    with log.open("wb") as output:
        command = [RAY, "start", "--head", "--block", f"--autoscaling-config={config}", *own, *flags]
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**env, **names})
    found = Head(address, ports["dashboard-agent-listen-port"], env)
    try:
        deadline = time.monotonic() + LATE
        while process.poll() is None and time.monotonic() < deadline and "block forever" not in log.read_text():
            time.sleep(0.3)
        yield found if status(found.agent, "/api/healthz") == 200 else None
    finally:
        end(process, env["RAY_TMPDIR"])


def end(head: subprocess.Popen[bytes], temporary: str) -> None:
    """SIGKILL for the head and for all that carries its folder in its command, the autoscaler's nodes too: some outlive their parent."""
    head.kill()
    head.wait(30)
    while family := [process for process in psutil.process_iter(["cmdline"]) if temporary in " ".join(process.info["cmdline"] or [])]:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=5)


def status(port: int, path: str) -> int | None:
    """What a probe without a token gets; None while nobody listens."""
    try:
        return int(urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return None


def run(head: Head, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**head.env, "RAY_ADDRESS": head.address}, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_probes_of_the_manifests_need_no_token_and_the_rest_does(head: Head) -> None:
    documents = [*yaml.safe_load_all((ROOT / "cluster/kuberay/raycluster.yaml").read_text())]
    spec = next(document for document in documents if document["kind"] == "RayCluster")["spec"]
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    containers = [template["spec"]["containers"][0] for template in templates]
    for probe in [container[name] for container in containers for name in ("readinessProbe", "livenessProbe")]:
        assert status(head.agent, probe["httpGet"]["path"]) == 200
    assert status(head.agent, "/api/job_agent/jobs/") == 401
    asked = subprocess.run([RAY, "health-check", "--address", head.address], env=head.env, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr  # what KubeRay's init container does before a worker starts


@pytest.mark.slow
def test_gpus_that_are_not_there_yet_come_when_a_job_waits_for_them(head: Head) -> None:
    code = (
        "import ray; from ufgvc.data.cluster import RaySettings, ray_session\n"
        "with ray_session(RaySettings()): print('before', ray.cluster_resources().get('GPU', 0))\n"
        f"with ray_session(RaySettings(gpus=1, patience={LATE})): print('after', ray.cluster_resources().get('GPU', 0))\n"
    )
    done = run(head, code)
    assert done.stdout.split() == ["before", "0", "after", "1.0"], done.stdout + done.stderr


@pytest.mark.slow
def test_more_gpus_than_the_cluster_can_grow_to_are_refused_after_the_patience(head: Head) -> None:
    code = (
        "from ufgvc.core.errors import UserError; from ufgvc.data.cluster import RaySettings, ray_session\n"
        "try:\n"
        "    with ray_session(RaySettings(gpus=2, patience=3)): print('let in')\n"
        "except UserError as error: print(error)\n"
    )
    done = run(head, code)
    assert "of 2 GPUs after 3 s" in done.stdout, done.stdout + done.stderr
    assert "--ray.gpus" in done.stdout
    assert "let in" not in done.stdout


def test_gpus_that_never_come_are_a_mistake_and_no_wish_is_left(ray_local: None) -> None:
    import ray
    from ray.util import placement_group_table

    from ufgvc.core.errors import UserError
    from ufgvc.data.cluster import RaySettings, ray_session

    with pytest.raises(UserError, match="0 of 1 GPUs after 1 s"):
        with ray_session(RaySettings(gpus=1, patience=1)):
            raise AssertionError("let in")
    assert ray.is_initialized()
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())
