"""Training with Ray Train workers: DDP, streamed and cached data, checkpoints, a killed worker, resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.ray_head import SLOTS
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset, read_index, read_manifest
from ufgvc.data.ingest import ingest
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe
from ufgvc.models.model import load_model
from ufgvc.regions.mask_dataset import mask
from ufgvc.regions.settings import MaskSettings
from ufgvc.synthetic import SynthSettings, synthesize
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import NullRun
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.ddp import Ranks
from ufgvc.training.in_process import train_in_process
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.run import TrainResult, make_worker_config, train
from ufgvc.training.saved_model import save_trained
from ufgvc.training.settings import TrainSettings
from ufgvc.training.sources import make_loader
from ufgvc.training.worker import Worker

OFF = TrackingSettings(uri="off")
TINY: dict[str, Any] = {
    "init": "none",
    "batch_size": 8,
    "resize": 40,
    "crop": 32,
    "learning_rate": 0.01,
    "cpus_per_worker": 0.5,
}
TIMES = ("seconds", "images_per_second", "data_wait")

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> str:
    """13 training leaves (no multiple of a batch or number of ranks) of 3 cultivars, masks from annotated boxes."""
    folder = tmp_path_factory.mktemp("leaves")
    source = synthesize(
        folder / "source",
        SynthSettings(preset="cotton80", cultivars=3, train_per_cultivar=5, test_per_cultivar=2, size=64),
    )
    for stem in ("3_1_train", "3_3_train"):
        for anno in (source / "anno").glob("*train*"):
            anno.write_text("".join(line for line in anno.read_text().splitlines(True) if stem not in line))
        for file in (source / "images").glob(f"{stem}.*"):
            file.unlink()
        (source / "labels" / f"{stem}.txt").unlink()
    data = str(folder / "data")
    assert ingest(str(source), data, name="tiny").counts == {"train": 13, "test": 6}
    mask(data, MaskSettings(box_source="annotated"), context=Context(runs=str(folder / "runs")))
    return data


def run(data: str, runs: Path, **changes: Any) -> TrainResult:
    settings = TrainSettings(**(TINY | {"epochs": 2} | changes))
    done = train(
        data, "mask_guided", {"backbone": "shufflenet_v2_x0_5"}, settings, Context(runs=str(runs), tracking=OFF, seed=3)
    )
    assert isinstance(done, TrainResult)
    return done


def numbers(result: TrainResult) -> list[dict[str, float]]:
    """The run's metrics without what depends on the clock."""
    rows = [json.loads(line) for line in (Path(result.run) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


# Three ranks: from three on, the order in which DDP sums gradients could differ after a restart.
HELD_OUT = {
    "workers": 3,
    "batch_size": 12,
    "learning_rate": 0.001,
    "validation": "holdout",
    "cache": "none",
    "checkpoint_seconds": 0,
    "epochs": 6,
}


@pytest.fixture(scope="module")
def trained(leaves: str, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Three workers that read from Ray Data every epoch, with held-out leaves."""
    return run(leaves, tmp_path_factory.mktemp("trained"), **HELD_OUT)


def test_three_workers_stream_and_hold_leaves_out(trained: TrainResult) -> None:
    rows = numbers(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_classification", "loss_vein", "loss_contour", "train_accuracy"} <= set(rows[0])
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert rows[0]["validation_leaves"] == 5
    model = load_model(trained.model)
    assert model.classes == ("Cotton-1", "Cotton-2", "Cotton-3")
    assert model.info["validation"] == "holdout"
    assert model.calibration is not None
    assert model.calibration.num_images == 5  # of all ranks


def test_the_same_settings_find_the_finished_run(leaves: str, trained: TrainResult) -> None:
    again = run(leaves, runs_of(trained), **HELD_OUT)
    assert again.found
    assert again.run == trained.run


@pytest.mark.slow  # the killed worker below, and the killed pipeline in test_pipeline.py, resume too
def test_a_run_without_its_model_resumes_from_the_last_checkpoint(
    leaves: str, trained: TrainResult, tmp_path: Path
) -> None:
    """As left by a crash after the last checkpoint was written and before the model was."""
    shutil.copytree(runs_of(trained), tmp_path, dirs_exist_ok=True)
    relative = Path(trained.run).relative_to(runs_of(trained))
    (tmp_path / relative / "model" / "model.json").unlink()
    again = run(leaves, tmp_path, **HELD_OUT)
    assert again.run == str(tmp_path / relative)
    assert not again.found
    assert numbers(again) == numbers(trained)
    assert len(read_metrics(open_store(again.run))) == 6
    first, second = (load_model(result.model).net.state_dict() for result in (trained, again))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


def runs_of(result: TrainResult) -> Path:
    """The folder of all runs: a run lies in <runs>/<data set>/<method>/<key>."""
    return Path(result.run).parents[2]


def kill_a_worker_after(epochs: int, runs: Path, killed: list[int]) -> None:
    """SIGKILL for one training worker of this process as soon as so many epochs are written below `runs`."""
    import ray
    from ray._private import state

    job = ray.get_runtime_context().get_job_id()
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        rows = sum(path.read_text().count("\n") for path in runs.glob("*/*/*/metrics.jsonl"))
        actors = state.actors().values() if rows >= epochs else ()
        for actor in actors:
            if actor["JobID"] == job and "RayTrainWorker" in actor["ActorClassName"] and actor["State"] == "ALIVE":
                os.kill(actor["Pid"], signal.SIGKILL)
                killed.append(1)
                return
        time.sleep(0.05)


def test_a_killed_worker_changes_no_number(leaves: str, trained: TrainResult, tmp_path: Path) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(2, tmp_path, killed), daemon=True)
    killer.start()
    broken = run(leaves, tmp_path, **HELD_OUT)
    killer.join()
    assert killed, "no worker was killed, so the test shows nothing"
    assert numbers(broken) == numbers(trained)
    first, second = (dict(load_model(result.model).net.state_dict()) for result in (trained, broken))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


@pytest.mark.slow  # tests/unit/test_modern_resume.py has one rank
def test_a_killed_worker_changes_no_number_of_a_modern_training(leaves: str, tmp_path: Path) -> None:
    settings = HELD_OUT | {"workers": 2, "cache": "host", "recipe": "modern", "early_stopping": 6}
    whole = run(leaves, tmp_path / "whole", **settings)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(2, tmp_path / "broken", killed), daemon=True)
    killer.start()
    broken = run(leaves, tmp_path / "broken", **settings)
    killer.join()
    assert killed, "no worker was killed, so the test shows nothing"
    assert numbers(broken) == numbers(whole)
    first, second = (dict(load_model(result.model).net.state_dict()) for result in (whole, broken))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


@pytest.mark.parametrize("batch_size", [4, 13])
def test_every_leaf_is_seen_once_and_streamed_leaves_are_the_cached_ones(
    leaves: str, tmp_path: Path, batch_size: int
) -> None:
    dataset = open_dataset(leaves)
    method = build("mask_guided", num_classes=3, init="none", backbone="shufflenet_v2_x0_5")
    found = {}
    for cache in ("host", "none"):
        settings = TrainSettings(**(TINY | {"batch_size": batch_size, "cache": cache}))
        masks = read_manifest(dataset, f"masks/{settings.mask_kind}").fingerprint
        config, _ = make_worker_config(dataset, method, settings, 3, masks, str(tmp_path))
        recipe, index = Recipe.model_validate(config.recipe), read_index(dataset, "train")
        seen: dict[int, tuple[np.ndarray, ...]] = {}
        for rank in (0, 1):
            loader = make_loader(config, recipe, dataset, index, Ranks(rank, 2, torch.device("cpu")))
            for raw in loader.source.epoch(0):
                batch = loader.augment(raw, 0)
                for row, position in enumerate(raw.positions.tolist()):
                    assert position not in seen, "a leaf is seen twice in an epoch"
                    tensors = (
                        raw.labels,
                        raw.images,
                        batch.images,
                        *(batch.masks[name] for name in sorted(batch.masks)),
                    )
                    seen[position] = tuple(tensor[row].numpy() for tensor in tensors)
        assert sorted(seen) == list(range(13))
        found[cache] = seen
    for position, cached in found["host"].items():
        for one, other in zip(cached, found["none"][position], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_test_leaves_choose_the_epoch_and_never_calibrate(leaves: str, tmp_path: Path) -> None:
    dataset = open_dataset(leaves)
    method = build("resnet50", num_classes=3, init="none", backbone="shufflenet_v2_x0_5")
    settings = TrainSettings(**(TINY | {"epochs": 1, "validation": "test", "cache": "host"}))
    config, identity = make_worker_config(dataset, method, settings, 3, None, str(tmp_path))
    state = train_in_process(config, torch.device("cpu"))
    assert state["history"][0]["validation_leaves"] == 6
    save_trained(open_store(config.run), dataset, method, config, identity, state, NullRun())
    model = load_model(f"{config.run}/model")
    assert model.info["validation"] == "test"
    assert model.calibration is None


def test_a_small_network_trains_with_one_thread_and_others_then_have_theirs(
    leaves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(leaves)
    method = build("resnet50", num_classes=3, init="none", backbone="shufflenet_v2_x0_5")
    settings = TrainSettings(**(TINY | {"epochs": 1, "cache": "host"}))
    config, _ = make_worker_config(dataset, method, settings, 3, None, str(tmp_path))
    used = []
    run_worker = Worker.run
    monkeypatch.setattr(Worker, "run", lambda worker: used.append(torch.get_num_threads()) or run_worker(worker))
    torch.set_num_threads(3)
    try:
        train_in_process(replace(config, cores=4), torch.device("cpu"))
        assert (used, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(1)


def test_what_cannot_be_scheduled_is_refused(leaves: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"leave none of the {SLOTS} for Ray Data") as caught:
        run(leaves, tmp_path, workers=2, cpus_per_worker=SLOTS / 2)
    assert "--train.cpus-per-worker" in str(caught.value)
