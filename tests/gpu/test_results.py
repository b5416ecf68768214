"""What a trained model says is the same on both devices: evaluation, prediction, the exported file."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gpu.parts import noise_batch, on, small
from ufgvc.data.dataset import open_dataset
from ufgvc.evaluation.predict import predict
from ufgvc.evaluation.score import score_split
from ufgvc.evaluation.settings import EvaluateSettings, PredictSettings, ScoreSettings
from ufgvc.experiments.evaluate import evaluate
from ufgvc.methods import Stage, names
from ufgvc.models.calibration import softmax
from ufgvc.models.format import save_model
from ufgvc.models.model import export_to_onnx, load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import eval_step, train_step

pytestmark = pytest.mark.gpu
OFF = TrackingSettings(uri="off")
NEAR = 1e-4  # of a probability, where both devices compute in float32
SIDE = 64


@pytest.fixture(scope="module")
def model(leaves: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that has learnt a little of noise, so that its BatchNorm has seen images; made on the
    CPU.
    """
    dataset = open_dataset(leaves)
    method = small("mask_guided", len(dataset.classes))
    optimizer = make_optimizer(method, Stage(epochs=1, lr=0.01))
    for seed in range(3):
        batch = noise_batch(method, seed=seed)
        train_step(method, method.net.train(), replace(batch, labels=batch.labels % len(dataset.classes)), optimizer)
    folder = tmp_path_factory.mktemp("made") / "model"
    save_model(folder, method, dataset.classes, input={"resize": SIDE, "crop": SIDE})
    return str(folder)


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", names())
def test_logits_of_every_method(name: str, device: torch.device) -> None:
    method = small(name)
    images = noise_batch(method).images
    wanted = eval_step(method, method.net.eval(), images).softmax(dim=1)
    there = on(method, device)
    found = eval_step(there, there.net.eval(), images.to(device)).softmax(dim=1).cpu()
    gap = float((found - wanted).abs().max())
    assert gap < NEAR, f"probabilities differ by up to {gap:.1e}"


@pytest.mark.usefixtures("exact_float32")
def test_scores_of_an_evaluation(leaves: str, model: str, device: torch.device) -> None:
    dataset, chances = open_dataset(leaves), []
    for wish in ("cpu", "gpu" if device.type == "cuda" else "cpu"):
        scored = score_split(dataset, {"model": load_model(model)}, ScoreSettings(max_actors=0, device=wish))
        chances.append(softmax(scored.logits["model"], 1.0))
    assert chances[0].shape == (6, 3)
    gap = float(np.abs(chances[1] - chances[0]).max())
    assert gap < NEAR, f"probabilities differ by up to {gap:.1e}"


def test_an_evaluation_writes_its_report(leaves: str, model: str, tmp_path: Path, device: torch.device) -> None:
    wish = "gpu" if device.type == "cuda" else "cpu"
    settings = EvaluateSettings(max_actors=0, device=wish, register_version=False, cam_leaves=1, region_leaves=1)
    done = evaluate(leaves, model, settings=settings, context=Context(runs=str(tmp_path), tracking=OFF))
    assert done.scores.accuracy.n == 6
    assert Path(done.report).stat().st_size > 10_000


@pytest.mark.usefixtures("ray_here")
def test_a_prediction_by_actors(leaves: str, model: str, tmp_path: Path, device: torch.device) -> None:
    photographs = Path(leaves).parent / "source" / "images"
    found = {}
    for wish in ("cpu", "gpu" if device.type == "cuda" else "cpu"):
        done = predict(
            str(photographs),
            model,
            str(tmp_path / wish),
            PredictSettings(device=wish, batch_size=4),
            Context(runs=str(tmp_path), tracking=OFF),
        )
        assert done.rejected == 0
        with open(done.csv, newline="") as file:
            found[wish] = {row["path"]: row for row in csv.DictReader(file)}
    first, last = found["cpu"], list(found.values())[-1]
    assert len(first) == 18
    assert first.keys() == last.keys()
    gap = max(abs(float(first[path]["probability"]) - float(last[path]["probability"])) for path in first)
    # Actors compute as torch does by itself: convolutions of a GPU round their factors to 10 bits (TF32).
    assert gap < 5e-3, f"probabilities differ by up to {gap:.1e}"


@pytest.mark.usefixtures("exact_float32")
def test_an_exported_model(model: str, device: torch.device) -> None:
    """Written on this machine, run by onnxruntime on its CPU, compared with torch on the device."""
    pytest.importorskip("onnxscript")
    loaded = load_model(model)
    exported, parity = export_to_onnx(loaded)
    assert parity.holds, parity.summary()
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (90, 70, 3), dtype=np.uint8) for _ in range(5)]
    wanted, found = (softmax(each.logits(images), 1.0) for each in (loaded.to(device), exported))
    gap = float(np.abs(found - wanted).max())
    assert gap < NEAR, f"probabilities differ by up to {gap:.1e}"
