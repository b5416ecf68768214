"""Training on real Ray Train workers: DDP, caches, checkpoints, a killed worker, resume."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ufgvc.core.errors import UserError
from ufgvc.data.ingest import ingest
from ufgvc.models.model import load_model
from ufgvc.regions.mask_dataset import mask
from ufgvc.regions.settings import MaskSettings
from ufgvc.synthetic import SynthSettings, synthesize
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.progress import read_metrics
from ufgvc.training.run import TrainResult, train
from ufgvc.training.settings import TrainSettings

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
    """13 training leaves (no multiple of any batch or number of ranks) of 3 cultivars, with masks from their own boxes."""
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
    mask(data, MaskSettings(boxes="annotated"), context=Context(runs=str(folder / "runs")))
    return data


def run(data: str, runs: Path, **changes: Any) -> TrainResult:
    settings = TrainSettings(**(TINY | {"epochs": 2} | changes))
    done = train(data, "mask_guided", {"backbone": "resnet18"}, settings, Context(runs=str(runs), tracking=OFF, seed=3))
    assert isinstance(done, TrainResult)
    return done


def numbers(result: TrainResult) -> list[dict[str, float]]:
    """The run's metrics without what depends on the clock."""
    rows = [json.loads(line) for line in (Path(result.run) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def test_two_workers_then_found_then_fresh(leaves: str, tmp_path: Path) -> None:
    first = run(leaves, tmp_path, workers=2)
    rows = numbers(first)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "loss_classification", "loss_vein", "loss_contour", "train_accuracy"} <= set(rows[0])
    model = load_model(first.model)
    assert model.classes == ("Cotton-1", "Cotton-2", "Cotton-3")
    assert model.info["validation"] == "last"
    again = run(leaves, tmp_path, workers=2)
    assert again.found
    assert again.run == first.run


def kill_a_worker_after(epochs: int, metrics: Path, killed: list[int]) -> None:
    """SIGKILL for one training worker as soon as so many epochs are written."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        rows = metrics.read_text().count("\n") if metrics.exists() else 0
        workers = [child for child in psutil.Process().children(recursive=True) if is_worker(child)]
        if rows >= epochs and workers:
            os.kill(workers[-1].pid, signal.SIGKILL)
            killed.append(workers[-1].pid)
            return
        time.sleep(0.05)


def is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_a_killed_worker_changes_no_number(leaves: str, tmp_path: Path) -> None:
    """Three ranks: from three on, the order in which DDP sums gradients could differ after a restart."""
    settings = {"workers": 3, "epochs": 6, "checkpoint_seconds": 0, "batch_size": 12}
    whole = run(leaves, tmp_path / "whole", **settings)
    relative = Path(whole.run).relative_to(tmp_path / "whole")
    killed: list[int] = []
    metrics = tmp_path / "killed" / relative / "metrics.jsonl"
    killer = threading.Thread(target=kill_a_worker_after, args=(2, metrics, killed), daemon=True)
    killer.start()
    broken = run(leaves, tmp_path / "killed", **settings)
    killer.join()
    assert killed, "no worker was killed, so the test shows nothing"
    assert numbers(broken) == numbers(whole)
    first, second = (dict(load_model(result.model).net.state_dict()) for result in (whole, broken))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


def test_streaming_sees_every_leaf(leaves: str, tmp_path: Path) -> None:
    rows = numbers(run(leaves, tmp_path, workers=2, cache="none"))
    assert len(rows) == 2  # the loop itself refuses an epoch that saw another number of leaves than the index has
    assert np.isfinite(rows[-1]["loss"])


def test_streamed_and_cached_epochs_hold_the_same_leaves(leaves: str, tmp_path: Path) -> None:
    """With one batch an epoch the order within it does not matter, so both sources give the same sums."""
    one = {"batch_size": 13, "epochs": 1}
    cached, streamed = (numbers(run(leaves, tmp_path, cache=cache, **one))[0] for cache in ("host", "none"))
    assert streamed["loss"] == pytest.approx(cached["loss"], rel=1e-4)


@pytest.mark.parametrize(("validation", "leaves_held"), [("holdout", 5), ("test", 6)])
def test_the_selection_of_the_epoch_is_recorded(leaves: str, tmp_path: Path, validation: str, leaves_held: int) -> None:
    done = run(leaves, tmp_path, validation=validation, epochs=1, workers=2)
    assert numbers(done)[0]["validation_leaves"] == leaves_held
    model = load_model(done.model)
    assert model.info["validation"] == validation
    # Both ranks' leaves; test leaves never calibrate.
    assert (model.calibration.leaves if model.calibration else None) == (5 if validation == "holdout" else None)


def test_what_cannot_be_scheduled_is_refused(leaves: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave none of the 6 for Ray Data") as caught:
        run(leaves, tmp_path, workers=6, batch_size=24, cpus_per_worker=1)
    assert "--train.cpus-per-worker" in str(caught.value)


def test_a_run_cut_off_goes_on(leaves: str, tmp_path: Path) -> None:
    """The same command after the last checkpoint was kept and the model was not written yet."""
    whole = run(leaves, tmp_path, checkpoint_seconds=0, epochs=3)
    expected = numbers(whole)
    (Path(whole.run) / "model" / "model.json").unlink()
    again = run(leaves, tmp_path, checkpoint_seconds=0, epochs=3)
    assert not again.found
    assert numbers(again) == expected
    assert len(read_metrics_of(again)) == 3


def read_metrics_of(result: TrainResult) -> list[dict[str, float]]:
    from ufgvc.core.storage import open_store

    return read_metrics(open_store(result.run))
