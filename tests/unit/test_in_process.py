"""Small jobs on one machine: they do without Ray, and a training resumes from what either way of training left."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.golden.trainings import HERE
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset
from ufgvc.data.ingest import ingest
from ufgvc.data.stream import decode_chunk, decode_in_threads, list_chunks
from ufgvc.evaluation.predict import predicts_in_process
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.models.model import load_model
from ufgvc.regions.mask_dataset import mask
from ufgvc.regions.settings import MaskSettings
from ufgvc.runtime import session
from ufgvc.runtime.session import MAX_IN_PROCESS, RaySettings, runs_in_process, uses_cluster
from ufgvc.runtime.tasks import free_slots, map_in_threads
from ufgvc.synthetic import SynthSettings, synthesize
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import NullRun
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.checkpoint import newest_state, read_ray_checkpoint
from ufgvc.training.run import TrainResult, train
from ufgvc.training.settings import TrainSettings
from ufgvc.training.worker import Worker

LEAVES = str(HERE / "leaves")
TIMES = ("seconds", "images_per_second", "data_wait")
TINY: dict[str, Any] = {
    "init": "none", "epochs": 4, "batch_size": 4, "resize": 40, "crop": 32, "checkpoint_seconds": 0, "device": "cpu",
    "validation": "holdout",
}  # fmt: skip


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import ray` fails, and nothing names a cluster."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(runs: Path, **changes: Any) -> TrainResult:
    context = Context(runs=str(runs), tracking=TrackingSettings(uri="off"), seed=3)
    backbone = {"backbone": "shufflenet_v2_x0_5"}
    return train(LEAVES, "resnet50", backbone, TrainSettings(**(TINY | changes)), context)


def numbers(result: TrainResult) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (Path(result.run) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_equal(one: TrainResult, other: TrainResult) -> None:
    assert numbers(one) == numbers(other)
    first, second = (dict(load_model(result.model).net.state_dict()) for result in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def interrupted_after(epochs: int, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that Control-C ended in the epoch after so many; its folder."""
    step = Worker.step

    def stop(worker: Worker) -> dict[str, float]:
        if worker.epoch == epochs:
            raise KeyboardInterrupt
        return step(worker)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(runs)
    (folder,) = (path.parent for path in runs.glob("*/*/*/config.yaml"))
    assert not (folder / "model").exists()
    return folder


@pytest.mark.usefixtures("without_ray")
def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    assert [row["epoch"] for row in numbers(whole)] == [1, 2, 3, 4]
    assert run(tmp_path / "whole").found
    interrupted_after(2, tmp_path / "broken", monkeypatch)
    seen = []
    step = Worker.step
    monkeypatch.setattr(Worker, "step", lambda worker: seen.append(worker.epoch) or step(worker))
    assert_equal(run(tmp_path / "broken"), whole)
    assert seen == [2, 3]


@pytest.mark.usefixtures("without_ray")
def test_a_training_that_is_stopped_while_its_model_is_sent_sends_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def interrupted(run: NullRun, folder: Path, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NullRun, "log_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, epochs=1)
    assert not list(tmp_path.rglob("model.json"))
    monkeypatch.setattr(NullRun, "log_folder", lambda run, folder, name: sent.extend(p.name for p in folder.iterdir()))
    monkeypatch.setattr(Worker, "step", None)  # nothing is trained again
    assert not run(tmp_path, epochs=1).found
    assert {"model.json", "weights.safetensors", "MLmodel"} <= set(sent)
    assert run(tmp_path, epochs=1).found


@pytest.mark.usefixtures("without_ray")
def test_a_training_goes_on_from_the_newest_checkpoint_that_ray_train_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster is gone, and the run's folder is still there."""
    whole = run(tmp_path / "whole")
    folder = interrupted_after(3, tmp_path / "broken", monkeypatch) / "checkpoints"
    assert read_ray_checkpoint(str(folder.parent)) is None
    complete, incomplete = folder / "checkpoint_2026-11-27_10", folder / "checkpoint_2026-11-27_11"
    (folder / "alone").rename(complete)
    shutil.copytree(complete, incomplete)
    (incomplete / "state.pt").write_bytes(b"half")
    (folder / "checkpoint_manager_snapshot.json").write_text(json.dumps({"checkpoint_dir_name": complete.name}))
    state = read_ray_checkpoint(str(folder.parent))
    assert state is not None
    assert state["epoch"] == 3
    assert_equal(run(tmp_path / "broken"), whole)


def test_the_state_of_most_epochs_is_the_newest() -> None:
    assert newest_state(None, None) is None
    assert newest_state({"epoch": 2}, None, {"epoch": 7}, {"epoch": 3}) == {"epoch": 7}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("source", ["annotated", "exact"])
def test_photographs_become_masks(source: str, tmp_path: Path) -> None:
    photographs = synthesize(
        tmp_path / "source", SynthSettings(cultivars=2, train_per_cultivar=3, test_per_cultivar=2, size=64)
    )
    data = str(tmp_path / "data")
    assert ingest(str(photographs), data, name="leaves").counts == {"train": 6, "test": 4}
    settings = MaskSettings(box_source="annotated", mask_kind="exact" if source == "exact" else "box")
    made = mask(data, settings, source=str(photographs), context=Context(runs=str(tmp_path / "runs")))
    assert made.complete == 10 if source == "exact" else made.complete > 0


def test_a_gpu_that_is_not_there_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU") as caught:
        run(tmp_path, device="gpu")
    assert "--train.device cpu" in str(caught.value)


def test_a_cluster_or_many_photographs_take_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert runs_in_process(None, MAX_IN_PROCESS)
    assert not runs_in_process(RaySettings(), MAX_IN_PROCESS + 1)
    assert not runs_in_process(RaySettings(address="auto"), 1)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert uses_cluster(None)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(session, "in_ray_session", lambda: True)
    assert uses_cluster(None), "joined by somebody else"
    monkeypatch.setattr(session, "_is_local", True)
    assert not uses_cluster(None), "started by this process"


@pytest.mark.parametrize(
    ("photographs", "settings", "here"),
    [
        (MAX_IN_PROCESS, {}, True),
        (MAX_IN_PROCESS + 1, {}, False),
        (1, {"device": "gpu"}, True),
        (1, {"max_actors": 2}, False),
    ],
)
def test_photographs_are_predicted_here(
    photographs: int, settings: dict[str, Any], here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert predicts_in_process(photographs, PredictSettings(**settings), RaySettings()) is here


def test_threads_keep_the_order_and_do_not_run_ahead_without_end() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def square(number: int) -> int:
        with lock:
            begun.append(number)
        return number**2

    results = map_in_threads(square, range(100), 3)
    assert next(results) == 0
    assert max(begun) <= 3
    assert list(results) == [number**2 for number in range(1, 100)]
    assert list(map_in_threads(square, [], 3)) == []


def test_an_error_of_a_thread_comes_back_as_itself() -> None:
    def refuse(number: int) -> int:
        if number == 5:
            raise UserError("five")
        return number

    results = map_in_threads(refuse, range(100), 4)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="five"):
        next(results)


def test_threads_decode_what_a_chunk_alone_gives() -> None:
    dataset = open_dataset(LEAVES)
    chunks = list_chunks(dataset, "train", "exact" if (HERE / "leaves/masks/exact").exists() else "box", rows=3)
    assert len(chunks) > 2
    for chunk, found in zip(chunks, decode_in_threads(dataset.store, chunks, 40), strict=True):
        wanted = decode_chunk(dataset.store, chunk, 40)
        assert wanted.keys() == found.keys()
        assert len(wanted) > 4
        for name, values in wanted.items():
            assert (values == found[name]).all(), name


@pytest.mark.parametrize(
    ("cpus", "reserved", "streams", "slots"), [(4, 0, 1, 4), (4, 2, 2, 1), (64, 8, 8, 7), (4, 3.5, 2, 1), (2, 2, 1, 1)]
)
def test_streams_share_the_free_slots(
    cpus: float, reserved: float, streams: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": cpus}))
    assert free_slots(reserved, streams) == slots
