"""Trainings from the first call to the model: Ray Train with NCCL on one GPU, cut off and resumed, compiled."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.gpu.parts import move, noise_batch, on, small
from ufgvc.experiments.calibrate import CalibrateSettings, calibrate_model
from ufgvc.methods import Stage
from ufgvc.methods.method import identity
from ufgvc.models.model import load_model
from ufgvc.runtime.session import RaySettings
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.optim import make_optimizer
from ufgvc.training.run import TrainResult, train
from ufgvc.training.settings import TrainSettings
from ufgvc.training.steps import train_step

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("ray_here")]
OFF = TrackingSettings(uri="off")
TINY: dict[str, Any] = {
    "init": "none",
    "mask_kind": "exact",
    "batch_size": 6,
    "resize": 72,
    "crop": 64,
    "learning_rate": 0.003,
    "cpus_per_worker": 0.5,
}
OPTIONS = {"backbone": "resnet18"}
TIMES = ("seconds", "images_per_second", "data_wait")


def run(data: str, runs: Path, device: torch.device, ray: RaySettings = RaySettings(), **changes: Any) -> TrainResult:
    wish = "gpu" if device.type == "cuda" else "cpu"
    settings = TrainSettings(**(TINY | {"epochs": 2, "device": wish} | changes))
    done = train(data, "mask_guided", OPTIONS, settings, Context(runs=str(runs), tracking=OFF, seed=3, ray=ray))
    assert isinstance(done, TrainResult)
    return done


def rows_of(result: TrainResult) -> list[dict[str, float]]:
    """The run's metrics, all of them finite."""
    rows = [json.loads(line) for line in (Path(result.run) / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        invalid = {name: value for name, value in row.items() if not math.isfinite(value)}
        assert not invalid, f"epoch {row['epoch']:g}: {invalid}"
    return rows


@pytest.fixture(scope="module")
def trained(leaves: str, tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> TrainResult:
    """Three epochs of captured steps, every one of them kept as a checkpoint."""
    return run(leaves, tmp_path_factory.mktemp("trained"), device, epochs=3, checkpoint_seconds=0, cuda_graphs="on")


def test_a_training_ends_in_a_model(trained: TrainResult) -> None:
    assert [row["epoch"] for row in rows_of(trained)] == [1, 2, 3]
    model = load_model(trained.model)
    assert len(model.classes) == 3
    for name, tensor in model.net.state_dict().items():
        assert tensor.device.type == "cpu"
        assert tensor.isfinite().all(), name


def test_a_run_cut_off_goes_on(trained: TrainResult, leaves: str, tmp_path: Path, device: torch.device) -> None:
    """A copy of the run without its model: the same command finds the last checkpoint, trains nothing anew and writes
    the model.
    """
    runs = Path(trained.run).parents[2]
    shutil.copytree(runs, tmp_path / "runs")
    cut_off = tmp_path / "runs" / Path(trained.run).relative_to(runs)
    (cut_off / "model" / "model.json").unlink()
    again = run(leaves, tmp_path / "runs", device, epochs=3, checkpoint_seconds=0, cuda_graphs="on")
    assert not again.found
    assert Path(again.run) == cut_off
    assert rows_of(again) == rows_of(trained)
    first, second = (load_model(result.model).net.state_dict() for result in (trained, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def kill_the_worker(runs: Path, killed: list[int], over: threading.Event) -> None:
    """SIGKILL for the training worker of the only run in a folder as soon as two epochs are written."""
    while not over.wait(0.02):
        written = sum(path.read_text().count("\n") for path in runs.glob("leaves/mask_guided/*/metrics.jsonl"))
        workers = (
            [child for child in psutil.Process().children(recursive=True) if is_worker(child)] if written >= 2 else []
        )
        if workers:
            os.kill(workers[-1].pid, signal.SIGKILL)
            killed.append(workers[-1].pid)
            return


def is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_a_killed_worker_is_replaced(leaves: str, tmp_path: Path, device: torch.device) -> None:
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_the_worker, args=(tmp_path, killed, over), daemon=True)
    killer.start()
    try:
        # With an address the worker is one of Ray Train, and not this process.
        done = run(leaves, tmp_path, device, RaySettings(address="auto"), epochs=12, checkpoint_seconds=0)
    finally:
        over.set()  # it must not find the workers of another test
        killer.join()
    assert killed, "no worker was killed, so the test shows nothing"
    assert [row["epoch"] for row in rows_of(done)] == list(range(1, 13))
    assert load_model(done.model).info["validation"] == "last"


@pytest.mark.usefixtures("exact_float32")
def test_a_rank_of_ddp_learns_what_a_net_alone_learns(tmp_path: Path, device: torch.device) -> None:
    """NCCL itself, with one rank: Ray Train's run above starts its process group, but one rank alone sums nothing."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        weights = []
        for together in (False, True):
            method = on(small("mask_guided"), device)
            model: nn.Module = method.net
            if together:
                model = nn.parallel.DistributedDataParallel(
                    method.net, device_ids=[device] if device.type == "cuda" else None
                )
            optimizer = make_optimizer(method, Stage(epochs=1, lr=1e-3))
            batch = move(noise_batch(method), device)
            train_step(
                method, model.train(), batch, optimizer, "fp32", reduce=summed if together else identity, world=1
            )
            weights.append({name: tensor.detach().double().cpu() for name, tensor in method.net.named_parameters()})
        for name, alone in weights[0].items():
            gap = float((weights[1][name] - alone).norm() / alone.norm().clamp(min=1e-6))
            assert gap < 1e-4, f"{name} differs by {gap:.1e} of its length after one step"
    finally:
        dist.destroy_process_group()


def summed(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def test_a_compiled_training(leaves: str, tmp_path: Path, cuda: torch.device) -> None:
    done = run(leaves, tmp_path, cuda, compile=True, cuda_graphs="on", validation="test")
    assert [row["epoch"] for row in rows_of(done)] == [1, 2]
    names = list(load_model(done.model).net.state_dict())
    assert not any("_orig_mod" in name for name in names), "the compiler's wrapper got into the weights"


def test_calibration(trained: TrainResult, leaves: str, device: torch.device) -> None:
    """Two folds, each trained as a trial on its share of the device."""
    settings = CalibrateSettings(
        folds=2, max_concurrent_trials=1, cpus_per_trial=0.5, device="gpu" if device.type == "cuda" else "cpu"
    )
    done = calibrate_model(
        leaves, trained.model, settings, Context(runs=str(Path(trained.run).parents[2]), tracking=OFF)
    )
    assert done.calibration.num_images == 12
    assert 0.01 <= done.calibration.temperature <= 100
    assert all(math.isfinite(figure) for figure in done.metrics.values()), done.metrics
    # The temperature is the one that fits these leaves best, so it cannot do worse than none.
    assert done.metrics["log_loss_after"] <= done.metrics["log_loss_before"] + 1e-6, done.metrics
    assert load_model(trained.model).subspace is not None
