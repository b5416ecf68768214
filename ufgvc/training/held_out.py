"""The training leaves that a training did not learn from, scored by what it has become."""

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
from ufgvc.training.loader import EVAL_BATCH, Ints, WorkerConfig, learnt_and_held

REFERENCE_LEAVES = 2000  # more change the span of what the leaves look like little


@dataclass(frozen=True)
class HeldOut:
    """N leaves: logits (N, K), labels (N,), ood_score (N,), image ids.  subspace: what they were compared with."""

    logits: NDArray[np.float32]
    labels: Ints
    ood_score: NDArray[np.float64]
    image_ids: list[str]
    subspace: FeatureSubspace


def score_held_out(method: Method, dataset: Dataset, plan: WorkerConfig, device: torch.device) -> HeldOut:
    """Each leaf that the plan holds out of the training split, once; strange is what the leaves it learns from do not look like.

    method: with the recipe of the plan, and the weights to score.
    """
    index = read_index(dataset, "train")
    labels = index["label"].to_numpy().astype(np.int64)
    learn, hold = learnt_and_held(plan, labels, index["group"].to_pylist())
    logits, seen = look(method, dataset, "train", plan, hold, device)
    subspace = make_reference(method, dataset, plan, learn, device)
    names = index["image_id"].to_pylist()
    return HeldOut(logits, labels[hold], subspace.ood_score(seen), [names[place] for place in hold], subspace)


def make_reference(
    method: Method, dataset: Dataset, plan: WorkerConfig, learn: Ints, device: torch.device
) -> FeatureSubspace:
    """From the leaves at these places of the training split, or from REFERENCE_LEAVES of them, evenly spaced."""
    few = learn[:: -(-len(learn) // REFERENCE_LEAVES)]
    return fit_feature_subspace(look(method, dataset, "train", plan, few, device)[1])


def look(
    method: Method, dataset: Dataset, split: str, plan: WorkerConfig, places: Ints, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (N, K) and views (N, C) of leaves at these places of a split, in fp32 as `evaluate` scores. UserError if the net diverged."""
    recipe = method.recipe
    images = load_decoded_split(dataset, split, recipe.test_resize, None, None, Path(plan.cache_folder)).images
    batches = (np.array(images[places[at : at + EVAL_BATCH]]) for at in range(0, len(places), EVAL_BATCH))
    logits, features = score_images(method, batches, recipe.crop, device, with_features=True)
    assert features is not None
    check_finite(logits)
    return logits, features
