"""User errors end a training at once, with and without Ray Train; other failures are retried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ufgvc.core.errors import UserError, user_error_in
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.evaluation.predict import _predict_rows, list_photographs
from ufgvc.evaluation.score import score_split
from ufgvc.evaluation.settings import PredictSettings, ScoreSettings
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.training_job import TrainingJob, run_jobs
from ufgvc.methods import build
from ufgvc.models.model import LoadedModel
from ufgvc.runtime.session import RaySettings
from ufgvc.training.in_process import train_in_process
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("ray_local")
SMALL = TrainSettings(init="none", epochs=1, batch_size=4, resize=40, crop=32)


# That other faults are tried again is shown by the killed worker of test_training.py.
@pytest.mark.parametrize(("mistake", "starts"), [(True, 1), pytest.param(False, 2, marks=pytest.mark.slow)])
def test_only_our_faults_are_tried_again(mistake: bool, starts: int, tmp_path: Path) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from ufgvc.training.controller import StopOnUserError

    def fail(config: dict[str, Any]) -> None:  # here, so that the worker does not import what this file imports
        """A training that fails, and writes a line each time it is started."""
        with open(config["log"], "a") as file:
            file.write("started\n")
        if config["mistake"]:
            raise UserError("too large", where="train.batch_size", fix="make it smaller")
        raise RuntimeError("our fault")

    log = tmp_path / "log"
    trainer = TorchTrainer(
        fail,
        train_loop_config={"log": str(log), "mistake": mistake},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            name="fails",
            storage_path=str(tmp_path),
            failure_config=FailureConfig(max_failures=1),
            callbacks=[StopOnUserError()],
        ),
    )
    with pytest.raises(Exception, match="too large" if mistake else "our fault") as caught:
        trainer.fit()
    assert log.read_text().count("started") == starts
    found = user_error_in(caught.value)
    assert (found is not None) == mistake
    assert found is None or found.fix == "make it smaller"


def test_a_batch_too_large_is_told_by_a_training_in_one_process(
    small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(small_dataset)
    method = build("resnet50", num_classes=len(dataset.classes), backbone="shufflenet_v2_x0_5")
    plan, _ = make_worker_config(dataset, method, SMALL, 0, None, str(tmp_path))

    def step(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("ufgvc.training.worker.train_step", step)
    with pytest.raises(UserError, match="a batch of 4 images of 32 px does not fit") as caught:
        train_in_process(plan, torch.device("cpu"))
    assert "--train.batch-size 2" in str(caught.value)


@pytest.mark.slow  # test_benchmark.py has a training that fails
def test_a_trial_that_fails_is_one_line_of_the_table(small_dataset: str, tmp_path: Path) -> None:
    dataset = open_dataset(small_dataset)
    method = build("resnet50", num_classes=len(dataset.classes), backbone="shufflenet_v2_x0_5")
    plan, identity = make_worker_config(dataset, method, SMALL, 0, None, str(tmp_path))
    job = TrainingJob("resnet50", 0, 0, 1.0, "final", replace(plan, options={"backbone": "no_such_net"}), identity)
    resources = TrialResources({"CPU": 1}, max_concurrent=1, threads=1)
    (outcome,) = run_jobs([job], resources, open_store(str(tmp_path / "tune")), 0, lambda outcome: None)
    assert outcome.result is None
    assert outcome.error == "torchvision has no model 'no_such_net'"
    failure = job.store.read_json("failed.json")
    assert failure["reason"] == outcome.error
    assert "Traceback" in failure["traceback"]


class Full(nn.Module):
    """A net for which no memory suffices."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_batch_too_large_is_told_by_the_actors_of_an_evaluation_and_a_prediction(
    small_dataset: str, tmp_path: Path
) -> None:
    dataset = open_dataset(small_dataset)
    method = replace(build("resnet50", num_classes=len(dataset.classes), backbone="shufflenet_v2_x0_5"), net=Full())
    model = LoadedModel(method, dataset.classes, {"resize": 64, "size": 64}, {})
    with pytest.raises(Exception) as caught:
        score_split(dataset, {"model": model}, ScoreSettings(max_actors=1, batch_size=6))
    error = user_error_in(caught.value)
    assert error is not None
    assert "--batch-size 3" in str(error)
    store, names, _ = list_photographs(str(Path(small_dataset).parent / "source" / "images"))
    with pytest.raises(Exception) as caught:
        list(_predict_rows(store, names, model, PredictSettings(max_actors=1, batch_size=6), RaySettings()))
    error = user_error_in(caught.value)
    assert error is not None
    assert "--batch-size 3" in str(error)
