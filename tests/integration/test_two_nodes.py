"""Two Ray nodes with their own addresses, one of which is lost: no epoch, no trial and no leaf is lost with it."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.integration.machines import Machine, wait_for
from tests.integration.s3_servers import client_of, use_server
from tests.integration.two_nodes import PATIENT, Cluster, cluster
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import open_dataset, read_index
from ufgvc.synthetic import SynthSettings, synthesize
from ufgvc.training.checkpoint import SNAPSHOT
from ufgvc.training.metrics_file import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

DATA, RUNS = "s3://leaf/data", "s3://leaf/runs"
SHARE = "1.5"  # CPUs of a worker or trial: a node of 2 has room for one and for a task of Ray Data
SMALL = {"init": "none", "batch_size": 8, "resize": 40, "crop": 32}
EPOCHS = 6
TRAINING = SMALL | {"epochs": EPOCHS, "workers": 2, "cpus_per_worker": SHARE, "checkpoint_seconds": 0}
TIMES = ("seconds", "images_per_second", "data_wait")


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Cluster]:
    """A cluster of one node so far, the head, and 15 training and 12 test leaves of 3 cultivars on S3."""
    folder = tmp_path_factory.mktemp("nodes")
    with cluster(folder, free_port) as nodes, pytest.MonkeyPatch.context() as environment:
        use_server(nodes.s3_url, environment)
        client_of(nodes.s3_url).create_bucket(Bucket="leaf")
        source = synthesize(
            folder / "source", SynthSettings(cultivars=3, train_per_cultivar=5, test_per_cultivar=4, size=64), seed=3
        )
        open_store("s3://leaf/source").upload(source)
        nodes.add(cpus=2)
        nodes.done("ingest", "--source", "s3://leaf/source", "--data", DATA, "--name", "tiny")
        yield nodes


@pytest.fixture
def second(leaves: Cluster) -> Machine:
    """A second node, to be lost; what another test put in the place of its own serves too."""
    return leaves.nodes[1] if len(leaves.nodes) > 1 else leaves.add(cpus=2)


def test_training_goes_on_without_a_node_that_is_lost(leaves: Cluster, second: Machine) -> None:
    """A node is lost during an epoch, and another one takes its place, as a cluster's autoscaler sees to."""
    # A lost node uses up none of the failures, of which none is allowed here.
    job = leaves.job("train", *training(f"{RUNS}/broken"), "--train.max-failures", "0")
    run = begun(job, f"{RUNS}/broken")
    while_running(job, lambda: all(node.processes("RayTrainWorker") for node in leaves.nodes), "a worker on each node")
    before = read_metrics(run)
    leaves.lose(second)
    lost = time.monotonic()
    assert len(before) < EPOCHS, "it was too late to lose a node"
    leaves.add(cpus=2)
    while_running(job, lambda: groups(leaves) == 2, "workers on the nodes that are left")
    print(f"workers were there again {time.monotonic() - lost:.0f} s after a node was lost")
    assert job.wait(PATIENT) == 0, leaves.said("train")
    assert groups(leaves) == 2
    goes_on(before, run)

    leaves.done("train", *training(f"{RUNS}/whole"))
    assert numbers(run) == numbers(begun(None, f"{RUNS}/whole")), "a lost node changed the result"

    leaves.done(
        "evaluate", *places(f"{RUNS}/broken"), "--model", f"{run.uri}/model", "--min-actors", "2", "--max-actors", "2"
    )
    scored = pq.read_table(io.BytesIO(run.read_bytes("report/predictions.parquet")))["image_id"].to_pylist()
    assert sorted(scored) == sorted(read_index(open_dataset(DATA), "test")["image_id"].to_pylist())
    (model,) = json.loads(run.read_text("report/metrics.json"))["models"].values()
    assert model["accuracy"]["n"] == len(scored) == 12


def test_the_same_command_goes_on_elsewhere_when_its_node_is_lost(leaves: Cluster, second: Machine) -> None:
    """Ray Train's controller runs on the node of the command: both are lost with it, and their resources are freed."""
    job = leaves.job("train", *training(f"{RUNS}/moved"), on=second)
    run = begun(job, f"{RUNS}/moved")
    before = read_metrics(run)
    leaves.lose(second)
    assert len(before) < EPOCHS, "it was too late to lose a node"
    assert job.wait(PATIENT) != 0
    leaves.add(cpus=2)
    leaves.done("train", *training(f"{RUNS}/moved"))
    goes_on(before, run)


def test_no_training_of_a_benchmark_is_lost_with_a_node(leaves: Cluster, second: Machine) -> None:
    """Two trainings at a time, one on each node. Finished ones stay, those of the lost node run on the other one."""
    settings = flags(SMALL | {"epochs": 1, "seeds": 2, "lr_factors": 1.0, "cpus_per_trial": SHARE, "cam_leaves": 0})
    rows = ("--methods", "resnet50", "mobilenet_v2", "--backbones", "resnet50=shufflenet_v2_x0_5")
    job = leaves.job("benchmark", *places(f"{RUNS}/benchmark"), *settings, *rows)
    while_running(
        job,
        lambda: cells() and second.processes("ImplicitFunc.train"),
        "a finished training, and one on the second node",
    )
    before = cells()
    leaves.lose(second)
    assert len(before) < 4, "it was too late to lose a node"
    assert job.wait(PATIENT) == 0, leaves.said("benchmark")
    after = cells()
    assert len(after) == 4
    assert {name: after[name] for name in before} == before, (
        "what was finished was trained again"
    )  # its seconds would be others
    assert "failed" not in leaves.said("benchmark")


def places(runs: str) -> list[str]:
    return ["--data", DATA, "--runs", runs, "--tracking.uri", "off"]


def flags(settings: dict[str, Any], section: str = "--") -> list[str]:
    return [text for name, value in settings.items() for text in (f"{section}{name.replace('_', '-')}", str(value))]


def training(runs: str) -> list[str]:
    return [
        *places(runs),
        "--method",
        "resnet50",
        "--options.backbone",
        "shufflenet_v2_x0_5",
        *flags(TRAINING, "--train."),
    ]


def while_running(job: subprocess.Popen[Any] | None, condition: Callable[[], Any], what: str) -> Any:
    """The condition's first true value; AssertionError if the job ends before."""

    def met() -> Any:
        found = condition()
        assert found or job is None or job.poll() is None, f"it ended with {job.returncode} before there was {what}"
        return found

    return wait_for(met, what, PATIENT)


def begun(job: subprocess.Popen[Any] | None, runs: str) -> Store:
    """The one training below `runs`, as soon as Ray Train has registered a checkpoint, which it uploads meanwhile."""
    store = open_store(runs)

    def found() -> Store | None:
        names = [name for name in store.list() if name.endswith(f"/checkpoints/{SNAPSHOT}")]
        registered = names and "checkpoint_" in store.read_text(names[0])
        return store.child(names[0].removesuffix(f"/checkpoints/{SNAPSHOT}")) if registered else None

    run: Store = while_running(job, found, "a training with a checkpoint")
    return run


def groups(cluster: Cluster) -> int:
    """How often the training has been given workers. On loopback each line is there twice, once from each node."""
    return len({line for line in cluster.said("train").splitlines() if "- (ip=" in line and "world_rank=0," in line})


def numbers(run: Store) -> list[dict[str, float]]:
    """The run's metrics without what depends on the clock."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(run)]


def goes_on(before: list[dict[str, float]], run: Store) -> None:
    """The finished run has each epoch once, and the first of those that were there before were not trained again."""
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert rows[0] == before[0], "it started over"  # an epoch that is trained again takes another time, and says so
    assert run.exists("model/model.json")


def cells() -> dict[str, Any]:
    """What the finished trainings of the benchmark left, by their folder."""
    store = open_store(f"{RUNS}/benchmark")
    names = [name for name in store.list() if name.endswith("/result.json") and "/tune/" not in name]
    return {name: store.read_json(name) for name in names}
