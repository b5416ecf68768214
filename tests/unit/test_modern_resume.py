"""A modern training that is interrupted goes on to the same weights to the bit; what it saves are the averaged ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_methods import CLASSES, trainable
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.training.checkpoint import read_checkpoint
from ufgvc.training.ddp import Ranks
from ufgvc.training.loader import BatchLoader
from ufgvc.training.settings import TrainSettings, WorkerConfig, apply_overrides
from ufgvc.training.worker import Worker

CPU = torch.device("cpu")
LEAVES, SIDE, EPOCHS = 11, 72, 4


def decoded() -> DecodedSplit:
    random = np.random.default_rng(0)
    bits = {region: random.integers(0, 255, (LEAVES, SIDE, SIDE // 8), dtype=np.uint8) for region in PAPER_REGIONS}
    images = random.integers(0, 255, (LEAVES, SIDE, SIDE, 3), dtype=np.uint8)
    return DecodedSplit(images, bits, {region: np.ones(LEAVES, bool) for region in PAPER_REGIONS})


class Sink:
    """Keeps the last checkpoint."""

    state: dict[str, Any]

    def __call__(self, folder: Path | None, epoch: int) -> None:
        assert folder is not None
        self.state = read_checkpoint(folder)


def worker(name: str, folder: Path, epochs: int = EPOCHS) -> Worker:
    """A worker on random leaves, of which the last three are held out."""
    settings = TrainSettings(recipe="modern", epochs=epochs, batch_size=4, resize=SIDE, crop=64, validation="holdout")
    method = trainable(name)
    recipe = apply_overrides(method.recipe, settings)
    method = replace(method, recipe=recipe)
    labels = np.arange(LEAVES, dtype=np.int64) % CLASSES
    data, train = decoded(), np.arange(LEAVES - 3)
    config = WorkerConfig("", str(folder), name, {}, 0, recipe.model_dump(), settings, None, None, str(folder), 1)
    source = CachedSource(data, labels, train, 4, 0, 0, 1, CPU)
    held = DecodedSplit(data.images[:, 4:68, 4:68].copy(), {}, {})
    loader = BatchLoader(
        config, recipe, source, np.arange(LEAVES, dtype=np.uint64), train, labels[train], [None] * len(train), 3, held,
        np.arange(LEAVES - 3, LEAVES), labels, CPU, method.num_uniforms, CLASSES,
    )  # fmt: skip
    return Worker(config, recipe, Ranks(0, 1, CPU), "fp32", method, loader, Sink())


def test_a_training_stops_when_held_out_leaves_are_no_longer_named_better(tmp_path: Path) -> None:
    patient = worker("resnet50", tmp_path, epochs=9)
    patient.recipe = patient.recipe.model_copy(update={"early_stopping": 2})
    scores = iter([0.3, 0.5, 0.5, 0.4])
    # The accuracies are given: those of a real net would not stop at a known epoch.
    patient._validate = lambda: note(patient, next(scores))  # type: ignore[method-assign]
    patient.run()
    assert patient.epoch == 4
    assert patient.best == {"epoch": 2, "accuracy": 0.5}
    again = worker("resnet50", tmp_path, epochs=9)
    again.recipe = patient.recipe
    again.restore(patient.sink.state)
    assert again.stops_early, "a training that is started again stays ended"
    again.run()
    assert again.epoch == 4


def note(patient: Worker, accuracy: float) -> dict[str, float]:
    if patient.best is None or accuracy > patient.best["accuracy"]:
        patient.best = {"epoch": patient.epoch + 1, "accuracy": accuracy}
    return {"validation_accuracy": accuracy}


@pytest.mark.parametrize("name", ["mask_guided", "dcl"])
def test_an_interrupted_training_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    whole = worker(name, tmp_path / "whole")
    whole.run()
    first = worker(name, tmp_path / "first")
    first.step()
    first.step()
    first.save()
    second = worker(name, tmp_path / "second")
    second.restore(first.sink.state)
    assert second.epoch == 2
    second.run()
    wanted, found = whole.sink.state, second.sink.state
    for part in ("net", "trained"):
        assert all(torch.equal(found[part][key], value) for key, value in wanted[part].items()), part
    assert found["averaged"] == wanted["averaged"] == EPOCHS * 2
    assert not torch.equal(found["net"]["classifier.weight"], found["trained"]["classifier.weight"])
    for row, other in zip(found["history"], wanted["history"], strict=True):
        assert {key: row[key] for key in ("loss", "validation_loss")} == {
            key: other[key] for key in ("loss", "validation_loss")
        }
    for key, value in whole.best["net"].items():
        assert torch.equal(second.best["net"][key], value)
