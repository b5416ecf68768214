"""Scores of the training images that a training held out, and the subspace of the features of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ufgvc.data.augment import eval_view
from ufgvc.data.cache import load_decoded_split
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.methods.method import Method
from ufgvc.models.calibration import FeatureSubspace
from ufgvc.models.fit_calibration import check_finite, fit_subspace
from ufgvc.training.loader import EVAL_BATCH, Ints, split_indices
from ufgvc.training.settings import WorkerConfig

SUBSPACE_IMAGES = 2000  # with more images the subspace hardly changes


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of N held-out images: logits (N, K), labels (N,), strangeness (N,), N image ids.

    reference: the subspace of the other training images' features, from which the strangeness is computed.
    """

    logits: NDArray[np.float32]
    labels: Ints
    strangeness: NDArray[np.float64]
    image_ids: list[str]
    reference: FeatureSubspace


def score_held_out(method: Method, dataset: Dataset, config: WorkerConfig, device: torch.device) -> HeldOutScores:
    """Scores each image that the configuration holds out of the training split once.

    method: with the configuration's recipe and the weights to score.  UserError if the net diverged.
    """
    index = read_index(dataset, "train")
    labels = index["label"].to_numpy().astype(np.int64)
    train, held = split_indices(config, labels, index["group"].to_pylist())
    logits, features = score_split(method, dataset, "train", config, held, device)
    reference = fit_reference(method, dataset, config, train, device)
    image_ids = index["image_id"].to_pylist()
    return HeldOutScores(
        logits, labels[held], reference.strangeness(features), [image_ids[place] for place in held], reference
    )


def fit_reference(
    method: Method, dataset: Dataset, config: WorkerConfig, train: Ints, device: torch.device
) -> FeatureSubspace:
    """The subspace of the features of training images, of at most SUBSPACE_IMAGES evenly spaced ones.

    train: indices into the training split.
    """
    few = train[:: -(-len(train) // SUBSPACE_IMAGES)]
    return fit_subspace(score_split(method, dataset, "train", config, few, device)[1])


def score_split(
    method: Method, dataset: Dataset, split: str, config: WorkerConfig, indices: Ints, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (N, K) and pooled features (N, C) of some images of a split, in fp32. UserError if the net diverged."""
    recipe = method.recipe
    images = load_decoded_split(dataset, split, recipe.eval_resize, None, None, Path(config.cache_folder)).images
    net = method.net.to(device).to(memory_format=torch.channels_last).eval()
    logits, features = [], []
    with torch.inference_mode():
        for start in range(0, len(indices), EVAL_BATCH):
            batch = torch.from_numpy(np.array(images[indices[start : start + EVAL_BATCH]])).to(device)
            batch_logits, batch_features = method.predict_with_features(eval_view(batch, recipe.crop), net)
            logits.append(batch_logits.cpu().numpy())
            features.append(batch_features.cpu().numpy())
    joined = np.concatenate(logits)
    check_finite(joined)
    return joined, np.concatenate(features)
