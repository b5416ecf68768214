"""Whoever scores a leaf gets the same logits: training's validation, calibration, benchmark, evaluation and
prediction.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset
from ufgvc.evaluation.score import score_split
from ufgvc.evaluation.settings import ScoreSettings
from ufgvc.experiments.training_job import score_test
from ufgvc.methods import build
from ufgvc.models.model import LoadedModel
from ufgvc.training.held_out import score_indices as score_by_config
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings
from ufgvc.training.worker import Worker

SIZES = {"resize": 40, "crop": 32}
CPU = torch.device("cpu")


@pytest.fixture
def trained(small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """(data set, method, plan) on a machine that trains in bf16, as a GPU does."""
    for module in ("steps", "worker"):
        monkeypatch.setattr(f"ufgvc.training.{module}.choose_precision", lambda wanted, device: "bf16")
    dataset = open_dataset(small_dataset)
    torch.manual_seed(0)
    method = build("resnet50", len(dataset.classes), backbone="shufflenet_v2_x0_5")
    with torch.no_grad():
        for _ in range(20):  # else its statistics are those of nothing, and its logits too
            method.net.train()(torch.rand(12, 3, 32, 32))
    method.net.eval()
    settings = TrainSettings(init="none", epochs=1, batch_size=9, validation="test", cache="host", **SIZES)
    plan, _ = make_worker_config(dataset, method, settings, 0, None, str(tmp_path))
    return dataset, replace(method, recipe=method.recipe.model_validate(plan.recipe)), plan


def test_all_who_score_agree_where_training_is_in_bf16(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, method, plan = trained
    model = LoadedModel(method, dataset.classes, {"resize": method.recipe.eval_resize, "size": 32}, {})
    scored = score_split(dataset, {"model": model}, ScoreSettings(max_actors=0))
    benchmarked, labels, names = score_test(method, dataset, plan, CPU)
    evaluated = scored.logits["model"][[scored.image_id.index(name) for name in names]]
    exact = {"rtol": 0, "atol": 1e-5 * np.abs(evaluated).max()}  # bf16 is off by a hundred times that
    np.testing.assert_allclose(benchmarked, evaluated, **exact)
    calibrated, _ = score_by_config(method, dataset, "test", plan, np.arange(len(labels)), CPU)
    np.testing.assert_allclose(calibrated, evaluated, **exact)

    worker = Worker.start(plan, 0, 1, 1, CPU, None, lambda folder, epoch: None)
    worker.method.net.load_state_dict(method.net.state_dict())
    assert worker.precision == "bf16", "the test shows nothing without it"
    loss = worker._validate()["validation_loss"]
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(evaluated), torch.from_numpy(labels))
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_a_model_that_diverged_is_refused_by_all_who_score(trained) -> None:
    dataset, method, plan = trained
    with torch.no_grad():
        method.net.classifier.weight.fill_(float("nan"))
    model = LoadedModel(method, dataset.classes, {"resize": method.recipe.eval_resize, "size": 32}, {})
    with pytest.raises(UserError, match="diverged"):
        score_split(dataset, {"model": model}, ScoreSettings(max_actors=0))
    with pytest.raises(UserError, match="diverged"):
        score_test(method, dataset, plan, CPU)
