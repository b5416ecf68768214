"""Scores the training images that a training held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ufgvc.data.cache import load_decoded_split
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.methods.method import Method
from ufgvc.models.calibration import FeatureSubspace, check_finite, fit_feature_subspace
from ufgvc.models.score import score_images
from ufgvc.training.loader import Ints, eval_batch
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.sources import split_indices

SUBSPACE_IMAGES = 2000  # with more images the subspace hardly changes


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of N held-out images: logits (N, K), labels (N,), ood_score (N,), N image ids.

    subspace: of the features of the other training images, from which the out-of-distribution scores are computed.
    """

    logits: NDArray[np.float32]
    labels: Ints
    ood_score: NDArray[np.float64]
    image_ids: list[str]
    subspace: FeatureSubspace


def score_held_out(method: Method, dataset: Dataset, config: WorkerConfig, device: torch.device) -> HeldOutScores:
    """Scores each image that the configuration holds out of the training split once.

    method: with the configuration's recipe and the weights to score.  UserError if the net diverged.
    """
    index = read_index(dataset, config.split)
    labels = index["label"].to_numpy().astype(np.int64)
    train, held = split_indices(config, labels, index["group"].to_pylist())
    logits, features = score_indices(method, dataset, config.split, config, held, device)
    subspace = fit_subspace(method, dataset, config, train, device)
    image_ids = index["image_id"].to_pylist()
    return HeldOutScores(
        logits, labels[held], subspace.ood_score(features), [image_ids[place] for place in held], subspace
    )


def fit_subspace(
    method: Method, dataset: Dataset, config: WorkerConfig, train: Ints, device: torch.device
) -> FeatureSubspace:
    """The subspace of the features of training images, of at most SUBSPACE_IMAGES evenly spaced ones.

    train: indices into the training split.
    """
    few = train[:: -(-len(train) // SUBSPACE_IMAGES)]
    features = score_indices(method, dataset, config.split, config, few, device)[1]
    return fit_feature_subspace(features, standardised=method.recipe.classifier_fit)


def score_indices(
    method: Method, dataset: Dataset, split: str, config: WorkerConfig, indices: Ints, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (N, K) and pooled features (N, C) of some images of a split, in fp32. UserError if the net diverged."""
    recipe = method.recipe
    images = load_decoded_split(dataset, split, recipe.eval_resize, None, None, Path(config.cache_folder)).images
    size = eval_batch(recipe.crop, device)
    batches = (np.array(images[indices[at : at + size]]) for at in range(0, len(indices), size))
    logits, features = score_images(method, batches, recipe.crop, device, with_features=True)
    assert features is not None
    check_finite(logits)
    return logits, features
