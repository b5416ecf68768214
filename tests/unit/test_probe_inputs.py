"""Data sets and backbones at the edge of what a probe can use: a sensible result, or one message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.unit.probe_parts import ALONE, CPU, config_of, embeddings
from ufgvc.core.errors import UserError
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.splits import assign_folds
from ufgvc.methods import build
from ufgvc.methods.backbones import Backbone
from ufgvc.methods.layers.stages import StageMaps, choose_stages, list_stages
from ufgvc.methods.method import Method
from ufgvc.models.model import LoadedModel
from ufgvc.training import fit
from ufgvc.training.fit import fit_classifier, fit_epoch
from ufgvc.training.loader import BatchLoader


def fit_on(labels: list[int], classes: int) -> tuple[Method, dict[str, float]]:
    """A probe fitted on one noisy photograph of each label's colour, and the metrics of the fit."""
    torch.manual_seed(0)
    method = build("linear_probe", classes, backbone="resnet18")
    method = replace(method, recipe=method.recipe.model_copy(update={"resize": 40, "crop": 32}))
    rows, places = np.array(labels), np.arange(len(labels))
    source = CachedSource(DecodedSplit(photographs(labels, 40), {}, {}), rows, places, 2, 0, 0, 1, CPU)
    none, groups = np.arange(0), [None] * len(labels)
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder), len(labels))
        loader = BatchLoader(config, method.recipe, source, none, places, rows, groups, 0, None, none, none, CPU)
        return method, fit_epoch(method, loader, ALONE, 0)


def photographs(labels: list[int], side: int) -> np.ndarray:
    rng = np.random.default_rng(side)
    colours = np.random.default_rng(0).integers(0, 200, (8, 3))
    noise = rng.integers(0, 50, (len(labels), side, side, 3))
    return (colours[labels][:, None, None] + noise).astype(np.uint8)


def named(method: Method, images: np.ndarray) -> list[int]:
    size = {"resize": 40, "size": 32}
    model = LoadedModel(method, tuple("abcdefgh"[: method.num_classes]), size, {})
    return list(model.logits(list(images)).argmax(1))


def test_one_leaf_a_cultivar_is_fitted_with_the_default(caplog: pytest.LogCaptureFixture) -> None:
    method, row = fit_on([0, 1, 2, 3], 4)
    assert row["strength"] == fit.DEFAULT_STRENGTH
    assert not {"held_out_accuracy", "temperature"} & set(row)
    assert "each cultivar has one training leaf" in caplog.text
    assert named(method, photographs([2, 0, 3, 1], 40)) == [2, 0, 3, 1]


def test_one_leaf_of_some_cultivars_always_trains() -> None:
    method, row = fit_on([0, 0, 0, 1, 1, 1, 2], 3)
    assert row["held_out_leaves"] == 6
    assert named(method, photographs([2, 1], 40)) == [2, 1]


def test_a_cultivar_without_training_leaves_is_never_named() -> None:
    method, row = fit_on([0, 0, 2, 2], 3)
    assert row["held_out_accuracy"] == 1
    assert named(method, photographs([0, 2, 1], 40))[:2] == [0, 2]
    assert 1 not in named(method, photographs([1, 1], 40))


def test_two_cultivars_are_the_same_problem() -> None:
    found = embeddings(classes=2)
    fitted = fit_classifier(found, assign_folds(found.labels, [None] * 60, 5, 0), 2, ALONE, (0.1,))
    rows = (found.rows.reshape(-1, 7) - fitted.mean.numpy()) / fitted.scale.numpy()
    # The softmax of two classes is the sigmoid of the difference, whose square norm is twice that of both weights.
    wanted = LogisticRegression(C=0.2, tol=1e-9, max_iter=5000).fit(rows.astype(float), np.repeat(found.labels, 2))
    difference = fitted.weight[1] - fitted.weight[0]
    assert np.allclose(difference, wanted.coef_[0], atol=2e-3)
    with pytest.raises(UserError, match="at least two classes, not 1"):
        build("linear_probe", 1, backbone="resnet18")


@pytest.mark.parametrize("side", [4, 13, 31])
def test_photographs_smaller_than_the_side_are_enlarged(side: int) -> None:
    method, _ = fit_on([0, 1, 2, 3], 4)
    assert named(method, photographs([1, 3, 0], side)) == [1, 3, 0]


class Shallow(nn.Module):
    """A trunk whose only map has a stride of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)


def test_a_backbone_without_deep_stages_has_its_last_map() -> None:
    backbone = Backbone(Shallow(), 5)
    stages = list_stages(backbone)
    for with_last in (True, False):
        assert choose_stages(stages, (), with_last) == stages[-1:]
    (found,) = StageMaps(stages).run(backbone, torch.rand(2, 3, 16, 16))
    assert found.shape == (2, 5, 8, 8)


@pytest.mark.parametrize("name", ["vit_b_16", "nonsense"])
def test_a_backbone_without_maps_is_one_message(name: str) -> None:
    with pytest.raises(UserError, match=r"no final feature map|no model") as caught:
        build("linear_probe", 3, backbone=name)
    assert "->" in str(caught.value)
