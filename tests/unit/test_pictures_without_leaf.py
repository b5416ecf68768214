"""Pictures without a leaf are unknown to the probes and to a trained network, and new leaves are not."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn.functional import cross_entropy

from tests.integration.run_folder import made_once
from tests.unit.probe_parts import ALONE
from ufgvc.data.splits import kfold_indices
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.models.calibration import FeatureSubspace, fit_calibration, fit_feature_subspace
from ufgvc.models.score import embed_images
from ufgvc.synthetic import SynthSettings, generate_leaf
from ufgvc.training.embeddings import Embeddings
from ufgvc.training.logistic import mean_and_scale

SIDE, FOLDS, STEPS = 96, 3, 30
CLASSES, EACH = 3, 8
Pictures = NDArray[np.uint8]


@functools.cache
def leaves(first: int) -> Pictures:
    """EACH drawn leaves of each cultivar, from number `first` on; for all processes of the tests only once."""
    settings = SynthSettings(cultivars=CLASSES, size=SIDE)
    keys = [(cultivar, k) for cultivar in range(1, CLASSES + 1) for k in range(first, first + EACH)]
    drawn = made_once(
        f"leaves-without-{first}.npy",
        lambda path: np.save(path, np.stack([generate_leaf(settings, 0, *key).picture.image for key in keys])),
    )
    return np.load(drawn)


def plain(*colour: int) -> Pictures:
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def noise(cells: int) -> Pictures:
    small = np.random.default_rng(cells).integers(0, 256, (cells, cells, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE)))


def page() -> Pictures:
    """Lines of text, as on a document."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    for row in range(6, SIDE - 8, 12):
        ImageDraw.Draw(picture).text((5, row), "the quick brown fox"[row % 5 :], fill=(20, 20, 40))
    return np.asarray(picture)


def background() -> Pictures:
    """What surrounds a leaf: the corner of a photograph, mirrored until it fills the picture."""
    corner = leaves(1)[0][:12, :12]
    row = np.concatenate([corner, corner[:, ::-1]] * 4, axis=1)
    return np.concatenate([row, row[::-1]] * 4)


PICTURES: dict[str, Callable[[], Pictures]] = {
    "white": lambda: plain(255, 255, 255),
    "black": lambda: plain(0, 0, 0),
    "green": lambda: plain(60, 130, 50),
    "brown": lambda: plain(120, 80, 50),
    "fine noise": lambda: noise(SIDE),
    "coarse noise": lambda: noise(6),
    "ramp": lambda: np.linspace(plain(20, 40, 90), plain(220, 200, 150), SIDE)[:, 0].astype(np.uint8),
    "page": page,
    "background": background,
}


@functools.cache
def pictures() -> Pictures:
    return np.stack([draw() for draw in PICTURES.values()])


def standardiser(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation (D,), as the fit of a classifier puts them into the network."""
    mean, scale = mean_and_scale(Embeddings(rows[:, None], np.zeros(len(rows), int), np.arange(len(rows))), ALONE)
    return mean.float().numpy(), scale.float().numpy()


@functools.cache
def scored(name: str) -> tuple[FeatureSubspace, float, NDArray[np.float32], NDArray[np.float32]]:
    """The subspace and the threshold of a probe, calibrated in folds, and embeddings: of new leaves, of PICTURES."""
    method = build(name, CLASSES, "imagenet")
    everything = [leaves(1), leaves(101), pictures()]
    learnt, new, other = (embed_images(method, [images], SIDE, "cpu") for images in everything)
    labels, held_scores = np.repeat(np.arange(CLASSES), EACH), []
    for fold in range(FOLDS):
        train, held = kfold_indices(labels, [None] * len(labels), FOLDS, fold, 0)
        mean, scale = standardiser(learnt[train])
        held_scores.append(
            fit_feature_subspace((learnt[train] - mean) / scale, standardised=True).ood_score(
                (learnt[held] - mean) / scale
            )
        )
    scores = np.concatenate(held_scores)
    calibration = fit_calibration(np.zeros((len(scores), CLASSES)), labels, scores, "3-fold")
    mean, scale = standardiser(learnt)
    assert calibration.threshold is not None
    return (
        fit_feature_subspace((learnt - mean) / scale, standardised=True),
        calibration.threshold,
        (new - mean) / scale,
        (other - mean) / scale,
    )


def train(images: Pictures, labels: NDArray[np.int64]) -> Method:
    """A network that a few steps of plain gradient descent have fitted to the images."""
    torch.manual_seed(0)
    method = build("resnet50", CLASSES, "imagenet", backbone="efficientnet_lite0")
    optimizer = torch.optim.SGD(method.net.parameters(), lr=0.01, momentum=0.9)
    method.net.train()
    for _ in range(STEPS):
        few = torch.randperm(len(images))[:8]
        views = torch.from_numpy(images)[few].permute(0, 3, 1, 2).float() / 255
        optimizer.zero_grad()
        cross_entropy(method.net(views)["logits"], torch.from_numpy(labels)[few]).backward()
        optimizer.step()
    return method


@functools.cache
def scored_by_trained_network() -> tuple[FeatureSubspace, float, NDArray[np.float32], NDArray[np.float32]]:
    """As `scored`, of a network that is trained on some leaves and calibrated on others."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    method = train(leaves(1), labels)
    everything = [leaves(1), leaves(201), leaves(101), pictures()]
    learnt, held, new, other = (embed_images(method, [images], SIDE, "cpu") for images in everything)
    subspace = fit_feature_subspace(learnt)
    calibration = fit_calibration(np.zeros((len(held), CLASSES)), labels, subspace.ood_score(held), "holdout")
    assert calibration.threshold is not None
    return subspace, calibration.threshold, new, other


def scores_of(name: str) -> tuple[FeatureSubspace, float, NDArray[np.float32], NDArray[np.float32]]:
    return scored_by_trained_network() if name == "trained" else scored(name)


@pytest.mark.parametrize("name", ["linear_probe", "part_probe", "trained"])
@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_without_a_leaf_is_unknown(name: str, picture: str) -> None:
    subspace, threshold, _, other = scores_of(name)
    assert subspace.ood_score(other)[list(PICTURES).index(picture)] > threshold


@pytest.mark.parametrize("name", ["linear_probe", "part_probe", "trained"])
def test_most_new_leaves_are_known(name: str) -> None:
    subspace, threshold, new, _ = scores_of(name)
    assert (subspace.ood_score(new) <= threshold).mean() >= 0.8
