"""The training leaves that a probe carries: their embeddings are those of its fit, and no leaf is embedded twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden.trainings import HERE
from ufgvc.data.dataset import open_dataset
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training import collect_leaves as module
from ufgvc.training.collect_leaves import collect_leaves, read_embeddings
from ufgvc.training.held_out import fit_subspace
from ufgvc.training.run import make_worker_config, train
from ufgvc.training.settings import TrainSettings, WorkerConfig

LEAVES = str(HERE / "leaves")
OPTIONS = {"backbone": "shufflenet_v2_x0_5"}


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"init": "none", "resize": 64, "crop": 64, "device": "cpu", **changes})


def config_of(runs: Path, method: str, **changes: Any) -> WorkerConfig:
    dataset = open_dataset(LEAVES)
    built = build(method, len(dataset.classes), init="none", **OPTIONS)
    return make_worker_config(dataset, built, settings(**changes), 0, None, str(runs))[0]


def trained(runs: Path, **changes: Any) -> str:
    context = Context(runs=str(runs), tracking=TrackingSettings(uri="off"), seed=0)
    return train(LEAVES, "linear_probe", OPTIONS, settings(**changes), context).model


def test_the_embeddings_of_the_fit_are_those_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "embed_images", lambda *_: pytest.fail("a leaf is embedded a second time"))
        model = load_model(trained(tmp_path))
    config = config_of(tmp_path, "linear_probe")
    method = replace(model.method, recipe=Recipe.model_validate(config.recipe))
    assert model.leaves is not None
    positions = np.array([0, 3, 1])
    assert read_embeddings(method, config, positions) is not None
    monkeypatch.setattr(module, "read_embeddings", lambda *_: None)
    again = collect_leaves(method, open_dataset(LEAVES), config, "cpu")
    assert again.image_ids == model.leaves.image_ids
    assert again.thumbnails == model.leaves.thumbnails
    # They are stored with 16 bits.
    np.testing.assert_allclose(again.embeddings, model.leaves.embeddings, rtol=2**-11, atol=1e-6)


def test_other_methods_and_leaves_that_were_held_out_are_embedded(tmp_path: Path) -> None:
    plain = config_of(tmp_path, "resnet50")
    method = build("resnet50", 3, init="none", **OPTIONS)
    method = replace(method, recipe=Recipe.model_validate(plain.recipe))
    assert read_embeddings(method, plain, np.array([0])) is None
    elsewhere = config_of(tmp_path, "linear_probe")
    probe = build("linear_probe", 3, init="none", **OPTIONS)
    probe = replace(probe, recipe=Recipe.model_validate(elsewhere.recipe))
    assert read_embeddings(probe, elsewhere, np.array([0])) is None, "nothing is stored for these random weights"


@pytest.mark.parametrize("name", ["linear_probe", "part_probe", "resnet50"])
def test_the_length_counts_otherwise_for_a_probe_than_for_a_trained_network(name: str, tmp_path: Path) -> None:
    config, dataset = config_of(tmp_path, name), open_dataset(LEAVES)
    method = build(name, len(dataset.classes), init="none", **OPTIONS)
    method = replace(method, recipe=Recipe.model_validate(config.recipe))
    config = replace(config, cache_folder=str(tmp_path))
    subspace = fit_subspace(method, dataset, config, np.arange(4), torch.device("cpu"))
    is_probe = name.endswith("_probe")
    assert ((subspace.length is not None), (subspace.long_length is not None)) == (is_probe, not is_probe)
